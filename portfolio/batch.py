"""A symbol's books and allocations from its trades in the database: the batch that streaming must equal.

The same engine as for live fills, fed from the driver's rows without making a `Trade` of each: a million
trades take seconds, and memory grows with the open lots only.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Connection

from config.times import stored_time
from execution import raw
from execution.model import Account
from portfolio.books import NO_EFFECT, OrderKey, SymbolBook
from portfolio.fills import FeeIn, Fill, make_fill
from portfolio.lots import Method, Selections, engine_for
from portfolio.matches import FillResult, Row, result_of
from portfolio.units import units_of_text

CHUNK = 5_000
"""Allocations handed over at a time."""

_READ = 500
"""Trades read at a time: so few are still in the processor's cache when they are used, and the garbage collector is
not called for tuples that all go soon."""

BEGIN = datetime.min.replace(tzinfo=UTC)
"""Before all trades."""

Sink = Callable[[list[Row]], None]
Progress = Callable[[int], None]
"""Told the number of trades done."""

COLUMNS = (
    "sequence, id, side, quantity, price, fee, fee_asset, cash_effect, executed_at, triggered_by, corrects,"
    " venue_sequence, order_id"
)


EXECUTED_AT = 8
"""Where among them the time stands."""


class Computed(NamedTuple):
    """A symbol's book, the results of wanted trades, and how many buys and sells there were."""

    book: SymbolBook
    results: dict[str, FillResult]
    buys: int
    sells: int


class Reached(NamedTuple):
    """A book of all trades executed before `since`, with its numbers of buys and of trades."""

    since: datetime
    book: SymbolBook
    buys: int
    done: int


def compute(
    connection: Connection,
    account: Account,
    symbol: str,
    up_to: int,
    *,
    method: Method = Method.FIFO,
    selections: Selections | None = None,
    sink: Sink | None = None,
    since: datetime | None = None,
    wanted: frozenset[str] = frozenset(),
    progress: Progress | None = None,
    reached: Reached | None = None,
) -> Computed:
    """Match all trades of a symbol up to ledger sequence `up_to`.

    `sink` is handed the allocations whose closing trade was executed at `since` or later (None: all). Trades
    that were taken back, and the entries that did it, have no effect. What `reached` has is not matched again: its
    book goes on. Raises FifoError.
    """
    if reached is None:
        reached = Reached(BEGIN, SymbolBook(account, symbol, engine_for(method, account.mode, selections)), 0, 0)
    begin, book, buys, done = reached
    no_effect = taken_back(connection, account.name, symbol, up_to)
    results = dict.fromkeys(wanted, NO_EFFECT)
    handover = None if sink is None else _Handover(sink, since)
    row: Sequence[Any] | None = None
    for row in in_order(connection, account.name, symbol, up_to, begin):
        _, trade_id, _, _, _, fee, fee_asset, _, _, tag, corrects, _, _ = row
        done += 1
        if corrects is None and trade_id not in no_effect:
            fill = fill_of_row(book, row)
            buys += fill.sign > 0
            matched = book.take(fill, tag)
            rows, _, _, _, flagged = matched
            if flagged:
                book.flag_fee(fee_asset, Decimal(fee))
            if trade_id in results:
                results[trade_id] = result_of(matched)
            if rows and handover is not None:
                handover.take(rows, fill.at)
        if progress is not None and done % CHUNK == 0:
            progress(done)
    if handover is not None:
        handover.finish()
    if row is not None:
        book.ended_with(order_key(row))
    return Computed(book, results, buys, done - buys)


def fill_of_row(book: SymbolBook, row: Sequence[Any]) -> Fill:
    """A stored trade as the engine takes it. Raises FifoError."""
    _, trade_id, side, quantity, price, fee, fee_asset, cash, executed_at, _, _, _, _ = row
    fee_in = FeeIn.QUOTE if fee == "0" else book.fee_in(fee_asset)
    return make_fill(
        trade_id,
        1 if side == "BUY" else -1,
        units_of_text(quantity),
        units_of_text(price),
        0 if fee == "0" else units_of_text(fee),
        fee_in,
        0 if fee_in is FeeIn.QUOTE else _money_of_text(cash),
        datetime.fromisoformat(executed_at),
    )


class _Handover:
    """Hands allocations to a sink, many at a time, from the first on whose closing trade was executed at `since`
    or later."""

    def __init__(self, sink: Sink, since: datetime | None) -> None:
        self._sink = sink
        self._since = since
        self._waiting: list[Row] = []

    def take(self, rows: tuple[Row, ...], closed_at: datetime) -> None:
        """The next ones."""
        if self._since is not None:
            if closed_at < self._since:
                return
            self._since = None  # all that follow are later
        self._waiting += rows
        if len(self._waiting) >= CHUNK:
            self.finish()

    def finish(self) -> None:
        """Hand over what waits."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._sink(waiting)


def taken_back(connection: Connection, account: str, symbol: str, up_to: int) -> frozenset[str]:
    """The trades that a compensating entry took back."""
    sql = "SELECT corrects FROM trades WHERE corrects IS NOT NULL AND account = ? AND symbol = ? AND sequence <= ?"
    return frozenset(row[0] for row in raw.execute(connection, sql, (account, symbol, up_to)).fetchall())


def in_order(
    connection: Connection, account: str, symbol: str, up_to: int, since: datetime = BEGIN
) -> Iterator[Sequence[Any]]:
    """A symbol's trades in the total order of trades, as the driver's values of `COLUMNS`; only those executed at
    `since` or later.

    The database gives the order of time, which is that of its index; those of one instant are put in order here.
    """
    sql = f"SELECT {COLUMNS} FROM trades WHERE account = ? AND symbol = ? AND executed_at >= ? ORDER BY executed_at"
    cursor = raw.execute(connection, sql, (account, symbol, stored_time(since)))
    last: Sequence[Any] | None = None  # held back: another one of its instant may follow
    ties: list[Sequence[Any]] = []  # those of its instant before it
    while rows := cursor.fetchmany(_READ):
        for row in rows:
            if row[0] > up_to:
                continue
            if last is not None:
                if row[8] == last[8]:
                    ties.append(last)
                elif ties:
                    yield from _settled([*ties, last])
                    ties = []
                else:
                    yield last
            last = row
    if last is not None:
        yield from _settled([*ties, last])


def _settled(instant: list[Sequence[Any]]) -> list[Sequence[Any]]:
    """Rows of one instant in their order."""
    return sorted(instant, key=order_key)


def order_key(row: Sequence[Any]) -> OrderKey:
    """`Trade.order_key` of a row."""
    _, trade_id, side, _, _, _, _, _, executed_at, _, _, venue_sequence, order_id = row
    return (
        datetime.fromisoformat(executed_at),
        venue_sequence is None,
        venue_sequence or 0,
        side == "SELL",
        b"" if order_id is None else b"\x01" + order_id.encode(),
        trade_id,
    )


def _money_of_text(text: str) -> int:
    """A stored cash effect in units of 10^-36."""
    whole, _, part = text.partition(".")
    return int(whole + part.ljust(36, "0")) if len(part) <= 36 else int(Decimal(text).scaleb(36))
