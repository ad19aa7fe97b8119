"""What commands about allocations are asked for: a method, a version, an account and a symbol that exist."""

from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli.base import USAGE, CommandFailed, Place, say

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from portfolio.lots import Method

MethodOption = Annotated[
    str, typer.Option("--method", metavar="M", help="fifo, lifo, hifo, lofo, average or specific.")
]
VersionOption = Annotated[
    int | None, typer.Option("--version", metavar="N", min=1, help="As it was when N was the newest version.")
]


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
