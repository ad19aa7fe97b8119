"""Books of each older revision, with facts of every kind, brought to the newest and back."""

import hashlib
import shutil
import subprocess
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Connection, Engine, event

from portfolio import verify as proofs
from portfolio.views import VIEWS
from runtime import database, schema
from runtime.database import SCHEMA_REVISION
from runtime.errors import NotProven
from tests.runtime import full_books, revisions
from tests.runtime.full_books import FOREIGN_KEY_UNTIL

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ALL = revisions.all_revisions()
OLDER = ALL[:-1]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Books at the newest revision; False: without order ids that older revisions cannot hold."""
    folder = tmp_path_factory.mktemp("full")
    made = {foreign: folder / f"{foreign}.db" for foreign in (True, False)}
    for foreign, file in made.items():
        full_books.make(file, foreign_orders=foreign)
    return made


def _at(revision: str, folder: Path, full: dict[bool, Path]) -> tuple[Path, Path]:
    """Books at a revision, and what they were made from."""
    source = full[revision > FOREIGN_KEY_UNTIL]
    file = folder / "fillbook.db"
    full_books.make_at(revision, file, source)
    return file, source


def test_the_full_books_have_rows_in_every_table_and_every_view(full: dict[bool, Path]) -> None:
    for kind in ("table", "view"):
        assert [name for name, found in revisions.rows(full[True], kind).items() if not found] == []


@pytest.mark.parametrize("revision", OLDER)
def test_books_of_an_older_revision_become_what_new_books_are(
    revision: str, tmp_path: Path, full: dict[bool, Path]
) -> None:
    file, source = _at(revision, tmp_path, full)
    before = revisions.rows(file)
    change = schema.upgrade(file, tmp_path / "backups", NOW)
    assert (change.before, change.after) == (revision, SCHEMA_REVISION)
    assert revisions.objects(file) == revisions.objects(source)
    after = revisions.rows(file)
    for table in before.keys() & after.keys() - {"alembic_version"}:
        assert after[table] == before[table], table
    if revision < "0003":
        full_books.store_allocations(file)
    assert revisions.rows(file, "view") == revisions.rows(source, "view")


@pytest.mark.parametrize("revision", OLDER)
def test_going_down_makes_the_schema_of_that_revision_and_keeps_the_facts(
    revision: str, tmp_path: Path, full: dict[bool, Path]
) -> None:
    file = tmp_path / "fillbook.db"
    shutil.copy(full[revision > FOREIGN_KEY_UNTIL], file)
    full_books.run(file, full_books.FORGET_DECISIONS)
    facts = revisions.rows(file)
    schema.downgrade(file, tmp_path / "backups", NOW, revision)
    revisions.make(tmp_path / "fresh.db", revision)
    left = {item for item in _unquoted(file) if item[:2] != ("table", "paper_bankroll")}  # in the place of the view
    assert left == _unquoted(tmp_path / "fresh.db")
    kept = revisions.rows(file)
    for table in ("trades", "cash_flows", "ledger_head", "orders", "inbox", "accounts", "instruments", "candles"):
        assert kept[table] == facts[table], table


def _unquoted(file: Path) -> set[tuple[str, str, str]]:
    """The schema, without the quotes that a renaming puts around a name and without what SQLite makes by itself."""
    made = [item for item in revisions.objects(file) if not item[1].startswith("sqlite_")]
    return {(kind, name, (sql or "").replace('"trades"', "trades")) for kind, name, sql in made}


def test_views_that_older_code_made_at_an_older_revision_are_replaced(tmp_path: Path, full: dict[bool, Path]) -> None:
    file, source = _at("0006", tmp_path, full)
    with revisions.plain(file) as connection:
        for view in VIEWS:
            connection.execute(f"DROP VIEW {view}")
            connection.execute(f"CREATE VIEW {view} AS SELECT 1 AS account")
    schema.upgrade(file, tmp_path / "backups", NOW)
    assert revisions.objects(file) == revisions.objects(source)


# ---- what each revision makes is fixed -----------------------------------------------------------------

_MADE = {
    "0001": "1ebb78d6955c33e4",
    "0002": "7cfc77d058b9c526",
    "0003": "a1266aa741ba415f",
    "0004": "1b0452f4d6a93789",
    "0005": "28da80020be7a802",
    "0006": "0e4d5d0f7f640859",
    "0007": "533fdbe56b6aff74",
    "0008": "ec37de3d9cd2c5f2",
    "0009": "71022559cdb8d60f",
}
"""The digest of the schema that each revision leaves. A revision that anybody's books may be at is never changed:
a difference here is an error in the change, not in the digest."""


@pytest.mark.parametrize("revision", ALL)
def test_what_a_revision_makes_is_as_it_always_was(revision: str, tmp_path: Path) -> None:
    file = tmp_path / "fillbook.db"
    revisions.make(file, revision)
    assert hashlib.sha256(repr(revisions.objects(file)).encode()).hexdigest()[:16] == _MADE[revision]


# ---- all or nothing, proven before and after -----------------------------------------------------------


class _Failed(Exception):
    """Raised in the middle of a change of the schema."""


def _dump(file: Path) -> list[str]:
    with revisions.plain(file) as connection:
        return list(connection.iterdump())


@pytest.fixture(params=["up", "down"])
def change(request: pytest.FixtureRequest, tmp_path: Path, full: dict[bool, Path]) -> tuple[Path, str]:
    """Books that can go all the way up or down, and where to."""
    file = tmp_path / "fillbook.db"
    if request.param == "up":
        full_books.make_at("0001", file, full[False])
        return file, "head"
    shutil.copy(full[False], file)
    full_books.run(file, full_books.FORGET_DECISIONS)
    return file, "0001"


class _Fault:
    """Fails at one of the statements that change something."""

    def __init__(self, engine: Engine) -> None:
        self.at = 0
        self.seen = 0
        event.listen(engine, "before_cursor_execute", self._on_statement)

    def _on_statement(self, _connection: Connection, _cursor: object, statement: str, *_more: object) -> None:
        self.seen += statement.split()[0] in ("CREATE", "DROP", "ALTER", "INSERT", "UPDATE", "DELETE")
        if self.seen == self.at:
            raise _Failed


def test_a_change_that_fails_at_whichever_statement_leaves_the_books_as_they_were(change: tuple[Path, str]) -> None:
    file, target = change
    before = _dump(file)
    engine = database.writer_engine(database.sqlite_url(file), synchronous="OFF")
    fault = _Fault(engine)
    for fault.at in count(1, 5):
        fault.seen = 0
        try:
            revisions.go(engine, target, up=target == "head")
        except _Failed:
            assert _dump(file) == before, fault.at
        else:
            break  # there are fewer statements
    engine.dispose()
    assert fault.at > 40


def test_books_are_proven_before_and_after_a_change(
    tmp_path: Path, full: dict[bool, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = _at("0003", tmp_path, full)
    proven = []

    def verify(connection: Connection) -> list[proofs.CheckResult]:
        proven.append(database.revision(connection))
        return proofs.verify(connection)

    monkeypatch.setattr(schema, "proofs", SimpleNamespace(verify=verify))
    schema.upgrade(file, tmp_path / "backups", NOW)
    schema.downgrade(file, tmp_path / "backups", NOW, "0004")
    assert proven == ["0003", SCHEMA_REVISION, SCHEMA_REVISION, "0004"]


def test_books_that_fail_their_checks_after_a_change_are_brought_back_by_what_the_message_says(
    tmp_path: Path, full: dict[bool, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = _at("0006", tmp_path, full)
    before = _dump(file)
    upgrade = database.upgrade

    def damage(engine: Engine) -> bool:
        done = upgrade(engine)
        with engine.connect() as connection, connection.begin():
            connection.exec_driver_sql("DROP TRIGGER trades_refuse_update")
        return done

    monkeypatch.setattr(database, "upgrade", damage)
    with pytest.raises(NotProven, match="the schema was changed; go back with: ") as failed:
        schema.upgrade(file, tmp_path / "backups", NOW)
    assert "trades_refuse_update is missing" in str(failed.value)
    assert schema.current(file) == SCHEMA_REVISION
    subprocess.run(str(failed.value).split("go back with: ")[1], shell=True, check=True)
    assert _dump(file) == before
