"""The service: one answer per request, the life of orders, cash, halts, venues that fail, leases."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal

import pytest

from config.exact import plain
from execution import leases, ledger, orders
from execution.errors import LeaseLost
from execution.leases import Fence
from execution.model import (
    Account,
    AccountKind,
    CashFlowKind,
    FactsRecorded,
    HaltChanged,
    HaltRequest,
    Order,
    OrderChanged,
    OrderStatus,
    Reason,
    ResponseStatus,
    Side,
    Trade,
)
from execution.orders import DeadLetter
from execution.paper import PaperCosts
from execution.venue import VenueClosed, VenueReport
from tests.execution.house import (
    BTC,
    FREE,
    START,
    Books,
    House,
    answer_to,
    answers,
    at,
    bar,
    facts_in,
    fill,
    reason,
    snapshot,
)
from tests.execution.venues import ScriptedVenue, filled, lost

BUY, SELL = Side.BUY, Side.SELL
HALF = PaperCosts(*(Decimal(n) for n in ("0", "0", "0", "0", "0", "0.5")))
"""Free, but an order may take half of a bar's volume."""


@pytest.fixture
def broker(books: Books) -> ScriptedVenue:
    """A live venue behind the account `live`, with 1,000 in it."""
    books.do(lambda c: ledger.add_account(c, Account("live", kind=AccountKind.LIVE, venue="broker"), START))
    from tests.execution.house import flow

    books.record(flow("opening-live", "1000", account="live"))
    return ScriptedVenue()


@pytest.fixture
async def live(build: Callable[..., House], broker: ScriptedVenue) -> House:
    """An open house with that venue, and a price."""
    house = build(venues=[broker])
    await house.open()
    await house.price("100")
    return house


class TestIdempotency:
    """A request id names one request, for ever."""

    async def test_the_same_request_again_gets_the_same_answer_and_no_second_trade(self, house: House) -> None:
        await house.price("100")
        wish = house.order(BUY, "1")
        first = await house.ask(wish)
        await house.price("200")
        again = await house.send(wish)
        assert again == [first]
        assert first.trades == tuple(house.trades())

    async def test_another_body_under_the_same_id_is_a_conflict(self, house: House) -> None:
        await house.price("100")
        await house.buy("1", request_id="r")
        answer = await house.ask(house.order(BUY, "2", request_id="r"), body="other")
        expected = "a new request_id for a new request; this one was used with another body"
        assert reason(answer) == Reason("idempotency_conflict", "request_id", "r", expected)
        assert len(house.trades()) == 1
        assert (await house.ask(house.order(BUY, "1", request_id="r"))).status == "filled"

    async def test_another_tag_under_the_same_id_is_a_conflict(self, house: House) -> None:
        await house.price("100")
        await house.buy("1", request_id="r")
        answer = await house.buy("1", request_id="r", triggered_by="bot:a")
        assert reason(answer).code == "idempotency_conflict"
        assert len(house.trades()) == 1

    async def test_the_same_id_in_another_account_is_another_request(self, house: House) -> None:
        await house.price("100")
        assert (await house.buy("1", request_id="r")).status == "filled"
        assert (await house.buy("1", request_id="r", account="margin")).status == "filled"

    async def test_a_refusal_is_remembered_even_if_it_would_be_accepted_now(self, house: House) -> None:
        wish = house.order(BUY, "1")
        first = await house.ask(wish)
        await house.price("100")
        assert await house.ask(wish) == first
        assert reason(first).code == "no_price"

    async def test_a_repeated_request_of_an_open_order_is_told_its_present_state(self, house: House) -> None:
        await house.price("100")
        wish = house.order(BUY, "1", limit="90")
        assert (await house.ask(wish)).status == "accepted"
        await house.price("89")
        again = await house.ask(wish)
        assert (again.status, again.final, len(again.trades)) == ("filled", True, 1)

    async def test_deposits_halts_and_cancels_repeat_their_answer(self, house: House) -> None:
        await house.price("100")
        resting = await house.buy("1", limit="90")
        from execution.model import CancelRequest

        assert resting.order_id is not None
        for request in (
            house.cash_request(CashFlowKind.DEPOSIT, "5"),
            house.halt_request(),
            CancelRequest("c", "main", resting.order_id, "manual"),
        ):
            first = answer_to(request, await house.send(request))
            again = await house.send(request)
            assert again == [first]
            assert first.final
        assert house.state.cash("main") == 10_005

    async def test_the_answer_survives_a_restart(self, house: House, build: Callable[..., House]) -> None:
        await house.price("100")
        wish = house.order(BUY, "1", signal_context={"rsi": 0.25})
        first = await house.ask(wish)
        house.close()
        second = build()
        await second.open()
        assert await second.ask(wish) == first


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
        self, live: House, broker: ScriptedVenue, books: Books
    ) -> None:
        seen: list[Order | None] = []

        def look(order: Order) -> list[VenueReport]:
            seen.append(books.ask(lambda c: orders.find(c, order.id)))
            return [filled(order), VenueClosed(order.id, OrderStatus.FILLED)]

        broker.when_placed = look
        answer = await live.buy("1", account="live", request_id="r")
        assert seen == broker.placed
        assert seen[0] is not None
        assert seen[0].status == "pending"
        assert seen[0].client_order_id == orders.client_order_id("live", "r")
        assert answer.status == "filled"

    async def test_a_fill_that_the_venue_reports_twice_is_one_trade(self, live: House, broker: ScriptedVenue) -> None:
        broker.when_placed = lambda order: [filled(order, 1, "0.4"), filled(order, 1, "0.4"), filled(order, 2, "0.6")]
        answer = await live.buy("1", account="live")
        assert [str(trade.quantity) for trade in answer.trades] == ["0.4", "0.6"]
        assert answer.status == "partially_filled"

    async def test_a_report_about_a_closed_order_changes_nothing(self, live: House, broker: ScriptedVenue) -> None:
        broker.when_placed = lambda order: [VenueClosed(order.id, OrderStatus.REJECTED, Reason("no")), filled(order)]
        answer = await live.buy("1", account="live")
        assert (answer.status, answer.trades, answer.reason) == ("rejected", (), Reason("no"))
        assert broker.forgotten == [answer.order_id]
        assert live.trades() == []

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
        self, live: House, broker: ScriptedVenue
    ) -> None:
        submit = live.writer.submit

        def slowly(work: Callable[..., object]) -> Awaitable[object]:
            result = submit(work)
            live.clock.advance(live.clock.now() + timedelta(seconds=61))
            return result  # type: ignore[no-any-return]

        live.service._writer.submit = slowly  # type: ignore[method-assign, assignment]
        assert (await live.buy("1", account="live")).status == "accepted"
        assert len(broker.placed) == 1

    async def test_an_order_whose_expiry_passed_between_commit_and_sending_is_not_sent(
        self, live: House, broker: ScriptedVenue
    ) -> None:
        submit = live.writer.submit

        async def slowly(work: Callable[..., object]) -> object:
            result: object = await submit(work)
            await asyncio.sleep(0.06)
            return result

        live.service._writer.submit = slowly  # type: ignore[method-assign, assignment]
        answer = await live.buy("1", account="live", expires_in="0.05")
        assert (answer.status, broker.placed) == ("expired", [])

    async def test_older_candles_and_prices_are_ignored(self, house: House) -> None:
        await house.candle(bar(5, "100"))
        await house.buy("1", limit="90")
        assert await house.service.on_candle(bar(5, "80")) == ()
        assert await house.service.on_candle(bar(4, "80")) == ()
        from execution.model import Price

        assert await house.service.on_price(Price(BTC, Decimal(80), at(1))) == ()
        assert house.state.prices[BTC].price == 100


class TestCash:
    """Deposits and withdrawals."""

    async def test_a_deposit_and_a_withdrawal_change_the_cash_and_are_facts(self, house: House) -> None:
        events = await house.send(house.cash_request(CashFlowKind.DEPOSIT, "0.10", note="wire"))
        (fact,) = facts_in(events)
        assert (fact.cash_effect, fact.sequence) == (Decimal("0.1"), 2)
        assert answers(events)[0].sequence == 2
        assert (await house.withdraw("10000.1")).status == "done"
        assert house.state.cash("main") == 0

    async def test_cash_can_never_become_negative(self, house: House) -> None:
        found = reason(await house.withdraw("10000.01"))
        assert found == Reason("insufficient_cash", "amount", "10000.01", "at most 10000")
        await house.price("100")
        await house.buy("50", limit="90")
        assert reason(await house.withdraw("5500.01")).expected == "at most 5500"
        assert (await house.withdraw("5500")).status == "done"
        charge = await house.ask(house.cash_request(CashFlowKind.FEE, "5000"))
        assert reason(charge).code == "insufficient_cash"

    async def test_a_flow_in_the_future_is_refused(self, house: House) -> None:
        found = reason(await house.deposit("1", effective_at=at(1)))
        expected = Reason("in_future", "effective_at", "2026-01-01T10:01:00Z", "not after 2026-01-01T10:00:00Z")
        assert found == expected
        assert (await house.deposit("1", effective_at=at(-1000))).status == "done"

    async def test_the_same_deposit_twice_is_one_flow_and_other_content_a_conflict(
        self, house: House, books: Books
    ) -> None:
        await house.deposit("5", request_id="wire")
        await house.deposit("5", request_id="wire")
        assert books.count("cash_flows") == 2
        answer = await house.ask(house.cash_request(CashFlowKind.DEPOSIT, "6", request_id="wire"), "other")
        assert reason(answer).code == "idempotency_conflict"

    async def test_a_deposit_whose_id_an_import_used_is_the_same_flow_or_a_conflict_never_a_crash(
        self, house: House, books: Books
    ) -> None:
        from tests.execution.house import flow

        books.record(flow("wire", "5"))
        same = await house.deposit("5", request_id="wire")
        assert (same.status, same.sequence) == ("done", 2)
        books.record(flow("cheque", "5"))
        other = await house.deposit("6", request_id="cheque")
        assert reason(other).code == "idempotency_conflict"
        assert house.state.cash("main") == 10_010


class TestHalt:
    """The kill switch."""

    async def test_a_halt_cancels_open_orders_and_refuses_new_ones_until_resumed(self, house: House) -> None:
        await house.price("100")
        await house.buy("1", limit="90")
        await house.buy("1", limit="91")
        events = await house.halt("storm")
        assert isinstance(events[0], HaltChanged)
        assert [answer.status for answer in answers(events)] == ["done", "cancelled", "cancelled"]
        assert [reason(answer).code for answer in answers(events)[1:]] == ["trading_halted"] * 2
        assert house.state.open_orders() == []
        assert reason(await house.buy("1")).code == "trading_halted"
        assert (await house.deposit("1")).status == "done"
        (changed, _) = await house.resume()
        assert isinstance(changed, HaltChanged)
        assert not changed.halted
        assert (await house.buy("1")).status == "filled"

    async def test_a_halt_holds_for_its_account_alone(self, house: House) -> None:
        await house.price("100")
        await house.halt()
        assert (await house.buy("1", account="margin")).status == "filled"

    async def test_a_halt_survives_a_restart(self, house: House, build: Callable[..., House]) -> None:
        await house.price("100")
        await house.halt("storm")
        house.close()
        second = build()
        await second.open()
        await second.price("100")
        found = reason(await second.buy("1"))
        assert found.code == "trading_halted"
        assert "storm" in str(found.expected)

    async def test_orders_that_were_open_when_the_daemon_died_in_a_halt_are_cancelled_at_start(
        self, live: House, broker: ScriptedVenue, books: Books, build: Callable[..., House]
    ) -> None:
        await live.buy("1", account="live")
        live.close()
        books.do(lambda c: orders.store_halt(c, "live", True, "manual", None, START))
        broker.when_cancelled = lost
        second = build(venues=[broker])
        events = await second.open()
        assert [answer.status for answer in answers(events)] == ["unknown"], "start never fails for a venue"
        second.close()
        broker.when_cancelled = lambda order: [VenueClosed(order.id, OrderStatus.CANCELLED)]
        third = build(venues=[broker])
        assert [answer.status for answer in answers(await third.open())] == ["cancelled"]

    async def test_a_halt_between_commit_and_sending_stops_the_order(
        self, build: Callable[..., House], broker: ScriptedVenue
    ) -> None:
        house = build(venues=[broker], threaded=True)
        await house.open()
        await house.price("100")
        wish, halt = house.order(BUY, "1", account="live"), house.halt_request(account="live")
        both = await asyncio.gather(house.send(wish), house.send(halt))
        said = [
            answer.status for events in both for answer in answers(events) if answer.request_id == wish.request_id
        ]
        assert said[-1] == "cancelled"
        assert broker.placed == []


class TestCancel:
    """People cancel open orders."""

    async def test_an_unknown_order_cannot_be_cancelled(self, house: House) -> None:
        expected = "the id of an order of account main, or of the request that made it"
        assert reason(await house.cancel("nope")) == Reason("unknown_order", "order_id", "nope", expected)

    async def test_another_accounts_order_is_as_unknown(self, house: House) -> None:
        await house.price("100")
        placed = await house.buy("1", limit="90", account="margin")
        assert placed.order_id is not None
        assert reason(await house.cancel(placed.order_id)).code == "unknown_order"

    async def test_a_final_order_cannot_be_cancelled(self, house: House) -> None:
        await house.price("100")
        placed = await house.buy("1")
        assert placed.order_id is not None
        found = reason(await house.cancel(placed.order_id))
        assert found == Reason("order_final", "order_id", placed.order_id, "an open order; this one is filled")

    async def test_a_cancel_right_behind_its_order_reaches_the_venue_after_it(
        self, build: Callable[..., House], broker: ScriptedVenue
    ) -> None:
        house = build(venues=[broker], threaded=True)
        await house.open()
        await house.price("100")
        wish = house.order(BUY, "1", account="live")
        await asyncio.gather(house.send(wish), house.send_cancel(wish.request_id, "live"))
        order_id = orders.order_id("live", wish.request_id)
        assert [order.id for order in broker.placed] == broker.cancelled == [order_id]
        assert house.stored_order(order_id).status == "cancelled"

    async def test_a_lost_answer_to_a_cancel_leaves_the_order_unknown(
        self, live: House, broker: ScriptedVenue
    ) -> None:
        placed = await live.buy("1", account="live")
        broker.when_cancelled = lost
        events = await live.send_cancel(placed.order_id, "live")
        assert [answer.status for answer in answers(events)] == ["done", "unknown"]
        assert live.stored_order(placed.order_id).status == "unknown"
        assert live.state.free_cash("live") == 900


class TestVenueErrors:
    """An outcome that nobody can know is UNKNOWN, never guessed."""

    async def test_a_lost_answer_makes_the_order_unknown_and_keeps_its_reservation(
        self, live: House, broker: ScriptedVenue
    ) -> None:
        broker.when_placed = lost
        answer = await live.buy("1", account="live")
        expected = Reason("venue_out_of_reach", None, None, "no answer within 5 s")
        assert (answer.status, answer.final, answer.reason) == ("unknown", False, expected)
        assert live.stored_order(answer.order_id).status == "unknown"
        assert live.state.free_cash("live") == 900
        assert live.state.open_order(str(answer.order_id)) is not None

    async def test_an_unknown_order_freezes_its_symbol_until_its_outcome_is_known(
        self, live: House, broker: ScriptedVenue
    ) -> None:
        broker.when_placed = lost
        unknown = await live.buy("1", account="live")
        frozen = await live.buy("1", account="live")
        expected = f"the outcome of order {unknown.order_id} to be known first"
        assert frozen.reason == Reason("symbol_frozen", "symbol", BTC, expected)
        assert (await live.buy("1")).status == "filled", "another account is not concerned"
        broker.when_cancelled = lambda order: [VenueClosed(order.id, OrderStatus.CANCELLED)]
        await live.send_cancel(unknown.order_id, "live")
        broker.when_placed = lambda order: [filled(order), VenueClosed(order.id, OrderStatus.FILLED)]
        assert (await live.buy("1", account="live")).status == "filled"

    async def test_an_unknown_order_is_asked_for_at_start_and_never_sent_again(
        self, live: House, broker: ScriptedVenue, build: Callable[..., House]
    ) -> None:
        broker.when_placed = lost
        answer = await live.buy("1", account="live")
        live.close()
        broker.when_resumed = lost
        second = build(venues=[broker])
        assert [a.status for a in answers(await second.open())] == ["unknown"]
        second.close()
        broker.when_resumed = lambda order: [filled(order), VenueClosed(order.id, OrderStatus.FILLED)]
        third = build(venues=[broker])
        events = await third.open()
        assert [a.status for a in answers(events)] == ["filled"]
        assert len(broker.placed) == 1
        assert broker.resumed == [(answer.order_id, 0, None, 0)] * 2
        assert third.state.cash("live") == third.state.free_cash("live") == 900

    async def test_what_is_filled_already_is_told_to_the_venue_at_start(
        self, live: House, broker: ScriptedVenue, build: Callable[..., House]
    ) -> None:
        broker.when_placed = lambda order: [filled(order, 1, "0.25"), filled(order, 2, "0.5")]
        answer = await live.buy("1", account="live")
        live.close()
        second = build(venues=[broker])
        await second.open()
        assert broker.resumed == [(answer.order_id, Decimal("0.75"), START, 2)]


class TestLease:
    """Two daemons can never both write."""

    async def test_a_daemon_that_lost_its_lease_commits_nothing_any_more(
        self, books: Books, build: Callable[..., House]
    ) -> None:
        epoch = books.do(lambda c: leases.take(c, "execution", "first", START))
        house = build(participants=[Fence({"execution": epoch})])
        await house.open()
        await house.price("100")
        assert (await house.buy("1")).status == "filled"
        before = snapshot(house.state)
        assert books.do(lambda c: leases.take(c, "execution", "second", START)) == epoch + 1
        with pytest.raises(LeaseLost, match="role execution, epoch 1; now epoch 2, held by second"):
            await house.buy("1")
        assert len(house.trades()) == 1
        assert books.count("orders") == 1
        assert snapshot(house.state) == before

    def test_a_lease_that_is_gone_is_lost(self, books: Books) -> None:
        with pytest.raises(LeaseLost, match="now gone"):
            books.do(Fence({"portfolio": 1}).check)

    def test_the_holder_of_a_role_is_known(self, books: Books) -> None:
        assert books.ask(lambda c: leases.holder(c, "execution")) is None
        books.do(lambda c: leases.take(c, "execution", "me", START))
        assert books.ask(lambda c: leases.holder(c, "execution")) == "me"


async def test_requests_in_flight_together_are_each_answered_and_the_books_agree(build: Callable[..., House]) -> None:
    house = build(threaded=True, costs=FREE)
    await house.open()
    await house.price("100")
    results = await asyncio.gather(*(house.buy("1") for _ in range(120)))
    statuses = [result.status for result in results]
    assert statuses.count(ResponseStatus.FILLED) == 100, "10,000 pays for exactly a hundred"
    assert {reason(r).code for r in results if r.status == "refused"} <= {"insufficient_cash"}
    assert house.state.cash("main") == 0
    assert sum((trade.quantity for trade in house.trades()), Decimal(0)) == 100


async def test_a_message_that_could_not_be_taken_is_kept_once(house: House, books: Books) -> None:
    letter = DeadLetter("d1", START, "fillbook/v1/main/request/trade", b"\xff{", 300_000, Reason("not_json"), True)
    await house.service.bury(letter)
    await house.service.bury(letter)
    assert books.ask(orders.dead_letters) == [letter]


async def test_orders_are_listed_newest_first_and_paged_without_a_hole(house: House, books: Books) -> None:
    await house.price("100")
    for minute in range(5):
        house.clock.advance(at(minute // 2))
        await house.buy("1", limit="90")
    found = books.ask(lambda c: orders.orders(c, limit=2))
    for _ in range(2):
        cursor = (found[-1].created_at, found[-1].id)
        found += books.ask(lambda c, after=cursor: orders.orders(c, limit=2, before=after))  # type: ignore[misc]
    assert len({order.id for order in found}) == 5
    assert [order.created_at for order in found] == sorted((o.created_at for o in found), reverse=True)
    assert books.ask(lambda c: orders.orders(c, symbol="AAPL")) == []
    assert len(books.ask(lambda c: orders.orders(c, status="pending", account="main"))) == 5


async def test_a_halt_request_for_an_unknown_account_is_refused(house: House) -> None:
    answer = await house.ask(HaltRequest("h", "mine", True, "manual"))
    assert reason(answer).code == "unknown_account"
