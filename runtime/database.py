"""Engines, schema and readers: the one place that knows which database is behind the ledger."""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from config.instruments import BUILT_IN
from execution import ledger, raw, sqlite_decimals, tables
from execution.errors import StorageUnavailable
from execution.model import Account
from runtime.errors import RuntimeFault, Unreachable

T = TypeVar("T")

SCHEMA_REVISION = "0009"
"""The newest revision in runtime/migrations; a test compares the two."""


class DatabaseTooNew(RuntimeFault):
    """The database was written by a newer version of Fillbook."""


class SchemaOutdated(RuntimeFault):
    """The database holds trades under an older schema, and nobody has made a backup."""


_POOL_LOGGERS = [logging.getLogger(f"sqlalchemy.pool.impl.{kind}") for kind in ("QueuePool", "StaticPool")]


def _is_no_ctrl_c(record: logging.LogRecord) -> bool:
    """A Ctrl-C while a connection is closed is no error of it; it is raised on."""
    return record.exc_info is None or not isinstance(record.exc_info[1], KeyboardInterrupt)


def _prepare_sqlite(engine: Engine, *, begin: str, busy_timeout_ms: int, synchronous: str) -> None:
    """Pragmas and decimal functions on each connection; transactions begin as we say, not as the driver guesses."""
    for logger in _POOL_LOGGERS:
        logger.addFilter(_is_no_ctrl_c)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, record: Any) -> None:
        record.info[raw.BEGIN] = begin
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout={busy_timeout_ms}",
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "foreign_keys=ON",
            "cache_size=-65536",
        ):
            connection.execute(f"PRAGMA {pragma}").close()
        sqlite_decimals.register(connection)

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # Straight to the driver: SQLAlchemy's way costs more than the statement.
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        if driver.in_transaction:
            return  # of raw.Transaction
        try:
            driver.execute(begin).close()
        except sqlite3.Error as error:
            raise DBAPIError.instance(begin, None, error, sqlite3.Error) from error


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy address of a database file."""
    return f"sqlite:///{path}"


def sqlite_path(url: str) -> Path | None:
    """The file behind an SQLite address; None for a database in memory."""
    path = url.removeprefix("sqlite:///")
    return None if path in (url, ":memory:", "") else Path(path)


def writer_engine(url: str, *, busy_timeout_ms: int = 5000, synchronous: str = "FULL") -> Engine:
    """The engine of the one writer: BEGIN IMMEDIATE, so that a transaction never fails half way for a lock."""
    engine = create_engine(url, connect_args={"check_same_thread": False})
    _prepare_sqlite(engine, begin="BEGIN IMMEDIATE", busy_timeout_ms=busy_timeout_ms, synchronous=synchronous)
    return engine


_STEPS_BETWEEN_LOOKS = 10_000
"""Instructions of SQLite's machine: some tenths of a millisecond."""


def interrupt_when(engine: Engine, stopped: Callable[[], bool]) -> None:
    """Let whatever the engine's connections do fail, and be undone, once `stopped` says so; for long work.

    It is asked from the thread that works.
    """

    @event.listens_for(engine, "connect")
    def _ask(connection: Any, _record: Any) -> None:
        connection.set_progress_handler(stopped, _STEPS_BETWEEN_LOOKS)


def reader_engine(url: str, *, busy_timeout_ms: int = 5000, connections: int = 2) -> Engine:
    """The engine of readers: each read is one transaction, so that a report sees one state."""
    engine = create_engine(url, connect_args={"check_same_thread": False}, pool_size=connections)
    _prepare_sqlite(engine, begin="BEGIN", busy_timeout_ms=busy_timeout_ms, synchronous="FULL")
    return engine


def memory_engine() -> Engine:
    """A database that lives as long as the engine: replay without --db."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    _prepare_sqlite(engine, begin="BEGIN", busy_timeout_ms=0, synchronous="OFF")
    return engine


class ThreadReader:
    """Consistent reads in a few threads, each read on a connection of its own."""

    def __init__(self, engine: Engine, threads: int = 2) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="fillbook-reader")
        self._reading: set[Any] = set()

    def read(self, query: Callable[[Connection], T]) -> Awaitable[T]:
        """See `Reader.read`."""
        return asyncio.get_running_loop().run_in_executor(self._threads, self._run, query)

    def _run(self, query: Callable[[Connection], T]) -> T:
        def watched(connection: Connection) -> T:
            driver = connection.connection.driver_connection
            self._reading.add(driver)
            try:
                return query(connection)
            finally:
                self._reading.discard(driver)

        return read(self._engine, watched)

    async def abandon(self) -> None:
        """End what is being read: it raises StorageUnavailable, at its next step through rows. No more is read."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while self._reading:
            for driver in tuple(self._reading):
                driver.interrupt()  # of no effect on a statement that is about to begin: until it is over
            await asyncio.sleep(0.02)

    def stop(self) -> None:
        """Finish what is under way."""
        self._threads.shutdown()
        self._engine.dispose()


def read(engine: Engine, query: Callable[[Connection], T]) -> T:
    """Run `query` in one read transaction. Raises StorageUnavailable."""
    try:
        with engine.connect() as connection:
            return read_on(connection, query)
    except DBAPIError as error:
        raise _unreadable(error) from error


def read_on(connection: Connection, query: Callable[[Connection], T]) -> T:
    """`read` on a connection that is open already."""
    try:
        with raw.Transaction(connection):
            return query(connection)
    except DBAPIError as error:
        raise _unreadable(error) from error


def _unreadable(error: DBAPIError) -> StorageUnavailable:
    return StorageUnavailable(f"the database could not be read: {error.orig}")


def revision(connection: Connection) -> str | None:
    """The schema revision of a database; None when it is empty."""
    sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
    if connection.execute(text(sql)).first() is None:
        return None
    row = connection.execute(text("SELECT version_num FROM alembic_version")).first()
    return None if row is None else str(row[0])


def upgrade(engine: Engine) -> bool:
    """Bring the schema to the newest revision; True when something was done. Makes no backup: `runtime.schema` does.

    Raises DatabaseTooNew when the database has a revision that this version does not know.
    """
    with engine.connect() as connection, connection.begin():
        found = revision(connection)
    if found == SCHEMA_REVISION:
        return False
    _migrate(engine, found, lambda command, config: command.upgrade(config, "head"))
    return True


def downgrade(engine: Engine, target: str) -> None:
    """Take the schema back to an older revision ("base": to nothing), in one transaction. Makes no backup.

    Raises WouldLose, with nothing changed, when something would go that cannot be calculated again, and
    DatabaseTooNew.
    """
    with engine.connect() as connection, connection.begin():
        found = revision(connection)
    _migrate(engine, found, lambda command, config: command.downgrade(config, target))


def _migrate(engine: Engine, found: str | None, run: Callable[[Any, Any], None]) -> None:
    # Imported here: Alembic costs 0.2 s, and a database that is up to date never needs it.
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    try:
        with engine.connect() as connection, connection.begin():
            config.attributes["connection"] = connection
            run(command, config)
    except CommandError as error:
        raise DatabaseTooNew(
            f"the database has schema revision {found}, which this version of Fillbook does not know: {error}"
        ) from error


def holds_trades(connection: Connection) -> bool:
    """Whether there is a trade, so that a change of the schema needs a backup first."""
    if revision(connection) is None:
        return False
    return connection.execute(text("SELECT 1 FROM trades LIMIT 1")).first() is not None


def _upgrade_unless_it_needs_a_backup(engine: Engine, url: str) -> None:
    with engine.connect() as connection, connection.begin():
        found = revision(connection)
        if found not in (None, SCHEMA_REVISION) and found < SCHEMA_REVISION and holds_trades(connection):
            raise SchemaOutdated(
                f"the database {url} holds trades and has schema revision {found}, this version of fillbook has "
                f"{SCHEMA_REVISION}: run `fillbook db upgrade`, which makes a backup first (so does `fillbook run`)"
            )
    upgrade(engine)


def open_database(url: str, *, busy_timeout_ms: int = 5000, synchronous: str = "FULL") -> Engine:
    """The writer's engine of a database whose schema is the newest; an older one is upgraded.

    Raises Unreachable, and SchemaOutdated when there are trades, so that a backup is needed first.
    """
    path = sqlite_path(url)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    engine = writer_engine(url, busy_timeout_ms=busy_timeout_ms, synchronous=synchronous)
    try:
        _upgrade_unless_it_needs_a_backup(engine, url)
    except DBAPIError as error:
        hint = "" if path is None else why_not_opened(path, error.orig)
        raise Unreachable(f"the database {url} cannot be opened: {error.orig}{hint}") from error
    return engine


def why_not_opened(file: Path, error: BaseException | None) -> str:
    """What a person should know of "unable to open database file", or nothing: SQLite does not tell the reason."""
    if "unable to open" not in str(error) or os.access(file.parent, os.W_OK):
        return ""
    return f" ({file.parent} cannot be written, and SQLite needs that for reading too: copy the books elsewhere)"


def seed_catalogue(connection: Connection) -> None:
    """Give a new database its head row and the built-in instruments."""
    if raw.execute(connection, "SELECT 1 FROM ledger_head").fetchone() is None:
        raw.execute(
            connection, "INSERT INTO ledger_head (id, sequence, hash) VALUES (1, 0, ?)", (tables.GENESIS_HASH,)
        )
        for instrument in BUILT_IN:
            ledger.add_instrument(connection, instrument)


def ensure_account(
    connection: Connection, account: Account, opening: ledger.NewCashFlow | None, now: datetime
) -> bool:
    """Create the account with its opening deposit unless it exists; True when it was created."""
    if account.name in ledger.accounts(connection):
        return False
    ledger.add_account(connection, account, now)
    if opening is not None:
        tail = ledger.LedgerTail()
        tail.append_flow(connection, opening, now)
        tail.before_commit(connection)
    return True
