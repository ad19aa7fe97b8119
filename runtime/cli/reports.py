"""`report pnl`: realized P&L by symbol, month or cause."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.allocations.scope import MethodOption, VersionOption, check_scope, check_version, fresh, method_of
from runtime.cli.base import Place, command
from runtime.cli.books import AccountFilter, SymbolFilter

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from portfolio.reports import Line, Question

PANEL = "Explain"
_ROWS_SUMMED = 200_000
"""Allocations up to which everything is summed row by row; more take a second for each 200,000 or so."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Reports over the books.", no_args_is_help=True)
    command(group, "pnl", json=True)(pnl)
    app.add_typer(group, name="report", rich_help_panel=PANEL)


def pnl(
    place: Place,
    period: Annotated[
        str | None,
        typer.Option(
            "--period",
            metavar="P",
            help="last-30-days, 2025, 2025-03, 2025-03-15, or FROM..TO (UTC; TO is not part of it).",
        ),
    ] = None,
    by: Annotated[
        str, typer.Option("--by", metavar="symbol|month|triggered_by", help="One line for each.")
    ] = "symbol",
    symbol: SymbolFilter = None,
    account: AccountFilter = None,
    method: MethodOption = "fifo",
    version: VersionOption = None,
    details: Annotated[
        bool, typer.Option("--details", help="Quantities, proceeds, fees and cost also of very many sells.")
    ] = False,
) -> None:
    """Realized P&L, by when it was realized."""
    from portfolio.reports import ALWAYS, BadPeriod, By, Question, parse_period
    from runtime.cli.bars import TradeBar
    from runtime.clock import WallClock

    if by not in list(By):
        raise typer.BadParameter(f"one of {', '.join(By)}, not {by!r}", param_hint="--by")
    try:
        chosen = ALWAYS if period is None else parse_period(period, WallClock().now())
    except BadPeriod as error:
        raise typer.BadParameter(f"expected {error}", param_hint="--period") from None
    question = Question(By(by), account, symbol, method_of(method), chosen, version)
    fresh(place)
    with TradeBar("adding up") as bar:
        lines, is_whole = place.read(lambda connection: _answer(connection, question, details, bar.count))
    _show(place, question, lines, is_whole)


def _answer(
    connection: "Connection", question: "Question", details: bool, progress: Any
) -> "tuple[list[Line], bool]":
    """The lines, and whether they have all columns."""
    from portfolio import reports
    from portfolio.lots import Method
    from portfolio.recompute import open_books

    check_scope(connection, question.account, question.symbol)
    check_version(connection, question.version)
    whole_history = question.period == reports.ALWAYS and question.version is None and question.method is Method.FIFO
    if whole_history and question.by is reports.By.SYMBOL and not details and _are_many(connection):
        return reports.from_books(open_books(connection).books, question), False
    lines = reports.realized(connection, question, progress)
    if question.by is reports.By.SYMBOL and whole_history:
        flagged = reports.flagged_symbols(open_books(connection).books, question.account)
        for line in lines:
            line.flagged |= line.group in flagged
    return lines, True


def _are_many(connection: "Connection") -> bool:
    from execution import raw

    sql = "SELECT COUNT(*) FROM (SELECT 1 FROM fifo_allocations WHERE to_version IS NULL LIMIT ?)"
    return bool(raw.execute(connection, sql, (_ROWS_SUMMED + 1,)).fetchone()[0] > _ROWS_SUMMED)


def _show(place: Place, question: "Question", lines: "list[Line]", is_whole: bool) -> None:
    from portfolio.reports import total
    from runtime.cli.output import moment, money, number, show, show_json, show_table, signed

    whole = total(lines)
    if place.json:
        show_json(
            {
                "by": str(question.by),
                "method": str(question.method),
                "version": question.version,
                "period": question.period.to_wire(),
                "items": [line.to_wire(question.by) for line in lines],
                "total": whole.to_wire(None),
                "next": None,
            }
        )
        return
    start, end = question.period
    if start is not None or end is not None:
        first, last = moment(start) if start else "the beginning", f"before {moment(end)}" if end else "now"
        show(f"closed from {first} to {last} UTC")

    def row(line: "Line") -> list[Any]:
        amounts = [money(line.money(name)) for name in ("proceeds", "fees", "cost")]
        flag = "incomplete" if line.incomplete else ""
        quantity = number(line.matched_quantity) if question.by == "symbol" and line is not whole else ""
        return [
            line.group,
            f"{line.sells:,}",
            f"{line.wins:,}",
            *([quantity, *amounts] if is_whole else []),
            signed(line.money("pnl")),
            flag,
        ]

    middle = [">quantity", ">proceeds", ">fees", ">cost"] if is_whole else []
    headings = [str(question.by).replace("_", " "), ">sells", ">wins", *middle, ">realized P&L", ""]
    shown = [*lines, whole] if len(lines) != 1 else lines
    show_table(headings, [row(line) for line in shown] if lines else [], empty="nothing was closed")
    if any(line.incomplete for line in lines):
        show("incomplete: sells without a known buy (`fillbook review list`), or fees that could not be valued")
    if not is_whole:
        show("--details adds quantities, proceeds, fees and cost")
