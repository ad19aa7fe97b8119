"""Hot statements straight on the driver: SQLAlchemy's tables say the columns and types, its Core the rest.

Building and running a Core statement costs 20-30 us; a fill needs five. These helpers derive the SQL text
from the same Table objects once, convert values with the same types, and run on the driver's cursor inside
SQLAlchemy's transaction. The difference between SQLite and PostgreSQL (placeholders) stays in here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Column, Connection, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError

from config.exact import plain
from config.times import stored_time
from execution.tables import ExactDecimal, Instant, JsonText, json_text

Convert = Callable[[Any], Any]


def _decimal_text(value: Decimal | None) -> str | None:
    return None if value is None else plain(value)


def _time_text(value: datetime | None) -> str | None:
    return None if value is None else stored_time(value)


def _json(value: Any) -> str | None:
    return None if value is None else json_text(value)


# The same rules as the decorators' process_bind_param, without SQLAlchemy's two calls around it.
_TEXT_FORMS: dict[type, Convert] = {ExactDecimal: _decimal_text, Instant: _time_text, JsonText: _json}


def _bind(column: Column[Any], dialect: Dialect) -> Convert | None:
    """How a value becomes the driver's; None: as it is."""
    quick = _TEXT_FORMS.get(type(column.type))
    if quick is not None and not (dialect.name == "postgresql" and quick is _decimal_text):
        return quick
    return column.type.dialect_impl(dialect).bind_processor(dialect)


def _result(column: Column[Any], dialect: Dialect) -> Convert | None:
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
    cursor = connection.connection.cursor()
    try:
        cursor.execute(placeholders(sql, connection), parameters)
    except connection.dialect.loaded_dbapi.Error as error:
        raise failure(connection, sql, error) from error
    return cursor


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

    def rows(self, connection: Connection, rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows of Python values."""
        sql, binds = self._for(connection)
        converted = [list(row) for row in rows]
        width = self._width
        for values in converted:
            if len(values) != width:
                raise ValueError(f"{self.table.name} has {width} columns, not {len(values)}")
            for index, bind in binds:
                values[index] = bind(values[index])
        self._run(connection, sql, converted)

    def driver_rows(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows of the driver's values: texts where the columns are decimals, times or documents."""
        self._run(connection, self._for(connection)[0], rows)

    @staticmethod
    def _run(connection: Connection, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        cursor = connection.connection.cursor()
        try:
            if len(rows) == 1:
                cursor.execute(sql, rows[0])
            else:
                cursor.executemany(sql, rows)
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
            batch = cursor.fetchmany(1000)
            if not batch:
                return
            for row in batch:
                values = list(row)
                for index, convert in converts:
                    values[index] = convert(values[index])
                yield values
