"""Trades of a live venue: each is recorded once, with the order that it belongs to."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from execution.errors import StorageUnavailable
from execution.ledger import derived_id
from execution.model import Order, OrderStatus, Side, Trade
from tests.execution.exchanges import (
    GRACE,
    TIMES,
    LiveHouse,
    ScriptedExchange,
    a_trade,
    alerts,
    later,
    open_live_account,
)
from tests.execution.house import BTC, START, Books, answers, at, bar, facts_in

BUY, SELL = Side.BUY, Side.SELL


@pytest.fixture
def exchange() -> ScriptedExchange:
    return ScriptedExchange()


@pytest.fixture
def make(books: Books, exchange: ScriptedExchange) -> Iterator[Callable[..., LiveHouse]]:
    """Makes houses over the same books and the same venue; they are closed after the test."""
    open_live_account(books)
    made: list[LiveHouse] = []

    def build(**options: Any) -> LiveHouse:
        made.append(LiveHouse(books, exchange, **options))
        return made[-1]

    yield build
    for house in made:
        house.close()


@pytest.fixture
async def live(make: Callable[..., LiveHouse]) -> LiveHouse:
    house = make()
    await house.open()
    return house


async def resting(live: LiveHouse, quantity: str = "2") -> Order:
    """An order that rests at the venue."""
    return live.placed(await live.buy(quantity, limit="100"))


def trades(live: LiveHouse) -> list[Trade]:
    return [trade for trade in live.trades() if trade.account == "live"]


# ---- fills ---------------------------------------------------------------------------------------------


async def test_a_fill_that_is_streamed_twice_and_fetched_too_is_one_trade(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await resting(live)
    trade = exchange.fill(order, "0.5")
    exchange.streamed += [trade, trade]
    events = await live.listen()
    assert [answer.status for answer in answers(events)] == ["partially_filled"]
    assert await live.round() == []
    assert [(fill.quantity, fill.order_id, fill.triggered_by) for fill in trades(live)] == [
        (Decimal("0.5"), order.id, "manual")
    ]


async def test_a_fill_that_the_stream_lost_is_fetched(live: LiveHouse, exchange: ScriptedExchange) -> None:
    order = await resting(live)
    exchange.fill(order, "2", status=OrderStatus.FILLED)
    (answer,) = answers(await live.round())
    assert answer.status == "filled"
    assert live.state.open_orders("live") == []


async def test_fills_in_any_order_fill_their_order_once(live: LiveHouse, exchange: ScriptedExchange) -> None:
    order = await resting(live)
    told = [exchange.fill(order, "0.5", number, minute=number) for number in (1, 2, 3, 4)]
    exchange.streamed += [told[2], told[0], told[2], told[3], told[1]]
    events = await live.listen()
    assert [answer.final for answer in answers(events)] == [False, False, False, True]
    assert sum(trade.quantity for trade in trades(live)) == 2


async def test_an_order_stays_open_until_the_ledger_has_all_that_the_venue_filled(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await resting(live)
    exchange.fill(order, "0.5", 1)
    exchange.fill(order, "0.7", 2, status=OrderStatus.CANCELLED)
    late = exchange.told.pop()
    (answer,) = answers(await live.round())
    assert answer.status == "partially_filled"
    exchange.told.append(late)
    (filled, cancelled) = answers(await live.round())
    assert (filled.status, cancelled.status, len(cancelled.trades)) == ("partially_filled", "cancelled", 2)


async def test_an_order_for_an_amount_of_money_closes_when_the_venue_says_so(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = live.placed(await live.buy(notional="100"))
    exchange.fill(order, "0.4", 1)
    assert [answer.status for answer in answers(await live.round())] == ["partially_filled"]
    exchange.fill(order, "0.6", 2, status=OrderStatus.FILLED)
    assert [answer.status for answer in answers(await live.round())][-1] == "filled"
    assert live.state.free_cash("live") == live.state.cash("live") == 9900


async def test_fills_are_recorded_whether_or_not_the_account_can_pay(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await resting(live, "100")
    exchange.fill(order, "100", price="105", fee="9", status=OrderStatus.FILLED)
    await live.round()
    assert live.state.cash("live") == 10_000 - 10_500 - 9


async def test_a_back_dated_fill_is_found_by_the_deep_round(live: LiveHouse, exchange: ScriptedExchange) -> None:
    live.clock.advance(at(61))
    exchange.told.append(a_trade("1", 1, minute=60))
    await live.round()
    exchange.told.append(a_trade("1", 2, minute=2))
    await live.round()
    assert len(trades(live)) == 1, "an hour before the last trade is beyond the short overlap"
    later(TIMES.deep_poll)
    await live.round()
    assert [trade.executed_at for trade in trades(live)] == [at(60), at(2)]


async def test_trades_are_fetched_since_the_last_stored_one_also_after_a_restart(
    live: LiveHouse, make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    overlap, deep = timedelta(seconds=TIMES.overlap), timedelta(seconds=TIMES.deep_overlap)
    await live.round()
    live.clock.advance(at(61))
    exchange.told.append(a_trade("1", 1, minute=60))
    await live.round()
    await live.round()
    live.close()
    second = make(now=at(90))
    await second.open()
    await second.round()
    assert exchange.since == [START - deep, START - overlap, at(60) - overlap, at(60) - deep]


async def test_trades_are_fetched_since_the_oldest_open_order_however_late_others_were_traded(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    live.clock.advance(at(30))
    await resting(live)
    live.clock.advance(at(61))
    exchange.told.append(a_trade("1", 1, minute=60))
    await live.round()
    await live.round()
    assert exchange.since[1] == at(30) - timedelta(seconds=TIMES.overlap)


async def test_a_deep_round_that_the_venue_did_not_answer_is_made_again(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.down = True
    await live.round()
    exchange.down = False
    await live.round()
    assert exchange.since[0] == exchange.since[1]


async def test_a_trade_that_is_told_with_other_content_changes_nothing_and_is_alerted_once(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await resting(live)
    trade = exchange.fill(order, "0.5")
    await live.round()
    exchange.told = [replace(trade, price=Decimal(99))]
    assert alerts(await live.round()) == ["conflicting_trade"]
    assert alerts(await live.round()) == []
    assert [fill.price for fill in trades(live)] == [100]


@pytest.mark.parametrize(
    ("trade", "word"),
    [
        (a_trade(symbol="BTC-EUR"), "EUR"),
        (a_trade(symbol="btc/usd"), "symbol"),
        (a_trade("0"), "no fill"),
        (a_trade("NaN"), "number"),
    ],
)
async def test_a_trade_that_cannot_be_recorded_is_alerted_and_keeps_no_other_out(
    live: LiveHouse, exchange: ScriptedExchange, trade: Any, word: str
) -> None:
    exchange.told += [trade, a_trade("2", 9)]
    events = await live.round()
    assert "unrecordable_trade" in alerts(events)
    assert any(word in event.message for event in events if hasattr(event, "message"))
    assert [fill.quantity for fill in trades(live)] == [2]


async def test_a_trade_that_the_database_refuses_keeps_no_other_out(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    taken = derived_id("external", "broker", "live", "v-77")
    await live.ask(live.order(BUY, "1", limit="90", request_id=taken))
    exchange.told += [a_trade("1", 1), a_trade("2", 2, venue_order_id="v-78")]
    assert alerts(await live.round()) == ["unrecordable", "external_order"]
    assert alerts(await live.round()) == []
    assert [fill.quantity for fill in trades(live)] == [2]


async def test_a_trade_from_the_future_hides_none_that_comes_after_it(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.told.append(a_trade("1", 1, minute=1_000_000))
    await live.round()
    exchange.told.append(a_trade("1", 2))
    await live.round()
    assert len(trades(live)) == 2


async def test_a_fee_in_a_third_asset_is_paid_with_that_asset(live: LiveHouse, exchange: ScriptedExchange) -> None:
    await live.candle(bar(-5, "300", symbol="BNB-USD"))
    order = await resting(live)
    exchange.fill(order, "2", fee="0.01", fee_asset="BNB", status=OrderStatus.FILLED)
    (answer,) = answers(await live.round())
    assert (answer.status, len(answer.trades)) == ("filled", 1)
    fill, disposal = trades(live)
    assert (fill.cash_effect, disposal.cash_effect) == (-203, 3)
    assert (disposal.symbol, disposal.side, disposal.quantity, disposal.order_id) == (
        "BNB-USD", SELL, Decimal("0.01"), None,
    )  # fmt: skip


async def test_a_fee_in_the_base_asset_takes_of_what_was_bought(live: LiveHouse, exchange: ScriptedExchange) -> None:
    order = await resting(live)
    exchange.fill(order, "2", fee="0.01", fee_asset="BTC", status=OrderStatus.FILLED)
    (answer,) = answers(await live.round())
    assert (answer.status, live.state.held("live", BTC)) == ("filled", Decimal("1.99"))


async def test_what_could_not_be_stored_is_told_by_the_venue_again(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await resting(live)
    exchange.fill(order, "2", status=OrderStatus.FILLED)

    def full(_work: Any) -> Any:
        raise StorageUnavailable("the database could not commit: disk full")

    with live.commits(full):
        assert alerts(await live.round()) == ["storage_unavailable"]
    assert [answer.status for answer in answers(await live.round())] == ["filled"]


# ---- fills of orders that are over ---------------------------------------------------------------------


async def given_up(live: LiveHouse, exchange: ScriptedExchange, quantity: str = "2") -> Order:
    """An order that was closed because the venue never showed it."""
    exchange.deduplicates = False
    exchange.lose_requests = True
    placed = await live.buy(quantity, limit="100")
    exchange.lose_requests = False
    later(GRACE)
    await live.round()
    order = live.placed(placed)
    assert order.status is OrderStatus.EXPIRED
    return order


async def test_a_fill_of_an_order_that_was_given_up_is_recorded_with_it(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await given_up(live, exchange)
    exchange.fill(order, "2", status=OrderStatus.FILLED)
    events = await live.round()
    assert alerts(events) == ["filled_after_close"]
    assert [answer.status for answer in answers(events)] == ["filled"]
    assert [(fill.order_id, fill.triggered_by) for fill in trades(live)] == [(order.id, "manual")]
    assert live.stored_order(order.id).status is OrderStatus.FILLED


async def test_an_order_that_was_given_up_and_is_partly_filled_is_open_again_and_cancelled(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await given_up(live, exchange)
    exchange.fill(order, "0.5")
    events = await live.round()
    assert [answer.status for answer in answers(events)] == ["partially_filled", "cancelled"]
    assert len(exchange.cancelled) == 1
    assert live.state.free_cash("live") == live.state.cash("live") == 9950


async def test_an_order_that_is_open_again_is_cancelled_after_a_restart_too(
    live: LiveHouse, make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    order = await given_up(live, exchange)
    exchange.streamed.append(exchange.fill(order, "0.5"))
    await live.listen()
    assert live.stored_order(order.id).status is OrderStatus.PARTIALLY_FILLED
    live.close()
    second = make()
    await second.open()
    assert [answer.status for answer in answers(await second.round())] == ["cancelled"]


async def test_an_order_that_was_given_up_and_rests_at_the_venue_is_cancelled_there(
    live: LiveHouse, make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    order = await given_up(live, exchange)
    exchange.orders[order.client_order_id] = exchange.open(order)
    later(TIMES.deep_poll)
    assert alerts(await live.round()) == ["late_order"]
    assert exchange.orders[order.client_order_id].status is OrderStatus.CANCELLED
    later(TIMES.deep_poll)
    assert alerts(await live.round()) == []
    assert live.stored_order(order.id).status is OrderStatus.EXPIRED


async def test_a_fill_after_the_venue_had_cancelled_is_recorded_and_the_order_closes_again(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await resting(live)
    await live.cancel(order.id, account="live")
    await live.round()
    assert live.stored_order(order.id).status is OrderStatus.CANCELLED
    exchange.fill(order, "0.5", status=OrderStatus.CANCELLED)
    events = await live.round()
    assert alerts(events) == ["filled_after_close"]
    assert [answer.status for answer in answers(events)] == ["partially_filled", "cancelled"]


async def test_more_than_was_asked_for_is_recorded_and_alerted(live: LiveHouse, exchange: ScriptedExchange) -> None:
    order = await resting(live)
    exchange.fill(order, "3", status=OrderStatus.FILLED)
    assert alerts(await live.round()) == ["overfilled"]
    assert live.state.held("live", BTC) == 3


# ---- what nobody here ordered --------------------------------------------------------------------------


async def test_an_order_that_nobody_here_placed_is_external_with_one_alert(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.told += [a_trade("1", 1), a_trade("2", 2)]
    events = await live.round()
    assert alerts(events) == ["external_order"]
    assert answers(events) == [], "nobody asked"
    exchange.streamed.append(a_trade("3", 3))
    assert alerts(await live.listen()) == []
    (order,) = live.all_orders()
    assert (order.triggered_by, order.status, order.account) == ("external", OrderStatus.FILLED, "live")
    assert {(fill.order_id, fill.triggered_by) for fill in trades(live)} == {(order.id, "external")}
    assert live.state.held("live", BTC) == 6
    assert live.state.open_orders("live") == []


async def test_two_orders_placed_elsewhere_are_two_and_keep_their_ids(
    live: LiveHouse, make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    exchange.told += [
        a_trade("1", 1, venue_order_id="a"),
        a_trade("2", 2, venue_order_id="b", client_order_id="web-1"),
    ]
    assert alerts(await live.round()) == ["external_order", "external_order"]
    before = {order.id for order in live.all_orders()}
    live.close()
    second = make()
    await second.open()
    exchange.told.append(a_trade("3", 3, venue_order_id="a"))
    assert alerts(await second.round()) == []
    assert {order.id for order in second.all_orders()} == before


async def test_a_symbol_that_was_traded_at_the_venue_only_is_entered_into_the_catalogue(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.told.append(a_trade("1", 1, symbol="NEW-USD"))
    (fill,) = facts_in(await live.round())
    assert isinstance(fill, Trade)
    assert fill.symbol == "NEW-USD"
    assert live.state.instruments["NEW-USD"].currency == "USD"


async def test_a_trade_that_cannot_be_of_our_order_is_not_booked_on_it(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await resting(live)
    exchange.told.append(a_trade("1", 5, client_order_id=order.client_order_id, side=SELL))
    assert alerts(await live.round()) == ["external_order"]
    assert live.stored_order(order.id).status is OrderStatus.PENDING
