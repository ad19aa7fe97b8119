"""`allocations list`: which sell took which buy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli.allocations.scope import MethodOption, VersionOption, check_scope, check_version, fresh, method_of
from runtime.cli.base import USAGE, CommandFailed, Place
from runtime.cli.books import AccountFilter, LimitOption, SymbolFilter, most, one_page, row_number

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from portfolio.allocations import StoredAllocation


def list_allocations(
    place: Place,
    account: AccountFilter = None,
    symbol: SymbolFilter = None,
    method: MethodOption = "fifo",
    version: VersionOption = None,
    trade: Annotated[str | None, typer.Option("--trade", metavar="ID", help="Only rows of this sell or buy.")] = None,
    limit: LimitOption = None,
    after: Annotated[
        str | None,
        typer.Option("--after", "--cursor", metavar="C", help='Go on from here: the "next" of the page before.'),
    ] = None,
) -> None:
    """Which sell took which buy, with cost, proceeds and P&L, the oldest first."""
    from portfolio import allocations
    from runtime.cli.output import show, show_page

    chosen, at_most = method_of(method), most(place, limit)
    after_id = 0 if after is None else row_number(after, "--after")
    fresh(place)

    def query(connection: "Connection") -> "list[StoredAllocation]":
        check_scope(connection, account, symbol)
        check_version(connection, version)
        return list(
            allocations.stored(
                connection,
                account=account,
                symbol=symbol,
                method=chosen,
                version=version,
                trades=() if trade is None else [_trade_id(connection, trade, account)],
                after_id=after_id,
                limit=at_most + 1,
            )
        )

    shown, following = one_page(place.read(query), at_most, lambda row: str(row.id))
    if place.json:
        show_page((row.to_wire() for row in shown), following)
        return
    hint = "" if chosen == "fifo" else f": `allocations compute --method {chosen}`"
    _show(shown, empty=f"no allocations by {chosen}{hint}")
    if following is not None:
        show(f"... more with --after {following}")


def _trade_id(connection: "Connection", wanted: str, account: str | None) -> str:
    from portfolio.errors import UnknownTrade
    from portfolio.explain import find_trade

    try:
        return find_trade(connection, wanted, account=account).id
    except UnknownTrade as error:
        raise CommandFailed(f"expected {error}", USAGE) from None


def _show(shown: "Sequence[StoredAllocation]", *, empty: str) -> None:
    from runtime.cli.output import moment, money, number, result, show_table

    headings = [
        "sold at", "symbol", ">quantity", ">cost", ">proceeds", ">fees", ">P&L", "bought at", "version", "sell",
        "buy",
    ]  # fmt: skip
    show_table(
        headings,
        [
            [
                moment(row.sell_at),
                row.symbol,
                number(row.quantity),
                money(row.cost_basis),
                money(row.proceeds),
                money(row.sell_fee),
                result(row.pnl),
                moment(row.buy_at),
                f"{row.from_version}" if row.to_version is None else f"{row.from_version}-{row.to_version}",
                row.sell_trade,
                row.buy_trade or "no buy known",
            ]
            for row in shown
        ],
        empty=empty,
    )
