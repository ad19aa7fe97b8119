"""What a live venue can do over a network, before anything of ours is made of it: the port behind `LiveVenue`.

Every call may get lost, on the way there or on the way back, or be answered late; orders and trades may become
visible some time after they exist; the stream repeats, loses and mixes up what it carries. What becomes of that is
decided in `reconcile`, once for all venues.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from execution.errors import ExecutionError, VenueError
from execution.model import Order, OrderStatus, Side, Trade


class ExchangeTimeout(VenueError):
    """No answer came: whether the call did anything is unknown."""


class ExchangeRefused(ExecutionError):
    """The venue said no, and nothing was done. `code` is the venue's own name for the reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class ExchangeOrder:
    """An order as the venue shows it. `filled` is what it has filled so far, in base units; the trades of it may
    be told earlier or later. `client_order_id` is None for an order that was placed by other means."""

    venue_order_id: str
    client_order_id: str | None
    symbol: str
    side: Side
    status: OrderStatus
    filled: Decimal


@dataclass(frozen=True, slots=True)
class ExchangeTrade:
    """One fill as the venue tells it. `venue_trade_id` is unique per account and symbol; `executed_at` may lie
    before trades that were told earlier. `client_order_id` is None only for an order that has none: where a venue
    leaves it out of its trades, the adapter looks it up by the venue's order id."""

    venue_trade_id: str
    venue_order_id: str
    client_order_id: str | None
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_asset: str
    executed_at: datetime
    venue_sequence: int | None = None

    def is_told_by(self, known: Trade) -> bool:
        """Whether a trade that is stored under this id has this content."""
        mine = (self.side, self.quantity, self.price, self.fee, self.fee_asset, self.executed_at)
        return mine == (known.side, known.quantity, known.price, known.fee, known.fee_asset, known.executed_at)


class ExchangeStream(Protocol):
    """Trades as they come; an asynchronous generator is one."""

    def __aiter__(self) -> AsyncIterator[ExchangeTrade]:
        """The trades."""
        ...

    async def aclose(self) -> None:
        """Nobody listens any more."""
        ...


class Exchange(Protocol):
    """One venue, reached over a network with one account's credentials each."""

    name: str
    deduplicates: bool
    """Whether a client order id that was ever used makes no second order, also when the first one is closed."""

    async def place(self, order: Order, seconds: float | None) -> ExchangeOrder:
        """Send an order under its client order id; a venue that can do so drops it when it arrives later than
        `seconds` from now. That is no expiry: an order that arrived in time rests until it is cancelled.

        Raises ExchangeRefused (no order exists), ExchangeTimeout (one may exist, now or later).
        """
        ...

    async def find(self, order: Order) -> ExchangeOrder | None:
        """Ask for an order by its client order id. None: the venue shows none, which it also does for a while
        after it took one. Raises ExchangeTimeout."""
        ...

    async def cancel(self, order: Order) -> None:
        """Cancel what is open of an order; nothing happens when nothing is. Raises ExchangeTimeout."""
        ...

    async def trades(self, account: str, since: datetime) -> Sequence[ExchangeTrade]:
        """Every visible trade of an account executed at or after an instant, oldest first, also those of orders
        that are not ours. Raises ExchangeTimeout."""
        ...

    def stream(self, account: str) -> ExchangeStream:
        """Trades as they happen: some twice, some never, in any order. Ends, or raises ExchangeTimeout, when the
        connection is lost; closed by whoever listens."""
        ...
