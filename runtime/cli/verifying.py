"""`verify`: prove the books."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.base import FAILED, CommandFailed, Place, command, say

if TYPE_CHECKING:
    from portfolio.verify import CheckResult, Progress


def register(app: typer.Typer, panel: str) -> None:
    """Add the command."""
    command(app, "verify", json=True, panel=panel)(verify)


def verify(
    place: Place,
    account: Annotated[str | None, typer.Option("--account", "-a", help="Only this account.")] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", "-s", help="Only this symbol.")] = None,
    restore_guards: Annotated[
        bool,
        typer.Option("--restore-guards", help="First make missing triggers anew, which refuse changes of facts."),
    ] = False,
) -> None:
    """Prove the books: allocations, cash, incremental = recomputed, the chain of hashes. Exit code 1 when one fails.

    The chain of facts is one and always checked whole; --account and --symbol narrow what goes by them.
    """
    from portfolio import verify as proofs
    from runtime.cli.output import show_json

    if restore_guards:
        _restore(place)
    _check_known(place, account, symbol)
    bar = _Bar(proofs.CHECKS)
    results: list[CheckResult] = []
    try:
        place.read(
            lambda connection: results.extend(
                _shown(proofs.checks(connection, bar.progress, account=account, symbol=symbol), place, bar)
            )
        )
    finally:
        bar.stop()
    failed = [result for result in results if not result.ok]
    skipped = [result for result in results if result.skipped is not None]
    if place.json:
        passed = len(results) - len(failed)
        checks = [_wire(result) for result in results]
        show_json({"ok": not failed, "passed": passed, "skipped": len(skipped), "checks": checks})
    elif not failed:
        from runtime.cli.output import show

        left_out = f", {len(skipped)} left out" if skipped else ""
        show(f"All checks passed ({len(results) - len(skipped)}/{len(results)}{left_out})")
    if failed:
        names = "; ".join(f"[{result.number}] {result.name}" for result in failed)
        raise CommandFailed(f"{len(failed)} of {len(results)} checks failed: {names}", FAILED)


def _check_known(place: Place, account: str | None, symbol: str | None) -> None:
    """A name that does not exist would pass every check."""
    from execution import ledger

    accounts, symbols = place.read(lambda connection: (ledger.accounts(connection), ledger.instruments(connection)))
    for option, given, names in (("--account", account, set(accounts)), ("--symbol", symbol, set(symbols))):
        if given is not None and given not in names:
            raise typer.BadParameter(f"one of {', '.join(sorted(names))}, not {given!r}", param_hint=option)


def _restore(place: Place) -> None:
    from execution import guards
    from runtime import database

    place.read(lambda _connection: None)  # says what is wrong with the database, if anything
    engine = database.writer_engine(
        database.sqlite_url(place.database), busy_timeout_ms=place.settings.writer.busy_timeout_ms
    )
    try:
        with engine.connect() as connection, connection.begin():
            restored = guards.restore(connection)
    finally:
        engine.dispose()
    say(f"restored: {', '.join(restored)}" if restored else "every guard is there")


def _wire(result: "CheckResult") -> dict[str, Any]:
    return {
        "number": result.number,
        "name": result.name,
        "ok": result.ok,
        "skipped": result.skipped,
        "figures": result.figures,
        "problems": result.problems,
    }


def _shown(results: Any, place: Place, bar: "_Bar") -> Any:
    """Results as they come, each told at once."""
    for result in results:
        if not place.json:
            bar.pause()
            _show(result, bar.checks)
        yield result


def _show(result: "CheckResult", checks: int) -> None:
    from rich.text import Text

    from runtime.cli.output import show

    mark = ("✓", "green") if result.ok else ("✗", "bold red")
    figures = ", ".join(f"{name} {value}" for name, value in result.figures.items())
    if result.skipped is not None:
        mark, figures = ("-", "yellow"), f"left out: {result.skipped}"
    note = (f"  ({figures})", "dim") if figures else ""
    show(Text.assemble(f"[{result.number}/{checks}] ", mark, f" {result.name}", note))
    for problem in result.problems:
        show(f"        {problem}")


class _Bar:
    """Progress on stderr, only on a terminal."""

    def __init__(self, checks: int) -> None:
        self.checks = checks
        self._bar: Any = None
        self._task: Any = None
        self._number = 0

    @property
    def progress(self) -> "Progress":
        """For `portfolio.verify`."""
        import sys

        return self._update if sys.stderr.isatty() else lambda _number, _done, _total: None

    def _update(self, number: int, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        from runtime.ctrl_c import deferred

        if self._bar is None:
            self._bar = Progress(console=Console(stderr=True), transient=True)
            with deferred():  # half begun, it would leave the terminal without its cursor
                self._bar.start()
            self._number = 0
        if number != self._number:
            if self._task is not None and self._number:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(f"check {number} of {self.checks}", total=total)
            self._number = number
        self._bar.update(self._task, completed=done, total=total)

    def pause(self) -> None:
        """Make room for a line of output."""
        from runtime.ctrl_c import deferred

        if self._bar is not None:
            with deferred():
                self._bar.stop()
                self._bar = None

    stop = pause
