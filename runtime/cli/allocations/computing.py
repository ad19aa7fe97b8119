"""`allocations compute`: what is missing, or everything anew; here, or by the daemon that runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.allocations.scope import MethodOption, check_scope, method_of
from runtime.cli.base import FAILED, UNREACHABLE, CommandFailed, Place
from runtime.cli.books import AccountFilter, SymbolFilter, page

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection


def compute(
    place: Place,
    symbol: SymbolFilter = None,
    account: AccountFilter = None,
    full: Annotated[bool, typer.Option("--full", help="Everything anew, compared with what is stored.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="T", help="The same from an instant (RFC 3339) or date on.")
    ] = None,
    method: MethodOption = "fifo",
    selections: Annotated[
        Path | None,
        typer.Option(
            "--selections",
            metavar="FILE",
            help="Of --method specific: CSV with closing_trade,opening_trade,quantity.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=1, max=86_400, help="Seconds to wait for the daemon.")
    ] = 600.0,
) -> None:
    """Compute allocations from the trades: what is missing, or everything. Only what differs is replaced."""
    from runtime.offline_compute import Wanted

    chosen = method_of(method)
    if full and since is not None:
        raise typer.BadParameter("--full or --since, not both")
    if selections is not None and chosen != "specific":
        raise typer.BadParameter("only with --method specific", param_hint="--selections")
    instant = None if since is None else _instant(since)
    if not place.has_books:
        raise place.no_books()
    place.read(lambda connection: check_scope(connection, account, symbol))
    if selections is not None:
        from runtime.cli.choosing import store_selections

        store_selections(place, selections)
    wanted = Wanted(account, symbol, chosen, full or selections is not None, instant)
    runs = _over_the_bus(place, wanted, timeout) if place.daemon is not None else _offline(place, wanted)
    _show_runs(place, runs)


def _instant(text: str) -> "datetime":
    from datetime import UTC, datetime

    from config.times import NotATime, parse_time

    try:
        return parse_time(text if "T" in text.upper() else f"{text}T00:00:00Z")
    except NotATime as error:
        example = datetime(2026, 1, 31, tzinfo=UTC).date().isoformat()
        raise typer.BadParameter(
            f"{error}, or a date such as {example}, not {text!r}", param_hint="--since"
        ) from None


def _offline(place: Place, wanted: Any) -> list[dict[str, Any]]:
    from portfolio.errors import FifoError
    from runtime.cli.bars import TradeBar
    from runtime.offline_compute import compute as compute_offline

    before = place.read(_versions)
    try:
        with TradeBar("computing") as bar:
            runs = compute_offline(place.settings, place.database, wanted, bar.update)
    except FifoError as error:
        raise CommandFailed(f"cannot be computed: {error}. The version before stays current", FAILED) from None
    done = [dict(run.to_wire()) for run in runs]
    known = {(run["account"], run["symbol"], run["method"]) for run in done}
    followed = place.read(lambda connection: _followed(connection, before))
    return [run for run in followed if (run["account"], run["symbol"], run["method"]) not in known] + done


def _versions(connection: "Connection") -> dict[int, int]:
    """How many allocations each logged run has so far."""
    from execution import raw

    return dict(raw.execute(connection, "SELECT id, allocations FROM fifo_computation_log").fetchall())


def _followed(connection: "Connection", before: Mapping[int, int]) -> list[dict[str, Any]]:
    """What was stored since, because fills were missing: in the form of a run."""
    from execution import raw

    sql = (
        "SELECT id, account, symbol, method, version, mode, since, sequence, buys, sells, allocations, total_pnl,"
        " duration_ms FROM fifo_computation_log WHERE status IN ('completed', 'partial') ORDER BY account, symbol, id"
    )
    found = []
    for row in raw.execute(connection, sql).fetchall():
        id_, account, symbol, method, version, mode, since, sequence, buys, sells, count, pnl, duration = row
        added = count - before.get(id_, 0)
        if id_ in before and not added:
            continue
        found.append(
            {
                "account": account, "symbol": symbol, "method": method, "version": version, "mode": mode,
                "since": since, "sequence": sequence, "buys": buys, "sells": sells, "allocations": count,
                "unchanged": count - added, "ended": 0, "added": added, "realized_pnl": pnl or "0",
                "duration_ms": duration or 0,
            }
        )  # fmt: skip
    return found


def _over_the_bus(place: Place, wanted: Any, timeout: float) -> list[dict[str, Any]]:
    """Ask the daemon, for each account that is meant."""
    from config.times import time_text
    from portfolio.compare import traded
    from runtime.cli.requests import new_request_id, over_the_bus, reason_text
    from runtime.topics import Command

    pairs = place.read(lambda connection: traded(connection, account=wanted.account, symbol=wanted.symbol))
    runs: list[dict[str, Any]] = []
    for account in sorted({owner for owner, _ in pairs}):
        body: dict[str, Any] = {"request_id": new_request_id(), "method": str(wanted.method)}
        if wanted.symbol is not None:
            body["symbol"] = wanted.symbol
        if wanted.full:
            body["full"] = True
        if wanted.since is not None:
            body["since"] = time_text(wanted.since)
        answer = over_the_bus(place, account, Command.RECOMPUTE, body, timeout, linger=timeout)
        if answer["status"] == "accepted":
            raise CommandFailed(
                f"the daemon is still computing after {timeout:g} s; it goes on. `fillbook allocations list`"
                " shows the result when it is done",
                UNREACHABLE,
            )
        if answer["status"] != "done":
            raise CommandFailed(f"compute {answer['status']}{reason_text(answer.get('reason'))}", FAILED)
        runs += (answer.get("result") or {}).get("runs", [])
    return runs


def _show_runs(place: Place, runs: list[dict[str, Any]]) -> None:
    from runtime.cli.output import show, show_json, show_table, signed, to_decimal

    if place.json:
        show_json(page(runs))
        return
    show_table(
        ["account", "symbol", "method", "version", "mode", ">rows unchanged", ">ended", ">added", ">P&L", ">ms"],
        [
            [
                run["account"],
                run["symbol"],
                run["method"],
                str(run["version"]),
                run["mode"],
                f"{run['unchanged']:,}",
                f"{run['ended']:,}",
                f"{run['added']:,}",
                signed(to_decimal(run["realized_pnl"])),
                f"{run['duration_ms']:,}",
            ]
            for run in runs
        ],
        empty="nothing to do: the stored allocations have all trades (--full computes them anew and compares)",
    )
    if runs and not any(run["ended"] or run["added"] for run in runs):
        show("Nothing differed.")
