"""The baselines: the least work that any solution must do, in plain Python, SQL and integers."""

import csv
import sqlite3
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from execution.model import Side, Trade

IntTrade = tuple[int, int, int]
"""Sign, quantity and price as integers."""


def bare_candles(path: Path) -> int:
    """Read a candle file: times and decimals parsed, two sums of closes rolled on, nothing else."""
    closes: deque[Decimal] = deque(maxlen=30)
    fast = slow = Decimal(0)
    count = above = 0
    with path.open(newline="") as file:
        rows = csv.reader(file)
        next(rows)
        for time_, opened, high, low, close, volume in rows:
            datetime.fromisoformat(time_)
            Decimal(opened), Decimal(high), Decimal(low), Decimal(volume)
            now = Decimal(close)
            if len(closes) == 30:
                slow += now - closes[0]
                fast += now - closes[-10]
                above += fast * 3 > slow
            else:
                slow += now
                fast += now
            closes.append(now)
            count += 1
    return count


def as_integers(trades: Sequence[Trade]) -> list[IntTrade]:
    """Trades for the bare matching."""
    return [(1 if t.side is Side.BUY else -1, int(t.quantity.scaleb(8)), int(t.price.scaleb(8))) for t in trades]


def bare_fifo(trades: Sequence[IntTrade]) -> int:
    """First in, first out over integers: no fees, no allocations, no times; only the realized sum."""
    lots: deque[list[int]] = deque()
    realized = 0
    for sign, quantity, price in trades:
        if sign > 0:
            lots.append([quantity, price])
            continue
        while quantity and lots:
            lot = lots[0]
            piece = min(lot[0], quantity)
            realized += piece * (price - lot[1])
            quantity -= piece
            lot[0] -= piece
            if not lot[0]:
                lots.popleft()
    return realized


class SameRows:
    """The rows that a run of ours left, written again by bare sqlite3 into a database of the same schema.

    Two transactions a fill, as ours (order and inbox before sending, trade and order's status after), or
    two for each group of fills.
    """

    def __init__(self, made: sqlite3.Connection) -> None:
        self._schema = [sql for (sql,) in made.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        self._before = {
            table: made.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("accounts", "instruments", "ledger_head")
        }
        self.orders = made.execute("SELECT * FROM orders ORDER BY created_at, id").fetchall()
        names = [row[1] for row in made.execute("PRAGMA table_info(orders)")]
        self._order_id = names.index("id")
        at = {row[1]: number for number, row in enumerate(made.execute("PRAGMA table_info(inbox)").fetchall())}
        inbox = {row[at["order_id"]]: row for row in made.execute("SELECT * FROM inbox")}
        at = {row[1]: number for number, row in enumerate(made.execute("PRAGMA table_info(trades)").fetchall())}
        trades = {row[at["order_id"]]: row for row in made.execute("SELECT * FROM trades")}
        keys = [order[self._order_id] for order in self.orders]
        self.inbox: list[Any] = [inbox[key] for key in keys]
        # In the order of their sequence, as the ledger's guards demand.
        self.trades: list[Any] = sorted((trades[key] for key in keys), key=lambda row: row[at["sequence"]])

    def write(self, path: str, group: int, *, synchronous: str = "FULL") -> float:
        """Write all rows, `group` fills at a time; the seconds it took."""
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={synchronous}")
            for sql in self._schema:
                if not sql.startswith("CREATE TABLE sqlite_"):
                    connection.execute(sql)
            for table, rows in self._before.items():
                for row in rows:
                    connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
            began = time.perf_counter()
            for start in range(0, len(self.orders), group):
                self._write_group(connection, start, start + group)
            return time.perf_counter() - began
        finally:
            connection.close()

    def _write_group(self, connection: sqlite3.Connection, start: int, end: int) -> None:
        orders, inbox, trades = self.orders[start:end], self.inbox[start:end], self.trades[start:end]
        connection.execute("BEGIN IMMEDIATE")
        _insert(connection, "orders", orders)
        _insert(connection, "inbox", inbox)
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        _insert(connection, "trades", trades)
        connection.executemany(
            "UPDATE orders SET status = 'filled' WHERE id = ?", [(order[self._order_id],) for order in orders]
        )
        connection.execute("COMMIT")


def _insert(connection: sqlite3.Connection, table: str, rows: Sequence[Sequence[Any]]) -> None:
    connection.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)


_CHUNK = 2_000


def bare_import(fills: Path, database: Path) -> None:
    """The fields of a CSV as rows of one table, as they are, 2,000 to a durable transaction."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        with fills.open(newline="") as file:
            rows = csv.reader(file)
            names = next(rows)
            connection.execute(f"CREATE TABLE fills ({', '.join(names)}, UNIQUE (symbol, venue_trade_id))")
            insert = f"INSERT INTO fills VALUES ({', '.join('?' for _ in names)})"
            while chunk := list(islice(rows, _CHUNK)):
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(insert, chunk)
                connection.execute("COMMIT")
    finally:
        connection.close()


def same_allocations(made: Path, database: Path) -> int:
    """Read every trade, symbol by symbol in order of time, and write the allocations that a computation left again
    into a table with the same indexes: what the disk asks for. Returns how many."""
    database.unlink(missing_ok=True)
    source, target = sqlite3.connect(made), sqlite3.connect(database, isolation_level=None)
    try:
        target.execute("PRAGMA journal_mode=WAL")
        schema = (
            "SELECT sql FROM sqlite_master WHERE tbl_name = 'fifo_allocations' AND sql IS NOT NULL ORDER BY rowid"
        )
        for (sql,) in source.execute(schema):
            target.execute(sql)
        for account, symbol in source.execute("SELECT DISTINCT account, symbol FROM trades").fetchall():
            order = "SELECT * FROM trades WHERE account = ? AND symbol = ? ORDER BY executed_at, sequence"
            cursor = source.execute(order, (account, symbol))
            while cursor.fetchmany(_CHUNK):
                pass
        written = 0
        cursor = source.execute("SELECT * FROM fifo_allocations ORDER BY id")
        target.execute("BEGIN IMMEDIATE")
        while rows := cursor.fetchmany(_CHUNK):
            _insert(target, "fifo_allocations", rows)
            written += len(rows)
        target.execute("COMMIT")
        return written
    finally:
        source.close()
        target.close()
