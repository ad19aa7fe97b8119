"""Long ledgers in files: imported once in a run of the benchmarks, shared by those that need them."""

import asyncio
import os
import random
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from config.settings import DATABASE_FILE, Settings
from execution.importers.common import FillAppender
from execution.ledger import NewCashFlow
from execution.model import Account, CashFlowKind
from runtime.database import ensure_account, open_database, seed_catalogue, sqlite_url
from runtime.importing import import_fills, open_fills
from runtime.offline_compute import Wanted, compute, compute_scopes
from tests.bench.material import RICH, settings_for
from tests.bench.measure import Effort, say

SYMBOLS = 20
FIRST = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Spent:
    """The time that something took: on the clock, and of all processors (children that have ended included)."""

    wall: float
    cpu: float


def spent(work: Callable[[], object]) -> Spent:
    """Do it and say what it took."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    return Spent(time.perf_counter() - wall, cpu_seconds() - cpu)


def cpu_seconds() -> float:
    """The CPU time of this process and of its children that ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def fills_file(path: Path, count: int, symbols: int = SYMBOLS) -> Path:
    """A CSV of fills, 7 s apart, symbol after symbol: buys and sells of any size, so that half of all trades close
    one to three lots."""
    rng = random.Random(1)
    held = [0] * symbols
    with path.open("w") as file:
        file.write("executed_at,symbol,side,quantity,price,fee,fee_asset,venue_trade_id,triggered_by\n")
        for number in range(count):
            symbol = number % symbols
            buy = held[symbol] <= 0 or rng.random() < 0.5
            millionths, cents = rng.randint(1, 10**6), rng.randint(10**4, 10**6)
            if not buy:
                millionths = min(millionths, held[symbol])
            held[symbol] += millionths if buy else -millionths
            at = (FIRST + timedelta(seconds=number * 7)).strftime("%Y-%m-%dT%H:%M:%SZ")
            fee = cents * millionths * 6 // 1000
            file.write(
                f"{at},S{symbol:02d}-USD,{'BUY' if buy else 'SELL'},{millionths / 1e6:.6f},{cents / 100:.2f},"
                f"{fee / 1e8:.8f},USD,{number},bot:b{number % 7}\n"
            )
    return path


def imported(path: Path, fills: Path) -> Spent:
    """A new ledger in a file, with a rich account and the fills of another file; what the import took."""
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = open_database(sqlite_url(path))
    opening = NewCashFlow("main", CashFlowKind.DEPOSIT, RICH, "USD", FIRST - timedelta(days=1), "manual", "opening")
    with engine.connect() as connection, connection.begin():
        seed_catalogue(connection)
        ensure_account(connection, Account("main"), opening, FIRST)
    appender = FillAppender(Account("main"), venue="import", triggered_by="import:bench")
    took = spent(lambda: import_fills(engine, open_fills(fills)[0], appender, Settings().portfolio.import_rows))
    engine.dispose()
    return took


def ledger(effort: Effort, count: int, symbols: int = SYMBOLS) -> Path:
    """The folder of a ledger of so many trades without allocations; not to be changed."""
    folder = effort.folder.parent / f"ledger-{count}-{symbols}"
    if not folder.exists():
        say(f"making a ledger of {count:,} trades")
        making = effort.folder / f"making-{count}"
        making.mkdir()
        imported(making / DATABASE_FILE, fills_file(making / "fills.csv", count, symbols))
        (making / "fills.csv").unlink()
        making.rename(folder)
    return folder


def share(effort: Effort, folder: Path, count: int) -> None:
    """Give away the folder of a ledger of so many trades, for others to use."""
    shared = effort.folder.parent / f"ledger-{count}-{SYMBOLS}"
    if not shared.exists():
        shared.mkdir()
        (folder / DATABASE_FILE).rename(shared / DATABASE_FILE)


def books(effort: Effort, count: int, symbols: int = SYMBOLS) -> Path:
    """The folder of such a ledger with everything computed and stored; not to be changed."""
    folder = effort.folder.parent / f"books-{count}-{symbols}"
    if not folder.exists():
        making = copied(ledger(effort, count, symbols), effort.folder / f"computing-{count}")
        say(f"computing the books of {count:,} trades")
        compute(settings_for(making), making / DATABASE_FILE, Wanted(), lambda _done, _total: None)
        making.rename(folder)
    return folder


def computed(folder: Path) -> None:
    """Compute all scopes of the ledger in a folder, as `allocations compute --full` does."""
    url = sqlite_url(folder / DATABASE_FILE)
    engine = open_database(url)
    asyncio.run(compute_scopes(engine, url, Wanted(full=True), lambda _done, _total: None))
    engine.dispose()


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder of books, to be changed."""
    shutil.copytree(source, target)
    os.sync()  # else the copy is written to the disk while something is measured
    return target
