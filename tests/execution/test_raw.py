"""Rows go to the driver and come back as the same Python values."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Integer, LargeBinary, MetaData, Table, Text, create_engine
from sqlalchemy.exc import IntegrityError, OperationalError

from execution import raw, tables
from execution.model import Side
from runtime.database import memory_engine, sqlite_url, writer_engine

ALL_TYPES = Table(
    "everything",
    MetaData(),
    Column("number", Integer, primary_key=True),
    Column("order", Text),  # a reserved word: the name must be quoted
    Column("amount", tables.ExactDecimal),
    Column("at", tables.Instant),
    Column("document", tables.JsonText),
    Column("flag", tables.Flag),
    Column("payload", LargeBinary),
    sqlite_strict=True,
)
insert, select = raw.Insert(ALL_TYPES), raw.Select(ALL_TYPES)


@pytest.fixture
def connection() -> Iterator[Connection]:
    """A connection to a database with one table of every column type."""
    with memory_engine().connect() as connection:
        ALL_TYPES.create(connection)
        connection.commit()
        yield connection


SMALL, LARGE = Decimal("-0.000000000000000001"), Decimal("999999999999999999.999999999999999999")
FIRST, LAST = datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
ROWS: list[list[Any]] = [
    [1, None, None, None, None, None, None],
    [2, "ü 'quoted' ?%s", SMALL, datetime(2026, 1, 1, tzinfo=UTC), {"a": [1, 0.1, None]}, True, b"\0\xff"],
    [3, "", LARGE, FIRST, [], False, b""],
    [4, "x", Decimal(0), LAST, {}, True, b"x"],
]


def test_every_column_type_comes_back_as_it_went_in(connection: Connection) -> None:
    insert.rows(connection, ROWS[:1])
    insert.rows(connection, ROWS[1:])
    assert list(select.rows(connection, "ORDER BY number")) == ROWS


@pytest.mark.parametrize(
    ("written", "read"),
    [("1.500", "1.5"), ("1E+3", "1000"), ("-0.00", "0"), ("1E-18", "0.000000000000000001"), ("100", "100")],
)
def test_a_decimal_is_stored_as_its_plain_text(connection: Connection, written: str, read: str) -> None:
    insert.rows(connection, [[1, None, Decimal(written), None, None, None, None]])
    assert raw.execute(connection, "SELECT amount FROM everything").fetchone() == (read,)
    assert next(select.rows(connection))[2] == Decimal(written)


def test_a_string_enum_is_stored_as_its_text(connection: Connection) -> None:
    insert.rows(connection, [[1, Side.BUY, None, None, None, None, None]])
    assert raw.execute(connection, 'SELECT typeof("order"), "order" FROM everything').fetchone() == ("text", "BUY")


def test_no_rows_are_inserted_from_nothing(connection: Connection) -> None:
    insert.rows(connection, [])
    assert list(select.rows(connection)) == []


def test_more_rows_than_one_batch_are_streamed_in_order(connection: Connection) -> None:
    insert.rows(connection, ([n, str(n), Decimal(n), None, None, None, None] for n in range(2500)))
    rows = select.rows(connection, "WHERE number >= ? ORDER BY number", (10,))
    assert next(rows)[0] == 10
    assert [row[0] for row in rows] == list(range(11, 2500))


def test_a_row_of_the_wrong_length_is_an_error(connection: Connection) -> None:
    with pytest.raises(ValueError, match="has 7 columns, not 2"):
        insert.rows(connection, [[1, "too short"]])


def test_a_broken_constraint_is_the_error_that_sqlalchemy_would_raise(connection: Connection) -> None:
    insert.rows(connection, ROWS[:1])
    with pytest.raises(IntegrityError, match="UNIQUE"):
        insert.rows(connection, ROWS[:1])


def numbers(connection: Connection) -> list[int]:
    """The keys of the stored rows."""
    return [row[0] for row in raw.execute(connection, "SELECT number FROM everything ORDER BY number").fetchall()]


def test_a_transaction_is_committed_at_its_end(connection: Connection) -> None:
    with raw.Transaction(connection):
        raw.execute(connection, "INSERT INTO everything (number) VALUES (1)")
    connection.rollback()
    assert numbers(connection) == [1]


@pytest.mark.parametrize("begun_by_core", [False, True])
def test_a_transaction_that_fails_leaves_nothing_behind(connection: Connection, *, begun_by_core: bool) -> None:
    def fail() -> None:
        with raw.Transaction(connection):
            if begun_by_core:
                connection.execute(ALL_TYPES.insert(), {"number": 1})
            raw.execute(connection, "INSERT INTO everything (number) VALUES (2)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not connection.in_transaction()
    assert numbers(connection) == []


def test_a_core_statement_takes_part_in_a_transaction(connection: Connection) -> None:
    with raw.Transaction(connection):
        raw.execute(connection, "INSERT INTO everything (number) VALUES (1)")
        connection.execute(ALL_TYPES.insert(), {"number": 2})
    assert not connection.in_transaction()
    assert numbers(connection) == [1, 2]


def test_a_transaction_that_cannot_begin_or_commit_fails_as_those_of_sqlalchemy(tmp_path: Path) -> None:
    engine = writer_engine(sqlite_url(tmp_path / "a.db"), busy_timeout_ms=0)
    deferred = "CREATE TABLE b (a INTEGER REFERENCES a DEFERRABLE INITIALLY DEFERRED)"
    with engine.connect() as first, engine.connect() as second:
        with raw.Transaction(first):
            raw.execute(first, "CREATE TABLE a (a INTEGER PRIMARY KEY)")
            raw.execute(first, deferred)
            with pytest.raises(OperationalError, match="locked"), raw.Transaction(second):
                pytest.fail("two write at once")
        with pytest.raises(IntegrityError), raw.Transaction(second):
            raw.execute(second, "INSERT INTO b VALUES (1)")
        with raw.Transaction(second):
            assert raw.execute(second, "SELECT * FROM b").fetchall() == []


def test_a_transaction_begins_as_sqlalchemy_does_where_the_engine_does_not_say_how() -> None:
    with create_engine("sqlite://").connect() as connection:
        with raw.Transaction(connection):
            assert connection.in_transaction()
        assert not connection.in_transaction()
