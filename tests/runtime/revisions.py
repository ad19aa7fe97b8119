"""Databases at any revision of the schema, as the migrations make them."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from execution import sqlite_decimals
from runtime import database

Rows = dict[str, list[tuple[Any, ...]]]


def config() -> Config:
    """Alembic's, of our migrations."""
    made = Config()
    made.set_main_option("script_location", str(Path(database.__file__).with_name("migrations")))
    return made


def all_revisions() -> list[str]:
    """Every revision, oldest first."""
    known = [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()]
    return known[::-1]


def go(engine: Engine, revision: str, *, up: bool = True) -> None:
    """Take a database to a revision, in one transaction; up or down."""
    settings = config()
    with engine.connect() as connection, connection.begin():
        settings.attributes["connection"] = connection
        (command.upgrade if up else command.downgrade)(settings, revision)


def make(file: Path, revision: str) -> None:
    """A new database at a revision."""
    engine = database.writer_engine(database.sqlite_url(file), synchronous="OFF")
    go(engine, revision)
    engine.dispose()


@contextmanager
def plain(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection of Python's own, with the decimal functions; what is done is kept."""
    with closing(sqlite3.connect(file)) as connection:
        sqlite_decimals.register(connection)
        yield connection
        connection.commit()


def objects(file: Path) -> list[tuple[str, str, str | None]]:
    """Every object of the schema with its very text."""
    with plain(file) as connection:
        return connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()


def rows(file: Path, kind: str = "table") -> Rows:
    """What is in each table (or "view")."""
    with plain(file) as connection:
        names = [name for found, name, _ in objects(file) if found == kind and not name.startswith("sqlite_")]
        return {name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}
