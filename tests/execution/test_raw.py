"""Rows go to the driver and come back as the same Python values."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.exc import IntegrityError

from execution import raw, tables
from execution.model import Side
from runtime.database import memory_engine

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
