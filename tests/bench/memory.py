"""Peak memory: of a replay, of books with many lots, and of the daemon under load."""

import json
import multiprocessing
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.bench import least
from tests.bench.in_memory import run_replay, sma_cross
from tests.bench.material import candle_file, trades
from tests.bench.measure import Effort, PeakMemory, Row, say
from tests.bench.over_broker import load
from tests.bench.servers import server


def peak_memory(effort: Effort) -> list[Row]:
    """Each measure in a process of its own, above what that process had when it began."""
    many = effort.size(100_000, 2_000)
    few = many // 10
    small, large = (candle_file(effort.folder / f"{count}.csv", count) for count in (few, many))
    rows = []
    for count, path in ((few, small), (many, large)):
        measured, bare = alone(_replay, path), alone(_bare_candles, path)
        rows.append(_row(f"replay of {count:,} candles", measured, bare, "bare loop over the file"))
    measured, bare = alone(_books, many), alone(_bare_lots, many)
    rows.append(_row(f"books with {many:,} open lots", measured, bare, "as many pairs of integers"))
    return [*rows, *_daemon(effort)]


def _row(what: str, measured: float, bare: float, is_: str) -> Row:
    return Row(what, measured, "MB", bare, is_, lower_is_better=True)


def alone(work: Callable[[Any], object], argument: Any) -> float:
    """The growth of the peak while `work` runs in a fresh process."""
    say(f"memory: {work.__name__.strip('_')} {argument}")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(work, argument, theirs))
    process.start()
    theirs.close()
    growth: float = json.loads(ours.recv())
    process.join()
    return growth


def _measure(work: Callable[[Any], object], argument: Any, to: Connection) -> None:
    memory = PeakMemory()
    kept = work(argument)
    to.send(json.dumps(memory.growth))
    del kept


def _replay(path: Path) -> object:
    import asyncio

    return asyncio.run(run_replay(path, sma_cross()))


def _bare_candles(path: Path) -> object:
    return least.bare_candles(path)


def _books(count: int) -> object:
    from dataclasses import replace
    from datetime import timedelta

    from execution.model import Account, Side
    from portfolio.books import Books

    books = Books({"main": Account("main")})
    first = trades(1)[0]
    for number in range(1, count + 1):
        # One trade at a time, so that only what the books keep is counted.
        at = first.executed_at + timedelta(seconds=number)
        books.apply((replace(first, id=f"trade-{number}", sequence=number, side=Side.BUY, executed_at=at),))
    assert books.symbols["main", first.symbol].engine.lot_count == count
    return books


def _bare_lots(count: int) -> object:
    lots: deque[list[int]] = deque()
    for number in range(count):
        lots.append([10**18 + number, 5 * 10**22 + number])
    return lots


def _daemon(effort: Effort) -> list[Row]:
    """The daemon's process, without the broker's."""
    seconds = 1.0 if effort.quick else 15.0
    seen = {}
    for kind in ("echo", "daemon"):
        say(f"memory: {kind}")
        with server(kind, effort.folder / kind) as running:
            before = running.megabytes
            found = load(running.port, rate=0, in_flight=64, seconds=seconds, prime=kind == "daemon")
            seen[kind] = (before, running.megabytes, found["answered"])
    (bare, bare_after, _), (before, after, fills) = seen["echo"], seen["daemon"]
    is_ = "echo process, no work"
    return [
        _row("daemon, just started", before, bare, is_),
        _row(f"daemon, after {fills:,} fills", after, bare_after, is_),
    ]
