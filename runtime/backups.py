"""Backups of the books: a copy by SQLite's own backup, proven equal before anybody relies on it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from runtime.errors import RuntimeFault


class BackupFailed(RuntimeFault):
    """The copy could not be written, or is not what was copied."""


def folder_of(data_dir: Path) -> Path:
    """Where backups lie."""
    return data_dir / "backups"


def make(database: Path, folder: Path, revision: str, now: datetime) -> Path:
    """Copy a database and verify the copy: sound pages, the same head of the ledger, as many rows in each table.

    A writer beside us does not disturb it: all of it is read in one transaction. Raises BackupFailed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = _free_name(folder, f"{database.stem}-{revision}-{now:%Y%m%dT%H%M%SZ}")
    unfinished = wanted.with_suffix(".part")
    try:
        with _transaction(database) as source:
            with closing(sqlite3.connect(unfinished)) as copy:
                source.backup(copy)
            expected = _figures(source)
        _check(unfinished, expected)
        os.replace(unfinished, wanted)
    except (sqlite3.Error, OSError) as error:
        raise BackupFailed(f"the backup of {database} to {wanted} failed: {error}; nothing was changed") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return wanted


def _free_name(folder: Path, name: str) -> Path:
    candidate, number = folder / f"{name}.db", 2
    while candidate.exists():
        candidate, number = folder / f"{name}-{number}.db", number + 1
    return candidate


@contextmanager
def _transaction(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that sees one state."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        yield connection


def _figures(connection: sqlite3.Connection) -> dict[str, object]:
    """What a copy must have in common: the head of the ledger and the number of rows of each table."""
    figures: dict[str, object] = {
        "head of the ledger": connection.execute("SELECT sequence, hash FROM ledger_head").fetchall()
    }
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    for (name,) in tables:
        figures[f"rows of {name}"] = connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
    return figures


def _check(copy: Path, expected: dict[str, object]) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        # The whole file was read for the copy; here each page is looked at once more, as it lies on the disk.
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise BackupFailed(f"the backup {copy} is damaged: {found}; nothing was changed")
        for name, value in _figures(connection).items():
            if value != expected.get(name):
                raise BackupFailed(f"the backup {copy} is not the original: {name}; nothing was changed")
