"""A venue that people can talk to in tests: it answers what it was told to answer."""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal

from execution.errors import VenueError
from execution.model import Order, OrderStatus, Reason
from execution.venue import VenueClosed, VenueFill, VenueReport
from tests.execution.house import START


class ScriptedVenue:
    """Another implementation of the venue port: what it reports is said by the test."""

    name = "broker"

    def __init__(self) -> None:
        self.placed: list[Order] = []
        self.cancelled: list[str] = []
        self.resumed: list[tuple[str, Decimal, datetime | None, int]] = []
        self.forgotten: list[str] = []
        self.when_placed: Callable[[Order], Sequence[VenueReport]] = lambda order: []
        self.when_cancelled: Callable[[Order], Sequence[VenueReport]] = lambda order: [
            VenueClosed(order.id, OrderStatus.CANCELLED)
        ]
        self.when_resumed: Callable[[Order], Sequence[VenueReport]] = lambda order: []

    async def place(self, order: Order, waited: float) -> list[VenueReport]:
        self.placed.append(order)
        return list(self.when_placed(order))

    async def resume(
        self, order: Order, filled: Decimal, last_fill: datetime | None, fills: int
    ) -> list[VenueReport]:
        self.resumed.append((order.id, filled, last_fill, fills))
        return list(self.when_resumed(order))

    async def cancel(self, order: Order) -> list[VenueReport]:
        self.cancelled.append(order.id)
        return list(self.when_cancelled(order))

    def refusal(self, account: str, on_their_way: int) -> Reason | None:
        return None

    def forget(self, order_id: str) -> None:
        self.forgotten.append(order_id)


def lost(order: Order) -> list[VenueReport]:
    """The answer got lost on the way."""
    raise VenueError("no answer within 5 s")


def filled(order: Order, number: int = 1, quantity: str = "1", price: str = "100", fee: str = "0") -> VenueFill:
    """One fill of an order, as a live venue tells it."""
    return VenueFill(
        order.id,
        Decimal(quantity),
        Decimal(price),
        Decimal(fee),
        "USD",
        START,
        f"{order.client_order_id}-{number}",
        number,
    )
