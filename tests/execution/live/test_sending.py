"""Orders at a live venue: what is sent, when, and how it is answered."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from execution import orders
from execution.exchange import ExchangeRefused
from execution.live import LiveTimes
from execution.model import Order, OrderStatus, Reason, Side
from tests.execution.exchanges import LiveHouse, ScriptedExchange, alerts, later, open_live_account
from tests.execution.house import Books, House, answers, at, reason

BUY = Side.BUY


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
    assert (placed.status, live.venue.line("live").woken.is_set()) == ("accepted", True)
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
    assert alerts(await house.round()) == ["venue_silent"]


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


async def test_the_paper_account_trades_while_the_venue_is_away(live: LiveHouse, exchange: ScriptedExchange) -> None:
    exchange.hangs = True
    assert (await live.buy("1", account="main")).status == "filled"
