"""Orders at a live venue: what is sent, when, and what is said about it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from execution import ledger, orders
from execution.errors import LeaseLost, StorageUnavailable
from execution.exchange import ExchangeRefused
from execution.live import LiveTimes
from execution.model import Account, AccountKind, Order, OrderStatus, Reason, Side
from tests.execution.exchanges import (
    GRACE,
    LiveHouse,
    ScriptedExchange,
    a_trade,
    alerts,
    later,
    open_live_account,
)
from tests.execution.house import BTC, START, Books, House, answers, at, facts_in, reason

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


# ---- sending -------------------------------------------------------------------------------------------


async def test_an_order_is_stored_before_it_is_sent(
    live: LiveHouse, exchange: ScriptedExchange, books: Books
) -> None:
    stored: list[Order | None] = []
    exchange.on_place = lambda order: stored.append(books.ask(lambda c: orders.find(c, order.id)))
    answer = await live.buy("2")
    assert [order and order.client_order_id for order in stored] == [exchange.sent[0][0]]
    assert (answer.status, answer.final) == ("accepted", False)


@pytest.mark.parametrize(("expires_in", "most"), [("4", 4), (None, 10)])
async def test_an_order_may_be_on_its_way_no_longer_than_it_lives_and_than_is_allowed(
    live: LiveHouse, exchange: ScriptedExchange, expires_in: str | None, most: float
) -> None:
    await live.buy("2", expires_in=expires_in)
    (_, seconds) = exchange.sent[0]
    assert seconds is not None
    assert most - 1 < seconds <= most


async def test_an_order_whose_sender_slept_too_long_is_not_sent_but_asked_for(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = live.order(BUY, "2", limit="90")
    commit = live.writer.submit

    def slow(work: Any) -> Any:
        later(11)
        return commit(work)

    with live.commits(slow):
        answer = await live.ask(order)
    assert (exchange.sent, answer.status) == ([], "unknown")
    await live.round()
    assert len(exchange.asked) == 1


async def test_a_venue_that_says_no_rejects_the_order_in_its_own_words(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.refusal = ExchangeRefused("INSUFFICIENT_FUND", "not enough balance")
    answer = await live.buy("2")
    assert (answer.status, answer.final) == ("rejected", True)
    assert reason(answer) == Reason("INSUFFICIENT_FUND", None, None, "not enough balance")
    assert live.state.free_cash("live") == 10_000


async def test_an_order_that_is_filled_at_once_is_answered_with_its_trades(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.on_place = lambda order: exchange.fill(order, "2", status=OrderStatus.FILLED)
    placed = await live.buy("2")
    assert (placed.status, live.venue.woken.is_set()) == ("accepted", True)
    (answer,) = answers(await live.round())
    assert (answer.status, [trade.quantity for trade in answer.trades]) == ("filled", [2])
    assert live.state.cash("live") == 9800


async def test_an_order_that_the_venue_ends_by_itself_says_so(live: LiveHouse, exchange: ScriptedExchange) -> None:
    exchange.on_place = lambda order: exchange.orders.update(
        {order.client_order_id: replace(exchange.open(order), status=OrderStatus.CANCELLED)}
    )
    answer = await live.buy("2")
    assert (answer.status, answer.final, reason(answer).code) == ("cancelled", True, "closed_by_venue")


async def test_a_fill_that_is_told_before_the_venue_answers_is_not_followed_by_an_older_answer(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    async def fill_first(order: Order) -> None:
        exchange.streamed.append(exchange.fill(order, "2"))
        exchange.orders[order.client_order_id] = ScriptedExchange.open(order)  # as it was when the answer was written
        await live.listen()

    exchange.before_reply = fill_first
    events = await live.send(live.order(BUY, "2"))
    assert [answer.status for answer in answers(live.events)] == ["filled"]
    assert answers(events) == []


async def test_a_venue_that_never_answers_is_given_up_after_the_timeout(
    make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    house = make(times=LiveTimes(timeout=0.01))
    await house.open()
    exchange.hangs = True
    assert (await house.buy("2")).status == "unknown"
    assert await house.round() == []


async def test_an_account_at_a_venue_without_a_connection_is_refused_by_name(
    build: Callable[..., House], books: Books
) -> None:
    open_live_account(books)
    house = build()
    await house.open()
    await house.price("100")
    answer = await house.buy("1", account="live")
    assert (reason(answer).code, reason(answer).value) == ("venue_not_connected", "live")
    assert "broker" in (reason(answer).expected or "")


async def test_an_open_order_at_a_venue_without_a_connection_is_unknown_and_stays(
    live: LiveHouse, build: Callable[..., House]
) -> None:
    placed = await live.buy("1", limit="90")
    live.close()
    without = build()
    (answer,) = answers(await without.open())
    assert (answer.status, reason(answer).code) == ("unknown", "venue_out_of_reach")
    assert (await without.cancel(placed.order_id or "", account="live")).status == "done"
    assert without.stored_order(placed.order_id).status is OrderStatus.UNKNOWN


async def test_an_order_of_a_bot_expires_at_a_live_venue_where_nothing_waits_for_candles(live: LiveHouse) -> None:
    placed = live.placed(await live.buy("1", decided=0, triggered_by="bot:a"))
    assert placed.expires_at == at(1)
    live.clock.advance(at(3))
    assert reason(await live.buy("1", decided=1, triggered_by="bot:a")).code == "expired"


# ---- what became of it ---------------------------------------------------------------------------------


async def test_an_order_whose_answer_got_lost_is_unknown_until_the_venue_shows_it(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.lose_replies = True
    answer = await live.buy("2", limit="90")
    assert (answer.status, answer.final) == ("unknown", False)
    assert reason(await live.buy("1")).code == "symbol_frozen"
    assert await live.round() == []
    exchange.lose_replies = False
    (answer,) = answers(await live.round())
    assert (answer.status, answer.reason) == ("accepted", None)
    assert (await live.buy("1", limit="80")).status == "accepted"
    assert len(exchange.sent) == 2


async def test_an_order_that_got_lost_is_sent_again_under_its_id_only_after_asking_for_the_whole_grace(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.lose_requests = True
    await live.buy("2", limit="90")
    exchange.lose_requests = False
    await live.round()
    later(GRACE - 1)
    await live.round()
    assert (len(exchange.sent), len(exchange.asked)) == (1, 2)
    later(1)
    (answer,) = answers(await live.round())
    (first, _), (second, seconds) = exchange.sent
    assert first == second
    assert seconds is not None
    assert seconds > 9
    assert (answer.status, len(exchange.orders)) == ("accepted", 1)


async def test_an_order_whose_second_sending_was_allowed_too_long_ago_waits_for_the_next_round(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.lose_requests = True
    await live.buy("2", limit="90")
    exchange.lose_requests = False
    later(GRACE)
    commit = live.writer.submit

    def slow(work: Any) -> Any:
        later(11)
        return commit(work)

    with live.commits(slow):
        await live.round()
    assert len(exchange.sent) == 1
    await live.round()
    assert len(exchange.sent) == 2


async def test_nothing_is_sent_again_while_the_storage_halts_trading(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.lose_requests = True
    await live.buy("2", limit="90")
    exchange.lose_requests = False
    later(GRACE)
    live.service.storage_failure = "disk full"
    await live.round()
    assert len(exchange.sent) == 1


async def test_an_order_that_could_not_be_closed_is_not_said_to_be(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.deduplicates = False
    exchange.lose_requests = True
    placed = await live.buy("2", limit="90")
    exchange.lose_requests = False
    later(GRACE)

    def full(_work: Any) -> Any:
        raise StorageUnavailable("the database could not commit: disk full")

    with live.commits(full):
        assert alerts(await live.round()) == ["storage_unavailable"]
    assert live.placed(placed).status is OrderStatus.UNKNOWN
    assert alerts(await live.round()) == ["never_at_venue"]


async def test_an_order_that_is_filled_while_the_venue_is_asked_for_it_is_left_alone(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    placed = live.placed(await live.buy("2", limit="90"))

    async def fill(order: Order) -> None:
        exchange.streamed.append(exchange.fill(order, "2", status=OrderStatus.FILLED))
        await live.reconciler.listen("live")

    exchange.while_asked = fill
    assert [answer.status for answer in answers(await live.round())] == ["filled"]
    assert live.stored_order(placed.id).status is OrderStatus.FILLED


async def test_the_grace_begins_anew_with_each_sending(live: LiveHouse, exchange: ScriptedExchange) -> None:
    exchange.lose_requests = True
    await live.buy("2", limit="90")
    later(GRACE)
    await live.round()
    exchange.lose_requests, exchange.hidden, exchange.lose_replies = False, True, False
    exchange.on_place = lambda _order: setattr(exchange, "lose_replies", True)
    await live.round()
    exchange.lose_replies = False
    assert len(exchange.sent) == 2
    later(GRACE - 1)
    await live.round()
    assert len(exchange.sent) == 2
    later(1)
    await live.round()
    assert len(exchange.sent) == 3


async def test_a_refusal_of_a_second_sending_is_believed_only_when_the_first_cannot_arrive_any_more(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.lose_requests = True
    placed = await live.buy("2", limit="90")
    exchange.lose_requests = False
    exchange.refusal = ExchangeRefused("BUSY", "not now")
    later(GRACE)
    assert await live.round() == []
    assert live.placed(placed).status is OrderStatus.UNKNOWN
    later(GRACE)
    (answer,) = answers(await live.round())
    assert (answer.status, reason(answer).code, len(exchange.sent)) == ("rejected", "BUSY", 2)


async def test_a_refused_second_sending_of_an_order_that_had_arrived_changes_nothing(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.lose_requests = True
    placed = await live.buy("2", limit="90")
    exchange.lose_requests = False
    exchange.refusal = ExchangeRefused("BUSY", "not now")
    later(GRACE)
    await live.round()
    exchange.orders[live.placed(placed).client_order_id] = exchange.open(live.placed(placed))
    later(GRACE)
    assert [answer.status for answer in answers(await live.round())] == ["accepted"]


async def test_an_order_that_the_venue_has_shown_once_is_never_sent_again(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    await live.buy("2", limit="90")
    exchange.hidden = True
    later(10 * GRACE)
    assert await live.round() == []
    assert len(exchange.sent) == 1


async def test_a_venue_that_would_make_a_second_order_is_never_sent_one_again(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.deduplicates = False
    exchange.lose_requests = True
    await live.buy("2", limit="90")
    exchange.lose_requests = False
    later(GRACE)
    events = await live.round()
    (answer,) = answers(events)
    assert (answer.status, reason(answer).code, answer.final) == ("expired", "never_at_venue", True)
    assert alerts(events) == ["never_at_venue"]
    assert len(exchange.sent) == 1
    assert live.state.free_cash("live") == 10_000


async def test_an_order_whose_time_is_over_is_not_sent_again(live: LiveHouse, exchange: ScriptedExchange) -> None:
    exchange.lose_requests = True
    await live.buy("2", expires_in="20")
    exchange.lose_requests = False
    later(GRACE)
    (answer,) = answers(await live.round())
    assert (answer.status, reason(answer).code) == ("expired", "never_at_venue")
    assert len(exchange.sent) == 1


@pytest.mark.parametrize("hours", [24, -24])
async def test_a_jump_of_the_wall_clock_neither_ends_nor_prolongs_an_order(
    live: LiveHouse, exchange: ScriptedExchange, hours: int
) -> None:
    exchange.lose_requests = True
    await live.buy("2", expires_in="50")
    exchange.lose_requests = False
    live.clock._now = at(60 * hours)
    later(GRACE)
    await live.round()
    assert len(exchange.sent) == 2
    exchange.hidden = True
    live.venue.tracks[live.state.open_orders("live")[0].id].acknowledged = False
    later(GRACE)
    (answer,) = answers(await live.round())
    assert answer.status == "expired"


async def test_a_resting_order_whose_time_is_over_is_cancelled_and_called_expired(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    placed = await live.buy("2", limit="90", expires_in="20")
    exchange.fill(live.placed(placed), "0.5")
    await live.round()
    later(21)
    (answer,) = answers(await live.round())
    assert (answer.status, reason(answer).code, len(exchange.cancelled)) == ("expired", "expired", 1)
    assert [trade.quantity for trade in answer.trades] == [Decimal("0.5")]


async def test_a_process_without_its_lease_sends_nothing_again(live: LiveHouse, exchange: ScriptedExchange) -> None:
    exchange.lose_requests = True
    await live.buy("2", limit="90")
    exchange.lose_requests = False
    later(GRACE)

    def fenced(_work: Any) -> Any:
        raise LeaseLost("lease lost: role execution, epoch 7; now epoch 8")

    with live.commits(fenced), pytest.raises(LeaseLost):
        await live.round()
    assert len(exchange.sent) == 1


# ---- ending it -----------------------------------------------------------------------------------------


async def test_a_cancel_is_answered_at_once_and_repeated_until_the_order_is_final(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    placed = await live.buy("2", limit="90")
    exchange.lose_requests = True
    assert (await live.cancel(placed.order_id or "", account="live")).status == "done"
    assert live.venue.woken.is_set()
    await live.round()
    await live.round()
    assert live.placed(placed).status is OrderStatus.PENDING
    exchange.lose_requests = False
    (answer,) = answers(await live.round())
    assert (answer.status, len(exchange.cancelled)) == ("cancelled", 3)


async def test_a_halt_does_not_wait_for_the_venue_and_cancels_everything_once_it_is_back(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    for limit in ("90", "91"):
        await live.buy("1", limit=limit)
    exchange.hangs = True
    halted = await live.send(live.halt_request(account="live"))
    assert [answer.status for answer in answers(halted)] == ["done"]
    exchange.hangs = False
    ended = answers(await live.round())
    assert [(answer.status, reason(answer).code) for answer in ended] == [("cancelled", "trading_halted")] * 2


async def test_a_lost_order_of_a_halted_account_is_not_sent_again(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.lose_requests = True
    await live.buy("1", limit="90")
    await live.send(live.halt_request(account="live"))
    exchange.lose_requests = False
    later(GRACE)
    (answer,) = answers(await live.round())
    assert (answer.status, reason(answer).code, len(exchange.sent)) == ("cancelled", "never_at_venue", 1)


async def test_a_fill_in_the_race_with_a_cancel_is_recorded(live: LiveHouse, exchange: ScriptedExchange) -> None:
    placed = await live.buy("2", limit="90")
    await live.cancel(placed.order_id or "", account="live")
    exchange.fill(live.placed(placed), "0.5", status=OrderStatus.CANCELLED)
    (filled, cancelled) = answers(await live.round())
    assert (filled.status, cancelled.status) == ("partially_filled", "cancelled")
    assert [trade.quantity for trade in cancelled.trades] == [Decimal("0.5")]


async def test_an_order_that_is_cancelled_before_it_was_sent_is_not_sent(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = live.order(BUY, "2", limit="90")
    live.venue.unwanted.add(orders.order_id("live", order.request_id))
    assert (await live.ask(order)).status == "cancelled"
    assert exchange.sent == []


# ---- after a restart -----------------------------------------------------------------------------------


async def killed_while_sending(house: LiveHouse, *, arrives: bool, **wish: Any) -> str:
    """The process dies behind an order's commit; returns the order's id."""
    exchange = house.exchange

    def die(order: Order) -> None:
        if arrives:
            exchange.orders[order.client_order_id] = exchange.open(order)
        raise KeyboardInterrupt

    exchange.on_place = die
    request = house.order(BUY, **wish)
    with pytest.raises(KeyboardInterrupt):
        await house.send(request)
    exchange.on_place = lambda _order: None
    house.close()
    return orders.order_id("live", request.request_id)


@pytest.mark.parametrize("arrives", [True, False])
async def test_after_a_crash_between_commit_and_sending_the_venue_is_asked_first(
    live: LiveHouse, make: Callable[..., LiveHouse], exchange: ScriptedExchange, arrives: bool
) -> None:
    order_id = await killed_while_sending(live, arrives=arrives, quantity="2", limit="90")
    second = make()
    (answer,) = answers(await second.open())
    assert (answer.status, answer.order_id, reason(answer).code) == ("unknown", order_id, "restarted")
    found = answers(await second.round())
    assert (len(exchange.sent), len(exchange.asked)) == (1, 1)
    if arrives:
        assert [answer.status for answer in found] == ["accepted"]
        return
    later(GRACE)
    (answer,) = answers(await second.round())
    assert (answer.status, len(exchange.sent), len(exchange.orders)) == ("accepted", 2, 1)


async def test_a_restart_waits_the_whole_grace_again(
    live: LiveHouse, make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    await killed_while_sending(live, arrives=False, quantity="2", limit="90")
    later(10 * GRACE)
    second = make(now=at(5))
    await second.open()
    await second.round()
    later(GRACE - 1)
    await second.round()
    assert len(exchange.sent) == 1


async def test_a_market_order_that_was_never_sent_is_not_sent_after_its_time(
    live: LiveHouse, make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    await killed_while_sending(live, arrives=False, quantity="2")
    second = make(now=at(2))
    await second.open()
    later(GRACE)
    (answer,) = answers(await second.round())
    assert (answer.status, reason(answer).code, len(exchange.sent)) == ("expired", "never_at_venue", 1)


async def test_a_partly_filled_order_goes_on_after_a_restart(
    live: LiveHouse, make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    placed = live.placed(await live.buy("2", limit="90"))
    exchange.fill(placed, "0.5", 1)
    await live.round()
    live.close()
    exchange.fill(placed, "1.5", 2, status=OrderStatus.FILLED)
    second = make()
    assert answers(await second.open()) == []
    (answer,) = answers(await second.round())
    assert (answer.status, len(answer.trades), len(exchange.sent)) == ("filled", 2, 1)


async def test_a_cancel_that_was_answered_is_not_forgotten_by_a_restart(
    live: LiveHouse, make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    placed = await live.buy("2", limit="90")
    exchange.lose_requests = True
    await live.cancel(placed.order_id or "", account="live")
    live.close()
    exchange.lose_requests = False
    second = make()
    await second.open()
    assert [answer.status for answer in answers(await second.round())][-1] == "cancelled"


async def test_open_orders_of_a_halted_account_are_cancelled_after_a_restart(
    live: LiveHouse, make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    await live.buy("2", limit="90")
    exchange.lose_requests = True
    await live.send(live.halt_request(account="live"))
    await live.round()
    live.close()
    exchange.lose_requests = False
    second = make()
    await second.open()
    (answer,) = answers(await second.round())
    assert (answer.status, len(exchange.cancelled)) == ("cancelled", 2)


async def test_the_paper_account_trades_while_the_venue_is_away(live: LiveHouse, exchange: ScriptedExchange) -> None:
    exchange.hangs = True
    assert (await live.buy("1", account="main")).status == "filled"


async def test_what_a_venue_tells_of_an_account_that_the_process_did_not_know_is_recorded(
    live: LiveHouse, exchange: ScriptedExchange, books: Books
) -> None:
    books.do(lambda c: ledger.add_account(c, Account("second", kind=AccountKind.LIVE, venue="broker"), START))
    live.state.accounts = books.ask(ledger.accounts)
    assert live.reconciler.accounts == ["live", "second"]
    exchange.streamed.append(a_trade(symbol=BTC))
    await live.reconciler.listen("second")
    assert [trade.account for trade in facts_in(live.events)] == ["second"]


async def test_the_writers_thread_makes_no_difference(
    make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    house = make(threaded=True)
    await house.open()
    orders_placed = [house.placed(await house.buy("1", limit=limit)) for limit in ("90", "91", "92")]
    exchange.fill(orders_placed[0], "1", 1, status=OrderStatus.FILLED)
    exchange.streamed.append(exchange.fill(orders_placed[1], "0.5", 2))
    await house.cancel(orders_placed[1].id, account="live")
    exchange.lose_requests = True
    lost = await house.buy("1", limit="93")
    exchange.lose_requests = False
    await house.listen()
    await house.round()
    later(GRACE)
    await house.round()
    assert {order.status for order in house.all_orders()} == {
        OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.PENDING,
    }  # fmt: skip
    assert len(exchange.orders) == 4
    assert house.placed(lost).status is OrderStatus.PENDING
    assert sum(trade.quantity for trade in house.trades()) == Decimal("1.5")
