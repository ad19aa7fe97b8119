"""Changes of the schema of books that hold trades: proven before, backed up, changed, proven after.

`fillbook db upgrade | downgrade` and the start of the daemon go through here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from portfolio import verify as proofs
from runtime import backups, database
from runtime.database import SCHEMA_REVISION
from runtime.errors import NotProven, Unreachable, WouldLose

_MIGRATIONS = Path(__file__).parent / "migrations" / "versions"

REVISIONS = ("base", *sorted(path.name[:4] for path in _MIGRATIONS.glob("[0-9]*.py")))
"""All revisions, oldest first: each file's name begins with its revision."""


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to a schema; `backup` is None when none was needed or wanted."""

    before: str | None
    after: str | None
    backup: Path | None


def current(file: Path) -> str | None:
    """The revision of a database; None when there is none."""
    if not file.is_file() or not file.stat().st_size:
        return None
    engine = database.reader_engine(database.sqlite_url(file))
    try:
        return database.read(engine, database.revision)
    finally:
        engine.dispose()


def upgrade(
    file: Path, folder: Path, now: datetime, *, backup: bool = True, stopped: Callable[[], bool] = lambda: False
) -> Change:
    """Bring books to the newest schema. Raises NotProven, BackupFailed, DatabaseTooNew, Unreachable.

    Once `stopped` says so it ends with Unreachable; the books are as before, or changed but not yet proven.
    """
    return _change(file, folder, now, database.upgrade, SCHEMA_REVISION, backup=backup, stopped=stopped)


def downgrade(file: Path, folder: Path, now: datetime, target: str, *, backup: bool = True) -> Change:
    """Take books back to an older schema. Raises as `upgrade`, and WouldLose, naming the backup."""
    return _change(file, folder, now, lambda engine: database.downgrade(engine, target), target, backup=backup)


def _change(
    file: Path,
    folder: Path,
    now: datetime,
    work: Callable[[Engine], object],
    target: str,
    *,
    backup: bool,
    stopped: Callable[[], bool] = lambda: False,
) -> Change:
    before = current(file)
    if before == target:
        return Change(before, before, None)
    file.parent.mkdir(parents=True, exist_ok=True)
    engine = database.writer_engine(database.sqlite_url(file))
    database.interrupt_when(engine, stopped)
    copy: Path | None = None
    try:
        holds_trades = database.read(engine, database.holds_trades)
        if before is not None and holds_trades:
            if before not in REVISIONS:
                raise database.DatabaseTooNew(
                    f"the database has schema revision {before}, which this version of Fillbook does not know"
                )
            _prove(engine, before, "nothing was changed")
            if backup:
                copy = backups.make(file, folder, before, now)
        try:
            work(engine)
        except WouldLose as error:
            raise WouldLose(f"{error}; nothing was changed. {_where(copy)}") from error
        after = database.read(engine, database.revision)
        if after is not None and holds_trades:
            _prove(engine, after, _restore(file, copy))
        return Change(before, after, copy)
    except DBAPIError as error:
        raise Unreachable(f"the database {file} cannot be changed: {error.orig}. {_where(copy)}") from error
    finally:
        engine.dispose()


def _where(copy: Path | None) -> str:
    return "No backup was made" if copy is None else f"The backup is {copy}"


def _restore(file: Path, copy: Path | None) -> str:
    if copy is None:
        return "the schema was changed, and no backup was made (--no-backup)"
    return f"the schema was changed; go back with: rm -f {file}-wal {file}-shm && cp {copy} {file}"


def _prove(engine: Engine, revision: str, advice: str) -> None:
    """Raises NotProven."""
    failed = database.read(engine, _failures)
    if failed:
        raise NotProven(f"the books do not pass their checks at schema revision {revision}: {failed[0]}; {advice}")


def _failures(connection: Connection) -> list[str]:
    results = proofs.verify(connection)
    return [f"{result.name}: {'; '.join(result.problems[:3])}" for result in results if not result.ok]
