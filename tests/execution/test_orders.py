"""The life of orders: sent once, filled in parts, rejected, expired, listed."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from config.exact import plain
from config.times import time_text
from execution import orders
from execution.model import FactsRecorded, Order, OrderChanged, OrderStatus, Reason, Side, Trade
from execution.paper import PaperCosts
from execution.venue import VenueClosed, VenueReport
from tests.execution.house import BTC, HALF, Books, House, answer_to, answers, at, bar, fill, reason
from tests.execution.venues import ScriptedVenue, filled

BUY, SELL = Side.BUY, Side.SELL


class TestOrders:
    """requested -> pending -> (partially filled | unknown) -> filled | cancelled | rejected | expired."""

    async def test_a_market_order_fills_at_once_and_every_part_names_the_other(self, house: House) -> None:
        await house.price("100")
        wish = house.order(BUY, "2", triggered_by="manual:ann", signal_context={"why": "test"}, note="hello")
        events = await house.send(wish)
        recorded, changed, answer = events
        assert isinstance(recorded, FactsRecorded)
        assert isinstance(changed, OrderChanged)
        (trade,) = recorded.facts
        assert isinstance(trade, Trade)
        assert (trade.quantity, trade.price, trade.cash_effect, trade.triggered_by) == (2, 100, -200, "manual:ann")
        assert (trade.order_id, trade.signal_context, trade.order_type) == (
            changed.order.id,
            {"why": "test"},
            "market",
        )
        assert answer == answer_to(wish, events)
        assert answers(events)[0].sequence == trade.sequence == 2
        stored = house.stored_order(trade.order_id)
        assert (stored.status, stored.note, stored.request_id) == ("filled", "hello", wish.request_id)
        assert (house.state.cash("main"), house.state.held("main", BTC)) == (9800, 2)

    async def test_an_order_is_filled_in_parts_over_several_bars(self, build: Callable[..., House]) -> None:
        house = build(costs=HALF)
        await house.open()
        await house.candle(bar(0, "100"))
        wish = house.order(BUY, "10", limit="99")
        assert (await house.ask(wish)).status == "accepted"
        seen = []
        for minute, volume in ((1, "8"), (2, "0"), (3, "6"), (4, "100")):
            events = await house.candle(bar(minute, "100", low="98", volume=volume))
            seen += [(a.status, a.final, [plain(t.quantity) for t in a.trades]) for a in answers(events)]
            if minute == 1:
                order_id = answers(events)[0].order_id
                assert house.stored_order(order_id).status == "partially_filled"
                assert house.state.free_cash("main") == 10_000 - 10 * 99
        assert seen == [
            ("partially_filled", False, ["4"]),
            ("partially_filled", False, ["4", "3"]),
            ("filled", True, ["4", "3", "3"]),
        ]
        assert house.state.free_cash("main") == house.state.cash("main") == 10_000 - 990
        assert [t.venue_sequence for t in house.trades()] == [1, 2, 3]

    async def test_the_rest_of_a_partly_filled_order_can_be_cancelled(self, build: Callable[..., House]) -> None:
        house = build(costs=HALF)
        await house.open()
        await house.candle(bar(0, "100"))
        placed = await house.buy("10", limit="99", request_id="r")
        await house.candle(bar(1, "98", volume="8"))
        events = await house.send_cancel("r")
        assert answers(events)[0].status == "done"
        last = answers(events)[-1]
        assert (last.status, last.order_id, len(last.trades)) == ("cancelled", placed.order_id, 1)
        assert await house.candle(bar(2, "98", volume="8")) == []
        assert house.state.free_cash("main") == house.state.cash("main") == 10_000 - 4 * 98

    async def test_the_client_order_id_is_committed_before_the_venue_sees_the_order(
        self, brokered: House, broker: ScriptedVenue, books: Books
    ) -> None:
        seen: list[Order | None] = []

        def look(order: Order) -> list[VenueReport]:
            seen.append(books.ask(lambda c: orders.find(c, order.id)))
            return [filled(order), VenueClosed(order.id, OrderStatus.FILLED)]

        broker.when_placed = look
        answer = await brokered.buy("1", account="live", request_id="r")
        assert seen == broker.placed
        assert seen[0] is not None
        assert seen[0].status == "requested"
        assert seen[0].client_order_id == orders.client_order_id("live", "r")
        assert answer.status == "filled"

    async def test_a_fill_that_the_venue_reports_twice_is_one_trade(
        self, brokered: House, broker: ScriptedVenue
    ) -> None:
        broker.when_placed = lambda order: [filled(order, 1, "0.4"), filled(order, 1, "0.4"), filled(order, 2, "0.6")]
        answer = await brokered.buy("1", account="live")
        assert [str(trade.quantity) for trade in answer.trades] == ["0.4", "0.6"]
        assert answer.status == "partially_filled"

    async def test_a_report_about_a_closed_order_changes_nothing(
        self, brokered: House, broker: ScriptedVenue
    ) -> None:
        broker.when_placed = lambda order: [VenueClosed(order.id, OrderStatus.REJECTED, Reason("no")), filled(order)]
        answer = await brokered.buy("1", account="live")
        assert (answer.status, answer.trades, answer.reason) == ("rejected", (), Reason("no"))
        assert broker.forgotten == [answer.order_id]
        assert brokered.trades() == []

    async def test_the_fill_of_one_order_frees_its_reservation_for_the_next_in_the_same_bar(
        self, house: House
    ) -> None:
        await house.candle(bar(0, "100"))
        first = await house.buy(notional="5000", decided=1, triggered_by="bot:a")
        second = await house.buy(notional="5000", decided=1, triggered_by="bot:b")
        assert [first.status, second.status] == ["accepted", "accepted"]
        events = await house.candle(bar(1, "100"))
        assert [answer.status for answer in answers(events)] == ["filled", "filled"]
        assert house.state.cash("main") == 0
        sells = [await house.sell("50", decided=2, triggered_by=f"bot:{n}") for n in range(2)]
        events = await house.candle(bar(2, "100"))
        assert [answer.status for answer in answers(events)] == ["filled", "filled"], sells
        assert house.state.held("main", BTC) == 0

    async def test_what_a_cancelled_rest_reserved_is_free_for_the_next_order_in_the_same_bar(
        self, build: Callable[..., House]
    ) -> None:
        house = build(costs=PaperCosts(*(Decimal(n) for n in ("0", "0", "0", "0", "0", "1"))))
        await house.open()
        await house.candle(bar(0, "100"))
        await house.candle(bar(0, "10", symbol="AAPL"))
        await house.buy(notional="9000", decided=1, triggered_by="bot:a")
        await house.buy(notional="1000", decided=1, triggered_by="bot:b")
        events = await house.candle(bar(1, "100", volume="1"))
        by_volume, too_late = answers(events)
        assert (by_volume.status, len(by_volume.trades)) == ("cancelled", 1)
        assert too_late.status == "cancelled", "no volume is left"
        assert house.state.free_cash("main") == 9900

    async def test_the_venue_rejects_what_the_account_cannot_pay_when_the_price_has_risen(self, house: House) -> None:
        await house.candle(bar(0, "100"))
        answer = await house.buy("100", decided=1, triggered_by="bot:a")
        assert answer.status == "accepted"
        (answer,) = answers(await house.candle(bar(1, "101")))
        expected = Reason("INSUFFICIENT_FUND", "cash", "10000", "at least 10100 USD")
        assert (answer.status, answer.reason, answer.trades) == ("rejected", expected, ())
        assert house.state.free_cash("main") == 10_000
        assert await house.candle(bar(2, "90")) == []

    async def test_the_venue_rejects_a_sell_of_what_was_sold_meanwhile(self, house: House, books: Books) -> None:
        await house.price("100")
        await house.buy("2")
        await house.candle(bar(0, "100"))
        answer = await house.sell(notional="200", decided=1, triggered_by="bot:a")
        assert answer.status == "accepted"
        books.record(fill(77, SELL, "1.5"))
        (answer,) = answers(await house.candle(bar(1, "100")))
        assert answer.reason == Reason("INSUFFICIENT_FUND", "quantity", "0.5", "at least 2")

    async def test_an_order_expires_when_its_time_is_over(self, house: House) -> None:
        await house.price("100")
        answer = await house.buy("1", limit="90", expires_in="30")
        assert list(await house.service.on_timer()) == []
        house.clock.advance(at(0.5))
        (changed, expired) = await house.service.on_timer()
        assert isinstance(changed, OrderChanged)
        assert expired == answers([expired])[0]
        assert house.stored_order(answer.order_id).status == "expired"
        assert await house.price("80") == []
        assert list(await house.service.on_timer()) == []

    async def test_a_price_after_the_expiry_fills_nothing_even_before_the_timer_has_run(self, house: House) -> None:
        await house.price("100")
        await house.buy("1", limit="90", expires_in="30")
        (answer,) = answers(await house.price("80", 1))
        assert (answer.status, answer.trades) == ("expired", ())

    async def test_a_feed_that_runs_on_by_minutes_lets_no_order_expire_that_was_sent_at_once(
        self, brokered: House, broker: ScriptedVenue
    ) -> None:
        submit = brokered.writer.submit

        def slowly(work: Callable[..., Any]) -> Awaitable[Any]:
            result: Awaitable[Any] = submit(work)
            brokered.clock.advance(brokered.clock.now() + timedelta(seconds=61))
            return result

        brokered.service._writer.submit = slowly  # type: ignore[method-assign]  # of this one writer
        assert (await brokered.buy("1", account="live")).status == "accepted"
        assert len(broker.placed) == 1

    async def test_an_order_whose_expiry_passed_between_commit_and_sending_is_not_sent(
        self, brokered: House, broker: ScriptedVenue
    ) -> None:
        submit = brokered.writer.submit

        async def slowly(work: Callable[..., object]) -> object:
            result: object = await submit(work)
            await asyncio.sleep(0.06)
            return result

        brokered.service._writer.submit = slowly  # type: ignore[method-assign, assignment]  # of this one writer
        answer = await brokered.buy("1", account="live", expires_in="0.05")
        assert (answer.status, broker.placed) == ("expired", [])
        until = brokered.stored_order(answer.order_id).expires_at
        assert until is not None
        assert reason(answer) == Reason("expired", "expires_at", time_text(until), "a fill before the order's expiry")

    async def test_older_candles_and_prices_are_ignored(self, house: House) -> None:
        await house.candle(bar(5, "100"))
        await house.buy("1", limit="90")
        assert await house.service.on_candle(bar(5, "80")) == ()
        assert await house.service.on_candle(bar(4, "80")) == ()
        from execution.model import Price

        assert await house.service.on_price(Price(BTC, Decimal(80), at(1))) == ()
        assert house.state.prices[BTC].price == 100


async def test_orders_are_listed_newest_first_and_paged_without_a_hole(house: House, books: Books) -> None:
    await house.price("100")
    for minute in range(5):
        house.clock.advance(at(minute // 2))
        await house.buy("1", limit="90")
    found = books.ask(lambda c: orders.orders(c, limit=2))
    for _ in range(2):
        cursor = (found[-1].created_at, found[-1].id)
        found += books.ask(partial(orders.orders, limit=2, before=cursor))
    assert len({order.id for order in found}) == 5
    assert [order.created_at for order in found] == sorted((o.created_at for o in found), reverse=True)
    assert books.ask(lambda c: orders.orders(c, symbol="AAPL")) == []
    assert len(books.ask(lambda c: orders.orders(c, status="pending", account="main"))) == 5
