"""Checks 7 and 8: the books computed from all trades, against the sums of the facts and against what is stored."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import TypeVar

from config.exact import plain
from execution import totals
from portfolio import batch, checkpoint, marks, recompute
from portfolio.books import Books, Scope, SymbolBook
from portfolio.errors import CheckpointDamaged, CheckpointOutdated
from portfolio.matches import Row
from portfolio.position import Portfolio
from portfolio.units import quantity_of
from portfolio.validation import Check
from portfolio.valuation import value_account
from portfolio.verify.facts import Scan, Sums, decimal_text
from portfolio.verify.matching import Matching, merged, problems
from portfolio.verify.results import CheckResult, Findings
from portfolio.verify.scope import Run

POSITIONS = "positions and P&L are what the trades and their cash leave"
INCREMENTAL = "incremental state equals full recomputation"
_SHOWN_POSITIONS = 12
_RATIO_TEXT = Decimal(100)


@dataclass(slots=True)
class Computed:
    """Books from the facts alone; `unknown_net` is what allocations without a known P&L brought beyond the known
    part of their cost, by scope (10^-36)."""

    books: Books
    unknown_net: dict[Scope, int] = field(default_factory=dict)


def compute(run: Run, scan: Scan) -> Computed:
    """Match all trades of the scopes that are asked for."""
    books = Books(run.accounts, run.head.sequence, scan.last_hash if run.head.sequence else "")
    books.cash = {account: money.book() for account, money in scan.money.items()}
    computed = Computed(books)
    done = 0
    for scope, _, count in run.last_trades():
        account, symbol = scope
        owner = run.accounts.get(account)
        if owner is None:
            continue  # check 4 says so
        net = 0

        def add(found: list[Row]) -> None:
            nonlocal net
            net += sum(row[9] - (row[5] or 0) for row in found if row[10] is None)  # without a known P&L

        told = partial(_told, run, done)
        books.symbols[scope] = batch.compute(
            run.connection,
            owner,
            symbol,
            run.head.sequence,
            sink=add,
            progress=told,
        ).book
        computed.unknown_net[scope] = net
        done += count
    return computed


def _told(run: Run, before: int, trades: int) -> None:
    run.progress(7, before + trades)


# ---- 7 ------------------------------------------------------------------------------------------------------


def check_positions(run: Run, scan: Scan, computed: Computed) -> CheckResult:
    """7: what is held is the signed sum of the trades, and P&L is the cash that came in beyond what is still open.

    Both without matching anything: sum of quantities = open - unmatched; sum of cash effects = realized P&L - cost
    of the open lots + what allocations without a known P&L brought beyond what is known of their cost.
    """
    findings = Findings()
    for scope, book in sorted(computed.books.symbols.items()):
        for problem in _differs(book, scan.sums.get(scope, Sums()), computed.unknown_net[scope]):
            findings.add(f"{'/'.join(scope)}: {problem}")
    figures = {"trades": str(sum(sums.trades for scope, sums in scan.sums.items() if run.wants(*scope)))}
    known = marks.stored(run.connection, scan.sums)
    for account in sorted(computed.books.accounts):
        if run.wants(account):
            figures |= _shown(value_account(computed.books, known, account), run.symbol)
    return findings.result(7, POSITIONS, figures)


def _differs(book: SymbolBook, sums: Sums, unknown_net: int) -> Iterator[str]:
    held, unmatched, cost, realized = book.engine.units
    if held - unmatched != sums.quantity:
        yield f"quantity {plain(quantity_of(held))}, the trades leave {plain(quantity_of(sums.quantity + unmatched))}"
    if realized - cost + unknown_net != sums.cash:
        yield "realized P&L less the cost of what is open is not the cash that the trades moved"


def _shown(portfolio: Portfolio, symbol: str | None) -> dict[str, str]:
    """The figures that people know their account by; of one symbol alone its P&L, and nothing of a return."""
    name = portfolio.account
    unsure = " (incomplete)" if portfolio.incomplete else ""
    figures = {
        f"balance {name}": f"{plain(portfolio.cash)} {portfolio.currency}",
        f"P&L {name if symbol is None else f'{name} {symbol}'}": decimal_text(portfolio.total_pnl) + unsure,
    }
    if symbol is None:
        ratio = portfolio.return_ratio
        figures[f"ROI {name}"] = "-" if ratio is None else f"{plain(ratio * _RATIO_TEXT)} %{unsure}"
    held = [position for position in portfolio.positions if position.quantity]
    shown = [
        f"{position.symbol}: {plain(position.quantity)} @ {_price(position.average_cost)}"
        for position in held[:_SHOWN_POSITIONS]
    ]
    if len(held) > _SHOWN_POSITIONS:
        shown.append(f"and {len(held) - _SHOWN_POSITIONS} more")
    figures[f"positions {name}"] = "; ".join(shown) or "none"
    return figures


def _price(value: Decimal | None) -> str:
    return "-" if value is None else plain(round(value, 8))


# ---- 8 ------------------------------------------------------------------------------------------------------


def check_incremental(run: Run, computed: Computed, found: Matching) -> CheckResult:
    """8: the stored snapshot and the facts after it give the books that all facts give, so do the stored sums that
    execution starts with, and the stored rows of allocations are the computed ones."""
    findings = Findings()
    figures = {"checkpoint sequence": "none", "sequence": str(run.head.sequence)}
    if run.has("fifo_inventory_snapshots"):
        try:
            loaded = checkpoint.load(run.connection, run.accounts)
        except CheckpointOutdated as error:
            loaded = None
            figures["checkpoint sequence"] = f"none of use: {error}"
        except CheckpointDamaged as error:
            loaded = None
            findings.add(f"checkpoint: {error}")
        if loaded is not None:
            figures["checkpoint sequence"] = str(loaded.books.sequence)
            recompute.follow(run.connection, loaded.books, lambda done: run.progress(8, done))
            for problem in differences(_wanted(run, loaded.books), _wanted(run, computed.books)):
                findings.add(f"checkpoint: {problem}")
    else:
        figures["checkpoint sequence"] = "none, an older schema"
    if run.has("ledger_totals"):
        for problem in _wrong_sums(run):
            findings.add(f"sums over the ledger: {problem}")
    figures["allocations"] = str(found.totals.allocations)
    if outdated := found.findings[Check.OUTDATED].count:
        figures["of another engine version"] = f"{outdated} scopes, computed anew by the next run"
    whole = merged(findings, *problems(found, (Check.FULL,)))
    return whole.result(8, INCREMENTAL, figures)


def _wrong_sums(run: Run) -> Iterator[str]:
    """What the stored sums, with the facts after them, say that all facts do not."""
    kept, true = totals.read_totals(run.connection), totals.sum_up(run.connection)
    for name in ("sequence", "cash", "quantities", "last_fills", "deposited", "opened"):
        if getattr(kept, name) != getattr(true, name):
            yield f"{name} are not what all facts give; delete the row of ledger_totals"


def _wanted(run: Run, books: Books) -> Books:
    """The books of what is asked for."""
    return Books(
        books.accounts,
        books.sequence,
        books.head_hash,
        {account: book for account, book in books.cash.items() if run.wants(account)},
        {scope: book for scope, book in books.symbols.items() if run.wants(*scope)},
    )


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


K = TypeVar("K", str, Scope)


def _all(left: Iterable[K], right: Iterable[K]) -> list[K]:
    return sorted(set(left) | set(right))
