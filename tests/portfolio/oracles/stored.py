"""Batches and stored allocations over a real database."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import ClassVar, TypeAlias

from sqlalchemy import Connection, create_engine

from execution.model import Account, Trade
from execution.writer import InlineReader, InlineWriter
from portfolio import allocations, batch, runs
from portfolio.allocations import Run, ScopeKey, StoredAllocation
from portfolio.books import SymbolBook
from portfolio.lots import Method
from portfolio.matches import Allocation, Row
from portfolio.tables import RunMode
from tests.portfolio.bookkeeping import START, Database
from tests.portfolio.oracles.cases import SYMBOL


class Copy(Database):
    """A fresh database in a fraction of the time: a copy of one that was made once."""

    _made: ClassVar[bytes] = b""

    def __init__(self) -> None:
        if not Copy._made:
            with closing(Database()) as first, first.connection() as connection:
                Copy._made = _sqlite(connection).serialize()
        self.engine = create_engine("sqlite://")
        self.writer = InlineWriter(self.engine, commit_each=True)
        self.reader = InlineReader(self.writer)
        with self.connection() as connection:
            _sqlite(connection).deserialize(Copy._made)


def _sqlite(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def batch_of(
    trades: Sequence[Trade], account: Account, method: Method = Method.FIFO, since: datetime | None = None
) -> tuple[SymbolBook, list[Allocation]]:
    """The book and the rows that a batch makes of stored trades."""
    rows: list[Row] = []
    with closing(Copy()) as database:
        database.append(trades)
        with database.connection() as connection:
            computed = batch.compute(
                connection, account, SYMBOL, len(trades), method=method, sink=rows.extend, since=since
            )
    return computed.book, list(map(Allocation._make, rows))


Content: TypeAlias = tuple[object, ...]


def content_of(rows: Sequence[StoredAllocation]) -> list[Content]:
    """What stored rows say, without ids, versions and batches."""
    ordered = sorted(rows, key=lambda row: (row.closed_at, row.id))
    return [
        (row.sell_trade, row.buy_trade, row.quantity, row.cost_basis, row.buy_fee, row.proceeds, row.sell_fee,
         row.net_proceeds, row.pnl, row.buy_at, row.sell_at)
        for row in ordered
    ]  # fmt: skip


def content_of_batch(rows: Sequence[Allocation]) -> list[Content]:
    """The same of rows that were never stored."""
    return [
        (row.sell_trade, row.buy_trade, row.quantity, row.cost_basis, row.buy_fee, row.proceeds, row.sell_fee,
         row.net_proceeds, row.pnl,
         *((row.closed_at, row.opened_at) if row.closed_by_buy else (row.opened_at, row.closed_at)))
        for row in rows
    ]  # fmt: skip


def stored_in(database: Database, method: Method, version: int | None = None) -> list[StoredAllocation]:
    """The rows of a method: the current ones, or those of a version."""
    with database.connection() as connection:
        return list(allocations.stored(connection, method=method, version=version))


def perform(database: Database, account: Account, method: Method, up_to: int, since: datetime | None = None) -> Run:
    """Compute a scope and store what differs."""
    order = runs.Order(account, ScopeKey(account.name, SYMBOL, method), up_to, since)
    begun: list[Run] = []
    mode = RunMode.FULL if since is None else RunMode.SYMBOL
    database.writer.submit(lambda c: begun.append(runs.log(c, order, mode, "a law", START)))
    database.writer.submit(lambda c: runs.perform(c, begun[0], order, mode, lambda: START))
    return begun[0]
