"""Revision 0005: the table of trades made anew without the key on orders, and back."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from execution import raw
from runtime import database
from runtime.errors import RuntimeFault
from tests.runtime import revisions

_TRADE = (
    "INSERT INTO trades VALUES ({n}, 't{n}', 'main', 'BTC-USD', 'BUY', '1', '2', '2026-01-01T00:00:00.000000Z',"
    " '2026-01-01T00:00:00.000000Z', '0', 'USD', '-2', {order}, 'paper', '{n}', {n}, 'market', '{source}', 'manual',"
    " NULL, NULL, 'hash{n}')"
)
_ORDER = (
    "INSERT INTO orders VALUES ('o1', 'r1', 'c1', 'main', 'BTC-USD', 'BUY', 'market', 'IOC', 'filled', 'manual',"
    " '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z', NULL, '1', NULL, 0, NULL, NULL, NULL, NULL, NULL)"
)


def _go(engine: Engine, revision: str) -> None:
    revisions.go(engine, revision, up=revision == "0005")


def _do(engine: Engine, *statements: str) -> None:
    with engine.connect() as connection, connection.begin():
        for statement in statements:
            raw.execute(connection, statement)


def _all(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    return database.read(engine, lambda connection: [tuple(row) for row in raw.execute(connection, sql).fetchall()])


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    made = database.writer_engine(database.sqlite_url(tmp_path / "books.db"))
    revisions.go(made, "0004")
    with made.connect() as connection, connection.begin():
        database.seed_catalogue(connection)
    _do(
        made,
        "INSERT INTO accounts VALUES ('main', 'paper', 'spot', 'USD', 'paper', '2026-01-01T00:00:00.000000Z')",
        _ORDER,
        _TRADE.format(n=1, order="'o1'", source="exchange"),
        _TRADE.format(n=2, order="NULL", source="manual"),
    )
    return made


def test_the_rows_and_everything_around_them_are_as_before_and_back_again(engine: Engine) -> None:
    facts = "SELECT * FROM trades ORDER BY sequence"
    new = "name LIKE 'orders_refuse%' OR name LIKE '%foreign%'"
    around = f"SELECT type, name FROM sqlite_master WHERE NOT ({new}) ORDER BY name"
    before, beside = _all(engine, facts), _all(engine, around)
    for revision in ("0005", "0004", "0005"):
        _go(engine, revision)
        assert _all(engine, facts) == before
        assert _all(engine, around) == beside
        assert _all(engine, "PRAGMA foreign_key_check") == []
        assert _all(engine, "SELECT COUNT(*) FROM transactions") == [(2,)]
        with pytest.raises(DBAPIError, match="trades are facts"):
            _do(engine, "UPDATE trades SET fee = '1' WHERE sequence = 1")


def test_an_imported_trade_may_name_any_order_and_then_there_is_no_way_back(engine: Engine) -> None:
    _go(engine, "0005")
    _do(engine, _TRADE.format(n=3, order="'THEIRS'", source="import"))
    with pytest.raises(RuntimeFault, match="1 imported trades"):
        _go(engine, "0004")
    assert _all(engine, "SELECT order_id FROM trades WHERE sequence = 3") == [("THEIRS",)]


def test_a_fill_of_ours_still_names_an_order_of_its_account_and_keeps_it(engine: Engine) -> None:
    _go(engine, "0005")
    with pytest.raises(DBAPIError, match="a fill names an order of its account"):
        _do(engine, _TRADE.format(n=3, order="'none'", source="exchange"))
    with pytest.raises(DBAPIError, match="an order with fills is never deleted"):
        _do(engine, "DELETE FROM orders")
    with pytest.raises(DBAPIError, match="keeps its id"):
        _do(engine, "UPDATE orders SET id = 'o2'")


def test_the_guards_hold_in_a_plain_shell_as_well(engine: Engine, tmp_path: Path) -> None:
    _go(engine, "0005")
    shell = sqlite3.connect(tmp_path / "books.db")
    with pytest.raises(sqlite3.IntegrityError, match="this key exists already"):
        shell.execute("REPLACE INTO trades SELECT * FROM trades WHERE sequence = 1")
    shell.close()
