"""Stored allocations: rows by version, the pointer of each scope, the log of computations.

Every function runs inside a transaction of its caller. A version is the number of the run that began it;
rows are valid from their first to their last version, both included, so that an old version stays readable
without copying it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Connection

from config.exact import plain
from config.times import stored_time, time_text
from execution import raw
from execution.model import Json
from portfolio import tables
from portfolio.fifo import ENGINE_VERSION
from portfolio.lots import Method
from portfolio.matches import Allocation, Row
from portfolio.tables import RunMode, RunStatus
from portfolio.units import MONEY_DIGITS, QUANTITY_DIGITS, money_of, text_of_units


class ScopeKey(NamedTuple):
    """What a version belongs to."""

    account: str
    symbol: str
    method: Method = Method.FIFO


@dataclass(frozen=True, slots=True)
class Pointer:
    """A scope's current version; `sequence` is the last ledger sequence whose allocations are stored."""

    version: int
    sequence: int
    engine_version: int


@dataclass(slots=True)
class Counts:
    """What a run did."""

    buys: int = 0
    sells: int = 0
    allocations: int = 0
    pnl_units: int = 0

    def add(self, allocations: Sequence[Row]) -> None:
        """Count allocations and their known P&L."""
        self.allocations += len(allocations)
        self.pnl_units += sum([row[10] or 0 for row in allocations])


@dataclass(frozen=True, slots=True)
class Run:
    """A computation under way."""

    id: int
    version: int
    key: ScopeKey
    batch_id: str
    started_at: datetime


# ---- rows -----------------------------------------------------------------------------------------------

_COLUMNS = [column.name for column in tables.fifo_allocations.columns][1:]
_INSERT = f"INSERT INTO fifo_allocations ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' for _ in _COLUMNS)})"


def _insert_of(rows: int) -> str:
    """An INSERT of several rows; the columns that all have in common are its first parameters."""
    width = len(_COLUMNS) - 6
    values = (", ".join(f"?{7 + row * width + column}" for column in range(width)) for row in range(rows))
    return f"INSERT INTO fifo_allocations ({', '.join(_COLUMNS)}) VALUES " + ", ".join(
        f"(?1, ?2, ?3, {own}, ?4, ?5, ?6)" for own in values
    )


_ROWS_AT_ONCE = 50
"""Rows of one INSERT: half the cost of one for each row, and less than 999 parameters, SQLite's oldest limit."""

_MANY = _insert_of(_ROWS_AT_ONCE)

Content: TypeAlias = tuple[Any, ...]
"""The driver's values of the `CONTENT` columns of a row."""

CONTENT = ", ".join(_COLUMNS[3:-3])
"""The columns that say what was matched, whatever the version."""


def contents(rows: Iterable[Row]) -> list[Content]:
    """Allocations as the driver's values of the `CONTENT` columns.

    Neighbours have a trade in common nearly always: the text of its time and price is made once.
    """
    found = []
    last_closed = last_opened = last_sell_price = last_buy_price = None
    closed = sell_price_text = ""
    opened: str | None = None
    buy_price_text: str | None = None
    for (
        sell, buy, quantity, sell_price, buy_price, cost, buy_fee, proceeds, sell_fee, net, pnl, opened_at, closed_at,
        closed_by_buy,
    ) in rows:  # fmt: skip
        if closed_at is not last_closed:
            last_closed, closed = closed_at, stored_time(closed_at)
        if opened_at is not last_opened:
            last_opened, opened = opened_at, None if opened_at is None else stored_time(opened_at)
        if sell_price is not last_sell_price:
            last_sell_price, sell_price_text = sell_price, text_of_units(sell_price, QUANTITY_DIGITS)
        if buy_price is not last_buy_price:
            last_buy_price = buy_price
            buy_price_text = None if buy_price is None else text_of_units(buy_price, QUANTITY_DIGITS)
        found.append(
            (
                sell,
                buy,
                text_of_units(quantity, QUANTITY_DIGITS),
                sell_price_text,
                buy_price_text,
                None if cost is None else text_of_units(cost, MONEY_DIGITS),
                None if buy_fee is None else text_of_units(buy_fee, MONEY_DIGITS) if buy_fee else "0",
                text_of_units(proceeds, MONEY_DIGITS),
                text_of_units(sell_fee, MONEY_DIGITS) if sell_fee else "0",
                text_of_units(net, MONEY_DIGITS),
                None if pnl is None else text_of_units(pnl, MONEY_DIGITS),
                closed if closed_by_buy else opened,
                opened if closed_by_buy else closed,
                closed,
            )
        )
    return found


def insert(
    connection: Connection, key: ScopeKey, version: int, batch_id: str, allocations: Iterable[Allocation]
) -> None:
    """Store allocations as rows of a version."""
    insert_contents(connection, key, version, batch_id, contents(allocations))


def insert_contents(
    connection: Connection, key: ScopeKey, version: int, batch_id: str, contents: Sequence[Content]
) -> None:
    """Store the contents of allocations as rows of a version."""
    head, tail = (key.account, key.symbol, str(key.method)), (version, None, batch_id)
    together = 0
    if connection.dialect.name == "sqlite":
        together = len(contents) - len(contents) % _ROWS_AT_ONCE
    cursor = connection.connection.cursor()
    sql = _MANY
    try:
        for start in range(0, together, _ROWS_AT_ONCE):
            cursor.execute(sql, (*head, *tail, *chain.from_iterable(contents[start : start + _ROWS_AT_ONCE])))
        sql = raw.placeholders(_INSERT, connection)
        cursor.executemany(sql, [(*head, *values, *tail) for values in contents[together:]])
    except connection.dialect.loaded_dbapi.Error as error:
        raise raw.failure(connection, sql, error) from error


def close(connection: Connection, key: ScopeKey, version: int, since: datetime | None) -> int:
    """End the current rows of a scope that were closed at `since` or later: `version` comes after them. Returns
    how many."""
    sql = (
        "UPDATE fifo_allocations SET to_version = ? WHERE account = ? AND symbol = ? AND method = ?"
        " AND to_version IS NULL"
    )
    parameters: list[Any] = [version - 1, *key]
    if since is not None:
        sql += " AND closed_at >= ?"
        parameters.append(stored_time(since))
    return int(raw.execute(connection, sql, parameters).rowcount)


# ---- pointers ---------------------------------------------------------------------------------------------


def pointers(connection: Connection, method: Method = Method.FIFO) -> dict[tuple[str, str], Pointer]:
    """The pointers of a method by (account, symbol)."""
    sql = "SELECT account, symbol, version, sequence, engine_version FROM fifo_pointers WHERE method = ?"
    rows = raw.execute(connection, sql, (str(method),)).fetchall()
    return {(row[0], row[1]): Pointer(*row[2:]) for row in rows}


def point(connection: Connection, key: ScopeKey, version: int, sequence: int) -> None:
    """Make a version the current one of its scope, complete up to a ledger sequence."""
    values = (version, sequence, ENGINE_VERSION)
    change = (
        "UPDATE fifo_pointers SET version = ?, sequence = ?, engine_version = ?"
        " WHERE account = ? AND symbol = ? AND method = ?"
    )
    if not raw.execute(connection, change, (*values, *key)).rowcount:
        sql = (
            "INSERT INTO fifo_pointers (account, symbol, method, version, sequence, engine_version)"
            " VALUES (?, ?, ?, ?, ?, ?)"
        )
        raw.execute(connection, sql, (*key, *values))


# ---- the log ----------------------------------------------------------------------------------------------


def begin(
    connection: Connection,
    key: ScopeKey,
    *,
    batch_id: str,
    mode: RunMode,
    reason: str,
    now: datetime,
    since: datetime | None = None,
    version: int | None = None,
) -> Run:
    """Log a run as running. Without `version` it begins a new one, numbered by the database."""
    sql = (
        "INSERT INTO fifo_computation_log (version, account, symbol, method, batch_id, mode, reason, status,"
        " engine_version, since, started_at, buys, sells, allocations)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0) RETURNING id"
    )
    status = RunStatus.PARTIAL if mode is RunMode.INCREMENTAL else RunStatus.RUNNING
    parameters = (
        version or 0,
        *key,
        batch_id,
        str(mode),
        reason,
        str(status),
        ENGINE_VERSION,
        None if since is None else stored_time(since),
        stored_time(now),
    )
    run_id = int(raw.execute(connection, sql, parameters).fetchone()[0])
    if version is None:
        raw.execute(connection, "UPDATE fifo_computation_log SET version = ? WHERE id = ?", (run_id, run_id))
    return Run(run_id, version or run_id, key, batch_id, now)


def finish(connection: Connection, run: Run, counts: Counts, sequence: int, now: datetime) -> None:
    """Log a run as completed."""
    sql = (
        "UPDATE fifo_computation_log SET status = ?, finished_at = ?, duration_ms = ?, sequence = ?, buys = ?,"
        " sells = ?, allocations = ?, total_pnl = ? WHERE id = ?"
    )
    duration = int((now - run.started_at).total_seconds() * 1000)
    parameters = (
        str(RunStatus.COMPLETED),
        stored_time(now),
        duration,
        sequence,
        counts.buys,
        counts.sells,
        counts.allocations,
        text_of_units(counts.pnl_units, MONEY_DIGITS),
        run.id,
    )
    raw.execute(connection, sql, parameters)


def fail(connection: Connection, run_id: int, error: str, traceback: str | None, now: datetime) -> None:
    """Log a run as failed; the version before it stays current."""
    sql = "UPDATE fifo_computation_log SET status = ?, finished_at = ?, error = ?, traceback = ? WHERE id = ?"
    raw.execute(connection, sql, (str(RunStatus.FAILED), stored_time(now), error, traceback, run_id))


def is_running(connection: Connection) -> bool:
    """Whether a run is logged as running: at work in the process that has the role, or dead."""
    sql = "SELECT 1 FROM fifo_computation_log WHERE status = ? LIMIT 1"
    return raw.execute(connection, sql, (str(RunStatus.RUNNING),)).fetchone() is not None


def fail_interrupted(connection: Connection, now: datetime) -> list[int]:
    """Whoever holds the role alone: runs that are still marked as running died on the way. Their ids."""
    sql = "SELECT id FROM fifo_computation_log WHERE status = ?"
    ids = [row[0] for row in raw.execute(connection, sql, (str(RunStatus.RUNNING),)).fetchall()]
    for run_id in ids:
        fail(connection, run_id, "interrupted: the process ended before the run did", None, now)
    return ids


def extend_log(connection: Connection, run_id: int, counts: Counts, sequence: int, now: datetime) -> None:
    """Add a batch of fills to the one incremental row of a version."""
    sql = "SELECT buys, sells, allocations, total_pnl FROM fifo_computation_log WHERE id = ?"
    buys, sells, allocations, pnl = raw.execute(connection, sql, (run_id,)).fetchone()
    total = (Decimal(pnl) if pnl is not None else Decimal(0)) + money_of(counts.pnl_units)
    change = (
        "UPDATE fifo_computation_log SET finished_at = ?, sequence = ?, buys = ?, sells = ?, allocations = ?,"
        " total_pnl = ? WHERE id = ?"
    )
    parameters = (
        stored_time(now),
        sequence,
        buys + counts.buys,
        sells + counts.sells,
        allocations + counts.allocations,
        plain(total),
        run_id,
    )
    raw.execute(connection, change, parameters)


# ---- reading ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredAllocation:
    """A row of `fifo_allocations`; None where a sell found no lot."""

    id: int
    account: str
    symbol: str
    method: str
    sell_trade: str
    buy_trade: str | None
    quantity: Decimal
    sell_price: Decimal
    buy_price: Decimal | None
    cost_basis: Decimal | None
    buy_fee: Decimal | None
    proceeds: Decimal
    sell_fee: Decimal
    net_proceeds: Decimal
    pnl: Decimal | None
    buy_at: datetime | None
    sell_at: datetime
    closed_at: datetime
    from_version: int
    to_version: int | None
    batch_id: str

    def to_wire(self) -> dict[str, Json]:
        """The JSON form; `fees` is the sell's share: net_proceeds = proceeds - fees."""
        return {
            "sell_trade": self.sell_trade,
            "buy_trade": self.buy_trade,
            "account": self.account,
            "symbol": self.symbol,
            "method": self.method,
            "quantity": plain(self.quantity),
            "buy_price": _text(self.buy_price),
            "sell_price": plain(self.sell_price),
            "cost_basis": _text(self.cost_basis),
            "proceeds": plain(self.proceeds),
            "buy_fee": _text(self.buy_fee),
            "fees": plain(self.sell_fee),
            "net_proceeds": plain(self.net_proceeds),
            "pnl": _text(self.pnl),
            "buy_at": None if self.buy_at is None else time_text(self.buy_at),
            "sell_at": time_text(self.sell_at),
            "from_version": self.from_version,
            "to_version": self.to_version,
            "batch_id": self.batch_id,
        }


def _text(value: Decimal | None) -> str | None:
    return None if value is None else plain(value)


_select = raw.Select(tables.fifo_allocations)


def stored(
    connection: Connection,
    *,
    account: str | None = None,
    symbol: str | None = None,
    method: Method | None = Method.FIFO,
    version: int | None = None,
    trades: Sequence[str] = (),
    after_id: int = 0,
    limit: int | None = None,
) -> Iterator[StoredAllocation]:
    """Rows by id: those of the current versions, or as they were when `version` was the newest one.

    `trades`: only rows in which one of these trades is the sell or the buy.
    """
    where, parameters = ["id > ?"], [after_id]
    filters = {"account": account, "symbol": symbol, "method": None if method is None else str(method)}
    for column, value in filters.items():
        if value is not None:
            where.append(f"{column} = ?")
            parameters.append(value)  # type: ignore[arg-type]  # driver values of mixed type
    if version is None:
        where.append("to_version IS NULL")
    else:
        where.append("from_version <= ? AND (to_version IS NULL OR to_version >= ?)")
        parameters += [version, version]
    if trades:
        marks = ", ".join("?" for _ in trades)
        where.append(f"(sell_trade IN ({marks}) OR buy_trade IN ({marks}))")
        parameters += [*trades, *trades]  # type: ignore[list-item]  # as above
    rest = f"WHERE {' AND '.join(where)} ORDER BY id"
    if limit is not None:
        rest += " LIMIT ?"
        parameters.append(limit)
    for row in _select.rows(connection, rest, parameters):
        yield StoredAllocation(*row)
