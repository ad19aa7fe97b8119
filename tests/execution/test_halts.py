"""Halting an account and cancelling orders."""

import asyncio
from collections.abc import Callable

from config.times import time_text
from execution import orders
from execution.model import HaltChanged, HaltRequest, OrderStatus, Reason, Side
from execution.venue import VenueClosed
from tests.execution.house import START, Books, House, answers, reason
from tests.execution.venues import ScriptedVenue, lost

BUY = Side.BUY


class TestHalt:
    """The kill switch."""

    async def test_a_halt_cancels_open_orders_and_refuses_new_ones_until_resumed(self, house: House) -> None:
        await house.price("100")
        await house.buy("1", limit="90")
        await house.buy("1", limit="91")
        events = await house.halt("storm")
        assert isinstance(events[0], HaltChanged)
        assert [answer.status for answer in answers(events)] == ["done", "cancelled", "cancelled"]
        expected = f"trading resumed; halted by {events[0].by} at {time_text(events[0].at)} (storm)"
        assert [reason(answer) for answer in answers(events)[1:]] == [
            Reason("trading_halted", "account", "main", expected)
        ] * 2
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
        self, brokered: House, broker: ScriptedVenue, books: Books, build: Callable[..., House]
    ) -> None:
        await brokered.buy("1", account="live")
        brokered.close()
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
        self, brokered: House, broker: ScriptedVenue
    ) -> None:
        placed = await brokered.buy("1", account="live")
        broker.when_cancelled = lost
        events = await brokered.send_cancel(placed.order_id, "live")
        assert [answer.status for answer in answers(events)] == ["done", "unknown"]
        assert brokered.stored_order(placed.order_id).status == "unknown"
        assert brokered.state.free_cash("live") == 900


async def test_a_halt_request_for_an_unknown_account_is_refused(house: House) -> None:
    answer = await house.ask(HaltRequest("h", "mine", True, "manual"))
    assert reason(answer).code == "unknown_account"
