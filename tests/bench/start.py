"""How long until the daemon answers: new books, known books, and a long ledger with and without checkpoint."""

import asyncio
from pathlib import Path

from config.settings import DATABASE_FILE
from tests.bench.material import House
from tests.bench.measure import Effort, Row, say
from tests.bench.servers import server


def start(effort: Effort) -> list[Row]:
    """From the start of the process until the daemon says that it is ready."""
    trades = effort.size(100_000, 500)
    bare = min(_start(effort, "echo", "echo") for _ in range(effort.repetitions + 1))
    is_ = "a bare process with the same broker"
    empty, long = effort.folder / "empty", effort.folder / "long"

    def row(what: str, took: float) -> Row:
        return Row(what, took, "s", bare, is_, lower_is_better=True)

    rows = [
        row("daemon up, new books", _start(effort, "daemon", "empty")),
        row("daemon up, 0 trades", min(_start(effort, "daemon", empty.name) for _ in range(effort.repetitions))),
    ]
    long.mkdir()
    say(f"start: making {trades:,} trades")
    asyncio.run(make_books(long / DATABASE_FILE, trades))
    rows.append(row(f"daemon up, {trades:,} trades, no checkpoint", _start(effort, "daemon", long.name)))
    again = min(_start(effort, "daemon", long.name) for _ in range(effort.repetitions))
    rows.append(row(f"daemon up, {trades:,} trades", again))
    return rows


async def make_books(path: Path, trades: int) -> None:
    """A ledger of so many trades, without the portfolio's checkpoint."""
    house = House(path, roles=("execution",))
    await house.open()
    await house.trade(trades)
    house.close()


def _start(effort: Effort, kind: str, name: str) -> float:
    say(f"start: {kind} {name}")
    with server(kind, effort.folder / name) as running:
        return running.start_seconds
