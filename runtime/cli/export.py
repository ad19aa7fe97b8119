"""`export trades|allocations|cash-flows`: what stands in the books, as CSV or JSON lines."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from runtime.cli.base import Place, command, say
from runtime.cli.books import AccountFilter, SymbolFilter, check_account

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from runtime.exporting import ExportRow

PANEL = "Look"
FormatOption = Annotated[str, typer.Option("--format", metavar="csv|jsonl", help="CSV or JSON lines.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Into a file (default: stdout).")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    export = typer.Typer(help="Export trades, allocations or cash flows.", no_args_is_help=True)
    command(export, "trades", json=True)(trades)
    command(export, "allocations", json=True)(allocations)
    command(export, "cash-flows", json=True)(cash_flows)
    app.add_typer(export, name="export", rich_help_panel=PANEL)


def trades(
    place: Place,
    account: Annotated[
        str | None, typer.Option("--account", metavar="A", help="Whose (default: account.name).")
    ] = None,
    symbol: SymbolFilter = None,
    format_: FormatOption = "csv",
    output: OutputOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also corrected trades and what took them back, with more columns.")
    ] = False,
) -> None:
    """Trades of an account, in the format that `import` reads; without those that were taken back."""
    from runtime import exporting

    name = account or place.settings.account.name
    check_account(place, name)
    columns = exporting.ALL_TRADE_COLUMNS if everything else exporting.TRADE_COLUMNS
    _write(place, format_, output, columns, lambda c: exporting.trade_rows(c, name, symbol, everything=everything))


def allocations(
    place: Place,
    account: AccountFilter = None,
    symbol: SymbolFilter = None,
    format_: FormatOption = "csv",
    output: OutputOption = None,
) -> None:
    """Current allocations: which lots each sell closed, and what it made."""
    from runtime import exporting
    from runtime.offline_books import bring_up_to_date

    check_account(place, account)
    bring_up_to_date(place.settings, file=place.database)
    columns = exporting.ALLOCATION_COLUMNS
    _write(place, format_, output, columns, lambda c: exporting.allocation_rows(c, account, symbol))


def cash_flows(
    place: Place,
    account: AccountFilter = None,
    format_: FormatOption = "csv",
    output: OutputOption = None,
) -> None:
    """Deposits, withdrawals, income and fees."""
    from runtime import exporting

    check_account(place, account)
    _write(place, format_, output, exporting.FLOW_COLUMNS, lambda c: exporting.flow_rows(c, account))


def _write(
    place: Place,
    format_: str,
    output: Path | None,
    columns: Sequence[str],
    rows: "Callable[[Connection], Iterator[ExportRow]]",
) -> None:
    """Stream rows of one consistent read; `--json` is another word for JSON lines."""
    from runtime import exporting

    if place.json:
        format_ = "jsonl"
    writers = {"csv": exporting.write_csv, "jsonl": exporting.write_jsonl}
    if format_ not in writers:
        raise typer.BadParameter(f"csv or jsonl, not {format_!r}", param_hint="--format")
    with _target(output) as file:
        count = place.read(lambda connection: writers[format_](file, columns, rows(connection)))
    if output is not None:
        say(f"{output}: {count:,} rows")


def _target(output: Path | None) -> AbstractContextManager[IO[str]]:
    from runtime.files import whole_file

    return nullcontext(sys.stdout) if output is None else whole_file(output)
