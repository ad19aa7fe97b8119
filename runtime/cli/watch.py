"""`watch`: positions, bots, trades and health on one live screen, or once as text."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.base import USAGE, CommandFailed, Place, command

if TYPE_CHECKING:
    from runtime.client import Address
    from runtime.watch.feed import ReadBooks
    from runtime.watch.model import Watch

PANEL = "Look"
_ONCE_SECONDS = 1.0
_REACH_SECONDS = 5.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "watch", json=True, panel=PANEL)(watch)


def watch(
    place: Place,
    account: Annotated[
        str | None, typer.Option("--account", metavar="A", help="Show this account first (default: account.name).")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print what is there now as text and end.")] = False,
) -> None:
    """Positions, bots, last trades and health on one screen that renews itself; keys to halt, stop a bot, quit."""
    from runtime.cli.books import check_account
    from runtime.cli.requests import no_daemon
    from runtime.client import address_of
    from runtime.topics import is_account
    from runtime.watch.model import Watch

    if place.json and not once:
        raise CommandFailed("--json needs --once: the live screen is for people", USAGE)
    if account is not None and not is_account(account):
        raise typer.BadParameter(f"an account's name, not {account!r}", param_hint="--account")
    if not once:
        _check_terminal()
    address = address_of(place.settings, place.daemon)
    if address is None:
        raise no_daemon(place)
    if account is not None and place.has_books:
        check_account(place, account)
    state = Watch(
        address.topics,
        default_account=account or place.settings.account.name,
        broker=f"{address.host}:{address.port}",
        feed="" if place.daemon is None else place.daemon.feed,
    )
    books = _books_reader(place)
    if once:
        _print_once(place, state, address, books, account)
    else:
        _open_screen(state, address, books)


def _check_terminal() -> None:
    """Raises CommandFailed (exit code 2) when there is no screen to paint on."""
    import os

    if not (sys.stdout.isatty() and sys.stdin.isatty()) or os.environ.get("TERM", "") in ("dumb", "unknown"):
        raise CommandFailed(
            "watch paints on a terminal, and this is none. `fillbook watch --once` prints the same once as text; "
            "programs read `fillbook watch --once --json`, `fillbook status --json` and `fillbook portfolio --json`",
            USAGE,
        )


def _books_reader(place: Place) -> "ReadBooks | None":
    """Reads the database, when it can be reached from here: a daemon elsewhere has its own."""
    from runtime.watch.feed import read_books

    return (lambda: place.read(read_books)) if place.has_books else None


def _open_screen(state: "Watch", address: "Address", books: "ReadBooks | None") -> None:
    import asyncio
    import logging
    import signal

    from runtime.client import connected
    from runtime.clock import WallClock
    from runtime.watch.feed import buses_of
    from runtime.watch.screen import WatchApp

    async def reach() -> None:
        async with connected(address, [], timeout=_REACH_SECONDS):
            pass

    asyncio.run(reach())  # a wrong address is said here, not by a screen that waits for ever
    log = logging.getLogger("fillbook")
    log.addHandler(logging.NullHandler())  # the screen says itself what became of the connection
    log.propagate = False
    app = WatchApp(state, buses_of(address), WallClock().now, books)
    signal.signal(signal.SIGHUP, _on_hangup)
    app.run()
    if app.return_code:  # Textual has shown the traceback
        raise typer.Exit(app.return_code)


def _on_hangup(number: int, _frame: Any) -> None:
    """As Ctrl-C; but a closed terminal can be neither painted on nor restored, and Textual would wait for it for
    ever."""
    import os
    import signal

    if os.isatty(0):
        signal.raise_signal(signal.SIGINT)
    else:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _print_once(
    place: Place, state: "Watch", address: "Address", books: "ReadBooks | None", account: str | None
) -> None:
    """Listen for a second, since states are renewed now and then, and print. The portfolios that a
    daemon elsewhere retains say which accounts there are."""
    import asyncio

    from runtime.cli.books import no_such_account
    from runtime.cli.output import show_json
    from runtime.client import overheard_by
    from runtime.clock import WallClock
    from runtime.watch.feed import tried
    from runtime.watch.model import ROUTES
    from runtime.watch.snapshot import print_snapshot, snapshot

    now = WallClock().now
    if books is not None:
        state.take_books(tried(books))

    def hear(incoming: Any) -> None:
        state.take(incoming.topic, incoming.payload, retained=incoming.retain, at=now())

    state.connected(now())
    filters = [address.topics.filter(name) for name in ROUTES]
    asyncio.run(overheard_by(address, filters, hear, seconds=_ONCE_SECONDS, timeout=_REACH_SECONDS))
    if account is not None and state.portfolios and account not in state.portfolios:
        raise no_such_account(account, state.portfolios)
    if place.json:
        show_json(snapshot(state, now()))
    else:
        print_snapshot(state, now())
