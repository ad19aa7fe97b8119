"""Long books: import, full recomputation, a late trade, reading and starting, the cost of a fill on top of them."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from config.settings import DATABASE_FILE
from execution.ledger import LedgerTail, NewTrade
from execution.model import Account, Fact, FactsRecorded, Side, Source, trade_cash_effect
from execution.writer import GroupCommitWriter
from portfolio.fifo import LotEngine
from portfolio.fills import FeeIn, Fill, make_fill
from portfolio.service import PortfolioService
from portfolio.units import units_of_text
from runtime.clock import WallClock
from runtime.database import ThreadReader, open_database, reader_engine, sqlite_url
from tests.bench import least, ledgers
from tests.bench.ledgers import Spent, copied, spent
from tests.bench.material import House
from tests.bench.measure import Effort, PeakMemory, Row, best_seconds, say
from tests.bench.servers import server

SIZES = (10_000, 100_000, 1_000_000)
_SMALL = (300, 600, 1_200)


def _sizes(effort: Effort) -> tuple[int, ...]:
    return _SMALL if effort.quick else SIZES


def _both(what: str, took: Spent, bare: Spent, is_: str, aim: float | None = None) -> list[Row]:
    """Wall and CPU time of one measurement."""
    return [
        Row(what, took.wall, "s", bare.wall, is_, aim, lower_is_better=True),
        Row("  its CPU time", took.cpu, "s", bare.cpu, is_, lower_is_better=True),
    ]


# ---- import -----------------------------------------------------------------------------------------------------


def imports(effort: Effort) -> list[Row]:
    """Fills from a CSV into the ledger: validated, hashed, committed 2,000 at a time."""
    rows, costs = [], []
    for count in _sizes(effort):
        say(f"import of {count:,} fills")
        folder = effort.folder / str(count)
        folder.mkdir()
        fills = ledgers.fills_file(folder / "fills.csv", count)
        memory = PeakMemory()
        took = ledgers.imported(folder / DATABASE_FILE, fills)
        peak = memory.growth
        bare = spent(partial(least.bare_import, fills, folder / "bare.db"))
        is_ = "csv + bare sqlite3, the columns of the file"
        rows += [
            Row(f"import of {count:,} fills", count / took.wall, "rows/s", count / bare.wall, is_),
            Row("  CPU time of a row", took.cpu / count * 1e6, "us", bare.cpu / count * 1e6, is_, None, True),
            Row("  its memory", peak, "MB", lower_is_better=True),
        ]
        costs.append(took.cpu / count)
        ledgers.share(effort, folder, count)
    return [*rows, _growth("CPU of an imported row", effort, costs)]


def _growth(what: str, effort: Effort, costs: list[float]) -> Row:
    sizes = _sizes(effort)
    name = f"{what}, {sizes[0]:,} -> {sizes[-1]:,}"
    return Row(name, costs[-1] / costs[0], "x", 1.0, "linear", None, lower_is_better=True)


# ---- recomputation ----------------------------------------------------------------------------------------------


def recompute(effort: Effort) -> list[Row]:
    """All allocations from all trades, as `allocations compute --full`: once into nothing, once compared."""
    rows, costs = [], []
    for count in _sizes(effort):
        aim = 15.0 if count == SIZES[-1] else None
        source = ledgers.ledger(effort, count)
        folder = copied(source, effort.folder / str(count))
        say(f"recomputation of {count:,} trades")
        memory = PeakMemory()
        first = spent(partial(ledgers.computed, folder))
        peak = memory.growth
        again = spent(partial(ledgers.computed, folder))
        bare = spent(partial(least.same_allocations, folder / DATABASE_FILE, folder / "bare.db"))
        is_ = "bare sqlite3 reads the trades, writes the same rows"
        rows += _both(f"full recomputation of {count:,} trades, stored", first, bare, is_, aim)
        rows += _both("  again, nothing differs", again, bare, is_)
        rows.append(Row("  its memory, of the writing process", peak, "MB", lower_is_better=True))
        costs.append(first.cpu / count)
    return [*rows, _growth("CPU of a recomputed trade", effort, costs), *_engine(effort)]


def _engine(effort: Effort) -> list[Row]:
    """The matching alone, over fills that are prepared."""
    count = _sizes(effort)[-1]
    folder = ledgers.ledger(effort, count)
    fills = _prepared(folder / DATABASE_FILE)
    bare_fills = [[(fill.sign, fill.quantity, fill.price) for fill in symbol] for symbol in fills]

    def match() -> None:
        for symbol in fills:
            engine = LotEngine(Account("main").mode)
            for fill in symbol:
                engine.match(fill)  # as a batch does it

    took = best_seconds(effort.repetitions, match)
    bare = best_seconds(effort.repetitions, lambda: [least.bare_fifo(symbol) for symbol in bare_fills])
    aim = 1.0 if count == SIZES[-1] else None
    return [Row(f"the engine alone, {count:,} prepared fills", took, "s", bare, "bare FIFO of integers", aim, True)]


def _prepared(path: Path) -> list[list[Fill]]:
    """The fills of each symbol as the engine takes them."""
    columns = "id, side, quantity, price, fee, executed_at"
    sql = f"SELECT {columns} FROM trades WHERE symbol = ? ORDER BY executed_at, sequence"
    connection = sqlite3.connect(path)
    fills = [
        [
            make_fill(
                id_, 1 if side == "BUY" else -1, units_of_text(quantity), units_of_text(price), units_of_text(fee),
                FeeIn.QUOTE, 0, datetime.fromisoformat(at),
            )
            for id_, side, quantity, price, fee, at in connection.execute(sql, (f"S{number:02d}-USD",))
        ]
        for number in range(ledgers.SYMBOLS)
    ]  # fmt: skip
    connection.close()
    return fills


# ---- a late trade -----------------------------------------------------------------------------------------------


def late_trade(effort: Effort) -> list[Row]:
    """A trade arrives that was executed before a tenth of its symbol's trades: from the fact to the stored rows."""
    count = effort.size(50_000, 600)
    folder = copied(ledgers.books(effort, count, 1), effort.folder / "late")
    times = asyncio.run(_late(folder, count, repetitions=5))
    bare = spent(lambda: least.same_allocations(folder / DATABASE_FILE, folder / "bare.db"))
    is_ = "bare sqlite3 reads the trades, writes all rows"
    first, others = times[0], times[1:]
    return [
        Row(f"a late trade at 90 % of {count:,}", min(t.wall for t in others), "s", bare.wall, is_, 0.3, True),
        Row("  its CPU time", min(t.cpu for t in others), "s", bare.cpu, is_, lower_is_better=True),
        Row("  the first one of the symbol since the start", first.wall, "s", bare.wall, is_, lower_is_better=True),
        Row("  its CPU time", first.cpu, "s", bare.cpu, is_, lower_is_better=True),
    ]


async def _late(folder: Path, count: int, repetitions: int) -> list[Spent]:
    url = sqlite_url(folder / DATABASE_FILE)
    engine = open_database(url)
    writer, reader = GroupCommitWriter(engine), ThreadReader(reader_engine(url))
    writer.start()
    service = PortfolioService(writer, reader, WallClock(), checkpoint_facts=10_000, fence=lambda _connection: None)
    await service.start()
    times = []
    for number in range(repetitions):
        say(f"late trade {number + 1}")
        fact = await writer.submit(partial(_append_late, count=count, number=number))
        times.append(await _time_late(service, fact))
    writer.stop()
    reader.stop()
    engine.dispose()
    return times


def _append_late(connection: Connection, count: int, number: int) -> Fact:
    at = ledgers.FIRST + timedelta(seconds=count * 9 // 10 * 7 + 1 + number)
    quantity, price = Decimal("0.01"), Decimal(5000)
    made = NewTrade(
        f"late-{number}", "main", "S00-USD", Side.BUY, quantity, price, at, Decimal(0), "USD",
        trade_cash_effect(Side.BUY, quantity, price, Decimal(0)), "bench", Source.MANUAL, "manual:bench",
    )  # fmt: skip
    tail = LedgerTail()
    fact = tail.append_trade(connection, made, datetime.now(UTC))
    tail.before_commit(connection)
    assert fact is not None
    return fact


async def _time_late(service: PortfolioService, fact: Fact) -> Spent:
    wall, cpu = asyncio.get_running_loop().time(), ledgers.cpu_seconds()
    outcomes = await service.on_facts(FactsRecorded((fact,)))
    await service.flush()
    assert outcomes[0].result is not None
    return Spent(asyncio.get_running_loop().time() - wall, ledgers.cpu_seconds() - cpu)


# ---- what a person waits for ------------------------------------------------------------------------------------


def reads(effort: Effort) -> list[Row]:
    """Commands over long books, the start of Python included; the daemon's start."""
    count = _sizes(effort)[-1]
    folder = copied(ledgers.books(effort, count), effort.folder / "books")
    bare = best_seconds(effort.repetitions, lambda: _command(folder, "--version"))
    commands: tuple[tuple[str, float | None], ...] = (
        ("bankroll", 1.0),
        ("report pnl", 1.0),
        ("portfolio", 1.0),
        ("status", None),
        ("trades --limit 50", None),
        ("allocations list --limit 50", None),
    )
    rows = []
    for words, aim in commands:
        say(f"fillbook {words}")
        took = best_seconds(effort.repetitions, partial(_command, folder, *words.split(), "--json"))
        is_ = "fillbook --version"
        rows.append(Row(f"fillbook {words}, {count:,} trades", took, "s", bare, is_, aim, lower_is_better=True))
    return [*rows, *_starts(effort, folder, count)]


def _command(folder: Path, *words: str) -> None:
    command = [sys.executable, "-P", "-m", "runtime.cli", "--data-dir", str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, f"{words}: {done.stderr}"


def _starts(effort: Effort, folder: Path, count: int) -> list[Row]:
    bare = min(_start("echo", effort.folder / "echo") for _ in range(effort.repetitions))
    is_ = "a bare process with the same broker"
    fresh = effort.folder / "fresh"
    return [
        Row("daemon up, 0 trades", _start("daemon", fresh), "s", bare, is_, lower_is_better=True),
        Row(
            f"daemon up, {count:,} trades", min(_start("daemon", folder) for _ in range(effort.repetitions)), "s",
            bare, is_, lower_is_better=True,
        ),
    ]  # fmt: skip


def _start(kind: str, folder: Path) -> float:
    say(f"start: {kind} {folder.name}")
    with server(kind, folder) as running:
        return running.start_seconds


# ---- a fill on top of long books --------------------------------------------------------------------------------


def fill_growth(effort: Effort) -> list[Row]:
    """One fill through execution and portfolio, its allocations stored, after 1,000 and after 1,000,000 others."""
    sizes = (_SMALL[0], _SMALL[-1]) if effort.quick else (1_000, 1_000_000)
    houses = [copied(ledgers.books(effort, size), effort.folder / str(size)) for size in sizes]
    window = effort.size(1_000, 50)
    costs = asyncio.run(_fills([folder / DATABASE_FILE for folder in houses], window))
    rows = [
        Row(f"a fill after {size:,}, allocations stored", cost, "us", costs[0], f"after {sizes[0]:,}", None, True)
        for size, cost in zip(sizes, costs, strict=True)
    ]
    what = f"growth {sizes[0]:,} -> {sizes[-1]:,}"
    return [*rows, Row(what, costs[-1] / costs[0], "x", 1.0, "flat", 1.25, lower_is_better=True)]


async def _fills(paths: list[Path], window: int) -> list[float]:
    """CPU microseconds of a fill, the best of five windows; the houses take turns, for the same weather."""
    houses = [House(path) for path in paths]
    for house in houses:
        await house.open()
        await _window(house, window)
    costs = [float("inf")] * len(houses)
    for _ in range(5):
        for number, house in enumerate(houses):
            costs[number] = min(costs[number], await _window(house, window))
    for house in houses:
        house.close()
    return costs


async def _window(house: House, window: int) -> float:
    say(f"fills after {house.done:,}")
    cpu = ledgers.cpu_seconds()
    for _ in range(0, window, 50):
        await house.trade(50)
        await house.core.store_allocations()
        house.writer.flush()
    return (ledgers.cpu_seconds() - cpu) / window * 1e6
