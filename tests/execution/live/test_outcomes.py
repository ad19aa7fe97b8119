"""Orders whose outcome at the venue is unknown: asked for, sent again where that is safe, given up."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from execution.errors import LeaseLost
from execution.exchange import ExchangeRefused
from execution.model import Order, OrderStatus
from tests.execution.exchanges import GRACE, LiveHouse, ScriptedExchange, alerts, later
from tests.execution.house import answers, at, reason


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
    await live.buy_lost(limit="90")
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
    await live.buy_lost(limit="90")
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
    await live.buy_lost(limit="90")
    later(GRACE)
    live.service.storage_failure = "disk full"
    await live.round()
    assert len(exchange.sent) == 1


async def test_an_order_that_could_not_be_closed_is_not_said_to_be(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.deduplicates = False
    placed = await live.buy_lost(limit="90")
    later(GRACE)

    with live.full_disk():
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
    placed = await live.buy_lost(limit="90")
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
    placed = await live.buy_lost(limit="90")
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
    await live.buy_lost(limit="90")
    later(GRACE)
    events = await live.round()
    (answer,) = answers(events)
    assert (answer.status, reason(answer).code, answer.final) == ("expired", "never_at_venue", True)
    assert alerts(events) == ["never_at_venue"]
    assert len(exchange.sent) == 1
    assert live.state.free_cash("live") == 10_000


async def test_an_order_whose_time_is_over_is_not_sent_again(live: LiveHouse, exchange: ScriptedExchange) -> None:
    await live.buy_lost(expires_in="20")
    later(GRACE)
    (answer,) = answers(await live.round())
    assert (answer.status, reason(answer).code) == ("expired", "never_at_venue")
    assert len(exchange.sent) == 1


@pytest.mark.parametrize("hours", [24, -24])
async def test_a_jump_of_the_wall_clock_neither_ends_nor_prolongs_an_order(
    live: LiveHouse, exchange: ScriptedExchange, hours: int
) -> None:
    await live.buy_lost(expires_in="50")
    live.clock._now = at(60 * hours)
    later(GRACE)
    exchange.hidden, exchange.on_place = True, lambda _order: setattr(exchange, "lose_replies", True)
    await live.round()
    exchange.lose_replies = False
    assert len(exchange.sent) == 2
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
    await live.buy_lost(limit="90")
    later(GRACE)

    def fenced(_work: Any) -> Any:
        raise LeaseLost("lease lost: role execution, epoch 7; now epoch 8")

    with live.commits(fenced), pytest.raises(LeaseLost):
        await live.round()
    assert len(exchange.sent) == 1


async def test_the_writers_thread_makes_no_difference(
    make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    house = make(threaded=True)
    await house.open()
    orders_placed = [house.placed(await house.buy("1", limit=limit)) for limit in ("90", "91", "92")]
    exchange.fill(orders_placed[0], "1", 1, status=OrderStatus.FILLED)
    exchange.streamed.append(exchange.fill(orders_placed[1], "0.5", 2))
    await house.cancel(orders_placed[1].id, account="live")
    lost = await house.buy_lost("1", limit="93")
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
