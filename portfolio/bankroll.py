"""The bankroll of each paper account from the books: the same values as the view `paper_bankroll`, quickly.

The view adds up the facts; this reads the snapshot of the books, which its digests prove, and what came after.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection

from config.exact import ZERO, plain
from config.times import time_text
from execution import raw
from execution.model import Account, AccountKind, Json
from portfolio import marks, recompute
from portfolio.books import Books, CashBook
from portfolio.valuation import Marks
from portfolio.views import ratio


@dataclass(frozen=True, slots=True)
class Bankroll:
    """What the old table of this name told of a paper account.

    `balance` is cash; `total_trades` counts the sells that closed something, `winning_trades` those of them whose
    P&L is known and above 0; `roi` = (equity - paid in) / paid in to 6 digits, None when nothing is paid in (any
    more); `updated_at` is when the last fact was recorded; `incomplete`: as of a `Portfolio`.
    """

    account: str
    balance: Decimal
    total_trades: int
    winning_trades: int
    total_pnl: Decimal
    roi: float | None
    updated_at: datetime
    incomplete: bool

    def to_wire(self) -> dict[str, Json]:
        """The JSON form: decimals as plain strings, `roi` a ratio for display as in the view."""
        return {
            "account": self.account,
            "balance": plain(self.balance),
            "total_trades": self.total_trades,
            "winning_trades": self.winning_trades,
            "total_pnl": plain(self.total_pnl),
            "roi": self.roi,
            "updated_at": time_text(self.updated_at),
            "incomplete": self.incomplete,
        }


def read_bankrolls(connection: Connection) -> list[Bankroll]:
    """The bankrolls of all paper accounts, by name."""
    books = recompute.open_books(connection).books
    known = marks.stored(connection, books.symbols)
    updated = {name: _last_recorded(connection, name) for name in books.accounts}
    return [
        _bankroll(connection, books, known, account, updated)
        for name, account in sorted(books.accounts.items())
        if account.kind is AccountKind.PAPER
    ]


def _bankroll(
    connection: Connection, books: Books, known: Marks, account: Account, updated: Mapping[str, datetime]
) -> Bankroll:
    name = account.name
    held = [(symbol, books.symbols[name, symbol]) for symbol in books.symbols_of(name)]
    cash = books.cash.get(name) or CashBook()
    value = ZERO
    for symbol, book in held:
        mark = known.get(symbol)
        if mark is not None:
            value += book.engine.quantity * mark.price
    return Bankroll(
        account=name,
        balance=cash.cash,
        total_trades=sum(book.closing_sells for _, book in held),
        winning_trades=sum(book.winning_sells for _, book in held),
        total_pnl=sum((book.engine.realized_pnl for _, book in held), ZERO),
        roi=_roi(connection, cash.cash + value, cash.net_flows),
        updated_at=updated[name],
        incomplete=any(book.incomplete for _, book in held),
    )


def _roi(connection: Connection, equity: Decimal, paid_in: Decimal) -> float | None:
    """By the database, so that it rounds as in the view."""
    if paid_in <= 0:
        return None
    row = raw.execute(connection, f"SELECT {ratio('?', '?')}", (plain(equity - paid_in), plain(paid_in))).fetchone()
    return float(row[0])


# From the newest fact backwards: with the bare column SQLite would collect and sort all facts of the account.
_LAST_FACT = (
    "SELECT sequence, recorded_at FROM (SELECT sequence, recorded_at FROM {table} WHERE account || '' = ?"
    " ORDER BY sequence DESC LIMIT 1)"
)
_LAST_FACTS = " UNION ALL ".join(_LAST_FACT.format(table=table) for table in ("trades", "cash_flows"))


def _last_recorded(connection: Connection, account: str) -> datetime:
    """When an account's last fact was recorded; when it was opened, if it has none."""
    rows = raw.execute(connection, f"{_LAST_FACTS} ORDER BY 1 DESC LIMIT 1", (account, account)).fetchall()
    if not rows:
        rows = raw.execute(connection, "SELECT 0, created_at FROM accounts WHERE name = ?", (account,)).fetchall()
    return datetime.fromisoformat(rows[0][1])
