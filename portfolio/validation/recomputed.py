"""The stored rows of a scope against those that the engine computes anew."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from execution.model import Account
from portfolio import allocations, batch, matches, selections
from portfolio.allocations import Content
from portfolio.errors import PortfolioError
from portfolio.fifo import ENGINE_VERSION
from portfolio.lots import Method
from portfolio.matches import Allocation
from portfolio.validation.findings import Check, Report
from portfolio.validation.rows import Row, rows_of, shown
from portfolio.validation.scopes import Scope


class _Differs(Exception):
    """The first difference was found; no need to go on."""


def check_recomputed(
    connection: Connection,
    scope: Scope,
    account: Account,
    report: Report,
    progress: Callable[[int], None] | None,
    before: int,
) -> None:
    """The rows that a full recomputation gives, in their order, are the stored ones."""
    if scope.engine_version != ENGINE_VERSION:
        text = f"{scope.name}: computed by version {scope.engine_version} of the engine, this is {ENGINE_VERSION}"
        report(Check.OUTDATED, f"{text}: `fillbook allocations compute`")
        return
    stored = rows_of(connection, scope)

    def compare(found: list[matches.Row]) -> None:
        for piece, expected in zip(found, allocations.contents(found), strict=True):
            row = next(stored, None)
            if row is None or row[1:] != expected:
                raise _Differs(_difference(scope, row, Allocation(*piece), expected))

    try:
        batch.compute(
            connection,
            account,
            scope.key.symbol,
            scope.sequence,
            method=scope.key.method,
            selections=selections.stored(connection) if scope.key.method is Method.SPECIFIC else None,
            sink=compare,
            progress=None if progress is None else lambda done: progress(before + done),
        )
        if (row := next(stored, None)) is not None:
            raise _Differs(f"{scope.name}: allocation {row.id}: a full recomputation does not have it")
    except _Differs as difference:
        report(Check.FULL, str(difference))
    except PortfolioError as error:
        report(Check.FULL, f"{scope.name}: cannot be recomputed: {error}")


def _difference(scope: Scope, row: Row | None, piece: Allocation, content: Content) -> str:
    expected = dict(zip(Row._fields[1:], content, strict=True))
    pair = f"sell {piece.sell_trade}, buy {piece.buy_trade or 'none'}"
    if row is None:
        return f"{scope.name}: a full recomputation has one row more: {pair}, {shown(piece.quantity_units)}"
    if (row.sell_trade, row.buy_trade) != (piece.sell_trade, piece.buy_trade):
        return f"{scope.name}: allocation {row.id} (sell {row.sell_trade}, buy {row.buy_trade}): expected {pair}"
    columns: dict[str, Any] = {name: value for name, value in expected.items() if getattr(row, name) != value}
    said = ", ".join(f"{name} {getattr(row, name)}, expected {value}" for name, value in columns.items())
    return f"{scope.name}: allocation {row.id} ({pair}): {said}"
