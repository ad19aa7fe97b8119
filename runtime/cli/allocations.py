"""`allocations list|compute|validate|compare`: sells matched with buys, recomputed and proven."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.base import FAILED, UNREACHABLE, USAGE, CommandFailed, Place, command, say
from runtime.cli.books import AccountFilter, LimitOption, SymbolFilter, page

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from portfolio.lots import Method

PANEL = "Explain"
MethodOption = Annotated[
    str, typer.Option("--method", metavar="M", help="fifo, lifo, hifo, lofo, average or specific.")
]
VersionOption = Annotated[
    int | None, typer.Option("--version", metavar="N", min=1, help="As it was when N was the newest version.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    from runtime.cli import explaining

    group = typer.Typer(
        help="Sells matched with buys: list, recompute, prove, compare, explain.", no_args_is_help=True
    )
    command(group, "list", json=True)(list_allocations)
    command(group, "compute", json=True)(compute)
    command(group, "validate", json=True)(validate)
    command(group, "compare", json=True)(compare)
    command(group, "explain", json=True)(explaining.explain)
    app.add_typer(group, name="allocations", rich_help_panel=PANEL)
    command(app, "explain", json=True, panel=PANEL)(explaining.explain)


# ---- what the commands share ------------------------------------------------------------------------------------


def method_of(text: str) -> "Method":
    """A method by its name. Raises BadParameter."""
    from portfolio.lots import Method

    try:
        return Method(text.lower())
    except ValueError:
        raise typer.BadParameter(f"one of {', '.join(Method)}, not {text!r}", param_hint="--method") from None


def fresh(place: Place) -> None:
    """Let the stored allocations have all trades before they are read; new alerts go to stderr."""
    from runtime.offline_books import bring_up_to_date

    if not place.has_books:
        raise place.no_books()
    for alert in bring_up_to_date(place.settings, file=place.database):
        say(f"{alert.severity}: {alert.message}")


def check_scope(connection: "Connection", account: str | None, symbol: str | None) -> None:
    """Raises CommandFailed for an account or symbol that does not exist, naming those that do."""
    from execution import ledger
    from portfolio.compare import traded

    accounts = ledger.accounts(connection)
    if account is not None and account not in accounts:
        raise CommandFailed(f"there is no account {account!r}; there are: {', '.join(accounts) or 'none'}", USAGE)
    if symbol is not None and not traded(connection, account=account, symbol=symbol):
        known = sorted({name for _, name in traded(connection, account=account)})
        where = "" if account is None else f" in {account}"
        raise CommandFailed(
            f"no trade of {symbol!r}{where}; traded were: {', '.join(known) or 'no symbols yet'}", USAGE
        )


def check_version(connection: "Connection", version: int | None) -> None:
    """Raises CommandFailed for a version that was never given."""
    from portfolio.compare import scope_of
    from portfolio.errors import UnknownVersion

    if version is not None:
        try:
            scope_of(connection, version)
        except UnknownVersion as error:
            raise CommandFailed(f"expected {error}", USAGE) from None


# ---- list ---------------------------------------------------------------------------------------------------------


def list_allocations(
    place: Place,
    account: AccountFilter = None,
    symbol: SymbolFilter = None,
    method: MethodOption = "fifo",
    version: VersionOption = None,
    trade: Annotated[str | None, typer.Option("--trade", metavar="ID", help="Only rows of this sell or buy.")] = None,
    limit: LimitOption = 50,
    after: Annotated[
        str | None,
        typer.Option("--after", "--cursor", metavar="C", help='Go on from here: the "next" of the page before.'),
    ] = None,
) -> None:
    """Which sell took which buy, with cost, proceeds and P&L, the oldest first."""
    from portfolio import allocations
    from portfolio.errors import UnknownTrade
    from portfolio.explain import find_trade
    from runtime.cli.output import moment, money, number, result, show, show_json, show_table

    chosen = method_of(method)
    if after is not None and not (after.isascii() and after.isdigit()):
        raise typer.BadParameter('the "next" of the page before', param_hint="--after")
    fresh(place)

    def query(connection: "Connection") -> list[Any]:
        check_scope(connection, account, symbol)
        check_version(connection, version)
        try:
            trades = [] if trade is None else [find_trade(connection, trade, account=account).id]
        except UnknownTrade as error:
            raise CommandFailed(f"expected {error}", USAGE) from None
        return list(
            allocations.stored(
                connection,
                account=account,
                symbol=symbol,
                method=chosen,
                version=version,
                trades=trades,
                after_id=int(after or 0),
                limit=limit + 1,
            )
        )

    found = place.read(query)
    shown, following = found[:limit], str(found[limit - 1].id) if len(found) > limit else None
    if place.json:
        show_json(page((row.to_wire() for row in shown), following))
        return
    show_table(
        [
            "sold at",
            "symbol",
            ">quantity",
            ">cost",
            ">proceeds",
            ">fees",
            ">P&L",
            "bought at",
            "version",
            "sell",
            "buy",
        ],
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
        empty=f"no allocations by {chosen}"
        + ("" if chosen == "fifo" else f": `allocations compute --method {chosen}`"),
    )
    if following is not None:
        show(f"... more with --after {following}")


# ---- compute ------------------------------------------------------------------------------------------------------


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
    from runtime.cli.requests import over_the_bus, reason_text
    from runtime.topics import Command

    pairs = place.read(lambda connection: traded(connection, account=wanted.account, symbol=wanted.symbol))
    runs: list[dict[str, Any]] = []
    for account in sorted({owner for owner, _ in pairs}):
        body: dict[str, Any] = {"request_id": _new_id(), "method": str(wanted.method)}
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


def _new_id() -> str:
    import secrets

    return f"cli-{secrets.token_hex(8)}"


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


# ---- validate -----------------------------------------------------------------------------------------------------


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


# ---- compare ------------------------------------------------------------------------------------------------------


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
