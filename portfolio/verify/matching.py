"""Checks 1, 2, 3 and 5: the allocations against their trades; what they find for checks 4 and 8 is kept for those.

Stored rows are proven by `portfolio.validation`, up to the ledger sequence up to which they are stored. Trades
beyond it (a daemon stores what fills meant a moment later) are matched here and audited, from the first one on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from config.exact import ZERO, plain
from execution import ledger
from execution.model import AccountMode
from portfolio import batch, validation
from portfolio.audit import LotAudit
from portfolio.books import Scope
from portfolio.validation import Check, Totals
from portfolio.verify.results import CheckResult, Findings
from portfolio.verify.scope import Run

NUMBERS = {1: Check.SELLS, 2: Check.LOTS, 3: Check.SUMS, 5: Check.ORDER}
NEEDED = ("fifo_allocations", "fifo_pointers", "fifo_computation_log", "followers")


@dataclass(slots=True)
class Matching:
    """What the pass over the allocations found, by what it is about."""

    findings: dict[Check, Findings] = field(default_factory=lambda: {check: Findings() for check in Check})
    totals: Totals = field(default_factory=Totals)
    stored_sequence: int = 0
    waiting: int = 0
    """Scopes with trades whose allocations are not stored yet."""
    matched: int = 0
    """Their trades, which were matched here."""

    def report(self, check: Check, problem: str) -> None:
        """One more problem."""
        self.findings[check].add(problem)


def match(run: Run) -> Matching:
    """Read the allocations and their trades once."""
    found = Matching(stored_sequence=run.stored_position)
    if run.has(*NEEDED):
        scopes = [scope for scope in validation.current_scopes(run.connection) if run.wants(*scope.key[:2])]
        total = 2 * sum(count for _, _, count in run.last_trades()) or 1
        found.totals = validation.validate(
            run.connection,
            scopes,
            found.report,
            progress=lambda done: run.progress(1, min(done, total), total),
        )
    stored = run.stored_up_to()
    for scope, last, _ in run.last_trades():
        if last > stored.get(scope, found.stored_sequence):
            found.waiting += 1
            _audit(run, scope, found)
    return found


def _audit(run: Run, scope: Scope, found: Matching) -> None:
    """Match the trades of a scope, up to the ledger's head, and check what the engine says by addition."""
    account, symbol = scope
    owner = run.accounts.get(account)
    if owner is None:
        return  # check 4 says so
    annulled = set(ledger.corrected_by(run.connection))
    audit = LotAudit(owner, symbol, found.report)
    for trade in ledger.trades_in_order(run.connection, account, symbol):
        if trade.corrects is None and trade.id not in annulled:
            audit.apply(trade)
            found.matched += 1
    audit.finish(batch.compute(run.connection, owner, symbol, run.head.sequence).book.engine)
    if owner.mode is AccountMode.MARGIN and audit.unmatched != ZERO:
        found.report(Check.SELLS, f"{account}/{symbol}: {plain(audit.unmatched)} unmatched in a margin account")


def result(run: Run, number: int, found: Matching) -> CheckResult:
    """The result of check 1, 2, 3 or 5."""
    check = NUMBERS[number]
    totals = found.totals
    figures = {
        1: {"sells": str(totals.sells), "unmatched": str(totals.unmatched)},
        2: {"open lots": str(totals.open_lots)},
        3: {"allocations": str(totals.allocations)},
        5: {"trades": str(totals.trades)},
    }[number]
    if number == 1:
        figures |= _position(run, found)
    return found.findings[check].result(number, str(check), figures)


def _position(run: Run, found: Matching) -> dict[str, str]:
    """How far the stored allocations are behind the ledger, if they are."""
    if not found.waiting:
        return {}
    return {
        "stored up to": f"{found.stored_sequence} of {run.head.sequence}",
        "not stored yet": f"{found.waiting} symbols, {found.matched} trades matched for it",
    }


def merged(*parts: Findings) -> Findings:
    """The problems of several passes as those of one check."""
    whole = Findings()
    for part in parts:
        for problem in part.named:
            whole.add(problem)
        whole.count += part.count - len(part.named)
    return whole


def problems(found: Matching, checks: Sequence[Check]) -> list[Findings]:
    """What was found about some of the invariants."""
    return [found.findings[check] for check in checks]
