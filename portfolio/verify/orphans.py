"""Check 4: nothing names what is not there. One query for each kind of reference, over all versions."""

from typing import NamedTuple

from execution import raw
from portfolio.validation import Check
from portfolio.verify.matching import Matching, merged, problems
from portfolio.verify.results import CheckResult, Findings
from portfolio.verify.scope import Run

NAME = "no orphans"


class _Reference(NamedTuple):
    """`sql` gives the rows at fault; their columns fill the braces of `problem`."""

    tables: tuple[str, ...]
    sql: str
    problem: str


def _missing(table: str, column: str, target: str, key: str, where: str = "", label: str = "id") -> str:
    return (
        f"SELECT {label}, {column} FROM {table} AS r WHERE {column} IS NOT NULL {where}"
        f" AND NOT EXISTS (SELECT 1 FROM {target} AS t WHERE t.{key} = r.{column})"
    )


def _trade_of_row(column: str, side: str) -> str:
    return (
        f"SELECT id, {column} FROM fifo_allocations AS r WHERE {column} IS NOT NULL AND NOT EXISTS"
        f" (SELECT 1 FROM trades AS t WHERE t.id = r.{column} AND t.account = r.account AND t.symbol = r.symbol"
        f" AND t.side = '{side}')"
    )


_REFERENCES = (
    _Reference((), _missing("trades", "account", "accounts", "name"), "trade {0}: there is no account {1}"),
    _Reference((), _missing("trades", "symbol", "instruments", "symbol"), "trade {0}: there is no instrument {1}"),
    _Reference((), _missing("cash_flows", "account", "accounts", "name"), "cash flow {0}: there is no account {1}"),
    _Reference(
        (),
        # Imported fills keep the order ids of wherever they are from.
        _missing("trades", "order_id", "orders", "id", "AND r.source = 'exchange'"),
        "trade {0}: there is no order {1}",
    ),
    _Reference(
        (),
        "SELECT id, corrects FROM trades AS r WHERE corrects IS NOT NULL AND NOT EXISTS (SELECT 1 FROM trades AS t"
        " WHERE t.id = r.corrects AND t.account = r.account AND t.symbol = r.symbol)",
        "trade {0}: takes back {1}, which is no trade of its account and symbol",
    ),
    _Reference(
        (),
        "SELECT corrects, COUNT(*) FROM trades WHERE corrects IS NOT NULL GROUP BY corrects HAVING COUNT(*) > 1",
        "trade {0}: taken back {1} times",
    ),
    _Reference((), _missing("orders", "account", "accounts", "name"), "order {0}: there is no account {1}"),
    _Reference((), _missing("orders", "symbol", "instruments", "symbol"), "order {0}: there is no instrument {1}"),
    _Reference(
        ("fifo_allocations",),
        _trade_of_row("sell_trade", "SELL"),
        "allocation {0}: there is no sell {1} of its account and symbol",
    ),
    _Reference(
        ("fifo_allocations",),
        _trade_of_row("buy_trade", "BUY"),
        "allocation {0}: there is no buy {1} of its account and symbol",
    ),
    _Reference(
        ("fifo_pointers",),
        "SELECT account, symbol, method FROM fifo_pointers AS r WHERE NOT EXISTS (SELECT 1 FROM trades AS t"
        " WHERE t.account = r.account AND t.symbol = r.symbol)",
        "{0}/{1}: a current version ({2}) without trades",
    ),
    _Reference(
        ("fifo_pointers",),
        "SELECT account, symbol, method, sequence FROM fifo_pointers"
        " WHERE sequence > (SELECT sequence FROM ledger_head)",
        "{0}/{1} {2}: stored up to sequence {3}, which the ledger does not have",
    ),
    _Reference(
        ("followers",),
        "SELECT name, sequence FROM followers WHERE sequence > (SELECT sequence FROM ledger_head)",
        "follower {0}: at sequence {1}, which the ledger does not have",
    ),
    _Reference(
        ("fifo_inventory_snapshots",),
        "SELECT account, symbol, sequence FROM fifo_inventory_snapshots"
        " WHERE sequence > (SELECT sequence FROM ledger_head)",
        "snapshot {0}/{1}: at sequence {2}, which the ledger does not have",
    ),
    _Reference(
        ("review_queue",),
        _missing("review_queue", "trade_id", "trades", "id"),
        "review entry {0}: there is no trade {1}",
    ),
    _Reference(
        ("review_queue",),
        _missing("review_queue", "account", "accounts", "name"),
        "review entry {0}: there is no account {1}",
    ),
    _Reference(
        ("lot_selections",),
        _missing("lot_selections", "closing_trade", "trades", "id", label="selected_by"),
        "selection of lots by {0}: there is no trade {1}",
    ),
    _Reference(
        ("lot_selections",),
        _missing("lot_selections", "opening_trade", "trades", "id", label="closing_trade"),
        "selection of lots for {0}: there is no trade {1}",
    ),
)


def check(run: Run, found: Matching) -> CheckResult:
    """4: every reference has its target, and the versions of allocations fit their pointers and their log."""
    findings = Findings()
    looked_at = 0
    for reference in _REFERENCES:
        if not run.has(*reference.tables):
            continue
        looked_at += 1
        run.progress(4, looked_at, len(_REFERENCES))
        for row in raw.execute(run.connection, reference.sql):
            findings.add(reference.problem.format(*row))
    whole = merged(findings, *problems(found, (Check.ORPHANS, Check.VERSIONS)))
    return whole.result(4, NAME, {"kinds of references": str(looked_at), "scopes": str(found.totals.scopes)})
