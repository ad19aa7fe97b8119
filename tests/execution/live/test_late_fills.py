"""Fills of orders that were over already."""

from collections.abc import Callable

from execution.model import Order, OrderStatus
from tests.execution.exchanges import GRACE, TIMES, LiveHouse, ScriptedExchange, alerts, later
from tests.execution.house import BTC, answers


async def given_up(live: LiveHouse, exchange: ScriptedExchange, quantity: str = "2") -> Order:
    """An order that was closed because the venue never showed it."""
    exchange.deduplicates = False
    placed = await live.buy_lost(quantity, limit="100")
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
    assert [(fill.order_id, fill.triggered_by) for fill in live.live_trades()] == [(order.id, "manual")]
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
    live: LiveHouse, exchange: ScriptedExchange
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
    order = await live.resting()
    await live.cancel(order.id, account="live")
    await live.round()
    assert live.stored_order(order.id).status is OrderStatus.CANCELLED
    exchange.fill(order, "0.5", status=OrderStatus.CANCELLED)
    events = await live.round()
    assert alerts(events) == ["filled_after_close"]
    assert [answer.status for answer in answers(events)] == ["partially_filled", "cancelled"]


async def test_more_than_was_asked_for_is_recorded_and_alerted(live: LiveHouse, exchange: ScriptedExchange) -> None:
    order = await live.resting()
    exchange.fill(order, "3", status=OrderStatus.FILLED)
    assert alerts(await live.round()) == ["overfilled"]
    assert live.state.held("live", BTC) == 3
