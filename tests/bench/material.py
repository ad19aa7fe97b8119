"""What the benchmarks work on: candle files, requests, trades, a trading house. Seeded, the same every time."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Connection

from config.settings import AccountSettings, BrokerSettings, LogSettings, Settings
from execution import tables
from execution.ledger import content_hash
from execution.model import OrderRequest, Price, Side, Source, Trade, trade_cash_effect
from execution.service import Envelope
from execution.writer import InlineReader, InlineWriter
from runtime.clock import ReplayClock
from runtime.composition import build_core, first_account, opening_deposit, spare_the_collector
from runtime.core import Core
from runtime.database import ensure_account, memory_engine, open_database, seed_catalogue, sqlite_url, upgrade
from runtime.memory_bus import MessageBus

START = datetime(2026, 1, 1, tzinfo=UTC)
BTC = "BTC-USD"
RICH = Decimal(10) ** 12
PRICE = Decimal("50000.25")


def settings_for(data_dir: Path, port: int = 1883) -> Settings:
    """Default settings with books in `data_dir` and an account that never runs out of cash."""
    return Settings(
        data_dir=data_dir,
        account=AccountSettings(initial_deposit=RICH),
        broker=BrokerSettings(port=port),
        log=LogSettings(level="error"),
    )


def candle_file(path: Path, count: int, *, zigzag: bool = False, seed: int = 7) -> Path:
    """One-minute candles: a random walk, or closes that go up and down in turn."""
    rng = random.Random(seed)
    price, lines = 50_000.0, ["time,open,high,low,close,volume"]
    for number in range(count):
        opened = price
        price = 50_000.0 + (number % 2) * 100 if zigzag else max(1000.0, price * (1 + rng.gauss(0, 0.001)))
        high, low = max(opened, price) + rng.random() * 20, min(opened, price) - rng.random() * 20
        time = (START + timedelta(minutes=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
        lines.append(f"{time},{opened:.2f},{high:.2f},{low:.2f},{price:.2f},{rng.random() * 1000:.4f}")
    path.write_text("\n".join(lines) + "\n")
    return path


def request(number: int, *, buys_only: bool = False) -> OrderRequest:
    """The order request `number`: a small BUY, or BUY and SELL in turn."""
    side = Side.BUY if buys_only or number % 2 == 0 else Side.SELL
    return OrderRequest(f"bench-{number}", "main", BTC, side, "manual:bench", quantity=Decimal("0.01"))


def envelope(number: int, *, buys_only: bool = False) -> Envelope:
    """That request as it comes from the bus."""
    made = request(number, buys_only=buys_only)
    return Envelope(made, body_hash=made.request_id)


def trades(count: int) -> list[Trade]:
    """A ledger's trades in memory: buys of several sizes, sells that close two or three lots each."""
    rng = random.Random(11)
    made: list[Trade] = []
    previous, held = tables.GENESIS_HASH, 0
    for number in range(1, count + 1):
        side = Side.SELL if held > 30 and rng.random() < 0.5 else Side.BUY
        thousandths = rng.randint(1, 30)
        held += thousandths * side.sign
        quantity, price = Decimal(thousandths).scaleb(-3), Decimal(rng.randint(4_000_000, 6_000_000)).scaleb(-2)
        fee = (quantity * price * Decimal("0.006")).quantize(Decimal("0.00000001"))
        at = START + timedelta(seconds=number)
        trade = Trade(
            id=f"trade-{number}", sequence=number, account="main", symbol=BTC, side=side, quantity=quantity,
            price=price, executed_at=at, recorded_at=at, fee=fee, fee_asset="USD",
            cash_effect=trade_cash_effect(side, quantity, price, fee), order_id=f"order-{number}", venue="paper",
            venue_trade_id=str(number), venue_sequence=number, order_type=None, source=Source.EXCHANGE,
            triggered_by="manual:bench", signal_context=None, corrects=None, hash=previous,
        )  # fmt: skip
        if number < 1000:  # enough to be real; a long chain would only make the benchmark slow to begin
            previous = content_hash(trade, previous)
        made.append(trade)
    return made


class House:
    """All services over the memory bus and an inline writer, as in replay, without bots and candles."""

    def __init__(self, database: Path | None = None, *, roles: Sequence[str] = ("execution", "portfolio")) -> None:
        settings = settings_for(Path("unused"))
        if database is None:
            self.engine = memory_engine()
            upgrade(self.engine)
        else:
            self.engine = open_database(sqlite_url(database), synchronous="OFF")
        self.clock = ReplayClock(START)
        self.bus = MessageBus()
        self.writer = InlineWriter(self.engine)
        self.core: Core = build_core(
            settings,
            writer=self.writer,
            reader=InlineReader(self.writer),
            clock=self.clock,
            bots=[],
            publish=self.bus.publish,
            roles=roles,
        )
        self.writer.submit(lambda connection: self._prepare(connection, settings))
        self.done = 0

    def _prepare(self, connection: Connection, settings: Settings) -> None:
        seed_catalogue(connection)
        opening = opening_deposit(settings, RICH, self.clock)
        ensure_account(connection, first_account(settings), opening, START)

    async def open(self) -> None:
        """Start, and let the market have a price."""
        await self.core.start()
        await self.core.on_price(Price(BTC, PRICE, START))
        spare_the_collector()  # as replay and daemon do

    async def trade(self, count: int, *, buys_only: bool = False) -> None:
        """So many requests, each filled, recorded and booked before the next; then one commit."""
        core, clock = self.core, self.clock
        for number in range(self.done, self.done + count):
            clock.advance(START + timedelta(milliseconds=number))
            await core.handle(envelope(number, buys_only=buys_only))
            if not number % 1000:
                self.writer.flush()
        self.writer.flush()
        self.done += count

    def close(self) -> None:
        """Commit and close."""
        self.writer.stop()
        self.engine.dispose()
