"""What differs: between two versions of stored allocations row by row, between methods in total."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection

from config.exact import plain
from execution import ledger, raw
from execution.model import Json
from portfolio import allocations, batch, marks, selections
from portfolio.allocations import ScopeKey, StoredAllocation
from portfolio.errors import UnknownVersion
from portfolio.lots import Method

Pair = tuple[str, str, str, str | None]
"""Account, symbol, sell and buy of a row."""

_COMPARED = (
    "quantity", "sell_price", "buy_price", "cost_basis", "buy_fee", "proceeds", "sell_fee", "net_proceeds", "pnl",
    "buy_at", "sell_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A pair of trades that two versions match differently; None: that version does not match them at all."""

    a: StoredAllocation | None
    b: StoredAllocation | None

    @property
    def row(self) -> StoredAllocation:
        """One of the two: account, symbol and trades are those of both."""
        row = self.a or self.b
        assert row is not None
        return row

    @property
    def columns(self) -> list[str]:
        """The columns that differ; none when one of the two is missing."""
        if self.a is None or self.b is None:
            return []
        return [name for name in _COMPARED if getattr(self.a, name) != getattr(self.b, name)]

    def to_wire(self) -> dict[str, Json]:
        """The JSON form."""
        columns: list[Json] = [*self.columns]
        return {
            "account": self.row.account,
            "symbol": self.row.symbol,
            "sell_trade": self.row.sell_trade,
            "buy_trade": self.row.buy_trade,
            "differs": columns,
            "a": None if self.a is None else self.a.to_wire(),
            "b": None if self.b is None else self.b.to_wire(),
        }


def last_version(connection: Connection) -> int:
    """The highest version number that was given; 0 when there is none."""
    return int(raw.execute(connection, "SELECT COALESCE(MAX(version), 0) FROM fifo_computation_log").fetchone()[0])


def scope_of(connection: Connection, version: int) -> ScopeKey:
    """The scope whose version it is. Raises UnknownVersion when the number was never given."""
    sql = "SELECT account, symbol, method FROM fifo_computation_log WHERE version = ? ORDER BY id LIMIT 1"
    row = raw.execute(connection, sql, (version,)).fetchone()
    if row is None:
        last = last_version(connection)
        known = f"one of 1 to {last}" if last else "one that exists; there is none yet"
        raise UnknownVersion(f"a version of the allocations, {known}, not {version}")
    return ScopeKey(row[0], row[1], Method(row[2]))


def find_discrepancies(
    connection: Connection, version_a: int, version_b: int, *, symbol: str | None = None
) -> Iterator[Discrepancy]:
    """The rows that differ between two versions, in the order in which they were closed.

    Two versions of one account and symbol (of one method or of two) are compared with each other. Numbers of
    two different scopes mean everything as it was when that number was the newest one, by FIFO. Raises
    UnknownVersion.
    """
    first, second = scope_of(connection, version_a), scope_of(connection, version_b)
    if first[:2] == second[:2]:
        left = _rows(connection, first, version_a, None if first.method != second.method else version_b)
        right = _rows(connection, second, version_b, None if first.method != second.method else version_a)
    else:
        left = _rows(connection, None, version_a, version_b)
        right = _rows(connection, None, version_b, version_a)
    yield from _paired(
        [row for row in left if symbol in (None, row.symbol)], [row for row in right if symbol in (None, row.symbol)]
    )


def _rows(connection: Connection, key: ScopeKey | None, version: int, without: int | None) -> list[StoredAllocation]:
    """The rows of a version; those that are also rows of `without` left out: they are the same."""
    account, symbol, method = key or (None, None, Method.FIFO)
    found = allocations.stored(connection, account=account, symbol=symbol, method=method, version=version)
    return [row for row in found if without is None or not _valid(row, without)]


def _valid(row: StoredAllocation, version: int) -> bool:
    return row.from_version <= version and (row.to_version is None or row.to_version >= version)


def _paired(left: Sequence[StoredAllocation], right: Sequence[StoredAllocation]) -> list[Discrepancy]:
    """Rows of the same pair of trades beside each other; equal ones left out."""
    waiting: dict[Pair, list[StoredAllocation]] = {}
    for row in right:
        waiting.setdefault(_pair(row), []).append(row)
    found = []
    for row in left:
        others = waiting.get(_pair(row))
        discrepancy = Discrepancy(row, others.pop(0) if others else None)
        if discrepancy.b is None or discrepancy.columns:
            found.append(discrepancy)
    found += [Discrepancy(None, row) for rows in waiting.values() for row in rows]
    return sorted(found, key=lambda item: (item.row.account, item.row.symbol, item.row.closed_at, item.row.id))


def _pair(row: StoredAllocation) -> Pair:
    return row.account, row.symbol, row.sell_trade, row.buy_trade


# ---- methods ------------------------------------------------------------------------------------------------


class MethodTotal(NamedTuple):
    """What a method makes of the trades of an account and symbol. `unrealized_pnl` None: no mark is known."""

    account: str
    symbol: str
    method: Method
    realized_pnl: Decimal
    quantity: Decimal
    cost_basis: Decimal
    unrealized_pnl: Decimal | None
    incomplete: bool

    def to_wire(self) -> dict[str, Json]:
        """The JSON form."""
        return {
            "account": self.account,
            "symbol": self.symbol,
            "method": str(self.method),
            "realized_pnl": plain(self.realized_pnl),
            "quantity": plain(self.quantity),
            "cost_basis": plain(self.cost_basis),
            "unrealized_pnl": None if self.unrealized_pnl is None else plain(self.unrealized_pnl),
            "incomplete": self.incomplete,
        }


def compare_methods(
    connection: Connection,
    methods: Sequence[Method],
    *,
    account: str | None = None,
    symbol: str | None = None,
    progress: batch.Progress | None = None,
) -> Iterator[MethodTotal]:
    """Each method over all trades of each symbol, computed on the spot: nothing is stored for it. Raises
    FifoError."""
    owners, head = ledger.accounts(connection), ledger.head(connection).sequence
    scopes = traded(connection, account=account, symbol=symbol)
    known = marks.stored(connection, scopes)
    chosen = selections.stored(connection) if Method.SPECIFIC in methods else None
    before = 0
    for owner, name in scopes:
        mark = known.get(name)
        for method in methods:
            computed = batch.compute(
                connection,
                owners[owner],
                name,
                head,
                method=method,
                selections=chosen,
                progress=None if progress is None else _after(progress, before),
            )
            before += computed.buys + computed.sells
            book = computed.book
            quantity, cost = book.engine.quantity, book.engine.cost_basis
            unrealized = Decimal(0) if not quantity else None if mark is None else quantity * mark.price - cost
            yield MethodTotal(
                owner, name, method, book.engine.realized_pnl, quantity, cost, unrealized, book.incomplete
            )


def _after(progress: batch.Progress, before: int) -> batch.Progress:
    return lambda done: progress(before + done)


def traded(connection: Connection, *, account: str | None = None, symbol: str | None = None) -> list[tuple[str, str]]:
    """The (account, symbol) pairs that were ever traded, in order."""
    sql = "SELECT DISTINCT account, symbol FROM trades ORDER BY account, symbol"
    rows = raw.execute(connection, sql).fetchall()
    return [(owner, name) for owner, name in rows if account in (None, owner) and symbol in (None, name)]
