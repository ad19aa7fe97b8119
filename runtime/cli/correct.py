"""`correct`: take a wrong trade back, and put what it should have been in its place."""

import getpass
import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli.base import USAGE, CommandFailed, Place, command, say
from runtime.cli.numbers import any_number, positive, zero_or_more

if TYPE_CHECKING:
    from execution.model import Side, Trade
    from portfolio.position import Position
    from runtime.cli.output import Cell

PANEL = "Set up"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "correct", json=True, panel=PANEL)(correct)


def correct(
    place: Place,
    trade: Annotated[str, typer.Argument(metavar="TRADE", help="Its id, as in `trades --json`.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept with the correction.")],
    void: Annotated[bool, typer.Option("--void", help="It never happened: only take it back.")] = False,
    side: Annotated[str | None, typer.Option("--side", metavar="BUY|SELL", help="What it should have been.")] = None,
    quantity: Annotated[str | None, typer.Option("--quantity", metavar="Q", help="As it should have been.")] = None,
    price: Annotated[str | None, typer.Option("--price", metavar="P", help="As it should have been.")] = None,
    fee: Annotated[str | None, typer.Option("--fee", metavar="F", help="As it should have been.")] = None,
    fee_asset: Annotated[str | None, typer.Option("--fee-asset", metavar="A", help="As it should have been.")] = None,
    executed_at: Annotated[
        str | None, typer.Option("--executed-at", metavar="T", help="As it should have been, with a zone.")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="WHO", help="Who corrects it (default: the login).")
    ] = None,
) -> None:
    """Correct a wrong trade with a compensating entry; nothing that was recorded is changed."""
    from execution.corrections import Change, Correction
    from execution.corrections import correct as append
    from runtime.cli.importing import alert_lines
    from runtime.cli.offline import change as write
    from runtime.clock import WallClock
    from runtime.offline_books import bring_up_to_date

    wanted = Change(
        _side(side),
        positive("--quantity", quantity),
        zero_or_more("--price", price),
        any_number("--fee", fee),
        _asset(fee_asset),
        _time(executed_at),
    )
    if void is not wanted.is_empty:
        raise typer.BadParameter(
            "--void, or what it should have been (--quantity, --price, --fee, --executed-at, ...)"
        )
    if not reason.strip():
        raise typer.BadParameter("a text", param_hint="--reason")
    if not place.has_books:
        raise place.no_books()
    found = _find(place, trade)
    correction = Correction(trade, reason.strip(), _who(by), None if void else wanted)
    before = _position(place, found)
    appended = write(place, lambda connection: append(connection, correction, WallClock().recorded_now()))
    alerts = bring_up_to_date(place.settings, file=place.database)
    _report(place, found, appended, before, _position(place, found))
    for line in alert_lines(alerts):
        say(f"warning: {line}")


def _find(place: Place, trade_id: str) -> "Trade":
    from execution import ledger

    found = place.read(lambda connection: ledger.find_trade(connection, trade_id))
    if found is None:
        raise CommandFailed(f"the id of a trade (as in `fillbook trades --json`), not {trade_id!r}", USAGE)
    return found


def _position(place: Place, trade: "Trade") -> "Position":
    from portfolio.service import read_portfolios

    portfolio = place.read(read_portfolios)[trade.account]
    return next(position for position in portfolio.positions if position.symbol == trade.symbol)


# ---- options --------------------------------------------------------------------------------------------


def _who(by: str | None) -> str:
    """The tag of who corrects; a login that cannot be one gives none."""
    from execution.importers.fillbook import WHO_PATTERN

    try:
        name = getpass.getuser() if by is None else by
    except (KeyError, OSError):
        return "manual"
    if re.fullmatch(WHO_PATTERN, name, re.ASCII) is None:
        if by is None:
            return "manual"
        raise typer.BadParameter(f"letters, digits and . _ @ -, at most 64, not {by!r}", param_hint="--by")
    return f"manual:{name}"


def _side(text: str | None) -> "Side | None":
    from execution.model import Side

    if text is None:
        return None
    if text.upper() not in list(Side):
        raise typer.BadParameter(f"BUY or SELL, not {text!r}", param_hint="--side")
    return Side(text.upper())


def _asset(text: str | None) -> str | None:
    if text is not None and re.fullmatch("[A-Z0-9][A-Z0-9._-]{0,31}", text, re.ASCII) is None:
        raise typer.BadParameter(f"an asset such as USD or BNB, not {text!r}", param_hint="--fee-asset")
    return text


def _time(text: str | None) -> datetime | None:
    from config.times import NotATime, parse_time

    if text is None:
        return None
    try:
        return parse_time(text)
    except NotATime as error:
        raise typer.BadParameter(f"{error}, not {text!r}", param_hint="--executed-at") from None


# ---- the report -----------------------------------------------------------------------------------------


def _report(place: Place, trade: "Trade", appended: "list[Trade]", before: "Position", after: "Position") -> None:
    from runtime.cli.output import money, number, show, show_json, show_table, signed
    from runtime.wire import trade_wire

    if place.json:
        show_json(
            {
                "corrected": trade.id,
                "trades": [trade_wire(entry) for entry in appended],
                "before": before.to_wire(),
                "after": after.to_wire(),
            }
        )
        return
    for entry in appended:
        what = f"takes back {entry.corrects}" if entry.corrects is not None else "takes its place"
        if entry.symbol != trade.symbol:
            what += " (it pays the fee)" if entry.corrects is None else ""
        show(f"{entry.id}: {entry.side} {number(entry.quantity)} {entry.symbol} {what}")
    rows: list[list[Cell]] = [
        [name, number(position.quantity), money(position.cost_basis), signed(position.realized_pnl)]
        for name, position in (("before", before), ("after", after))
    ]
    show_table([trade.symbol, ">quantity", ">cost basis", ">realized P&L"], rows, empty="")
