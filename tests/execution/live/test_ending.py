"""Orders at a live venue that are cancelled."""

from decimal import Decimal
from typing import Any

import pytest

from execution import orders
from execution.live import LiveVenue
from execution.model import OrderStatus, Side
from tests.execution.exchanges import GRACE, LiveHouse, ScriptedExchange, later
from tests.execution.house import answers, reason

BUY = Side.BUY


async def test_a_cancel_is_answered_at_once_and_repeated_until_the_order_is_final(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    placed = await live.buy("2", limit="90")
    exchange.lose_requests = True
    assert (await live.cancel(placed.order_id or "", account="live")).status == "done"
    await live.venue.line("live").woken.wait()
    await live.round()
    await live.round()
    assert live.placed(placed).status is OrderStatus.PENDING
    exchange.lose_requests = False
    (answer,) = answers(await live.round())
    assert (answer.status, len(exchange.cancelled)) == ("cancelled", 4)


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


@pytest.mark.parametrize("again", [False, True])
async def test_an_order_whose_account_is_halted_just_before_the_call_is_not_sent(
    live: LiveHouse, exchange: ScriptedExchange, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    if again:
        await live.buy_lost("1", limit="90")
        later(GRACE)
    ask, sent = LiveVenue.ask, len(exchange.sent)

    async def halted_first(venue: LiveVenue, account: str, call: Any) -> Any:
        if call.__name__ in ("place", "_place"):
            await live.send(live.halt_request(account="live"))
        return await ask(venue, account, call)

    monkeypatch.setattr(LiveVenue, "ask", halted_first)  # between the last look and the call
    if again:
        await live.round()
        await live.round()
    else:
        answer = await live.buy("1", limit="90")
        assert (answer.status, reason(answer).code) == ("cancelled", "trading_halted")
    assert len(exchange.sent) == sent
    assert not any(order.status is OrderStatus.REJECTED for order in live.all_orders())
