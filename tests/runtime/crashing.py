"""A daemon in one thread that may die at any step: before or after each commit, before or after each message.

It is the composed core over a real SQLite file; requests travel as the bytes that the broker would carry. What
dies is everything in memory; what is left is the file, and what the broker or a sender would send again.
"""

import asyncio
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection

from config.exact import plain
from config.settings import AccountSettings, PaperSettings, Settings
from config.toml_errors import TomlDocument
from execution import ledger, orders
from execution.model import (
    Account,
    AccountMode,
    AlertRaised,
    Candle,
    CashFlowKind,
    CashRequest,
    HaltRequest,
    OrderRequest,
    Request,
    Responded,
    Side,
)
from execution.service import Envelope
from execution.writer import InlineWriter
from portfolio.verify import verify
from runtime import wire
from runtime.clock import FeedClock
from runtime.codec import decode
from runtime.composition import build_core, first_account, opening_deposit
from runtime.core import Core, Published
from runtime.database import (
    ensure_account,
    open_database,
    read,
    reader_engine,
    seed_catalogue,
    sqlite_url,
    writer_engine,
)
from runtime.feeding import open_books_to
from runtime.messages import Decoded
from runtime.topics import Topics
from signals import outbox
from signals.bot_file import BotFile
from signals.loading import check_bot
from signals.model import BotState

T = TypeVar("T")
BTC = "BTC-USD"
START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TOPICS = Topics("fillbook")


class Crash(BaseException):
    """kill -9."""


class Steps:
    """Counts what a life does; dies at the step `fatal` (None: never)."""

    def __init__(self, fatal: int | None = None) -> None:
        self.fatal = fatal
        self.names: list[str] = []

    def step(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self.fatal:
            raise Crash(name)


class CrashingWriter(InlineWriter):
    """Every work is its own durable transaction; the process may die on either side of its commit."""

    def __init__(self, engine: Any, steps: Steps) -> None:
        super().__init__(engine, commit_each=True)
        self._steps = steps

    def submit(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        self._steps.step("before a commit")
        done = super().submit(work)
        self._steps.step("after a commit")
        return done


class PlainReader:
    """Reads that are no steps."""

    def __init__(self, writer: InlineWriter) -> None:
        self._writer = writer

    def read(self, query: Callable[[Connection], T]) -> Awaitable[T]:
        return InlineWriter.submit(self._writer, query)


class ListFeed:
    """Candles of one symbol as a feed."""

    source = "file"

    def __init__(self, candles: Sequence[Candle]) -> None:
        self._candles = candles
        self.symbols = (BTC,)

    def timeframe(self, _symbol: str) -> str:
        return "1m"

    def opening(self, last: Mapping[str, datetime]) -> tuple[list[Candle], dict[str, datetime]]:
        return [], dict(last)

    def candles(self, after: Mapping[str, datetime]) -> Iterator[Candle]:
        last = after.get(BTC)
        return (candle for candle in self._candles if last is None or candle.time > last)


def series(closes: Iterable[Any], volumes: Mapping[int, Any] | None = None) -> list[Candle]:
    """One-minute candles that open at the close before; 1,000 units are traded in each unless said otherwise."""
    found: list[Candle] = []
    before: Decimal | None = None
    for number, text in enumerate(closes):
        close = Decimal(str(text))
        opened = close if before is None else before
        volume = Decimal(str((volumes or {}).get(number, 1000)))
        found.append(
            Candle(BTC, "1m", START + number * MINUTE, opened, max(opened, close), min(opened, close), close, volume)
        )
        before = close
    return found


def bot(text: str) -> BotFile:
    """A bot from the text of its file."""
    found, faults = check_bot(TomlDocument.parse(text, "bot.toml"), {})
    assert found is not None, [str(fault) for fault in faults]
    return found


def buy(request_id: str, quantity: str, account: str = "main", side: Side = Side.BUY) -> OrderRequest:
    """A person's market order."""
    return OrderRequest(request_id, account, BTC, side, "manual", quantity=Decimal(quantity))


def halt(request_id: str, halted: bool = True) -> HaltRequest:
    """A person halts trading, or lets it go on."""
    return HaltRequest(request_id, "main", halted, "manual")


def deposit(request_id: str, account: str, amount: str) -> CashRequest:
    """A person brings money."""
    return CashRequest(request_id, account, CashFlowKind.DEPOSIT, Decimal(amount), "manual")


@dataclass
class Script:
    """What happens: candles, and what people ask for after the candle of a number."""

    bots: Sequence[BotFile]
    candles: Sequence[Candle]
    people: Mapping[int, Sequence[Request]] = field(default_factory=dict)
    accounts: Sequence[Account] = ()
    paper: PaperSettings = field(default_factory=PaperSettings)
    deposit: str = "10000"


@dataclass
class World:
    """One run of a script, through as many lives as it takes."""

    script: Script
    folder: Path
    redeliver: bool = False
    """Whether the broker brings requests of the life before once more."""
    roles: tuple[str, ...] = ("execution", "portfolio", "signals")
    alerts: list[AlertRaised] = field(default_factory=list)
    lives: int = 0
    sent: list[OrderRequest] = field(default_factory=list)
    _answered: set[str] = field(default_factory=set)
    _in_flight: list[OrderRequest] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "fillbook.db"

    @property
    def settings(self) -> Settings:
        script = self.script
        return Settings(
            data_dir=self.folder,
            account=AccountSettings(initial_deposit=Decimal(script.deposit)),
            paper=script.paper,
        )

    def run(self, *fatal: int | None) -> Steps:
        """Lives that die at the given steps, each counted from its own start; then one that lives to the end."""
        self._create()
        for at in fatal:
            steps = Steps(at)
            try:
                asyncio.run(self._live(steps))
                return steps
            except Crash:
                pass
        steps = Steps()
        asyncio.run(self._live(steps))
        return steps

    def _create(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        template = self.folder.parent / "template.db"
        if not template.exists():
            open_database(sqlite_url(template), synchronous="OFF").dispose()
            for rest in template.parent.glob("template.db-*"):
                rest.unlink()
        shutil.copy(template, self.file)

    async def _live(self, steps: Steps) -> None:
        self.lives += 1
        engine = writer_engine(sqlite_url(self.file), synchronous="OFF")
        writer = CrashingWriter(engine, steps)
        try:
            await _Life(self, writer, steps).run()
        finally:
            writer._connection.close()
            engine.dispose()

    # ---- what is left -----------------------------------------------------------------------------------

    def ask(self, query: Callable[[Connection], T]) -> T:
        engine = reader_engine(sqlite_url(self.file))
        try:
            return read(engine, query)
        finally:
            engine.dispose()

    def trades(self) -> list[tuple[str, ...]]:
        """What must be the same of each trade."""
        return [
            (
                f"{trade.executed_at:%H:%M}", trade.account, str(trade.side), plain(trade.quantity),
                plain(trade.price), plain(trade.fee), trade.triggered_by,
            )
            for trade in self.ask(ledger.trades)
        ]  # fmt: skip

    def orders(self) -> list[tuple[str, ...]]:
        """What must be the same of each order."""
        found = self.ask(orders.orders)
        return sorted((order.request_id, str(order.status), order.triggered_by) for order in found)

    def problems(self) -> list[Any]:
        """The checks of `verify` that are not ok."""
        return [result for result in self.ask(verify) if not result.ok]


class _Life:
    """From a start to the end of the candles, or to a crash."""

    def __init__(self, world: World, writer: CrashingWriter, steps: Steps) -> None:
        self._world = world
        self._steps = steps
        self._writer = writer
        self._clock = FeedClock()
        self._feed = ListFeed(world.script.candles)
        self._queue: deque[OrderRequest] = deque()
        self._core: Core = build_core(
            world.settings,
            writer=writer,
            reader=PlainReader(writer),
            clock=self._clock,
            bots=world.script.bots,
            publish=self._publish,
            roles=world.roles,
            run_disabled=True,
        )

    async def run(self) -> None:
        world = self._world
        after = await InlineWriter.submit(self._writer, self._prepare)
        redelivered = list(world._in_flight) if world.redeliver else []
        world._in_flight = []
        await self._core.start()
        signals = self._core.signals
        assert signals is not None
        self._queue.extend(redelivered)
        self._queue.extend(signals.open_requests())
        await self._settle()
        done = 0 if BTC not in after else (after[BTC] - START) // MINUTE + 1
        await self._let_people_ask(done)
        for number, candle in enumerate(self._feed.candles(after), done):
            self._clock.advance(candle.close_time)
            await self._core.on_candle(candle)
            await self._settle()
            await self._let_people_ask(number + 1)

    def _prepare(self, connection: Connection) -> dict[str, datetime]:
        settings = self._world.settings
        seed_catalogue(connection)
        after = open_books_to(connection, self._feed, self._clock)
        opening = opening_deposit(settings, settings.account.initial_deposit, self._clock)
        ensure_account(connection, first_account(settings), opening, START)
        for account in self._world.script.accounts:
            ensure_account(connection, account, None, START)
        return after

    def _publish(self, message: Published) -> None:
        if isinstance(message, OrderRequest):
            self._queue.append(message)
            self._world.sent.append(message)
        elif isinstance(message, AlertRaised):
            self._world.alerts.append(message)
        elif isinstance(message, Responded) and message.final:
            self._world._answered.add(message.request_id)
        elif isinstance(message, BotState):
            wire.encode(wire.bot_state_wire(message))

    async def _settle(self) -> None:
        """Requests that were published come back from the broker, until nothing is under way."""
        while self._queue:
            request = self._queue.popleft()
            if request not in self._world._in_flight:
                self._world._in_flight.append(request)
            self._steps.step("before a message")
            await self._deliver(request)
            self._steps.step("after a message")

    async def _deliver(self, request: OrderRequest) -> None:
        topic = TOPICS.bot_request(request.account, outbox.bot_of(request))
        match = TOPICS.parse(topic)
        assert match is not None
        decoded = decode(match, wire.encode(wire.order_request_wire(request)), assigned_id="none")
        assert isinstance(decoded, Decoded), decoded
        assert decoded.message == request
        stored = await PlainReader(self._writer).read(lambda c: outbox.find(c, request.request_id))
        assert stored == request, "a request that was not stored before it was sent"
        await self._core.handle(Envelope(decoded.message, decoded.body_hash))

    async def _let_people_ask(self, candles: int) -> None:
        """A person repeats a request until it is answered, and does not ask before its time."""
        for number in sorted(self._world.script.people):
            if number >= candles:
                return
            for request in self._world.script.people[number]:
                if request.request_id not in self._world._answered:
                    await self._core.handle(Envelope(request, request.request_id))
                    await self._settle()


MARGIN = Account("margin", mode=AccountMode.MARGIN)
