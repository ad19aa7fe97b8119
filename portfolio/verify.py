"""`fillbook verify`: numbered checks over the stored books, each proving one promise.

Every check streams over the ledger in pages; memory grows with the open lots only, time with the facts.
Run them on one read transaction, so that all see the same ledger.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from sqlalchemy import Connection

from config.exact import ZERO, plain
from execution import ledger
from execution.errors import ExecutionError
from execution.model import AccountMode, Fact, Trade, trade_cash_effect
from execution.tables import GENESIS_HASH
from portfolio import recompute
from portfolio.audit import LotAudit
from portfolio.books import Books
from portfolio.errors import PortfolioError

Progress = Callable[[int, int, int], None]
"""Told (check number, facts done, facts in all)."""

MAX_PROBLEMS = 100
"""Problems named per check; the figure `problems` counts them all."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found. `figures` are plain texts; `problems` name the rows at fault."""

    number: int
    name: str
    ok: bool
    figures: dict[str, str]
    problems: list[str]


@dataclass(slots=True)
class Findings:
    """Collects problems: all are counted, the first ones are named."""

    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """One more."""
        self.count += 1
        if len(self.named) < MAX_PROBLEMS:
            self.named.append(problem)

    def result(self, number: int, name: str, figures: dict[str, str]) -> CheckResult:
        """The check's result: ok when nothing was found."""
        if self.count:
            figures = {**figures, "problems": str(self.count)}
        return CheckResult(number, name, not self.count, figures, self.named)


_CASH = "cash is the exact sum of the facts"
_LOTS = "every sell is allocated exactly and the parts add up"
_INCREMENTAL = "incremental state equals full recomputation"
_CHAIN = "the chain of facts is unbroken"


def _no_progress(_number: int, _done: int, _total: int) -> None:
    """The progress of whoever does not ask."""


class _Run:
    """What the checks share: the connection, the head, the progress callback."""

    def __init__(self, connection: Connection, progress: Progress) -> None:
        self.connection = connection
        self.head = ledger.head(connection)
        self.accounts = ledger.accounts(connection)
        self._progress = progress

    def facts(self, number: int) -> Iterator[Fact]:
        """All facts in sequence order, a page in memory at a time."""
        sequence = 0
        while page := ledger.facts_since(self.connection, sequence, recompute.PAGE):
            yield from page
            sequence = page[-1].sequence
            self.progress(number, sequence)

    def progress(self, number: int, done: int) -> None:
        """Tell how far the check is."""
        self._progress(number, done, self.head.sequence)


def verify(connection: Connection, progress: Progress = _no_progress) -> list[CheckResult]:
    """Run all checks."""
    return list(checks(connection, progress))


def checks(connection: Connection, progress: Progress = _no_progress) -> Iterator[CheckResult]:
    """Run the checks one after another, each result as soon as it is known."""
    run = _Run(connection, progress)
    yield _guarded(1, _CASH, lambda: _check_cash(run))
    books: list[Books] = []

    def computed() -> Books:
        # Inside the guard: facts with a hole are this check's problem, not the end of all checks.
        if not books:
            books.append(recompute.from_ledger(connection))
        return books[0]

    yield _guarded(2, _LOTS, lambda: _check_lots(run, computed()))
    yield _guarded(3, _INCREMENTAL, lambda: _check_incremental(run, computed()))
    yield _guarded(4, _CHAIN, lambda: _check_chain(run))


def _guarded(number: int, name: str, check: Callable[[], CheckResult]) -> CheckResult:
    """A check on rows that cannot even be read or followed fails; it does not stop the others."""
    try:
        return check()
    except (PortfolioError, ExecutionError, ArithmeticError, ValueError, KeyError) as error:
        return CheckResult(number, name, False, {}, [f"cannot be computed: {type(error).__name__}: {error}"])


def _check_cash(run: _Run) -> CheckResult:
    """1: each stored cash effect follows from its own trade, and cash is the exact sum of the facts."""
    findings = Findings()
    stored: dict[str, Decimal] = {}
    flows: dict[str, Decimal] = {}
    bought_and_sold: dict[str, Decimal] = {}
    facts = 0
    for fact in run.facts(1):
        facts += 1
        account = run.accounts.get(fact.account)
        if account is None:
            findings.add(f"{_row(fact)}: account {fact.account} does not exist")
            continue
        stored[fact.account] = stored.get(fact.account, ZERO) + fact.cash_effect
        if not isinstance(fact, Trade):
            flows[fact.account] = flows.get(fact.account, ZERO) + fact.amount * fact.kind.sign
            if fact.currency != account.currency:
                findings.add(f"{_row(fact)}: currency {fact.currency}, the account's is {account.currency}")
            continue
        fee = fact.fee if fact.fee_asset == account.currency else ZERO
        expected = trade_cash_effect(fact.side, fact.quantity, fact.price, fee)
        bought_and_sold[fact.account] = bought_and_sold.get(fact.account, ZERO) + expected
        if expected != fact.cash_effect:
            findings.add(f"{_row(fact)}: cash effect {plain(fact.cash_effect)}, expected {plain(expected)}")
    figures = {"facts": str(facts)}
    for name, cash in sorted(stored.items()):
        figures[f"cash {name}"] = plain(cash)
        expected = flows.get(name, ZERO) + bought_and_sold.get(name, ZERO)
        if cash != expected:
            findings.add(f"account {name}: cash {plain(cash)}, flows and trades give {plain(expected)}")
    return findings.result(1, _CASH, figures)


def _check_lots(run: _Run, books: Books) -> CheckResult:
    """2: allocated exactly, nothing over-allocated, parts add up; summed independently of the engine."""
    findings = Findings()
    done = sells = allocations = 0
    unmatched = ZERO
    for (account, symbol), book in sorted(books.symbols.items()):
        owner = run.accounts[account]
        audit = LotAudit(owner, symbol, findings.add)
        for trade in ledger.trades_in_order(run.connection, account, symbol):
            audit.apply(trade)
            done += 1
            if done % recompute.PAGE == 0:
                run.progress(2, done)
        audit.finish(book.engine)
        sells += audit.sells
        allocations += audit.allocations
        unmatched += audit.unmatched
        if owner.mode is AccountMode.MARGIN and audit.unmatched:
            findings.add(f"{account}/{symbol}: {plain(audit.unmatched)} unmatched in a margin account")
    figures = {
        "trades": str(done),
        "sells": str(sells),
        "allocations": str(allocations),
        "unmatched quantity": plain(unmatched),
    }
    return findings.result(2, _LOTS, figures)


def _check_incremental(run: _Run, full: Books) -> CheckResult:
    """3: the checkpoint and the facts after it give the same books as all facts."""
    findings = Findings()
    opened = recompute.open_books(run.connection, lambda done: run.progress(3, done))
    if opened.problem is not None:
        findings.add(f"checkpoint: {opened.problem}")
    figures = {
        "checkpoint sequence": str(opened.stored_sequence) if opened.digests is not None else "none",
        "sequence": str(opened.books.sequence),
    }
    if opened.digests is not None:
        for problem in differences(opened.books, full):
            findings.add(problem)
    return findings.result(3, _INCREMENTAL, figures)


def differences(left: Books, right: Books) -> Iterator[str]:
    """Where two books differ, scope by scope; nothing when they are the same to the last digit."""
    if (left.sequence, left.head_hash) != (right.sequence, right.head_hash):
        yield f"sequence {left.sequence} ({left.head_hash}), not {right.sequence} ({right.head_hash})"
    for account in _all(left.cash, right.cash):
        mine, theirs = left.cash.get(account), right.cash.get(account)
        if mine != theirs:
            yield f"cash of {account}: {mine}, not {theirs}"
    for scope in _all(left.symbols, right.symbols):
        name = "/".join(scope)
        if scope not in left.symbols or scope not in right.symbols:
            yield f"{name}: only in one of the two"
            continue
        mine_state, their_state = left.symbols[scope].dump(), right.symbols[scope].dump()
        for part in mine_state:
            if mine_state[part] != their_state[part]:
                yield f"{name}: {part} differs"


def _all(left: Iterable, right: Iterable) -> list:  # type: ignore[type-arg]
    return sorted({*left, *right})


def _check_chain(run: _Run) -> CheckResult:
    """4: no hole in the sequences, each hash follows from content and predecessor, the head is the last."""
    findings = Findings()
    previous = GENESIS_HASH
    sequence = 0
    for fact in run.facts(4):
        if fact.sequence != sequence + 1:
            findings.add(f"{_row(fact)}: follows sequence {sequence}")
        if ledger.content_hash(fact, previous) != fact.hash:
            findings.add(f"{_row(fact)}: the hash does not follow from content and predecessor")
        # Go on from the stored hash: one changed row is then one problem, not one for every row after it.
        previous, sequence = fact.hash, fact.sequence
    if (run.head.sequence, run.head.hash) != (sequence, previous):
        findings.add(f"ledger_head: sequence {run.head.sequence}, the last fact has {sequence} and another hash")
    return findings.result(4, _CHAIN, {"facts": str(sequence), "head": run.head.hash})


def _row(fact: Fact) -> str:
    kind = "trade" if isinstance(fact, Trade) else "cash flow"
    return f"{kind} {fact.id} (sequence {fact.sequence})"
