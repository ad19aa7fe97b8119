"""The database of a simulated process: a real SQLite file, written and read in virtual time.

A commit is one step and its answer is another, so that a kill can fall between them. What happens inside a
commit is the production writer's own code; only its thread is replaced.
"""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

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


class Young:
    """What the database of a world holds at its beginning."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._source = sqlite3.connect(":memory:")
        with TemporaryDirectory() as folder:
            path = Path(folder) / "young.db"
            path.write_bytes(content)
            with closing(sqlite3.connect(path)) as file:
                (self._schema,) = file.execute("PRAGMA schema_version").fetchone()
                file.backup(self._source)

    def restore(self, connection: sqlite3.Connection) -> None:
        """Make a file the same again, page by page, while nobody reads or writes it, but connections are open."""
        self._source.backup(connection)
        # A backup counts as a change of the schema, at which others prepare every statement anew; it is the same one.
        connection.execute(f"PRAGMA schema_version = {self._schema}").close()
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy, "somebody still reads the world before"


class Connections:
    """Those to one path, for all worlds that use it one after another: opening them, and preparing their statements
    again, would cost a world as much as hundreds of its steps."""

    _of: ClassVar[dict[Path, "Connections"]] = {}

    def __init__(self, path: Path) -> None:
        url = sqlite_url(path)
        self._path = path
        self._restoring: sqlite3.Connection | None = None
        self.writing = writer_engine(url, busy_timeout_ms=0, synchronous="OFF")
        self.reading = reader_engine(url, busy_timeout_ms=0, connections=2)

    @classmethod
    def of(cls, path: Path) -> "Connections":
        """Those that there are already, or new ones."""
        return cls._of.get(path) or cls._of.setdefault(path, cls(path))

    def begin(self, young: Young) -> None:
        """Let the file be as a world begins with it."""
        if not self._path.exists():
            self._path.write_bytes(young.content)
            return
        if self._restoring is None:
            self._restoring = sqlite3.connect(self._path, isolation_level=None, timeout=0)
            self._restoring.execute("PRAGMA synchronous = OFF").close()
        young.restore(self._restoring)

    def close(self) -> None:
        """Close every connection; others may be opened."""
        self.writing.dispose()
        self.reading.dispose()
        if self._restoring is not None:
            self._restoring.close()
            self._restoring = None

    @classmethod
    def close_all(cls) -> None:
        """Those to every path, before their folder goes."""
        for connections in cls._of.values():
            connections.close()
        cls._of.clear()


class File:
    """The database file of a world, which may move on to a copy as a crash left it.

    `young`: what it holds at the beginning, of a name that tells it from others in the folder.
    """

    def __init__(self, folder: Path, name: str = "books", young: Young | None = None) -> None:
        self._stem = folder / name
        self._number = 0
        self._connection: Connection | None = None
        if young is not None:
            Connections.of(self.path).begin(young)

    @property
    def path(self) -> Path:
        """Where it is now."""
        return self._stem.with_suffix(f".{self._number}.db")

    def write_engine(self) -> Engine:
        """For a writer. A locked database is found at once: waiting for it is the simulation's matter."""
        return Connections.of(self.path).writing

    def read_engine(self) -> Engine:
        """For a reader."""
        return Connections.of(self.path).reading

    def read(self, query: Callable[[Connection], T]) -> T:
        """What is committed, for whoever looks from outside."""
        if self._connection is None:
            self._connection = self.read_engine().connect()
        return read_on(self._connection, query)

    def close(self) -> None:
        """Let go of it; the connections to the first file stay open for the next world, a copy goes."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._number:
            Connections.of(self.path).close()
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def crash(self) -> None:
        """Go on with a copy of database and log, made while nobody had closed them."""
        copy = self._stem.with_suffix(f".{self._number + 1}.db")
        for suffix in ("", "-wal"):
            before = self.path.with_name(self.path.name + suffix)
            if before.exists():
                shutil.copyfile(before, copy.with_name(copy.name + suffix))
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
