"""Trades at a live venue of orders that nobody here placed."""

from collections.abc import Callable

from execution.model import OrderStatus, Side, Trade
from tests.execution.exchanges import LiveHouse, ScriptedExchange, a_trade, alerts
from tests.execution.house import BTC, answers, facts_in

SELL = Side.SELL


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
    assert {(fill.order_id, fill.triggered_by) for fill in live.live_trades()} == {(order.id, "external")}
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
    order = await live.resting()
    exchange.told.append(a_trade("1", 5, client_order_id=order.client_order_id, side=SELL))
    assert alerts(await live.round()) == ["external_order"]
    assert live.stored_order(order.id).status is OrderStatus.PENDING
