"""Checks 10 and 11: the database still guards the facts; sells without a lot wait for somebody."""

from execution import guards, raw
from portfolio.verify.results import CheckResult, Findings
from portfolio.verify.scope import Run

GUARDED = "the database refuses to change facts"
REVIEWED = "unmatched sells are in the review queue"


def check_guards(run: Run) -> CheckResult:
    """10: every trigger that refuses a change of facts is there, as it was made."""
    findings = Findings()
    for name, wrong in guards.faults(run.connection).items():
        findings.add(f"trigger {name} {wrong}: `fillbook verify --restore-guards` makes it anew")
    return findings.result(10, GUARDED, {"triggers": str(len(guards.names()))})


_CURRENT = "r.buy_trade IS NULL AND r.method = 'fifo' AND r.to_version IS NULL"


def check_reviews(run: Run) -> CheckResult:
    """11: each sell that found no lot has an entry in the review queue, and each open entry such a sell."""
    if not run.has("review_queue", "fifo_allocations"):
        reason = "the schema of this database is older than the review queue"
        return CheckResult(11, REVIEWED, True, {}, [], skipped=reason)
    findings = Findings()
    sql = (
        "SELECT r.id, r.account, r.symbol, r.sell_trade, q.id IS NOT NULL FROM fifo_allocations AS r"
        " LEFT JOIN review_queue AS q ON q.kind = 'unmatched_sell' AND q.trade_id = r.sell_trade"
        f" AND q.account = r.account AND q.symbol = r.symbol WHERE {_CURRENT}"
    )
    unmatched = 0
    for row_id, account, symbol, trade_id, known in raw.execute(run.connection, sql):
        if run.wants(account, symbol):
            unmatched += 1
            if not known:
                name = f"{account}/{symbol}: allocation {row_id}"
                findings.add(f"{name}: sell {trade_id} found no lot, and is not in the review queue")
    sql = (
        "SELECT q.id, q.account, q.symbol, q.trade_id FROM review_queue AS q WHERE q.kind = 'unmatched_sell'"
        " AND q.status = 'open' AND NOT EXISTS (SELECT 1 FROM fifo_allocations AS r WHERE r.account = q.account"
        f" AND r.symbol = q.symbol AND r.sell_trade = q.trade_id AND {_CURRENT})"
    )
    for review_id, account, symbol, trade_id in raw.execute(run.connection, sql):
        if run.wants(account, symbol):
            findings.add(f"{account}/{symbol}: review entry {review_id} is open, but sell {trade_id} is matched")
    open_entries = raw.execute(run.connection, "SELECT COUNT(*) FROM review_queue WHERE status = 'open'").fetchone()
    return findings.result(11, REVIEWED, {"unmatched": str(unmatched), "open entries": str(open_entries[0])})
