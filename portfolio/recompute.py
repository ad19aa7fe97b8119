"""Books from the facts alone: the batch that every incremental state must equal."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from execution import ledger
from execution.model import Account, Fact, Trade
from portfolio import batch, checkpoint
from portfolio.books import Books, FillOutcome, Scope, SymbolBook, rebuilt
from portfolio.errors import CheckpointDamaged
from portfolio.fifo import FillResult

PAGE = 1000
"""Facts read from the ledger at a time: what bounds the memory of a long run."""

Progress = Callable[[int], None]
"""Told the last ledger sequence that is done."""


def _no_progress(_sequence: int) -> None:
    """The progress of whoever does not ask."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Books at the ledger's head, and the digests of the stored checkpoint they began with.

    `digests` is None when there was no usable checkpoint (`stored_sequence` is then 0); `problem` says why,
    if there was one.
    """

    books: Books
    digests: dict[Scope, str] | None
    stored_sequence: int = 0
    problem: str | None = None


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


def follow(connection: Connection, books: Books, progress: Progress = _no_progress) -> None:
    """Take the books to the ledger's head, stale symbols recomputed."""
    while facts := ledger.facts_since(connection, books.sequence, PAGE):
        books.apply(facts)
        progress(books.sequence)
    for scope, (book, _) in rebuild(connection, books, books.stale).items():
        books.replace(scope, book)


def rebuild(
    connection: Connection, books: Books, scopes: Iterable[Scope], wanted: Iterable[FillOutcome] = ()
) -> dict[Scope, tuple[SymbolBook, dict[str, FillResult]]]:
    """Recompute symbols from all their trades up to the books' sequence, with the results of some trades.

    Changes nothing: the caller puts the books in place.
    """
    ids = frozenset(outcome.trade.id for outcome in wanted)
    done = {}
    for account, symbol in sorted(scopes):
        computed = batch.compute(connection, books.accounts[account], symbol, books.sequence, wanted=ids)
        done[account, symbol] = computed.book, computed.results
    return done


def from_ledger(connection: Connection, progress: Progress = _no_progress) -> Books:
    """Books from the whole ledger, no cache used."""
    books = Books(ledger.accounts(connection))
    follow(connection, books, progress)
    return books


def open_books(connection: Connection, progress: Progress = _no_progress) -> Opened:
    """Books at the head: the checkpoint and what came after it, or everything when it is not usable."""
    problem = None
    loaded = None
    try:
        loaded = checkpoint.load(connection, ledger.accounts(connection))
    except CheckpointDamaged as error:
        problem = str(error)
    if loaded is None:
        return Opened(from_ledger(connection, progress), None, problem=problem)
    stored_sequence = loaded.books.sequence
    follow(connection, loaded.books, progress)
    return Opened(loaded.books, loaded.digests, stored_sequence)
