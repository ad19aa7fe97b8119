"""What execution asks of a venue, and what a venue reports back. Paper and live venues share it."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol, TypeAlias

from config.quick import quickly_made
from execution.errors import VenueError
from execution.exchange import ExchangeTrade
from execution.model import Order, OrderStatus, Reason

INSUFFICIENT_FUND = "INSUFFICIENT_FUND"
QUOTE_TOO_SMALL = "PREVIEW_INVALID_QUOTE_SIZE_TOO_SMALL"
BASE_TOO_SMALL = "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL"
"""Refusals under the names that Coinbase gives them."""


@quickly_made
@dataclass(frozen=True, slots=True)
class VenueFill:
    """One fill as the venue tells it. `if_funded`: the venue itself (paper) settles it only when the
    account can pay for it at that moment; otherwise the order is rejected.

    `venue_trade_id` is unique per account and symbol: the same fill reported twice is one trade.
    """

    order_id: str
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_asset: str
    executed_at: datetime
    venue_trade_id: str
    venue_sequence: int | None
    if_funded: bool = False


@quickly_made
@dataclass(frozen=True, slots=True)
class VenueClosed:
    """The venue will not fill the order any further."""

    order_id: str
    status: OrderStatus
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class VenueOrder:
    """A live venue shows one of our orders: how it stands there and how much it says it has filled.

    The order closes with us only when the ledger has fills of just as much.
    """

    order_id: str
    status: OrderStatus
    filled: Decimal
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class VenueTrade:
    """A live venue tells of a trade in one of our accounts, of whichever order, maybe not for the first time."""

    account: str
    trade: ExchangeTrade


VenueReport: TypeAlias = VenueFill | VenueClosed | VenueOrder | VenueTrade


class Venue(Protocol):
    """Sends orders. Errors are `VenueError`: the outcome of the call may then be unknown.

    `place` may raise `StorageUnavailable` while nothing was sent yet: it is then called again.
    """

    name: str

    async def place(self, order: Order, waited: float) -> list[VenueReport]:
        """Send an order for the first time, `waited` seconds after its request was taken up; returns what is known
        at once."""
        ...

    async def resume(
        self, order: Order, filled: Decimal, last_fill: datetime | None, fills: int
    ) -> list[VenueReport]:
        """After a restart: find out what became of an open order, of which the ledger has `fills` fills
        with together `filled` base units, the last at `last_fill`. Never sends blindly."""
        ...

    async def cancel(self, order: Order) -> list[VenueReport]:
        """Cancel what is open of an order."""
        ...

    def forget(self, order_id: str) -> None:
        """Execution closed the order itself (it could not pay for a fill)."""
        ...

    def refusal(self, account: str, on_their_way: int) -> Reason | None:
        """Why an account can send no order now, `on_their_way` being those that the venue has not shown yet. Asked
        for accounts at live venues only, inside the write transaction."""
        ...


class AbsentVenue:
    """The venue of an account when this process has no connection to it: nothing can be done, and nothing is
    forgotten."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def place(self, order: Order, waited: float) -> list[VenueReport]:
        """See `Venue.place`."""
        raise self._error()

    async def resume(
        self, order: Order, filled: Decimal, last_fill: datetime | None, fills: int
    ) -> list[VenueReport]:
        """See `Venue.resume`."""
        raise self._error()

    async def cancel(self, order: Order) -> list[VenueReport]:
        """See `Venue.cancel`."""
        raise self._error()

    def forget(self, order_id: str) -> None:
        """See `Venue.forget`."""

    def refusal(self, account: str, on_their_way: int) -> Reason | None:
        """See `Venue.refusal`."""
        return None  # requests are refused before

    def _error(self) -> VenueError:
        return VenueError(f"this process has no connection to the venue {self.name}")
