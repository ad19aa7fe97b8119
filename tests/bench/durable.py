"""Durable fills without the broker: the execution service over the group-committing writer, synchronous=FULL."""

import asyncio
import sqlite3
import time
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from execution.model import Price, Responded
from execution.writer import GroupCommitWriter
from runtime.clock import WallClock
from runtime.composition import build_core, first_account, opening_deposit, spare_the_collector
from runtime.core import Core
from runtime.database import ThreadReader, ensure_account, open_database, reader_engine, seed_catalogue, sqlite_url
from tests.bench import least
from tests.bench.material import BTC, PRICE, RICH, envelope, settings_for
from tests.bench.measure import Effort, Row, percentile, say


def durable(effort: Effort) -> list[Row]:
    """1, 8 and 64 requests in flight; the baseline groups as many."""
    rows = []
    for in_flight, aim in ((1, None), (8, None), (64, 5_000)):
        fills = effort.size(1_500 if in_flight == 1 else 8_000, 100)
        speed, bare, times = 0.0, 0.0, [0.0]
        for number in range(effort.repetitions):
            say(f"durable, {in_flight} in flight, run {number + 1}")
            folder = effort.folder / f"{in_flight}-{number}"
            folder.mkdir()
            found, latencies = asyncio.run(_run(folder / "books.db", fills, in_flight))
            if found > speed:
                speed, times = found, latencies
            with sqlite3.connect(folder / "books.db") as made:
                same = least.SameRows(made)
            made.close()
            bare = max(bare, len(same.orders) / same.write(str(folder / "bare.db"), in_flight))
        is_ = f"bare sqlite3, same rows, groups of {in_flight}"
        rows.append(Row(f"durable, {in_flight} in flight", speed, "fills/s", bare, is_, aim))
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            rows.append(Row(f"  {name}", percentile(times, share) * 1000, "ms", lower_is_better=True))
    return rows


class DurableHouse:
    """Execution alone over a file, as the daemon has it, without a broker."""

    def __init__(self, path: Path) -> None:
        settings = settings_for(path.parent)
        url = sqlite_url(path)
        self._engine = open_database(url)
        clock = WallClock()
        with self._engine.connect() as connection, connection.begin():
            seed_catalogue(connection)
            opening = opening_deposit(settings, RICH, clock)
            ensure_account(connection, first_account(settings), opening, clock.now())
        self._writer = GroupCommitWriter(self._engine, group_max=settings.writer.group_max)
        self._reader = ThreadReader(reader_engine(url))
        self.core: Core = build_core(
            settings,
            writer=self._writer,
            reader=self._reader,
            clock=clock,
            bots=[],
            publish=lambda _message: None,
            roles=("execution",),
        )

    async def open(self) -> None:
        """Start, and let the market have a price."""
        self._writer.start()
        await self.core.start()
        await self.core.on_price(Price(BTC, PRICE, datetime.now(UTC)))
        spare_the_collector()  # as the daemon does

    def close(self) -> None:
        """Stop the threads."""
        self._writer.stop()
        self._reader.stop()
        self._engine.dispose()


async def _run(path: Path, fills: int, in_flight: int) -> tuple[float, list[float]]:
    """Fills a second and the time of each."""
    house = DurableHouse(path)
    await house.open()
    assert house.core.execution is not None
    handle = house.core.execution.handle
    numbers, times = count(), []

    async def worker() -> None:
        while (number := next(numbers)) < fills:
            began = time.perf_counter()
            # Only buys: among 64 in flight a sell may come before the buy that it is to sell.
            events = await handle(envelope(number, buys_only=True))
            times.append(time.perf_counter() - began)
            assert any(isinstance(event, Responded) and event.trades for event in events), events

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    took = time.perf_counter() - began
    house.close()
    return fills / took, times
