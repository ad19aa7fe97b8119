"""What a new process does about the orders of the one before."""

from collections.abc import Callable
from typing import Any

import pytest

from execution import orders
from execution.model import Order, OrderStatus, Side
from tests.execution.exchanges import GRACE, LiveHouse, ScriptedExchange, later
from tests.execution.house import answers, at, reason

BUY = Side.BUY


class Killed(BaseException):
    """The process dies."""


async def killed_while_sending(house: LiveHouse, *, arrives: bool, **wish: Any) -> str:
    """The process dies behind an order's commit; returns the order's id."""
    exchange = house.exchange

    def die(order: Order) -> None:
        if arrives:
            exchange.orders[order.client_order_id] = exchange.open(order)
        raise Killed

    exchange.on_place = die
    request = house.order(BUY, **wish)
    with pytest.raises(Killed):
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
    await live.venue.line("live").woken.wait()
    await live.round()
    live.close()
    exchange.lose_requests = False
    second = make()
    await second.open()
    await second.venue.line("live").woken.wait()
    (answer,) = answers(await second.round())
    assert (answer.status, len(exchange.cancelled)) == ("cancelled", 3)
