"""`allocations validate`: the stored allocations proven."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.allocations.scope import check_scope, check_version, fresh, method_of
from runtime.cli.base import FAILED, USAGE, CommandFailed, Place
from runtime.cli.books import AccountFilter, SymbolFilter

if TYPE_CHECKING:
    from sqlalchemy import Connection


def validate(
    place: Place,
    version: Annotated[
        int | None, typer.Option("--version", metavar="N", min=1, help="This version instead of the current ones.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="M", help="Only this method (default: all).")
    ] = None,
    account: AccountFilter = None,
    symbol: SymbolFilter = None,
) -> None:
    """Prove the stored allocations: exact, complete, in order, equal to a full recomputation. Exit code 1 if not."""
    from portfolio import validation
    from runtime.cli.bars import TradeBar

    chosen = None if method is None else method_of(method)
    if version is None:
        fresh(place)
    problems: dict[validation.Check, list[str]] = {check: [] for check in validation.Check}

    def query(connection: "Connection") -> tuple[list[validation.Scope], validation.Totals]:
        check_scope(connection, account, symbol)
        check_version(connection, version)
        scopes = validation.current_scopes(connection, chosen)
        if version is not None:
            scope = validation.scope_of_version(connection, version)
            scopes = [] if scope is None else [scope]
        scopes = [s for s in scopes if account in (None, s.key.account) and symbol in (None, s.key.symbol)]
        totals = validation.validate(
            connection, scopes, lambda check, text: problems[check].append(text), progress=bar.count
        )
        return scopes, totals

    with TradeBar("validating") as bar:
        scopes, totals = place.read(query)
    if version is not None and not scopes:
        raise CommandFailed(f"version {version} was never completed: there is nothing to validate", USAGE)
    _show_validation(place, problems, totals)


def _show_validation(place: Place, problems: Mapping[Any, list[str]], totals: Any) -> None:
    from dataclasses import asdict

    from rich.text import Text

    from runtime.cli.output import show, show_json

    count = sum(map(len, problems.values()))
    if place.json:
        checks = [{"name": str(check), "ok": not found, "problems": found} for check, found in problems.items()]
        show_json({"ok": not count, "figures": asdict(totals), "checks": checks})
    else:
        for number, (check, found) in enumerate(problems.items(), 1):
            mark = ("✗", "bold red") if found else ("✓", "green")
            show(Text.assemble(f"[{number}/{len(problems)}] ", mark, f" {check}"))
            for problem in found:
                show(f"        {problem}")
        show(
            f"{totals.scopes} scopes, {totals.trades:,} trades, {totals.sells:,} sells, {totals.allocations:,}"
            f" allocations ({totals.unmatched:,} without a buy), {totals.open_lots:,} open lots"
        )
    if count:
        raise CommandFailed(f"{count} problem{'s' if count > 1 else ''} found", FAILED)
