"""Books from the facts alone: the batch that every incremental state must equal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import partial

from sqlalchemy import Connection

from execution import ledger, raw
from execution.model import Account, Fact, Trade
from portfolio import batch, checkpoint
from portfolio.batch import Computed
from portfolio.books import Books, CashBook, FillOutcome, Scope, rebuilt
from portfolio.errors import CheckpointDamaged
from portfolio.matches import Allocation, Row
from portfolio.rewinding import rewound

PAGE = 1000
"""Facts read from the ledger at a time: what bounds the memory of a long run."""

Progress = Callable[[int], None]
"""Told the last ledger sequence that is done."""


Outcomes = Callable[[FillOutcome], None]


def _no_progress(_sequence: int) -> None:
    """The progress of whoever does not ask."""


def _no_outcome(_outcome: FillOutcome) -> None:
    """The listener of whoever does not ask."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Books at the ledger's head, and the digests of the stored checkpoint they began with.

    `recomputed`: symbols that had to be computed anew on the way, with the instant from which on.
    `digests` is None when there was no usable checkpoint (`stored_sequence` is then 0); `problem` says why,
    if there was one.
    """

    books: Books
    digests: dict[Scope, str] | None
    stored_sequence: int = 0
    problem: str | None = None
    recomputed: Mapping[Scope, datetime] = field(default_factory=dict)


def recompute(facts: Sequence[Fact], accounts: dict[str, Account]) -> Books:
    """Books from facts in memory (in sequence order, from 1 on)."""
    books = Books(accounts)
    books.apply(facts)
    for scope in sorted(books.stale):
        account, symbol = scope
        trades = [fact for fact in facts if isinstance(fact, Trade) and (fact.account, fact.symbol) == scope]
        trades.sort(key=lambda trade: trade.order_key)
        books.replace(scope, rebuilt(accounts[account], symbol, trades, books.sequence)[0])
    return books


def follow(
    connection: Connection, books: Books, progress: Progress = _no_progress, outcomes: Outcomes = _no_outcome
) -> dict[Scope, datetime]:
    """Take the books to the ledger's head; returns the symbols that had to be computed anew for it.

    `outcomes` is told what each trade meant, in ledger order; without a result for those of such symbols.
    """
    while facts := ledger.facts_since(connection, books.sequence, PAGE):
        for outcome in books.apply(facts):
            outcomes(outcome)
        progress(books.sequence)
    stale = dict(books.stale)
    for scope, (computed, _) in rebuild(connection, books, stale, collect=False).items():
        books.replace(scope, computed.book)
    return stale


def rebuild(
    connection: Connection,
    books: Books,
    scopes: Mapping[Scope, datetime],
    wanted: Iterable[FillOutcome] = (),
    *,
    collect: bool = True,
) -> dict[Scope, tuple[Computed, list[Allocation]]]:
    """Recompute symbols from all their trades up to the books' sequence, with the results of some trades and
    the allocations that were closed from the symbol's instant on.

    Changes nothing: the caller puts the books in place. What was matched before a symbol's instant is not matched
    again, where the book as it is says how it was then.
    """
    ids = frozenset(outcome.trade.id for outcome in wanted)
    done = {}
    for (account, symbol), since in sorted(scopes.items()):
        found: list[Allocation] = []
        owner = books.accounts[account]
        computed = batch.compute(
            connection,
            owner,
            symbol,
            books.sequence,
            wanted=ids,
            since=since,
            sink=partial(_collect, found) if collect else None,
            reached=rewound(connection, owner, symbol, books.symbols[account, symbol], since),
        )
        done[account, symbol] = computed, found
    return done


def _collect(found: list[Allocation], rows: list[Row]) -> None:
    found += map(Allocation._make, rows)


def from_ledger(connection: Connection, progress: Progress = _no_progress) -> Books:
    """Books from the whole ledger, no cache used: symbol by symbol, at half the cost of fact by fact.

    Raises SequenceHole when facts are missing.
    """
    books = Books(ledger.accounts(connection), dust=dust_thresholds(connection))
    head = ledger.head(connection).sequence
    last = ledger.facts_since(connection, head - 1, 2)
    sql = "SELECT (SELECT COUNT(*) FROM trades) + (SELECT COUNT(*) FROM cash_flows)"
    if len(last) != 1 or last[0].sequence != head or raw.execute(connection, sql).fetchone()[0] != head:
        follow(connection, books, progress)  # empty, or not what the head row says: the facts decide, one by one
        return books
    _add_cash(connection, books)
    scopes = "SELECT DISTINCT account, symbol FROM trades ORDER BY account, symbol"
    for account, symbol in raw.execute(connection, scopes).fetchall():
        books.symbols[account, symbol] = batch.compute(connection, books.accounts[account], symbol, head).book
        books.changed.add((account, symbol))
    books.sequence, books.head_hash = head, last[0].hash
    progress(head)
    return books


def _add_cash(connection: Connection, books: Books) -> None:
    """The money of all accounts: sums over their facts."""
    for flow in ledger.cash_flows(connection):
        books.cash.setdefault(flow.account, CashBook()).apply_flow(flow)
    cursor = raw.execute(connection, "SELECT account, cash_effect FROM trades")
    while rows := cursor.fetchmany(batch.CHUNK):
        for account, cash_effect in rows:
            books.cash.setdefault(account, CashBook()).cash += Decimal(cash_effect)
    books.changed_cash |= set(books.cash)


def dust_thresholds(connection: Connection) -> dict[str, Decimal]:
    """The catalogue's dust threshold of each symbol."""
    rows = raw.execute(connection, "SELECT symbol, dust FROM instruments").fetchall()
    return {symbol: Decimal(dust) for symbol, dust in rows}


def open_books(connection: Connection, progress: Progress = _no_progress, outcomes: Outcomes = _no_outcome) -> Opened:
    """Books at the head: the checkpoint and what came after it, or everything when it is not usable."""
    problem = None
    loaded = None
    try:
        loaded = checkpoint.load(connection, ledger.accounts(connection))
    except CheckpointDamaged as error:
        problem = str(error)
    if loaded is None:
        return Opened(from_ledger(connection, progress), None, problem=problem)
    loaded.books.dust = dust_thresholds(connection)
    stored_sequence = loaded.books.sequence
    recomputed = follow(connection, loaded.books, progress, outcomes)
    return Opened(loaded.books, loaded.digests, stored_sequence, recomputed=recomputed)
