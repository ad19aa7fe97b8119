"""Hot statements straight on the driver: SQLAlchemy's tables say the columns and types, its Core the rest.

Building and running a Core statement costs 20-30 us; a fill needs five. These helpers derive the SQL text
from the same Table objects once, convert values with the same types, and run on the driver's cursor inside
SQLAlchemy's transaction. The difference between SQLite and PostgreSQL (placeholders) stays in here.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from types import TracebackType
from typing import Any

from sqlalchemy import Column, Connection, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError

from config.exact import plain
from config.times import stored_time
from execution.tables import ExactDecimal, Flag, Instant, JsonText, json_text

Convert = Callable[[Any], Any]

_BATCH = 1000
"""Rows that are fetched together."""


# The same rules as the decorators' process_bind_param, of values that are not None, without SQLAlchemy's two calls
# around it.
_QUICK_FORMS: dict[type, Convert] = {ExactDecimal: plain, Instant: stored_time, JsonText: json_text, Flag: int}
# And as their process_result_value, of values that are not None.
_VALUES: dict[type, Convert] = {
    ExactDecimal: Decimal,
    Instant: datetime.fromisoformat,
    JsonText: json.loads,
    Flag: bool,
}


def _unless_null(convert: Convert, value: Any) -> Any:
    return None if value is None else convert(value)


def _bind(column: Column[Any], dialect: Dialect) -> Convert | None:
    """How a value that is not None becomes the driver's; None: as it is."""
    quick = _QUICK_FORMS.get(type(column.type))
    if quick is not None and not (dialect.name == "postgresql" and quick is plain):
        return quick
    return column.type.dialect_impl(dialect).bind_processor(dialect)


def _result(column: Column[Any], dialect: Dialect) -> Convert | None:
    """How a driver's value becomes ours; None: as it is."""
    quick = _VALUES.get(type(column.type))
    if quick is not None:
        return partial(_unless_null, quick) if column.nullable else quick
    return column.type.dialect_impl(dialect).result_processor(dialect, None)


def placeholders(sql: str, connection: Connection) -> str:
    """SQL written with ? for the driver behind `connection`."""
    return sql if connection.dialect.name == "sqlite" else sql.replace("%", "%%").replace("?", "%s")


def failure(connection: Connection, sql: str, error: Exception) -> BaseException:
    """A driver's error as SQLAlchemy would have raised it, so that callers know one kind."""
    dialect = connection.dialect
    return DBAPIError.instance(sql, None, error, dialect.loaded_dbapi.Error, dialect=dialect)


def execute(connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> Any:
    """Run one statement (written with ?) with driver values and return the cursor. Raises DBAPIError."""
    try:
        return _driver(connection).execute(placeholders(sql, connection), parameters)
    except connection.dialect.loaded_dbapi.Error as error:
        raise failure(connection, sql, error) from error


def _driver(connection: Connection) -> Any:
    """The driver's own connection: its pool's proxy would cost each statement a call."""
    return connection.connection.dbapi_connection


BEGIN = "begin"
"""Under which a connection's `info` says how its transactions begin."""


class Transaction:
    """`with connection.begin()` without what SQLAlchemy does around it, which costs more than most reads.

    Only where the engine says how to begin (SQLite's do): elsewhere SQLAlchemy has to find out whether the connection
    is lost. A Core statement inside takes part. Raises DBAPIError.
    """

    __slots__ = ("_connection", "_driver", "_theirs")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        connection = self._connection
        begin = connection.info.get(BEGIN)
        self._theirs = None
        if begin is None:
            self._theirs = connection.begin()
            self._theirs.__enter__()
            return
        self._driver = _driver(connection)
        try:
            self._driver.execute(begin).close()
        except connection.dialect.loaded_dbapi.Error as error:
            raise failure(connection, begin, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._theirs is not None:
            self._theirs.__exit__(kind, error, trace)
            return
        try:
            if kind is None:
                self._commit()
            else:
                self._driver.rollback()
        finally:
            if self._connection.in_transaction():  # SQLAlchemy's, begun by a Core statement: its work is done
                self._connection.rollback()

    def _commit(self) -> None:
        try:
            self._driver.commit()
        except self._connection.dialect.loaded_dbapi.Error as error:
            self._driver.rollback()
            raise failure(self._connection, "COMMIT", error) from error


class Insert:
    """INSERT of whole rows of a table, values in column order."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._width = len(table.columns)
        self._prepared: dict[str, tuple[str, list[tuple[int, Convert]]]] = {}

    def _for(self, connection: Connection) -> tuple[str, list[tuple[int, Convert]]]:
        dialect = connection.dialect
        prepared = self._prepared.get(dialect.name)
        if prepared is None:
            names = ", ".join(dialect.identifier_preparer.quote(c.name) for c in self.table.columns)
            marks = ", ".join("?" for _ in self.table.columns)
            sql = placeholders(f"INSERT INTO {self.table.name} ({names}) VALUES ({marks})", connection)
            binds = ((index, _bind(column, dialect)) for index, column in enumerate(self.table.columns))
            prepared = (sql, [(index, bind) for index, bind in binds if bind is not None])
            self._prepared[dialect.name] = prepared
        return prepared

    def row(self, connection: Connection, row: Sequence[Any]) -> None:
        """Insert a row of Python values. (Of an enum the value: the driver looks for adapters otherwise.)"""
        sql, binds = self._for(connection)
        self._run(connection, sql, self._converted(row, binds))

    def rows(self, connection: Connection, rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows of Python values."""
        sql, binds = self._for(connection)
        self._run_many(connection, sql, [self._converted(row, binds) for row in rows])

    def driver_row(self, connection: Connection, row: Sequence[Any]) -> None:
        """Insert a row of the driver's values: texts where the columns are decimals, times or documents."""
        self._run(connection, self._for(connection)[0], row)

    def driver_rows(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows of the driver's values."""
        self._run_many(connection, self._for(connection)[0], rows)

    def _converted(self, row: Sequence[Any], binds: Sequence[tuple[int, Convert]]) -> list[Any]:
        values = list(row)
        if len(values) != self._width:
            raise ValueError(f"{self.table.name} has {self._width} columns, not {len(values)}")
        for index, bind in binds:
            if (value := values[index]) is not None:
                values[index] = bind(value)
        return values

    @staticmethod
    def _run(connection: Connection, sql: str, row: Sequence[Any]) -> None:
        try:
            _driver(connection).execute(sql, row)
        except connection.dialect.loaded_dbapi.Error as error:
            raise failure(connection, sql, error) from error

    @staticmethod
    def _run_many(connection: Connection, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        try:
            _driver(connection).cursor().executemany(sql, rows)
        except connection.dialect.loaded_dbapi.Error as error:
            raise failure(connection, sql, error) from error


class Select:
    """SELECT of whole rows of a table as plain tuples of Python values, streamed."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._prepared: dict[str, tuple[str, list[tuple[int, Convert]]]] = {}

    def _for(self, dialect: Dialect) -> tuple[str, list[tuple[int, Convert]]]:
        prepared = self._prepared.get(dialect.name)
        if prepared is None:
            names = ", ".join(dialect.identifier_preparer.quote(c.name) for c in self.table.columns)
            converts = [(i, _result(c, dialect)) for i, c in enumerate(self.table.columns)]
            prepared = (
                f"SELECT {names} FROM {self.table.name} ",
                [(i, convert) for i, convert in converts if convert is not None],
            )
            self._prepared[dialect.name] = prepared
        return prepared

    def rows(self, connection: Connection, rest: str = "", parameters: Sequence[Any] = ()) -> Iterator[list[Any]]:
        """Rows matching `rest` (WHERE ... ORDER BY ..., written with ?), `parameters` as driver values."""
        sql, converts = self._for(connection.dialect)
        cursor = execute(connection, sql + rest, parameters)
        while True:
            batch = cursor.fetchmany(_BATCH)
            for row in batch:
                values = list(row)
                for index, convert in converts:
                    values[index] = convert(values[index])
                yield values
            if len(batch) < _BATCH:
                return
