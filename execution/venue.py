"""What execution asks of a venue, and what a venue reports back. Paper and live venues share it."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol, TypeAlias

from execution.model import Order, OrderStatus, Reason

INSUFFICIENT_FUND = "INSUFFICIENT_FUND"
QUOTE_TOO_SMALL = "PREVIEW_INVALID_QUOTE_SIZE_TOO_SMALL"
BASE_TOO_SMALL = "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL"
"""Refusals under the names that Coinbase gives them."""


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


@dataclass(frozen=True, slots=True)
class VenueClosed:
    """The venue will not fill the order any further."""

    order_id: str
    status: OrderStatus
    reason: Reason | None = None


VenueReport: TypeAlias = VenueFill | VenueClosed


class Venue(Protocol):
    """Sends orders. Errors are `VenueError`: the outcome of the call may then be unknown.

    `place` may raise `StorageUnavailable` while nothing was sent yet: it is then called again.
    """

    name: str

    async def place(self, order: Order) -> list[VenueReport]:
        """Send an order for the first time; returns what is known at once."""
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
