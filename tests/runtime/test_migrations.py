"""The schema up and down: facts stay, guards stay, what cannot be brought back is not lost."""

import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from execution import ledger, sqlite_decimals
from execution.ledger import NewCashFlow, NewTrade
from execution.model import Account, CashFlowKind, Side, Source, trade_cash_effect
from portfolio.views import VIEWS
from runtime import backups, database, schema
from runtime.database import SCHEMA_REVISION, SchemaOutdated
from runtime.errors import NotProven, WouldLose
from tests.runtime import revisions

NOW = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
D = Decimal
CACHES = {"fifo_allocations", "fifo_inventory_snapshots", "fifo_computation_log", "risk_marks", "ledger_totals"}
ROOT = Path(__file__).resolve().parents[2]


class Books:
    """A database file with a deposit and two trades."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "fillbook.db"
        self.backups = folder / "backups"
        engine = database.open_database(database.sqlite_url(self.file))
        with engine.connect() as connection, connection.begin():
            database.seed_catalogue(connection)
            opening = NewCashFlow("main", CashFlowKind.DEPOSIT, D(10_000), "USD", NOW, "manual", "opening")
            database.ensure_account(connection, Account("main"), opening, NOW)
            tail = ledger.LedgerTail()
            for number, (side, quantity) in enumerate([(Side.BUY, D(1)), (Side.SELL, D("0.5"))]):
                cash = trade_cash_effect(side, quantity, D(100), D(0))
                trade = NewTrade(
                    f"t{number}", "main", "BTC-USD", side, quantity, D(100), NOW, D(0), "USD", cash, "paper",
                    Source.EXCHANGE, "manual", venue_trade_id=str(number), venue_sequence=number,
                )  # fmt: skip
                tail.append_trade(connection, trade, NOW)
            tail.before_commit(connection)
        engine.dispose()

    def sql(self, statement: str) -> list[Any]:
        """A statement on a connection of its own."""
        with closing(sqlite3.connect(self.file)) as connection:
            sqlite_decimals.register(connection)
            found = connection.execute(statement).fetchall()
            connection.commit()
            return found

    def kind(self, name: str) -> str | None:
        """Whether a name is a table or a view."""
        found = self.sql(f"SELECT type FROM sqlite_master WHERE name = '{name}'")
        return found[0][0] if found else None

    @property
    def facts(self) -> list[Any]:
        """All facts with their hashes, and the head."""
        return [self.sql(f"SELECT * FROM {table} ORDER BY 1") for table in ("trades", "cash_flows", "ledger_head")]

    @property
    def objects(self) -> list[Any]:
        """Every object of the schema, however its text is laid out."""
        rows = self.sql("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2")
        return [(kind, name, " ".join((sql or "").split())) for kind, name, sql in rows]

    def down(self, target: str) -> schema.Change:
        return schema.downgrade(self.file, self.backups, NOW, target)

    def up(self) -> schema.Change:
        return schema.upgrade(self.file, self.backups, NOW)


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return Books(tmp_path)


@pytest.fixture
def engine(books: Books) -> Iterator[Engine]:
    engine = database.writer_engine(database.sqlite_url(books.file))
    yield engine
    engine.dispose()


def shell(file: Path, statement: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["sqlite3", str(file), statement], capture_output=True, text=True, check=False)


def test_the_revisions_that_can_be_asked_for_are_those_that_exist() -> None:
    assert list(schema.REVISIONS) == ["base", *revisions.all_revisions()]


def test_facts_and_guards_are_the_same_after_each_step_down_and_up(books: Books) -> None:
    facts, wanted = books.facts, books.objects
    for target in ("0004", "0003", "0002", "0001"):
        change = books.down(target)
        assert (change.after, books.facts) == (target, facts)
        _guarded(books)
    change = books.up()
    assert (change.before, change.after) == ("0001", SCHEMA_REVISION)
    assert books.facts == facts
    assert books.objects == wanted
    _guarded(books)


def _guarded(books: Books) -> None:
    """In the plain shell, no fact can be changed."""
    before = books.facts
    columns = ", ".join(row[1] for row in books.sql("PRAGMA table_info(trades)"))
    for statement in (
        "UPDATE trades SET price = '1' WHERE id = 't0'",
        "DELETE FROM trades",
        f"REPLACE INTO trades SELECT {columns} FROM trades WHERE id = 't0'",
        "UPDATE cash_flows SET amount = '1'",
        "DELETE FROM cash_flows",
        "REPLACE INTO cash_flows SELECT * FROM cash_flows",
        "DELETE FROM ledger_head",
    ):
        refused = shell(books.file, statement)
        assert refused.returncode != 0, statement
        assert "facts" in refused.stderr or "ledger" in refused.stderr, refused.stderr
    assert books.facts == before


def test_below_the_views_a_table_holds_what_was_calculated_and_above_it_is_a_view_again(books: Books) -> None:
    calculated = books.sql("SELECT * FROM paper_bankroll")
    assert calculated[0][:2] == ("main", "9950")
    books.down("0003")
    assert books.kind("paper_bankroll") == "table"
    assert books.sql("SELECT * FROM paper_bankroll") == [row[:7] for row in calculated]  # it had no `incomplete` then
    assert all(books.kind(name) is None for name in VIEWS if name != "paper_bankroll")
    books.up()
    assert {books.kind(name) for name in VIEWS} == {"view"}
    assert books.sql("SELECT * FROM paper_bankroll") == calculated


def test_the_backup_holds_the_facts_and_is_named_for_its_revision(books: Books) -> None:
    facts = books.facts
    change = books.down("0003")
    assert change.backup == books.backups / f"fillbook-{SCHEMA_REVISION}-20260101T123000Z.db"
    with closing(sqlite3.connect(change.backup)) as copy:
        assert copy.execute("SELECT * FROM trades ORDER BY 1").fetchall() == facts[0]
        assert copy.execute("SELECT version_num FROM alembic_version").fetchall() == [(SCHEMA_REVISION,)]
    assert [path.name for path in books.backups.iterdir()] == [change.backup.name]


def test_books_without_trades_need_no_backup(tmp_path: Path) -> None:
    file = tmp_path / "empty.db"
    database.open_database(database.sqlite_url(file)).dispose()
    assert schema.downgrade(file, tmp_path / "backups", NOW, "0002").backup is None
    assert schema.upgrade(file, tmp_path / "backups", NOW).after == SCHEMA_REVISION
    assert schema.downgrade(file, tmp_path / "backups", NOW, "base").after is None
    with closing(sqlite3.connect(file)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
    assert names == [("alembic_version",)]


@pytest.mark.parametrize(
    "decision",
    [
        "INSERT INTO lot_selections VALUES ('t1', 1, 't0', '0.5', 'ann', '2026-01-01T00:00:00.000000Z')",
        "INSERT INTO review_queue VALUES ('r1', 'unmatched_sell', 'main', 'BTC-USD', 't1', '1', 'x', 'resolved',"
        " '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z', 'ann', 'a gift')",
    ],
)
def test_what_people_decided_is_not_lost_and_the_refusal_names_the_backup(books: Books, decision: str) -> None:
    books.sql(decision)
    before = books.objects
    with pytest.raises(WouldLose, match=r"nothing was changed\. The backup is .*fillbook-"):
        books.down("0002")
    assert books.objects == before


def test_facts_are_never_dropped(books: Books) -> None:
    facts = books.facts
    with pytest.raises(WouldLose, match="the ledger holds 3 facts; nothing was changed"):
        books.down("base")
    assert books.facts == facts
    assert schema.current(books.file) == SCHEMA_REVISION


def test_books_that_fail_their_checks_are_not_touched(books: Books) -> None:
    books.down("0003")
    guard = books.sql("SELECT sql FROM sqlite_master WHERE name = 'trades_refuse_update'")[0][0]
    books.sql("DROP TRIGGER trades_refuse_update")
    books.sql("UPDATE trades SET price = '101' WHERE id = 't0'")
    books.sql(guard)
    with pytest.raises(NotProven, match="nothing was changed"):
        books.up()
    assert schema.current(books.file) == "0003"


def test_a_damaged_copy_is_no_backup(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = backups._figures
    monkeypatch.setattr(
        backups, "_figures", lambda connection: figures(connection) | {"rows of trades": id(connection)}
    )
    with pytest.raises(backups.BackupFailed, match="is not the original: rows of trades; nothing was changed"):
        books.down("0003")
    assert list(books.backups.iterdir()) == []
    assert schema.current(books.file) == SCHEMA_REVISION


def test_nothing_but_the_upgrade_itself_upgrades_books_that_hold_trades(books: Books) -> None:
    books.down("0003")
    with pytest.raises(SchemaOutdated, match="fillbook db upgrade"):
        database.open_database(database.sqlite_url(books.file))
    assert schema.current(books.file) == "0003"


def test_a_change_that_fails_half_way_leaves_everything_as_it_was(books: Books) -> None:
    books.sql("CREATE VIEW of_mine AS SELECT * FROM fifo_pointers")
    books.sql("DROP INDEX ix_trades_corrects")  # the step to 0002 fails at the very end
    before = books.objects
    with pytest.raises(Exception, match="ix_trades_corrects"):
        books.down("0002")
    assert books.objects == before


# ---- nothing calculated is stored -----------------------------------------------------------------------

_CALCULATED = re.compile(
    r"balance|bankroll|equity|position|pnl|profit|cost_basis|proceeds|average|market_value|roi\b"
)
_WRITES = re.compile(r"(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|REPLACE\s+INTO|UPDATE|DELETE\s+FROM)\s+(\w+)", re.IGNORECASE)


def test_no_table_but_the_named_caches_stores_a_balance_a_position_or_a_profit(books: Books) -> None:
    found = set()
    for (table,) in books.sql("SELECT name FROM sqlite_master WHERE type = 'table'"):
        for row in books.sql(f"PRAGMA table_info({table})"):
            if _CALCULATED.search(row[1]) or _CALCULATED.search(table):
                found.add((table, row[1]))
    # The place of a lot in a person's selection; no position in an asset.
    found.discard(("lot_selections", "position"))
    assert {table for table, _ in found} <= CACHES
    assert {"fifo_allocations", "risk_marks"} <= {table for table, _ in found}


def test_no_code_writes_a_balance() -> None:
    views = set(VIEWS)
    for package in ("config", "execution", "signals", "portfolio", "runtime"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name == "0004_views.py":
                continue  # its downgrade leaves a table
            named = set(_WRITES.findall(path.read_text(encoding="utf-8")))
            assert not named & views, path
    assert _WRITES.findall("update positions set x = 1") == ["positions"]


def test_the_database_refuses_to_write_a_view(books: Books) -> None:
    for statement in ("UPDATE paper_bankroll SET balance = '1'", "DELETE FROM positions"):
        refused = shell(books.file, statement)
        assert "because it is a view" in refused.stderr
