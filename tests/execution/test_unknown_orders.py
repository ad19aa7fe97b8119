"""Orders whose outcome a venue did not tell."""

from collections.abc import Callable
from decimal import Decimal

from execution.model import OrderStatus, Reason
from execution.venue import VenueClosed
from tests.execution.house import BTC, START, House, answers
from tests.execution.venues import ScriptedVenue, filled, lost


class TestVenueErrors:
    """An outcome that nobody can know is UNKNOWN, never guessed."""

    async def test_a_lost_answer_makes_the_order_unknown_and_keeps_its_reservation(
        self, brokered: House, broker: ScriptedVenue
    ) -> None:
        broker.when_placed = lost
        answer = await brokered.buy("1", account="live")
        expected = Reason("venue_out_of_reach", None, None, "no answer within 5 s")
        assert (answer.status, answer.final, answer.reason) == ("unknown", False, expected)
        assert brokered.stored_order(answer.order_id).status == "unknown"
        assert brokered.state.free_cash("live") == 900
        assert brokered.state.open_order(str(answer.order_id)) is not None

    async def test_an_unknown_order_freezes_its_symbol_until_its_outcome_is_known(
        self, brokered: House, broker: ScriptedVenue
    ) -> None:
        broker.when_placed = lost
        unknown = await brokered.buy("1", account="live")
        frozen = await brokered.buy("1", account="live")
        expected = f"the outcome of order {unknown.order_id} to be known first"
        assert frozen.reason == Reason("symbol_frozen", "symbol", BTC, expected)
        assert (await brokered.buy("1")).status == "filled", "another account is not concerned"
        broker.when_cancelled = lambda order: [VenueClosed(order.id, OrderStatus.CANCELLED)]
        await brokered.send_cancel(unknown.order_id, "live")
        broker.when_placed = lambda order: [filled(order), VenueClosed(order.id, OrderStatus.FILLED)]
        assert (await brokered.buy("1", account="live")).status == "filled"

    async def test_an_unknown_order_is_asked_for_at_start_and_never_sent_again(
        self, brokered: House, broker: ScriptedVenue, build: Callable[..., House]
    ) -> None:
        broker.when_placed = lost
        answer = await brokered.buy("1", account="live")
        brokered.close()
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
        self, brokered: House, broker: ScriptedVenue, build: Callable[..., House]
    ) -> None:
        broker.when_placed = lambda order: [filled(order, 1, "0.25"), filled(order, 2, "0.5")]
        answer = await brokered.buy("1", account="live")
        brokered.close()
        second = build(venues=[broker])
        await second.open()
        assert broker.resumed == [(answer.order_id, Decimal("0.75"), START, 2)]
