"""What a simulated live venue has in its books, and the lines on which it tells of it."""

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal

from config.exact import ZERO, floor_to
from execution.exchange import ExchangeOrder, ExchangeTimeout, ExchangeTrade
from execution.model import OrderStatus, Side
from tests.simulation.loop import PROCESS, Process

FEE = Decimal("0.0025")
GRAIN = Decimal("0.000001")


@dataclass(slots=True)
class Booked:
    """An order at the venue. `budget`: what a market order that was asked for in money may spend."""

    number: int
    client_order_id: str | None
    account: str
    symbol: str
    side: Side
    limit: Decimal | None
    quantity: Decimal | None
    budget: Decimal | None
    visible_at: float
    stranger: bool = False
    forgotten_until: float = 0.0
    was_forgotten: bool = False
    missed: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Who was told, while it was forgotten, that it is not there: when it was asked for, and when that was known."""
    filled: Decimal = ZERO
    spent: Decimal = ZERO
    status: OrderStatus = OrderStatus.PENDING
    pieces: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The venue's own id."""
        return f"V{self.number}"

    @property
    def is_open(self) -> bool:
        """Whether it may fill on."""
        return not self.status.is_final

    def left(self, price: Decimal) -> Decimal:
        """Base units to fill at a price."""
        if self.quantity is not None:
            return self.quantity - self.filled
        assert self.budget is not None
        return floor_to((self.budget - self.spent) / (1 + FEE) / price, GRAIN)

    def shown(self) -> ExchangeOrder:
        """As the venue tells it."""
        return ExchangeOrder(self.id, self.client_order_id, self.symbol, self.side, self.status, self.filled)


@dataclass(frozen=True, slots=True)
class Happened:
    """A trade at the venue, and from when on it can be seen."""

    account: str
    trade: ExchangeTrade
    visible_at: float


class Stream:
    """One connection that tells trades. Belongs to the process that opened it."""

    def __init__(self, account: str) -> None:
        self.account = account
        self._process: Process | None = PROCESS.get()
        self._told: asyncio.Queue[ExchangeTrade | ExchangeTimeout | None] = asyncio.Queue()
        self._ended = False

    @property
    def is_open(self) -> bool:
        """Whether anybody may be listening."""
        return not self._ended and (self._process is None or not self._process.dead)

    def tell(self, trade: ExchangeTrade) -> None:
        """A message arrives."""
        if self.is_open:
            self._told.put_nowait(trade)

    def end(self, error: ExchangeTimeout | None) -> None:
        """The connection is lost: with an error, or quietly."""
        if self.is_open:
            self._ended = True
            self._told.put_nowait(error)

    async def aclose(self) -> None:
        """The process hangs up."""
        self._ended = True

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> ExchangeTrade:
        told = await self._told.get()
        if isinstance(told, ExchangeTimeout):
            raise told
        if told is None:
            raise StopAsyncIteration
        return told
