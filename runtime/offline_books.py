"""Stored allocations made current, with and without a daemon: what a command does before it shows them.

Without one, the command takes the portfolio role for a moment and stores what is missing; with one, it waits
until that one has.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine

from config.settings import Settings
from execution import followers, leases, raw
from execution.leases import Fence
from execution.model import AlertRaised
from execution.writer import InlineWriter
from portfolio import allocations
from portfolio.allocator import FOLLOWER
from portfolio.fifo import ENGINE_VERSION
from portfolio.service import PortfolioService
from runtime import database
from runtime.clock import WallClock
from runtime.ctrl_c import run_inline
from runtime.errors import RoleTaken, Unreachable
from runtime.locks import RoleLocks, holder_text

T = TypeVar("T")

ROLE = "portfolio"
_LOOK_AGAIN_SECONDS = 0.1


class DirectReader:
    """Consistent reads in the caller, each on a connection of its own: no writer has to wait for them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def read(self, query: Callable[[Connection], T]) -> T:
        """See `Reader.read`. Raises StorageUnavailable."""
        return database.read(self._engine, query)


def bring_up_to_date(
    settings: Settings, *, file: Path | None = None, wait_seconds: float | None = None
) -> list[AlertRaised]:
    """Store the allocations of all trades in the ledger; returns the alerts that this raised.

    `file`: the database, if it is not the configured one. With a running portfolio role nothing is done here
    but to wait until it has caught up; its alerts are its own. Raises Unreachable when it stores nothing for
    `wait_seconds` (default: `portfolio.catch_up_seconds`), StorageUnavailable, LeaseLost.
    """
    path = settings.database_file if file is None else file
    if not path.is_file() or not path.stat().st_size:
        return []
    url, timeout = database.sqlite_url(path), settings.writer.busy_timeout_ms
    engine = database.open_database(url, busy_timeout_ms=timeout)
    readers = database.reader_engine(url, busy_timeout_ms=timeout)
    try:
        return _catch_up(settings, path, engine, readers, wait_seconds or settings.portfolio.catch_up_seconds)
    finally:
        readers.dispose()
        engine.dispose()


def is_behind(connection: Connection) -> bool:
    """Whether trades were recorded whose allocations are not stored (by the algorithm of today)."""
    stored = followers.position(connection, FOLLOWER)
    pointers = allocations.pointers(connection)
    if any(pointer.engine_version != ENGINE_VERSION for pointer in pointers.values()):
        return True
    sql = "SELECT account, symbol, MAX(sequence) FROM trades WHERE sequence > ? GROUP BY account, symbol"
    for account, symbol, last in raw.execute(connection, sql, (stored,)).fetchall():
        pointer = pointers.get((account, symbol))
        if pointer is None or pointer.sequence < last:
            return True
    return False


def _stored(connection: Connection) -> int:
    """How much is stored; only ever grows, so that progress can be seen."""
    return followers.position(connection, FOLLOWER) + sum(
        pointer.sequence for pointer in allocations.pointers(connection).values()
    )


def _catch_up(
    settings: Settings, path: Path, engine: Engine, readers: Engine, wait_seconds: float
) -> list[AlertRaised]:
    """Ourselves as soon as nobody holds the role: a daemon may end while it is waited for.

    A run that is logged as running without anybody in the role died on the way: the log is to say so.
    """
    deadline = time.monotonic() + wait_seconds
    stored = database.read(readers, _stored)
    locks = RoleLocks(path, (ROLE,))
    while (behind := database.read(readers, is_behind)) or database.read(readers, allocations.is_running):
        try:
            locks.acquire()
        except RoleTaken as error:
            if not behind:
                return []  # that one's own run, at work
            before, stored = stored, database.read(readers, _stored)
            if stored != before:
                deadline = time.monotonic() + wait_seconds
            elif time.monotonic() >= deadline:
                raise Unreachable(
                    f"the trades are recorded, but the portfolio has stored nothing for {wait_seconds:g} s ({error})."
                    " It goes on by itself; `fillbook status` shows how far it is"
                ) from error
            time.sleep(_LOOK_AGAIN_SECONDS)
            continue
        try:
            return run_inline(store_missing(settings, engine, readers))
        finally:
            locks.release()
    return []


async def store_missing(settings: Settings, engine: Engine, readers: Engine) -> list[AlertRaised]:
    """What the ledger has and the stored allocations have not; the caller holds the lock of the role."""
    clock = WallClock()
    with engine.connect() as connection, connection.begin():
        fence = Fence({ROLE: leases.take(connection, ROLE, holder_text(), clock.now())})
    writer = InlineWriter(engine, commit_each=True, participants=[fence])
    try:
        service = PortfolioService(
            writer,
            DirectReader(readers),
            clock,
            checkpoint_facts=settings.portfolio.checkpoint_facts,
            fence=fence.check,
        )
        alerts = await service.start()
        await service.stop()
        return alerts + await service.flush()
    finally:
        writer.stop()
