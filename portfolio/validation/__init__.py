"""Proof of the stored allocations: the rows of a scope against its trades, by plain addition.

Nothing here matches anything: the rows say what was matched, and it is checked that this is possible and
adds up. Only the last step runs the engine, to compare its rows with the stored ones. Everything streams;
memory grows with the open lots only. Problems name the row.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

from sqlalchemy import Connection

from execution import ledger
from execution.model import Account
from portfolio import batch
from portfolio.validation.accounting import ScopeAudit
from portfolio.validation.findings import Check, Report, Totals
from portfolio.validation.recomputed import check_recomputed
from portfolio.validation.rows import Row, rows_of, taken_back, trades_of
from portfolio.validation.scopes import Scope, check_versions, current_scopes, scope_of_version

__all__ = ["Check", "Report", "Scope", "Totals", "current_scopes", "scope_of_version", "validate"]


def validate(
    connection: Connection,
    scopes: Sequence[Scope],
    report: Report,
    *,
    progress: Callable[[int], None] | None = None,
) -> Totals:
    """Check the versions, then scope after scope. `progress` is told the trades looked at so far."""
    check_versions(connection, report)
    owners = ledger.accounts(connection)
    totals = Totals()
    before = 0

    def told(done: int) -> None:
        assert progress is not None
        progress(before + done)

    for scope in scopes:
        owner = owners.get(scope.key.account)
        if owner is None:
            report(Check.ORPHANS, f"{scope.name}: there is no account {scope.key.account}")
            continue
        _check_scope(connection, scope, owner, report, totals, progress=None if progress is None else told)
        before = 2 * totals.trades
    return totals


def _check_scope(
    connection: Connection,
    scope: Scope,
    account: Account,
    report: Report,
    totals: Totals,
    *,
    progress: Callable[[int], None] | None = None,
) -> None:
    """All invariants of one scope. `progress` is told the trades done, twice over for a current version: once
    for the sums, once for the full recomputation."""
    totals.scopes += 1
    audit = ScopeAudit(scope, account, report, totals, lambda trade_id: ledger.find_trade(connection, trade_id))
    instants = groupby(rows_of(connection, scope), key=lambda row: row.closed_at)
    waiting = next(instants, None)
    corrected = taken_back(connection, scope)
    done = 0
    for instant, group in groupby(trades_of(connection, scope), key=lambda trade: trade.executed_at):
        while waiting is not None and waiting[0] < instant:
            audit.strays(list(waiting[1]))
            waiting = next(instants, None)
        rows: list[Row] = []
        if waiting is not None and waiting[0] == instant:
            rows = list(waiting[1])
            waiting = next(instants, None)
        for trade in group:
            if trade.corrects is None and trade.id not in corrected:
                rows = audit.apply(trade, rows)
            done += 1
            if progress is not None and done % batch.CHUNK == 0:
                progress(done)
        audit.strays(rows)
    while waiting is not None:
        audit.strays(list(waiting[1]))
        waiting = next(instants, None)
    audit.finish()
    if scope.is_current:
        check_recomputed(connection, scope, account, report, progress, done)
