"""A live venue that does what a test tells it, and a house whose account `live` trades there."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from execution import ledger, orders
from execution.errors import StorageUnavailable
from execution.exchange import ExchangeOrder, ExchangeTimeout, ExchangeTrade
from execution.ledger import NewCashFlow
from execution.live import LiveTimes, LiveVenue
from execution.model import (
    Account,
    AccountKind,
    AlertRaised,
    CashFlowKind,
    Event,
    Order,
    OrderStatus,
    Responded,
    Side,
    Trade,
    VenueChanged,
)
from execution.reconcile import Reconciler
from tests.execution.house import BTC, START, Books, House, at

T = TypeVar("T")

VENUE = "broker"
GRACE = 30.0
TIMES = LiveTimes(poll=2.0, grace=GRACE, send=10.0, timeout=5.0, overlap=60.0, deep_poll=300.0, expiry=60.0)


class ScriptedExchange:
    """The `Exchange` port. What is lost or hidden is switched on and off by the test."""

    name = VENUE

    def __init__(self) -> None:
        self.deduplicates = True
        self.lose_requests = False
        self.lose_replies = False
        self.hidden = False
        self.refusal: Exception | None = None
        self.on_place: Callable[[Order], object] = lambda _order: None
        self.before_reply: Callable[[Order], Any] | None = None
        self.while_asked: Callable[[Order], Any] | None = None
        self.sent: list[tuple[str, float | None]] = []
        self.asked: list[str] = []
        self.cancelled: list[str] = []
        self.since: list[datetime] = []
        self.orders: dict[str, ExchangeOrder] = {}
        self.told: list[ExchangeTrade] = []
        self.streamed: list[ExchangeTrade] = []
        self.hangs = False
        self.broken = False
        """Trades cannot be understood by the client, which does not say so as it should."""

    # ---- the port -------------------------------------------------------------------------------------

    async def place(self, order: Order, seconds: float | None) -> ExchangeOrder:
        self.sent.append((order.client_order_id, seconds))
        self.on_place(order)
        await self._arrive()
        if self.refusal is not None:
            raise self.refusal
        shown = self.orders.setdefault(order.client_order_id, self.open(order))
        if self.before_reply is not None:
            await self.before_reply(order)
        return self._reply(shown)

    async def find(self, order: Order) -> ExchangeOrder | None:
        self.asked.append(order.client_order_id)
        await self._arrive()
        if self.while_asked is not None:
            await self.while_asked(order)
        return self._reply(None if self.hidden else self.orders.get(order.client_order_id))

    async def cancel(self, order: Order) -> None:
        self.cancelled.append(order.client_order_id)
        await self._arrive()
        shown = self.orders.get(order.client_order_id)
        if shown is not None and not shown.status.is_final:
            self.orders[order.client_order_id] = replace(shown, status=OrderStatus.CANCELLED)
        self._reply(None)

    async def trades(self, account: str, since: datetime) -> Sequence[ExchangeTrade]:
        self.since.append(since)
        self._understand()
        await self._arrive()
        return self._reply([] if self.hidden else [trade for trade in self.told if trade.executed_at >= since])

    async def stream(self, account: str) -> AsyncGenerator[ExchangeTrade, None]:
        self._understand()
        while self.streamed:
            yield self.streamed.pop(0)

    async def _arrive(self) -> None:
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.lose_requests:
            raise ExchangeTimeout("the request got lost")

    def _understand(self) -> None:
        if self.broken:
            raise ValueError("no such field")

    def _reply(self, answer: T) -> T:
        if self.lose_replies:
            raise ExchangeTimeout("the answer got lost")
        return answer

    # ---- what happens there ---------------------------------------------------------------------------

    @property
    def down(self) -> bool:
        """Nothing arrives."""
        return self.lose_requests

    @down.setter
    def down(self, down: bool) -> None:
        self.lose_requests = down

    @staticmethod
    def open(order: Order) -> ExchangeOrder:
        """An order that rests."""
        number = f"v-{order.client_order_id}"
        return ExchangeOrder(number, order.client_order_id, order.symbol, order.side, OrderStatus.PENDING, Decimal(0))

    def fill(
        self,
        order: Order,
        quantity: str,
        number: int = 1,
        *,
        price: str = "100",
        minute: float = 0,
        fee: str = "0",
        fee_asset: str = "USD",
        status: OrderStatus = OrderStatus.PARTIALLY_FILLED,
    ) -> ExchangeTrade:
        """The venue fills a part of an order; `status` is how the order stands then."""
        before = self.orders.get(order.client_order_id) or self.open(order)
        filled = before.filled + Decimal(quantity)
        self.orders[order.client_order_id] = replace(before, filled=filled, status=status)
        trade = a_trade(
            quantity,
            number,
            client_order_id=order.client_order_id,
            venue_order_id=before.venue_order_id,
            price=price,
            minute=minute,
            fee=fee,
            fee_asset=fee_asset,
            side=order.side,
            symbol=order.symbol,
        )
        self.told.append(trade)
        return trade


def a_trade(
    quantity: str = "1",
    number: int = 1,
    *,
    client_order_id: str | None = None,
    venue_order_id: str = "v-77",
    price: str = "100",
    minute: float = 0,
    fee: str = "0",
    fee_asset: str = "USD",
    side: Side = Side.BUY,
    symbol: str = BTC,
) -> ExchangeTrade:
    """A trade as the venue tells it; by default of an order that nobody here placed."""
    return ExchangeTrade(
        venue_trade_id=str(number),
        venue_order_id=venue_order_id,
        client_order_id=client_order_id,
        symbol=symbol,
        side=side,
        quantity=Decimal(quantity),
        price=Decimal(price),
        fee=Decimal(fee),
        fee_asset=fee_asset,
        executed_at=at(minute),
    )


def open_live_account(books: Books, cash: str = "10000") -> None:
    """The account `live`, whose orders go to the scripted venue."""

    def make(connection: Any) -> None:
        ledger.add_account(connection, Account("live", kind=AccountKind.LIVE, venue=VENUE), START)
        books.tail.append_flow(
            connection,
            NewCashFlow("live", CashFlowKind.DEPOSIT, Decimal(cash), "USD", START, "manual", "opening live"),
            START,
        )

    books.do(make)


class LiveHouse(House):
    """A house with a live venue and its reconciler; what the reconciler tells is kept in `events`."""

    def __init__(
        self,
        books: Books,
        exchange: ScriptedExchange,
        *,
        times: LiveTimes = TIMES,
        max_in_flight: int = 64,
        **options: Any,
    ) -> None:
        self.exchange = exchange
        self.venue = LiveVenue(exchange, self, times, max_in_flight)  # type: ignore[arg-type]  # its clock is made below
        super().__init__(books, venues=[self.venue], **options)
        self.venue.clock = self.clock
        self.events: list[Event] = []
        self.lines: list[VenueChanged] = []
        """What was told of whether the venue answers."""
        self.reconciler = Reconciler(self.venue, self.service, self.reader, self._keep)

    async def _keep(self, events: Sequence[Event]) -> None:
        self.lines += [event for event in events if isinstance(event, VenueChanged)]
        self.events += [event for event in events if not isinstance(event, VenueChanged)]

    async def open(self) -> list[Event]:
        """Start, with a price."""
        events = await super().open()
        await self.price("100")
        return events

    def order(self, side: Side, quantity: str | None = None, **more: Any) -> Any:
        """A wish, of the live account unless said otherwise."""
        return super().order(side, quantity, **{"account": "live", **more})

    async def round(self) -> list[Event]:
        """One round of the reconciler; what it told."""
        self.events.clear()
        for account in self.reconciler.accounts:
            await self.reconciler.round(account)
        return list(self.events)

    async def listen(self) -> list[Event]:
        """The stream until it ends; what came of it."""
        self.events.clear()
        await self.reconciler.listen("live")
        return list(self.events)

    @contextmanager
    def commits(self, submit: Callable[[Any], Any]) -> Iterator[None]:
        """Works of the writer go to `submit`; reading goes on as before."""
        real, reader = self.writer.submit, self.reconciler._reader
        self.writer.submit, self.reconciler._reader = submit, _Reads(real)
        try:
            yield
        finally:
            self.writer.submit, self.reconciler._reader = real, reader

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Nothing can be committed meanwhile."""

        def fail(_work: Any) -> Any:
            raise StorageUnavailable("the database could not commit: disk full")

        with self.commits(fail):
            yield

    async def resting(self, quantity: str = "2") -> Order:
        """An order that rests at the venue."""
        return self.placed(await self.buy(quantity, limit="100"))

    async def buy_lost(self, quantity: str = "2", **more: Any) -> Responded:
        """A purchase whose order never reaches the venue."""
        self.exchange.lose_requests = True
        answer = await self.buy(quantity, **more)
        self.exchange.lose_requests = False
        return answer

    def placed(self, answer: Responded) -> Order:
        """The order that an answer is about."""
        return self.stored_order(answer.order_id)

    def live_trades(self) -> list[Trade]:
        """The trades of the live account."""
        return [trade for trade in self.trades() if trade.account == "live"]

    def all_orders(self) -> list[Order]:
        """Every order in the database."""
        return self.books.ask(lambda c: orders.orders(c))


class _Reads:
    """A reader on the writer's own connection."""

    def __init__(self, submit: Callable[[Any], Any]) -> None:
        self.read = submit


def alerts(events: Sequence[Event]) -> list[str]:
    """The codes of the alerts among events."""
    return [event.code for event in events if isinstance(event, AlertRaised)]


def later(seconds: float) -> None:
    """The event loop's time goes on by so much at once."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]  # each test has a loop of its own
