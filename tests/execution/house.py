"""Words for tests of execution: a ledger in a real SQLite file, and a trading house that runs over it.

The house is the real service with the real paper exchange, writer and ledger. It can be closed and opened
again over the same database, as a daemon is.
"""

import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from config.instruments import Instrument
from execution import candles, ledger
from execution.ledger import LedgerTail, NewCashFlow, NewTrade
from execution.limits import RiskLimits
from execution.model import (
    Account,
    AccountMode,
    CancelRequest,
    Candle,
    CashFlowKind,
    CashRequest,
    Event,
    Fact,
    FactsRecorded,
    HaltRequest,
    Order,
    OrderRequest,
    Price,
    Reason,
    Request,
    Responded,
    Side,
    Source,
    Trade,
    trade_cash_effect,
)
from execution.paper import PaperCosts, PaperVenue
from execution.ports import Reader, TransactionParticipant, Writer
from execution.service import Envelope, ExecutionService
from execution.state import TradingState
from execution.venue import Venue
from execution.writer import GroupCommitWriter, InlineReader, InlineWriter
from runtime.clock import ReplayClock
from runtime.database import (
    ThreadReader,
    ensure_account,
    open_database,
    read,
    reader_engine,
    seed_catalogue,
    sqlite_url,
)

T = TypeVar("T")
_numbers = count(1)

START = datetime(2026, 1, 1, 10, 0, tzinfo=UTC)
BTC = "BTC-USD"
FREE = PaperCosts(*(Decimal(0) for _ in range(6)))
"""A paper exchange without any cost and without a volume cap."""
HALF = PaperCosts(*(Decimal(n) for n in ("0", "0", "0", "0", "0", "0.5")))
"""Free, but an order may take half of a bar's volume."""


def at(minutes: float) -> datetime:
    """Minutes after 10:00."""
    return START + timedelta(minutes=minutes)


def dec(text: str | None) -> Decimal | None:
    """A decimal that may be missing."""
    return None if text is None else Decimal(text)


def bar(
    minute: float,
    open_: str,
    high: str | None = None,
    low: str | None = None,
    close: str | None = None,
    *,
    volume: str = "1000",
    symbol: str = BTC,
    timeframe: str = "1m",
) -> Candle:
    """A candle that opens `minute` minutes after 10:00; what is not given equals the open."""
    first, last = Decimal(open_), Decimal(close or open_)
    top = Decimal(high) if high else max(first, last)
    bottom = Decimal(low) if low else min(first, last)
    return Candle(symbol, timeframe, at(minute), first, top, bottom, last, Decimal(volume))


def fill(
    number: int,
    side: Side = Side.BUY,
    quantity: str = "1",
    price: str = "100",
    *,
    minute: float = 0,
    fee: str = "0",
    fee_asset: str = "USD",
    account: str = "main",
    symbol: str = BTC,
    **more: Any,
) -> NewTrade:
    """The venue's trade `number`, before it is in the ledger."""
    fee_in_cash = Decimal(fee) if fee_asset == "USD" else Decimal(0)
    return NewTrade(
        id=more.pop("id", ledger.trade_id("paper", account, symbol, str(number))),
        account=account,
        symbol=symbol,
        side=side,
        quantity=Decimal(quantity),
        price=Decimal(price),
        executed_at=at(minute),
        fee=Decimal(fee),
        fee_asset=fee_asset,
        cash_effect=trade_cash_effect(side, Decimal(quantity), Decimal(price), fee_in_cash),
        venue="paper",
        source=Source.EXCHANGE,
        triggered_by=more.pop("triggered_by", "manual"),
        venue_trade_id=more.pop("venue_trade_id", str(number)),
        **more,
    )


def flow(
    key: str, amount: str = "100", kind: CashFlowKind = CashFlowKind.DEPOSIT, account: str = "main"
) -> NewCashFlow:
    """A deposit (or another flow) before it is in the ledger."""
    return NewCashFlow(account, kind, Decimal(amount), "USD", at(0), "manual", key)


class Books:
    """A fresh database file with the accounts `main` (spot, 10,000 deposited) and `margin`."""

    _template: Path | None = None

    def __init__(self, folder: Path, *, cash: str = "10000") -> None:
        self.path = folder / "fillbook.db"
        self.url = sqlite_url(self.path)
        self._opened: list[Engine] = []
        self.writer = InlineWriter(self.engine(), commit_each=True)
        self.tail = LedgerTail()
        self.writer.join(self.tail)
        self.do(lambda c: self._seed(c, Decimal(cash)))

    @staticmethod
    def _seed(connection: Connection, cash: Decimal) -> None:
        seed_catalogue(connection)
        ledger.add_instrument(connection, Instrument("OLD-USD", enabled=False))
        ledger.add_instrument(connection, Instrument("SAP-EUR", currency="EUR"))
        ledger.add_instrument(
            connection,
            Instrument(
                "LOT",
                quantity_increment=Decimal("0.5"),
                price_increment=Decimal("0.05"),
                minimum_quantity=Decimal(2),
                maximum_notional=Decimal(2000),
            ),
        )
        opening = NewCashFlow("main", CashFlowKind.DEPOSIT, cash, "USD", START, "manual", "opening")
        ensure_account(connection, Account("main"), opening if cash else None, START)
        ensure_account(connection, Account("margin", mode=AccountMode.MARGIN), None, START)

    def engine(self) -> Engine:
        """A writer's engine of its own on the same file, as another process would have."""
        if Books._template is not None and not self.path.exists():
            shutil.copy(Books._template, self.path)
        engine = open_database(self.url, busy_timeout_ms=20, synchronous="OFF")
        self._opened.append(engine)
        return engine

    def do(self, work: Callable[[Connection], T]) -> T:
        """Run a work in a transaction of its own."""
        results: list[T] = []

        def run(connection: Connection) -> None:
            results.append(work(connection))

        self.writer.submit(run)
        return results[0]

    def ask(self, query: Callable[[Connection], T]) -> T:
        """Read committed data on a connection of its own."""
        engine = reader_engine(self.url)
        try:
            return read(engine, query)
        finally:
            engine.dispose()

    def record(self, *facts: NewTrade | NewCashFlow) -> list[Fact | None]:
        """Append facts, all in one transaction."""
        return self.do(lambda c: [self._append(c, fact) for fact in facts])

    def _append(self, connection: Connection, fact: NewTrade | NewCashFlow) -> Fact | None:
        if isinstance(fact, NewTrade):
            return self.tail.append_trade(connection, fact, START)
        return self.tail.append_flow(connection, fact, START)

    def facts(self) -> list[Fact]:
        """All facts by sequence."""
        return self.ask(lambda c: ledger.facts_since(c, 0, 1_000_000))

    def trades(self) -> list[Trade]:
        """All trades by sequence."""
        return self.ask(ledger.trades)

    def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(self.ask(lambda c: c.exec_driver_sql(f"SELECT COUNT(*) FROM {table}").scalar_one()))

    def close(self) -> None:
        """Close every connection."""
        self.writer.stop()
        for engine in self._opened:
            engine.dispose()


def make_template(folder: Path) -> None:
    """Migrate one database; every other one of this test run starts as its copy."""
    path = folder / "template.db"
    open_database(sqlite_url(path)).dispose()
    Books._template = path


class House:
    """The execution service over `Books`, opened as the daemon opens it."""

    def __init__(
        self,
        books: Books,
        *,
        costs: PaperCosts = FREE,
        limits: RiskLimits | None = None,
        venues: Sequence[Venue] = (),
        now: datetime = START,
        threaded: bool = False,
        participants: Sequence[TransactionParticipant] = (),
        engine: Engine | None = None,
    ) -> None:
        self.books = books
        self.clock = ReplayClock(now)
        self.state = TradingState()
        self.tail = LedgerTail()
        self.engine = engine or books.engine()
        self.writer: Any
        self.reader: Any
        self.started: list[Event] = []
        if threaded:
            self.writer = GroupCommitWriter(self.engine)
            self.reader = ThreadReader(reader_engine(books.url))
        else:
            self.writer = InlineWriter(self.engine, commit_each=True)
            self.reader = InlineReader(self.writer)
        for participant in (*participants, self.state, self.tail):
            self.writer.join(participant)
        if threaded:
            self.writer.start()
        self._threaded = threaded
        reader: Reader = self.reader
        writer: Writer = self.writer
        self.paper = PaperVenue(
            costs,
            lambda: self.state.instruments,
            self.state.prices,
            self.clock,
            lambda symbol, since: _awaited(reader, symbol, since),
        )
        self.service = ExecutionService(
            writer=writer,
            reader=reader,
            state=self.state,
            tail=self.tail,
            clock=self.clock,
            limits=limits or RiskLimits(),
            paper=self.paper,
            venues={venue.name: venue for venue in venues},
        )

    async def open(self) -> list[Event]:
        """Start the service."""
        self.started = await self.service.start()
        return self.started

    def close(self) -> None:
        """Stop without a word, as after kill -9 (what is committed stays)."""
        self.writer.stop()
        if self._threaded:
            self.reader.stop()

    # ---- what people and bots do ----------------------------------------------------------------------

    def _id(self) -> str:
        return f"request-{next(_numbers)}"

    def order(
        self,
        side: Side,
        quantity: str | None = None,
        *,
        notional: str | None = None,
        close: bool = False,
        limit: str | None = None,
        expires_in: str | None = None,
        decided: float | None = None,
        request_id: str | None = None,
        **more: Any,
    ) -> OrderRequest:
        """A wish; `decided` in minutes after 10:00: by a bot, if its tag says so, at the close of a candle."""
        tag = more.pop("triggered_by", "manual")
        return OrderRequest(
            request_id=request_id or self._id(),
            account=more.pop("account", "main"),
            symbol=more.pop("symbol", BTC),
            side=side,
            triggered_by=tag,
            waits_for_candle=more.pop("waits_for_candle", decided is not None and not tag.startswith("manual")),
            quantity=dec(quantity),
            notional=dec(notional),
            close=close,
            limit_price=dec(limit),
            expires_in=dec(expires_in),
            decided_at=None if decided is None else at(decided),
            **more,
        )

    async def send(self, request: Request, body: str = "body") -> list[Event]:
        """Hand a request to the service as it came from the bus."""
        return await self.service.handle(Envelope(request, body))

    async def ask(self, request: Request, body: str = "body") -> Responded:
        """The last answer to this request."""
        return answer_to(request, await self.send(request, body))

    async def buy(self, quantity: str | None = None, **more: Any) -> Responded:
        """The answer to a buy."""
        return await self.ask(self.order(Side.BUY, quantity, **more))

    async def sell(self, quantity: str | None = None, **more: Any) -> Responded:
        """The answer to a sell."""
        return await self.ask(self.order(Side.SELL, quantity, **more))

    def cash_request(self, kind: CashFlowKind, amount: str, **more: Any) -> CashRequest:
        """A deposit or withdrawal."""
        request_id = more.pop("request_id", None) or self._id()
        return CashRequest(request_id, more.pop("account", "main"), kind, Decimal(amount), "manual", **more)

    async def deposit(self, amount: str, **more: Any) -> Responded:
        """The answer to a deposit."""
        return await self.ask(self.cash_request(CashFlowKind.DEPOSIT, amount, **more))

    async def withdraw(self, amount: str, **more: Any) -> Responded:
        """The answer to a withdrawal."""
        return await self.ask(self.cash_request(CashFlowKind.WITHDRAWAL, amount, **more))

    def halt_request(self, halted: bool = True, note: str | None = None, account: str = "main") -> HaltRequest:
        """Halt, or resume with False."""
        return HaltRequest(self._id(), account, halted, "manual:ann", note)

    async def halt(self, note: str | None = None) -> list[Event]:
        """Halt trading."""
        return await self.send(self.halt_request(True, note))

    async def resume(self, account: str = "main") -> list[Event]:
        """Resume trading."""
        return await self.send(self.halt_request(False, account=account))

    async def cancel(self, order_id: str, **more: Any) -> Responded:
        """The answer to a cancel."""
        return await self.ask(CancelRequest(self._id(), more.pop("account", "main"), order_id, "manual"))

    async def send_cancel(self, order_id: str | None, account: str = "main") -> list[Event]:
        """All that a cancel brings about."""
        assert order_id is not None
        return await self.send(CancelRequest(self._id(), account, order_id, "manual"))

    # ---- the market -----------------------------------------------------------------------------------

    async def candle(self, candle: Candle) -> list[Event]:
        """A candle closes: it is stored, then execution hears of it."""
        self.clock.advance(candle.close_time)
        await self.writer.submit(lambda connection: candles.store(connection, [candle]))
        return list(await self.service.on_candle(candle))

    async def price(self, text: str, minute: float | None = None, symbol: str = BTC) -> list[Event]:
        """A last price comes in."""
        if minute is not None:
            self.clock.advance(at(minute))
        return list(await self.service.on_price(Price(symbol, Decimal(text), self.clock.now())))

    # ---- what is there --------------------------------------------------------------------------------

    def stored_order(self, order_id: str | None) -> Order:
        """An order as it is in the database."""
        from execution import orders

        assert order_id is not None
        found = self.books.ask(lambda c: orders.find(c, order_id))
        assert found is not None
        return found

    def trades(self, order_id: str | None = None) -> list[Trade]:
        """Trades by sequence."""
        return self.books.ask(lambda c: ledger.trades(c, order_id=order_id))


async def _awaited(reader: Reader, symbol: str, since: datetime) -> list[Candle]:
    return await reader.read(lambda c: candles.opening_at_or_after(c, symbol, since))


def answers(events: Sequence[Event]) -> list[Responded]:
    """The answers among events."""
    return [event for event in events if isinstance(event, Responded)]


def answer_to(request: Request, events: Sequence[Event]) -> Responded:
    """The last answer to one request among events."""
    return [answer for answer in answers(events) if answer.request_id == request.request_id][-1]


def facts_in(events: Sequence[Event]) -> list[Fact]:
    """The facts that events announce."""
    return [fact for event in events if isinstance(event, FactsRecorded) for fact in event.facts]


def reason(answer: Responded) -> Reason:
    """Why something was refused."""
    assert answer.reason is not None, answer
    return answer.reason


def snapshot(state: TradingState) -> dict[str, Any]:
    """All that the trading state remembers, zeros left out (a missing entry is a zero)."""

    def nonzero(mapping: dict[Any, Decimal]) -> dict[Any, Decimal]:
        return {key: value for key, value in mapping.items() if value}

    return {
        "sequence": state.sequence,
        "cash": nonzero(state._cash),
        "held": nonzero(state._held),
        "reserved_cash": nonzero(state._reserved_cash),
        "reserved_quantity": nonzero(state._reserved_quantity),
        "reservations": dict(state._reservations),
        "open": dict(state._open),
        "halts": dict(state._halts),
        "deposited": nonzero(state._deposited),
    }
