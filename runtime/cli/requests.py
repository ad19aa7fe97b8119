"""`trade`, `cancel`, `halt`, `resume`, `deposit`, `withdraw`: what a person asks of execution."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.base import FAILED, UNREACHABLE, CommandFailed, Place, command

if TYPE_CHECKING:
    from runtime.topics import Command

AccountOption = Annotated[
    str | None, typer.Option("--account", metavar="A", help="Account (default: the first one, account.name).")
]
NoteOption = Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Why; kept with the record.")]
RequestIdOption = Annotated[
    str | None,
    typer.Option("--request-id", metavar="ID", help="Repeating a request under its id never does it twice."),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="S", min=0.1, max=3600, help="Seconds to wait for the answer.")
]
PANEL = "Trade"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "trade", json=True, panel=PANEL)(trade)
    command(app, "cancel", json=True, panel=PANEL)(cancel)
    command(app, "halt", json=True, panel=PANEL)(halt)
    command(app, "resume", json=True, panel=PANEL)(resume)
    command(app, "deposit", json=True, panel=PANEL)(deposit)
    command(app, "withdraw", json=True, panel=PANEL)(withdraw)


def trade(
    place: Place,
    symbol: Annotated[str, typer.Argument(help="What to trade, such as BTC-USD.", metavar="SYMBOL")],
    side: Annotated[str, typer.Argument(help="BUY or SELL.", metavar="BUY|SELL")],
    notional: Annotated[
        str | None, typer.Option("--notional", metavar="N", help="Value, in the account's currency.")
    ] = None,
    quantity: Annotated[str | None, typer.Option("--quantity", metavar="N", help="Units of the symbol.")] = None,
    close: Annotated[bool, typer.Option("--close", help="The whole position.")] = False,
    limit: Annotated[
        str | None, typer.Option("--limit", metavar="P", help="Worst price; makes a limit order.")
    ] = None,
    tif: Annotated[
        str | None, typer.Option("--tif", metavar="IOC|GTC", help="Fill at once or cancel, or rest in the book.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="S", help="Seconds after which the order is void.")
    ] = None,
    account: AccountOption = None,
    request_id: RequestIdOption = None,
    note: NoteOption = None,
    timeout: TimeoutOption = 15.0,
) -> None:
    """Buy or sell at the running daemon, on the same path as the bots."""
    if side.upper() not in ("BUY", "SELL"):
        raise typer.BadParameter(f"BUY or SELL, not {side!r}", param_hint="SIDE")
    if sum((notional is not None, quantity is not None, close)) != 1:
        raise typer.BadParameter("exactly one of --notional, --quantity and --close")
    body: dict[str, Any] = {"symbol": symbol, "side": side.upper()}
    options = {"notional": notional, "quantity": quantity, "limit_price": limit, "expires_in": expires, "note": note}
    body.update({key: value for key, value in options.items() if value is not None})
    if tif is not None:
        body["time_in_force"] = tif.upper()
    if close:
        body["close"] = True
    _ask(place, account, "trade", body, request_id, timeout)


def cancel(
    place: Place,
    order_id: Annotated[str, typer.Argument(help="The order's id, or its request's.", metavar="ORDER_ID")],
    account: AccountOption = None,
    request_id: RequestIdOption = None,
    timeout: TimeoutOption = 15.0,
) -> None:
    """Cancel an open order."""
    _ask(place, account, "cancel", {"order_id": order_id}, request_id, timeout)


def halt(
    place: Place,
    note: NoteOption = None,
    account: AccountOption = None,
    request_id: RequestIdOption = None,
    timeout: TimeoutOption = 15.0,
) -> None:
    """Stop all trading of an account: open orders are cancelled, new ones refused."""
    _ask(place, account, "halt", {} if note is None else {"note": note}, request_id, timeout)


def resume(
    place: Place,
    note: NoteOption = None,
    account: AccountOption = None,
    request_id: RequestIdOption = None,
    timeout: TimeoutOption = 15.0,
) -> None:
    """Let an account trade again, after `halt` or a storage failure."""
    _ask(place, account, "resume", {} if note is None else {"note": note}, request_id, timeout)


def deposit(
    place: Place,
    amount: Annotated[str, typer.Argument(help="In the account's currency.", metavar="AMOUNT")],
    account: AccountOption = None,
    note: NoteOption = None,
    request_id: RequestIdOption = None,
    timeout: TimeoutOption = 15.0,
) -> None:
    """Book money that came into an account (with and without a running daemon)."""
    _move_cash(place, "deposit", amount, account, note, request_id, timeout)


def withdraw(
    place: Place,
    amount: Annotated[str, typer.Argument(help="In the account's currency.", metavar="AMOUNT")],
    account: AccountOption = None,
    note: NoteOption = None,
    request_id: RequestIdOption = None,
    timeout: TimeoutOption = 15.0,
) -> None:
    """Book money that left an account (with and without a running daemon)."""
    _move_cash(place, "withdraw", amount, account, note, request_id, timeout)


# ---- over the bus ---------------------------------------------------------------------------------------


def _ask(
    place: Place, account: str | None, name: str, body: dict[str, Any], request_id: str | None, timeout: float
) -> None:
    from runtime.topics import Command

    body = {"request_id": request_id or new_request_id(), **body}
    answer = over_the_bus(place, account or place.settings.account.name, Command(name), body, timeout)
    _report(place, name, answer)


def over_the_bus(
    place: Place,
    account: str,
    name: "Command",
    body: Mapping[str, Any],
    timeout: float,
    linger: float = 3.0,
) -> dict[str, Any]:
    """The daemon's response, the final one if it comes within `linger` seconds of the first. Raises CommandFailed
    (exit code 3) without a daemon or an answer."""
    import asyncio

    from runtime.bus import BusUnavailable
    from runtime.client import NoAnswer, address_of, ask

    address = address_of(place.settings, place.daemon)
    if address is None:
        raise no_daemon(place)
    try:
        return asyncio.run(ask(address, account, name, body, timeout=timeout, linger=linger))
    except NoAnswer as error:
        raise CommandFailed(
            f"{error}: the outcome is unknown. Repeat the same command with --request-id {body['request_id']}: "
            "it is never done twice",
            UNREACHABLE,
        ) from None
    except BusUnavailable as error:
        raise CommandFailed(f"{error}; nothing was sent", UNREACHABLE) from None


def no_daemon(place: Place) -> CommandFailed:
    """Nobody there to ask."""
    return CommandFailed(
        f"no daemon is running on the books in {place.settings.data_dir}. Start one with "
        f"`fillbook run{place.option_text}` or `fillbook demo{place.option_text}`",
        UNREACHABLE,
    )


def new_request_id() -> str:
    """An id for a request that has none."""
    import secrets

    return f"cli-{secrets.token_hex(8)}"


# ---- cash, with and without a daemon --------------------------------------------------------------------


def _move_cash(
    place: Place,
    name: str,
    amount: str,
    account: str | None,
    note: str | None,
    request_id: str | None,
    timeout: float,
) -> None:
    from runtime.topics import Command

    body: dict[str, Any] = {"request_id": request_id or new_request_id(), "amount": amount}
    if note is not None:
        body["note"] = note
    account = account or place.settings.account.name
    if place.daemon is not None:
        answer = over_the_bus(place, account, Command(name), body, timeout)
    else:
        from runtime.cli.offline import move_cash

        answer = move_cash(place, account, Command(name), body)
    _report(place, name, answer)


# ---- what came of it ------------------------------------------------------------------------------------

_REFUSED = ("refused", "rejected", "expired")


def _report(place: Place, name: str, answer: Mapping[str, Any]) -> None:
    """Print an answer; exit code 1 unless what was asked was done, 3 when nobody knows."""
    from runtime.cli.output import show, show_json, show_table

    if place.json:
        show_json(answer)
    elif answer["status"] not in _REFUSED:
        show(_sentence(name, answer))
        fills = answer.get("trades") or []
        if fills:
            headings = ["time", "side", ">quantity", "symbol", ">price", ">fee"]
            show_table(headings, [_fill_row(fill) for fill in fills], empty="")
    if answer["status"] == "unknown":
        raise CommandFailed("the outcome at the venue is unknown; `fillbook orders` shows it once it is", UNREACHABLE)
    if answer["status"] in _REFUSED or (answer["status"] == "cancelled" and not answer.get("trades")):
        raise CommandFailed(f"{name} {answer['status']}{reason_text(answer.get('reason'))}", FAILED)


def reason_text(reason: Mapping[str, Any] | None) -> str:
    """ ": code: field = value: expected ..." of a reason; "" of none."""
    if reason is None:
        return ""
    text = f": {reason['code']}"
    if reason.get("field") is not None:
        text += f": {reason['field']}" + (f" = {reason['value']}" if reason.get("value") is not None else "")
    return text + (f": expected {reason['expected']}" if reason.get("expected") else "")


def _sentence(name: str, answer: Mapping[str, Any]) -> str:
    parts = [f"{name}: {answer['status'].replace('_', ' ')}"]
    if answer.get("order_id"):
        parts.append(f"order {answer['order_id']}")
    if answer.get("sequence") is not None:
        parts.append(f"ledger sequence {answer['sequence']}")
    parts.append(f"request id {answer['request_id']}")
    return ", ".join(parts)


def _fill_row(fill: Mapping[str, Any]) -> list[Any]:
    from config.times import parse_time
    from runtime.cli.output import moment, money, number, price, to_decimal

    return [
        moment(parse_time(fill["executed_at"])),
        fill["side"],
        number(to_decimal(fill["quantity"])),
        fill["symbol"],
        price(to_decimal(fill["price"])),
        money(to_decimal(fill["fee"])),
    ]
