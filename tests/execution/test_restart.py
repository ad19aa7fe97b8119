"""A new daemon over the same books goes on where the last one was killed."""

from collections.abc import Callable
from typing import Any

from execution import candles
from execution.model import OrderStatus, Side
from tests.execution.house import BTC, FREE, HALF, Books, House, answers, at, bar, snapshot

BUY, SELL = Side.BUY, Side.SELL


def kill_before_sending(house: House) -> None:
    """The process dies after the order's commit and before anything was sent."""

    async def never(order: object, waited: float) -> list[object]:
        raise KeyboardInterrupt

    house.paper.place = never  # type: ignore[method-assign, assignment]  # of this one venue


async def killed(house: House, **wish: Any) -> str:
    """Place an order and die between its commit and its sending; returns the order's id."""
    kill_before_sending(house)
    request = house.order(BUY, **wish)
    try:
        await house.send(request)
    except KeyboardInterrupt:
        house.close()
    from execution import orders

    return orders.order_id(request.account, request.request_id)


async def opened(build: Callable[..., House], **options: object) -> House:
    house = build(**options)
    await house.open()
    await house.candle(bar(0, "100"))
    return house


async def test_a_committed_market_order_that_was_never_sent_is_filled_at_the_next_start(
    build: Callable[..., House],
) -> None:
    order_id = await killed(await opened(build), quantity="2")
    second = build(now=at(1.5))
    (answer,) = answers(await second.open())
    assert (answer.status, answer.order_id, answer.trades[0].price) == ("filled", order_id, 100)
    assert second.state.cash("main") == second.state.free_cash("main") == 9800


async def test_a_market_order_whose_time_is_over_at_the_next_start_expires(build: Callable[..., House]) -> None:
    order_id = await killed(await opened(build), quantity="2")
    second = build(now=at(3))
    (answer,) = answers(await second.open())
    assert (answer.status, answer.order_id) == ("expired", order_id)
    assert second.trades() == []
    assert second.state.free_cash("main") == 10_000


async def test_a_limit_order_whose_time_was_over_is_not_filled_at_the_next_start(build: Callable[..., House]) -> None:
    house = await opened(build)
    placed = await house.buy("1", limit="90", expires_in="30")
    house.close()
    second = build(now=at(60))
    (answer,) = answers(await second.open())
    assert (answer.status, answer.order_id) == ("expired", placed.order_id)


async def test_an_order_that_waits_for_its_candle_waits_on_after_a_restart(build: Callable[..., House]) -> None:
    house = await opened(build)
    await house.buy("2", decided=1, triggered_by="bot:a")
    house.close()
    second = build(now=at(60))
    assert await second.open() == []
    (answer,) = answers(await second.candle(bar(1, "101")))
    assert (answer.status, answer.trades[0].price, answer.trades[0].executed_at) == ("filled", 101, at(1))


async def test_an_order_whose_candle_came_while_the_daemon_was_down_is_filled_at_that_candles_open(
    build: Callable[..., House], books: Books
) -> None:
    house = await opened(build)
    await house.buy("2", decided=1, triggered_by="bot:a")
    house.close()
    books.do(lambda c: candles.store(c, [bar(1, "101"), bar(2, "150")]))
    second = build(now=at(60))
    (answer,) = answers(await second.open())
    assert (answer.trades[0].price, answer.trades[0].executed_at) == (101, at(1))


async def test_a_request_that_arrives_after_its_candle_is_filled_at_that_candles_open(
    build: Callable[..., House],
) -> None:
    house = await opened(build)
    await house.candle(bar(1, "101", close="120"))
    await house.candle(bar(2, "150"))
    answer = await house.buy("2", decided=1, triggered_by="bot:a")
    assert (answer.status, answer.trades[0].price, answer.trades[0].executed_at) == ("filled", 101, at(1))


async def test_a_late_request_finds_its_minute_although_the_hour_was_the_last_bar_to_close(
    build: Callable[..., House],
) -> None:
    house = await opened(build)
    for minute in range(1, 60):
        await house.candle(bar(minute, str(100 + minute)))
    await house.candle(bar(0, "100", timeframe="1h"))
    answer = await house.buy("1", decided=30, triggered_by="bot:a")
    assert (answer.trades[0].price, answer.trades[0].executed_at) == (130, at(30))
    house.close()
    second = build(now=at(60))
    await second.open()
    answer = await second.buy("1", decided=31, triggered_by="bot:a")
    assert (answer.trades[0].price, answer.trades[0].executed_at) == (131, at(31))


async def test_a_late_request_skips_bars_without_volume_as_it_would_have_in_time(
    build: Callable[..., House],
) -> None:
    house = await opened(build, costs=HALF)
    await house.candle(bar(1, "101", volume="0"))
    await house.candle(bar(3, "103"))
    answer = await house.buy("2", decided=1, triggered_by="bot:a")
    assert (answer.trades[0].price, answer.trades[0].executed_at) == (103, at(3))


async def test_late_and_timely_orders_share_the_volume_of_the_bar(build: Callable[..., House]) -> None:
    house = await opened(build, costs=HALF)
    await house.buy("3", decided=1, triggered_by="bot:a")
    await house.candle(bar(1, "100", volume="8"))
    late = await house.buy("3", decided=1, triggered_by="bot:b")
    later = await house.buy("3", decided=1, triggered_by="bot:c")
    assert sum(trade.quantity for trade in house.trades()) == 4, "half of the bar"
    assert (late.status, later.status) == ("cancelled", "cancelled")


async def test_a_resting_limit_rests_on_and_keeps_its_reservation(build: Callable[..., House]) -> None:
    house = await opened(build)
    placed = await house.buy("2", limit="90")
    before = snapshot(house.state)
    house.close()
    second = build(now=at(600))
    assert await second.open() == []
    assert snapshot(second.state) == before
    assert second.state.free_cash("main") == 9820
    (answer,) = answers(await second.candle(bar(700, "95", low="89")))
    assert (answer.status, answer.order_id, answer.trades[0].price) == ("filled", placed.order_id, 90)


async def test_a_restart_fills_no_resting_limit_that_the_market_only_touched(build: Callable[..., House]) -> None:
    house = await opened(build)
    await house.buy("2", limit="90")
    assert await house.candle(bar(1, "95", low="90", close="90")) == []
    house.close()
    second = build(now=at(2))
    assert await second.open() == []
    assert second.trades() == []


async def test_a_partly_filled_limit_sees_no_candle_twice(build: Callable[..., House]) -> None:
    house = await opened(build, costs=HALF)
    placed = await house.buy("10", limit="90")
    part = bar(1, "95", low="89", close="89", volume="8")
    await house.candle(part)
    house.close()
    second = build(costs=HALF, now=at(2))
    assert await second.open() == [], "the rest waits for the next bar, as without a restart"
    assert second.state.free_cash("main") == 10_000 - 4 * 90 - 6 * 90
    assert await second.service.on_candle(part) == ()
    second.paper._bars.clear()
    second.service._seen.clear()
    assert await second.service.on_candle(part) == (), "not even when the feed starts again"
    await second.candle(bar(2, "88", volume="100"))
    fills = second.trades(placed.order_id)
    assert [(str(t.quantity), str(t.price)) for t in fills] == [("4", "90"), ("6", "88")]
    assert [t.venue_sequence for t in fills] == [1, 2]
    assert len({t.id for t in fills}) == 2


async def test_a_partly_filled_limit_of_a_bot_is_caught_up_after_a_restart(
    build: Callable[..., House], books: Books
) -> None:
    house = await opened(build, costs=HALF)
    placed = await house.buy("10", limit="90", decided=1, triggered_by="bot:a")
    await house.candle(bar(1, "85", volume="8"))
    house.close()
    books.do(lambda c: candles.store(c, [bar(2, "80", volume="4"), bar(3, "80", volume="100")]))
    second = build(costs=HALF, now=at(4))
    await second.open()
    fills = second.trades(placed.order_id)
    assert [(str(t.quantity), str(t.price), t.executed_at) for t in fills] == [
        ("4", "85", at(1)), ("2", "80", at(2)), ("4", "80", at(3)),
    ]  # fmt: skip


async def test_the_state_after_a_restart_is_the_state_before_it(build: Callable[..., House]) -> None:
    house = await opened(build, costs=HALF)
    await house.buy("3")
    await house.buy("10", limit="90")
    await house.sell("1", limit="110")
    await house.buy(notional="500", limit="91")
    await house.candle(bar(1, "100", low="80", volume="8"))
    await house.deposit("5")
    before = snapshot(house.state)
    assert len(before["open"]) >= 2
    house.close()
    second = build(costs=HALF, now=at(2))
    await second.open()
    assert snapshot(second.state) == before


async def test_market_orders_keep_their_reservation_over_a_restart(build: Callable[..., House]) -> None:
    house = await opened(build)
    await house.buy("20", decided=5, triggered_by="bot:a")
    assert house.state.free_cash("main") == 8000
    house.close()
    second = build(now=at(2))
    await second.open()
    assert second.state.free_cash("main") == 8000


async def test_an_ioc_limit_that_was_never_sent_is_tried_once_at_the_next_start(build: Callable[..., House]) -> None:
    from execution.model import TimeInForce

    await killed(await opened(build), quantity="2", limit="90", time_in_force=TimeInForce.IOC)
    second = build(now=at(1.2))
    (answer,) = answers(await second.open())
    assert answer.status == OrderStatus.CANCELLED
    assert answer.reason is not None
    assert answer.reason.code == "not_marketable"


async def test_the_last_prices_are_those_of_the_newest_stored_candles(
    build: Callable[..., House], books: Books
) -> None:
    books.do(
        lambda c: candles.store(
            c, [bar(-60, "100", timeframe="1h"), bar(58, "90"), bar(59, "95", close="96"), bar(0, "7", symbol="AAPL")]
        )
    )
    house = build(costs=FREE, now=at(61))
    await house.open()
    assert {symbol: price.price for symbol, price in house.state.prices.items()} == {BTC: 96, "AAPL": 7}
    assert await house.service.on_candle(bar(59, "50")) == ()


async def test_a_request_that_comes_while_its_candle_is_being_worked_on_fills_at_that_candle(
    build: Callable[..., House],
) -> None:
    house = build()
    await house.open()
    await house.candle(bar(0, "100"))
    await house.service.on_candle(bar(1, "110"))  # not stored yet: that is the work of the signals
    answer = await house.buy("1", decided=1, triggered_by="bot:a")
    assert [(trade.price, trade.executed_at) for trade in answer.trades] == [(110, at(1))]
