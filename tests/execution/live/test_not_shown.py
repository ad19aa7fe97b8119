"""Orders that the venue has shown and then shows no more."""

from collections.abc import Callable

import pytest

from execution.model import AlertRaised, OrderStatus
from tests.execution.exchanges import GRACE, TIMES, LiveHouse, ScriptedExchange, alerts, later
from tests.execution.house import House, answers, at, reason


async def out_of_sight(house: LiveHouse, exchange: ScriptedExchange) -> None:
    """The venue does not show its orders for as long as is waited for."""
    exchange.hidden = True
    assert await house.round() == []
    later(TIMES.missing)


async def test_an_order_that_the_venue_shows_no_more_is_unknown_after_the_time_limit_and_freezes_its_symbol(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    placed = await live.buy("2", limit="90")
    exchange.hidden = True
    assert await live.round() == []
    later(TIMES.missing - 1)
    assert await live.round() == []
    later(1)
    events = await live.round()
    (answer,) = answers(events)
    assert (answer.status, answer.final, answer.order_id) == ("unknown", False, placed.order_id)
    assert (reason(answer).code, reason(answer).value) == ("not_shown", "pending")
    assert reason(await live.buy("1")).code == "symbol_frozen"
    assert live.state.free_cash("live") == 9820
    (alert,) = [event for event in events if isinstance(event, AlertRaised)]
    assert (alert.code, alert.account, alert.about["order_id"]) == ("not_shown", "live", placed.order_id)
    assert "60 s" in alert.message


@pytest.mark.parametrize("deduplicates", [True, False])
async def test_an_order_that_is_not_shown_is_neither_sent_again_nor_given_up(
    live: LiveHouse, exchange: ScriptedExchange, deduplicates: bool
) -> None:
    exchange.deduplicates = deduplicates
    await live.buy("2", limit="90")
    await out_of_sight(live, exchange)
    assert alerts(await live.round()) == ["not_shown"]
    for _ in range(3):
        later(10 * GRACE)
        assert await live.round() == []
    assert len(exchange.sent) == 1
    assert {order.status for order in live.all_orders()} == {OrderStatus.UNKNOWN}


async def test_an_order_that_is_shown_again_goes_on(live: LiveHouse, exchange: ScriptedExchange) -> None:
    placed = live.placed(await live.buy("2", limit="90"))
    await out_of_sight(live, exchange)
    await live.round()
    exchange.hidden = False
    events = await live.round()
    assert [(answer.status, answer.reason) for answer in answers(events)] == [("accepted", None)]
    assert alerts(events) == ["shown_again"]
    assert (await live.buy("1", limit="80")).status == "accepted"
    exchange.fill(placed, "2", status=OrderStatus.FILLED)
    assert [answer.status for answer in answers(await live.round())] == ["filled"]


async def test_only_answers_count_as_not_shown(live: LiveHouse, exchange: ScriptedExchange) -> None:
    await live.buy("2", limit="90")
    exchange.hidden = True
    await live.round()
    exchange.hidden, exchange.lose_replies = False, True
    later(10 * TIMES.missing)
    assert await live.round() == []
    exchange.lose_replies = False
    assert await live.round() == []
    exchange.hidden = True
    assert await live.round() == []
    later(TIMES.missing - 1)
    assert await live.round() == []


async def test_a_fill_of_an_order_that_is_not_shown_begins_the_wait_anew(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    placed = live.placed(await live.buy("2", limit="90"))
    await out_of_sight(live, exchange)
    await live.round()
    exchange.streamed.append(exchange.fill(placed, "0.5"))
    assert [answer.status for answer in answers(await live.listen())] == ["partially_filled"]
    assert await live.round() == []
    later(TIMES.missing)
    (answer,) = answers(await live.round())
    assert (answer.status, reason(answer).value) == ("unknown", "partially_filled")
    assert len(answer.trades) == 1


async def test_a_cancel_of_an_order_that_is_not_shown_is_repeated_until_it_is_shown_again(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    placed = await live.buy("2", limit="90")
    await out_of_sight(live, exchange)
    await live.round()
    exchange.lose_requests = True
    assert (await live.cancel(placed.order_id or "", account="live")).status == "done"
    await live.round()
    assert live.placed(placed).status is OrderStatus.UNKNOWN
    exchange.hidden = exchange.lose_requests = False
    assert [answer.status for answer in answers(await live.round())] == ["cancelled"]


async def test_an_order_that_could_not_be_called_unknown_is_so_later(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    placed = await live.buy("2", limit="90")
    await out_of_sight(live, exchange)
    with live.full_disk():
        assert alerts(await live.round()) == ["storage_unavailable"]
    assert live.placed(placed).status is OrderStatus.PENDING
    assert alerts(await live.round()) == ["not_shown"]


@pytest.mark.parametrize("deduplicates", [True, False])
async def test_an_order_that_the_venue_has_shown_is_known_there_after_a_restart_too(
    live: LiveHouse, make: Callable[..., LiveHouse], exchange: ScriptedExchange, deduplicates: bool
) -> None:
    exchange.deduplicates = deduplicates
    await live.buy("2", limit="90")
    live.close()
    second = make(now=at(5))
    assert answers(await second.open()) == []
    await out_of_sight(second, exchange)
    assert alerts(await second.round()) == ["not_shown"]
    later(10 * GRACE)
    assert await second.round() == []
    second.close()
    third = make(now=at(9))
    await third.open()
    assert reason(await third.buy("1")).code == "symbol_frozen"
    await out_of_sight(third, exchange)
    assert alerts(await third.round()) == ["not_shown"], "whoever missed it is told again"
    later(10 * GRACE)
    await third.round()
    assert len(exchange.sent) == 1
    assert {order.status for order in third.all_orders()} == {OrderStatus.UNKNOWN}


async def test_what_a_venue_has_shown_is_not_forgotten_over_a_start_without_a_connection(
    live: LiveHouse, make: Callable[..., LiveHouse], build: Callable[..., House], exchange: ScriptedExchange
) -> None:
    exchange.deduplicates = False
    placed = await live.buy("2", limit="90")
    exchange.fill(live.placed(placed), "0.5")
    await live.round()
    live.close()
    without = build()
    (answer,) = answers(await without.open())
    assert (answer.status, reason(answer).code) == ("unknown", "venue_out_of_reach")
    without.close()
    third = make()
    await third.open()
    await out_of_sight(third, exchange)
    assert alerts(await third.round()) == ["not_shown"]
    assert third.placed(placed).status is OrderStatus.UNKNOWN
