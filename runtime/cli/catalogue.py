"""`account add|list`, `instruments add|list`: what can be traded, and for whom."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.base import Place, command
from runtime.cli.books import page
from runtime.cli.numbers import positive, zero_or_more

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from config.instruments import Instrument

PANEL = "Set up"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    account = typer.Typer(help="Accounts: add one, list them.", no_args_is_help=True)
    command(account, "add")(add_account)
    command(account, "list", json=True)(list_accounts)
    app.add_typer(account, name="account", rich_help_panel=PANEL)
    instruments = typer.Typer(help="The catalogue of symbols: add one, list them.", no_args_is_help=True)
    command(instruments, "add")(add_instrument)
    command(instruments, "list", json=True)(list_instruments)
    app.add_typer(instruments, name="instruments", rich_help_panel=PANEL)


# ---- accounts -------------------------------------------------------------------------------------------


def add_account(
    place: Place,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and -.")],
    mode: Annotated[str, typer.Option("--mode", metavar="spot|margin", help="margin may sell short.")] = "spot",
    currency: Annotated[str, typer.Option("--currency", metavar="CUR", help="Of its cash.")] = "USD",
    deposit: Annotated[
        str | None,
        typer.Option("--deposit", metavar="N", help="What it starts with (default: account.initial_deposit)."),
    ] = None,
) -> None:
    """Add a paper account. It starts with a deposit, like the first one; --deposit 0: empty."""
    import re
    from dataclasses import replace

    from config.exact import ZERO
    from execution.errors import LedgerError
    from execution.model import Account, AccountMode
    from runtime.cli.offline import change
    from runtime.cli.output import money, show
    from runtime.clock import WallClock
    from runtime.composition import opening_deposit
    from runtime.database import ensure_account
    from runtime.topics import is_account

    if not is_account(name):
        raise typer.BadParameter(
            f"lower-case letters, digits and -, at most 32, and no level of another topic; not {name!r}",
            param_hint="NAME",
        )
    if mode not in list(AccountMode):
        raise typer.BadParameter(f"spot or margin, not {mode!r}", param_hint="--mode")
    if re.fullmatch("[A-Z]{3,5}", currency) is None:
        raise typer.BadParameter(f"3 to 5 capital letters, not {currency!r}", param_hint="--currency")
    account = Account(name, mode=AccountMode(mode), currency=currency)
    amount = place.settings.account.initial_deposit
    if deposit is not None:
        amount = zero_or_more("--deposit", deposit) or ZERO
    opening = opening_deposit(place.settings, amount, WallClock())
    first = None if opening is None else replace(opening, account=name, currency=currency)

    def add(connection: "Connection") -> None:
        if not ensure_account(connection, account, first, WallClock().recorded_now()):
            raise LedgerError(f"account {name!r} exists already")

    change(place, add)
    show(f"account {name}: paper, {mode}, {money(amount)} {currency}")


def list_accounts(place: Place) -> None:
    """The accounts."""
    from execution import ledger
    from runtime.cli.output import show_json, show_table

    found = place.read(ledger.accounts).values()
    items = [
        {"name": a.name, "kind": str(a.kind), "mode": str(a.mode), "currency": a.currency, "venue": a.venue}
        for a in found
    ]
    if place.json:
        show_json(page(items))
    else:
        show_table(["name", "kind", "mode", "currency", "venue"], [list(i.values()) for i in items], empty="none")


# ---- instruments ----------------------------------------------------------------------------------------

DecimalOption = Annotated[str | None, typer.Option(metavar="N")]


def add_instrument(
    place: Place,
    symbol: Annotated[str, typer.Argument(metavar="SYMBOL", help="Such as BTC-USD or BRK.B.")],
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="K", help="crypto, stock, fund, option or cash.")
    ] = None,
    currency: Annotated[str, typer.Option("--currency", metavar="CUR", help="Of its prices.")] = "USD",
    quantity_increment: DecimalOption = None,
    price_increment: DecimalOption = None,
    minimum_notional: DecimalOption = None,
    minimum_quantity: DecimalOption = None,
    maximum_notional: DecimalOption = None,
    dust: DecimalOption = None,
) -> None:
    """Add a symbol to the catalogue; what is not given has the usual values."""
    from dataclasses import replace

    from config.instruments import InstrumentKind, NotASymbol, default_instrument
    from execution import ledger
    from runtime.cli.offline import change
    from runtime.cli.output import show

    try:
        instrument = default_instrument(symbol)
    except NotASymbol as error:
        raise typer.BadParameter(str(error), param_hint="SYMBOL") from None
    if kind is not None and kind not in list(InstrumentKind):
        raise typer.BadParameter(f"one of {', '.join(InstrumentKind)}, not {kind!r}", param_hint="--kind")
    numbers = {
        "quantity_increment": positive("--quantity-increment", quantity_increment),
        "price_increment": positive("--price-increment", price_increment),
        "minimum_notional": zero_or_more("--minimum-notional", minimum_notional),
        "minimum_quantity": zero_or_more("--minimum-quantity", minimum_quantity),
        "maximum_notional": positive("--maximum-notional", maximum_notional),
        "dust": zero_or_more("--dust", dust),
    }
    changes: dict[str, Any] = {key: value for key, value in numbers.items() if value is not None}
    if kind is not None:
        changes["kind"] = InstrumentKind(kind)
    added = replace(instrument, currency=currency, **changes)
    change(place, lambda connection: ledger.add_instrument(connection, added))
    show(f"instrument {symbol}: {added.kind}, {added.currency}")


def list_instruments(place: Place) -> None:
    """The catalogue: precision, minimums and dust of each symbol."""
    from execution import ledger
    from runtime.cli.output import number, show_json, show_table

    found = place.read(ledger.instruments).values()
    if place.json:
        show_json(page(map(_instrument_wire, found)))
        return
    show_table(
        ["symbol", "kind", "currency", ">quantity step", ">price step", ">min notional", ">dust", "enabled"],
        [
            [
                entry.symbol,
                str(entry.kind),
                entry.currency,
                number(entry.quantity_increment),
                number(entry.price_increment),
                number(entry.minimum_notional),
                number(entry.dust),
                "yes" if entry.enabled else "no",
            ]
            for entry in found
        ],
        empty="none",
    )


def _instrument_wire(entry: "Instrument") -> dict[str, Any]:
    from dataclasses import asdict
    from decimal import Decimal

    from config.exact import plain

    return {key: plain(value) if isinstance(value, Decimal) else value for key, value in asdict(entry).items()}
