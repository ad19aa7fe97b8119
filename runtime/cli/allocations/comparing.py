"""`allocations compare`: two versions row by row, or what each method makes of the same trades."""

from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli.allocations.scope import check_scope, method_of
from runtime.cli.base import FAILED, USAGE, CommandFailed, Place
from runtime.cli.books import AccountFilter, SymbolFilter, page

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from portfolio.lots import Method


def compare(
    place: Place,
    a: Annotated[int | None, typer.Argument(metavar="[A]", help="A version.")] = None,
    b: Annotated[int | None, typer.Argument(metavar="[B]", help="Another version.")] = None,
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="M,M", help="Compare methods instead, such as fifo,lifo.")
    ] = None,
    account: AccountFilter = None,
    symbol: SymbolFilter = None,
) -> None:
    """What differs between two versions, row by row; or what each method makes of the same trades."""
    if methods is not None:
        if a is not None:
            raise typer.BadParameter("two versions or --methods, not both")
        _compare_methods(place, [method_of(name.strip()) for name in methods.split(",")], account, symbol)
    elif a is None or b is None:
        raise typer.BadParameter("two versions (`allocations list` names them), or --methods fifo,lifo")
    else:
        _compare_versions(place, a, b, account, symbol)


def _compare_versions(place: Place, a: int, b: int, account: str | None, symbol: str | None) -> None:
    from portfolio.compare import Discrepancy, find_discrepancies
    from portfolio.errors import UnknownVersion
    from runtime.cli.output import Cell, moment, money, number, result, show_json, show_table

    def query(connection: "Connection") -> list[Discrepancy]:
        check_scope(connection, account, symbol)
        found = find_discrepancies(connection, a, b, symbol=symbol)
        return [item for item in found if account in (None, item.row.account)]

    try:
        items = place.read(query)
    except UnknownVersion as error:
        raise CommandFailed(f"expected {error}", USAGE) from None
    if place.json:
        show_json({"a": a, "b": b, **page(item.to_wire() for item in items)})
        return
    rows: list[list[Cell]] = []
    for item in items:
        left, right = item.a, item.b
        rows.append(
            [
                moment(item.row.closed_at),
                item.row.symbol,
                "only in A" if right is None else "only in B" if left is None else ", ".join(item.columns),
                "-" if left is None else number(left.quantity),
                "-" if right is None else number(right.quantity),
                money(None if left is None else left.cost_basis),
                money(None if right is None else right.cost_basis),
                "-" if left is None else result(left.pnl),
                "-" if right is None else result(right.pnl),
                item.row.sell_trade,
                item.row.buy_trade or "no buy known",
            ]
        )
    headings = [
        "closed at", "symbol", "differs", ">quantity A", ">quantity B", ">cost A", ">cost B", ">P&L A", ">P&L B",
        "sell", "buy",
    ]  # fmt: skip
    show_table(headings, rows, empty=f"no difference between versions {a} and {b}")


def _compare_methods(place: Place, methods: "list[Method]", account: str | None, symbol: str | None) -> None:
    from portfolio.compare import MethodTotal, compare_methods
    from portfolio.errors import FifoError
    from runtime.cli.bars import TradeBar
    from runtime.cli.output import money, number, show_json, show_table, signed

    def query(connection: "Connection") -> list[MethodTotal]:
        check_scope(connection, account, symbol)
        return list(compare_methods(connection, methods, account=account, symbol=symbol, progress=bar.count))

    try:
        with TradeBar("computing") as bar:
            totals = place.read(query)
    except FifoError as error:
        raise CommandFailed(f"cannot be computed: {error}", FAILED) from None
    if place.json:
        show_json(page(item.to_wire() for item in totals))
        return
    show_table(
        ["account", "symbol", "method", ">realized", ">quantity left", ">its cost", ">unrealized", ""],
        [
            [
                item.account,
                item.symbol,
                str(item.method),
                signed(item.realized_pnl),
                number(item.quantity),
                money(item.cost_basis),
                signed(item.unrealized_pnl),
                "incomplete" if item.incomplete else "",
            ]
            for item in totals
        ],
        empty="no trades",
    )
