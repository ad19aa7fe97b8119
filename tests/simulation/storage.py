"""The database of a simulated process: a real SQLite file, written and read in virtual time.

A commit is one step and its answer is another, so that a kill can fall between them. What happens inside a
commit is the production writer's own code; only its thread is replaced.
"""

import asyncio
import random
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from execution.errors import StorageUnavailable
from execution.ports import TransactionParticipant
from execution.writer import GroupCommitWriter
from runtime.database import read_on, reader_engine, sqlite_url, writer_engine

T = TypeVar("T")

NO_LIMIT = 1_073_741_823
"""Pages; SQLite's own default."""


@dataclass(slots=True)
class Disk:
    """What is wrong with the storage now. `full`: the file cannot grow. `locked`: another process holds the write
    lock. `broken`: nothing can be read."""

    full: bool = False
    locked: bool = False
    broken: bool = False

    def heal(self) -> None:
        """Everything works again."""
        self.full = self.locked = self.broken = False


class Delays:
    """How long the storage takes: mostly next to nothing, a share `slow` of all times long."""

    def __init__(self, dice: random.Random, slow: float) -> None:
        self.dice = dice
        self._slow = slow

    def draw(self) -> float:
        """Seconds."""
        if self.dice.random() >= self._slow:
            return self.dice.choice((0.0, 0.0005, 0.002, 0.01))
        return self.dice.uniform(0.02, 1.5)


class LateFailure:
    """A full disk that shows only when everything is written and is to be committed."""

    def __init__(self, disk: Disk, delays: Delays) -> None:
        self._disk = disk
        self._delays = delays

    def begin(self) -> None:
        """Nothing fails yet."""

    def before_commit(self, _connection: Connection) -> None:
        """Now it may. Raises StorageUnavailable."""
        if self._disk.full and self._delays.dice.random() < 0.5:
            raise StorageUnavailable("the database could not commit: disk I/O error (simulated)")

    def committed(self) -> None:
        """All went well."""

    def rolled_back(self) -> None:
        """The others know."""


class SimWriter(GroupCommitWriter):
    """The group commit of production, driven by the event loop instead of a thread."""

    def __init__(
        self, engine: Engine, disk: Disk, delays: Delays, participants: Sequence[TransactionParticipant]
    ) -> None:
        super().__init__(engine, participants=[*participants, LateFailure(disk, delays)])
        self._disk = disk
        self._delays = delays
        self._limited = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None

    def start(self) -> None:
        """Start to commit."""
        self._task = asyncio.create_task(self._work())

    def submit(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        """See `Writer.submit`."""
        awaitable = super().submit(work)
        self._wake.set()
        return awaitable

    def stop(self) -> None:
        """Nothing more is committed."""
        if self._task is not None:
            self._task.cancel()
        self.abandon()

    def abandon(self) -> None:
        """The process is dead: what it had begun is rolled back. The connection goes back to its world's pool."""
        self._closed = True
        if self._connection is not None:
            if self._limited:
                self._connection.invalidate()  # to lift the limit may need a lock that another process holds
            self._connection.close()
            self._connection = None

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while not self._queue.empty():
                await asyncio.sleep(self._delays.draw())
                items, _ = self._gather(self._queue.get_nowait())
                self._connection = self._commit(self._connection, items)
                await asyncio.sleep(self._delays.draw())
                self._settle(items)

    def _transaction(self, connection: Connection, items: list[Any]) -> None:
        if self._disk.full or self._limited:
            full = self._disk.full
            self._limit(connection, 1 if full else NO_LIMIT)  # SQLite makes of 1 the size that the file has
            self._limited = full  # only now: while another process holds the lock the limit stays as it was
        super()._transaction(connection, items)

    @staticmethod
    def _limit(connection: Connection, pages: int) -> None:
        connection.rollback()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").close()
        connection.rollback()  # the pragma began a transaction of its own


class SimReader:
    """Reads on a connection of its own, which sees committed rows only."""

    def __init__(self, engine: Engine, disk: Disk, delays: Delays) -> None:
        self._engine = engine
        self._disk = disk
        self._delays = delays
        self._connection: Connection | None = None

    async def read(self, query: Callable[[Connection], T]) -> T:
        """See `Reader.read`."""
        await asyncio.sleep(self._delays.draw())
        if self._disk.broken:
            raise StorageUnavailable("the database could not be read: disk I/O error (simulated)")
        if self._connection is None:
            self._connection = self._engine.connect()
        found = read_on(self._connection, query)
        await asyncio.sleep(self._delays.draw())
        return found

    def stop(self) -> None:
        """The connection goes back to its world's pool."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@lru_cache(maxsize=8)
def _writing(path: Path) -> Engine:
    """The engine of a path, for all worlds that use it one after another: what it has compiled is kept."""
    return writer_engine(sqlite_url(path), busy_timeout_ms=0, synchronous="OFF")


@lru_cache(maxsize=8)
def _reading(path: Path) -> Engine:
    return reader_engine(sqlite_url(path), busy_timeout_ms=0, connections=1)


class File:
    """The database file of a world, which may move on to a copy as a crash left it.

    Connections are pooled for all lives of its processes: opening one costs as much as a hundred steps.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._connection: Connection | None = None

    @property
    def path(self) -> Path:
        """Where it is now."""
        return self._folder / f"{self._number}.db"

    def write_engine(self) -> Engine:
        """For a writer. A locked database is found at once: waiting for it is the simulation's matter."""
        return _writing(self.path)

    def read_engine(self) -> Engine:
        """For a reader."""
        return _reading(self.path)

    def read(self, query: Callable[[Connection], T]) -> T:
        """What is committed, for whoever looks from outside."""
        if self._connection is None:
            self._connection = self.read_engine().connect()
        return read_on(self._connection, query)

    def close(self) -> None:
        """Close every connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.write_engine().dispose()
        self.read_engine().dispose()

    def crash(self) -> None:
        """Go on with a copy of database and log, made while nobody had closed them."""
        before = self.path
        copy = self._folder / f"{self._number + 1}.db"
        shutil.copyfile(before, copy)
        log = before.with_name(f"{before.name}-wal")
        if log.exists():
            shutil.copyfile(log, copy.with_name(f"{copy.name}-wal"))
        self.close()
        self._number += 1


class Locker:
    """Another process that holds the write lock for a while."""

    def __init__(self, file: File) -> None:
        self._engine = file.write_engine()
        self._connection: Connection | None = None

    def take(self) -> None:
        """Hold the lock."""
        self._connection = self._engine.connect()
        self._connection.begin()

    def release(self) -> None:
        """Let go."""
        if self._connection is not None:
            self._connection.rollback()
            self._connection.close()
            self._connection = None
