"""A symbol's book as it was before an instant, from the book as it is: a late trade costs what follows it, not what
came before.

What was held at the instant is what is held now less what moved since; first in, first out, the lots that were open
are the last fills before it that make up so much. Matched forward again from there, the same trades must lead to the
lots that the book has: otherwise nothing is taken for granted, and all trades are matched. What they add to the
book's sums on that way is what the sums had not had before.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection

from config.times import stored_time
from execution import raw
from execution.model import Account, AccountMode
from portfolio import batch
from portfolio.batch import Reached
from portfolio.books import SymbolBook
from portfolio.errors import FifoError
from portfolio.fifo import LotEngine
from portfolio.fills import Fill

SHARE = 2
"""Trades that follow are matched twice, so that it is worth it when no more than one in so many follow."""

KEPT = 50_000
"""Fills that are kept in memory (20 MB) to go over them twice; more of them are read twice."""


class _Taken(NamedTuple):
    """A fill and what a book wants to know beside it."""

    fill: Fill
    tag: str
    fee_asset: str
    fee: str


@dataclass(frozen=True, slots=True)
class _Trades:
    """The trades that a book has, before and from an instant on."""

    connection: Connection
    account: Account
    symbol: str
    book: SymbolBook
    up_to: int
    since: datetime
    without_effect: frozenset[str]

    def count(self, when: str) -> int:
        """How many there are of which this is true; `when` has one ?, for the instant."""
        sql = f"SELECT COUNT(*) FROM trades WHERE account = ? AND symbol = ? AND sequence <= ? AND {when}"
        row = raw.execute(self.connection, sql, (*self._scope, stored_time(self.since))).fetchone()
        return int(row[0])

    @property
    def _scope(self) -> tuple[str, str, int]:
        return self.account.name, self.symbol, self.up_to

    def __iter__(self) -> Iterator[_Taken]:
        """Those from the instant on, in order."""
        rows = batch.in_order(self.connection, self.account.name, self.symbol, self.up_to, self.since)
        return filter(None, map(self._taken, rows))

    def newest_first(self) -> Iterator[Fill]:
        """Those before the instant, from the last one on."""
        sql = (
            f"SELECT {batch.COLUMNS} FROM trades WHERE account = ? AND symbol = ? AND sequence <= ?"
            " AND executed_at < ? ORDER BY executed_at DESC"
        )
        cursor = raw.execute(self.connection, sql, (*self._scope, stored_time(self.since)))
        for _, instant in groupby(cursor, key=itemgetter(batch.EXECUTED_AT)):
            for row in sorted(instant, key=batch.order_key, reverse=True):
                taken = self._taken(row)
                if taken is not None:
                    yield taken.fill

    def _taken(self, row: Any) -> _Taken | None:
        _, trade_id, _, _, _, fee, fee_asset, _, _, tag, corrects, _, _ = row
        if corrects is not None or trade_id in self.without_effect:
            return None
        return _Taken(batch.fill_of_row(self.book, row), tag, fee_asset, fee)


def rewound(
    connection: Connection, account: Account, symbol: str, book: SymbolBook, since: datetime
) -> Reached | None:
    """The state that a stale book was in before `since`; None where it is not known, or not worth it.

    It is not known when a sell found no lot and nothing was held at some time since then (which of the unmatched
    quantity is of before?), or when fees without a value add up to 0.
    """
    if book.stale_at is None:
        return None
    up_to = book.stale_at - 1
    without_effect = batch.taken_back(connection, account.name, symbol, up_to)
    trades = _Trades(connection, account, symbol, book, up_to, since, without_effect)
    done, followed = trades.count("executed_at < ?"), trades.count("executed_at >= ?")
    if followed * SHARE > done + followed:
        return None
    following: Iterable[_Taken] = trades if followed > KEPT else list(trades)
    held = _held_before(book, following)
    if held is None:
        return None
    try:
        sign, lots = _lots_before(trades, held)
        latest = _book_of(trades, LotEngine.resumed(account.mode, sign, lots, abs(held)), following)
        if not _same_lots(latest.engine, book.engine):
            return None
        (_, unmatched, _, realized), (_, _, _, realized_since) = book.engine.units, latest.engine.units
        engine = LotEngine.resumed(account.mode, sign, lots, abs(held), unmatched, realized - realized_since)
    except FifoError:
        return None  # the book is not what its trades make it: that is found where all of them are matched
    earlier = book.before(latest, engine)
    return None if earlier is None else Reached(since, earlier, _buys_before(trades), done)


def _buys_before(trades: _Trades) -> int:
    """How many buys with an effect there were before. Of a trade that was taken back and the entry that did it, which
    are of one instant, one is a buy."""
    buys = trades.count("side = 'BUY' AND executed_at < ?")
    return buys - trades.count("corrects IS NOT NULL AND executed_at < ?")


def _held_before(book: SymbolBook, following: Iterable[_Taken]) -> int | None:
    """What was held (below 0: short) before these trades, which the book has; None when that is not known."""
    moved = lowest = 0
    for taken in following:
        moved += taken.fill.sign * taken.fill.quantity
        lowest = min(lowest, moved)
    held, unmatched, _, _ = book.engine.units
    # A sell that finds too little leaves nothing, and it is the lowest point: there something was left.
    may_be_unmatched = unmatched and lowest and held == moved - lowest
    return None if may_be_unmatched else held - moved


def _lots_before(trades: _Trades, held: int) -> tuple[int, list[Fill]]:
    """The sign of the lots that were open before, and their fills, oldest first."""
    if not held:
        return _sign_of_nothing(trades), []
    sign, missing = (1, held) if held > 0 else (-1, -held)
    lots = []
    for fill in trades.newest_first():
        if fill.sign == sign:
            lots.append(fill)
            missing -= fill.quantity
            if missing <= 0:
                break
    return sign, lots[::-1]


def _sign_of_nothing(trades: _Trades) -> int:
    """What the engine's sign is when nothing is open: that of the lots which the last fill has closed."""
    if trades.account.mode is not AccountMode.MARGIN:
        return 1
    last = next(trades.newest_first(), None)
    return 1 if last is None else -last.sign


def _book_of(trades: _Trades, engine: LotEngine, following: Iterable[_Taken]) -> SymbolBook:
    """A book of these trades only, with lots to begin with; none of them is sold without a lot."""
    book = SymbolBook(trades.account, trades.symbol, engine)
    for fill, tag, fee_asset, fee in following:
        *_, flagged = book.take(fill, tag)
        if flagged:
            book.flag_fee(fee_asset, Decimal(fee))
    return book


def _same_lots(one: LotEngine, other: LotEngine) -> bool:
    """Whether the same is open in both."""
    return one.quantity == other.quantity and one.cost_basis == other.cost_basis and [*one.lots()] == [*other.lots()]
