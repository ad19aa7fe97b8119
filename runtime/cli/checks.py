"""`verify` and `config check|schema|show`: is everything as it must be?"""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.base import FAILED, CommandFailed, Place, command
from runtime.cli.books import page
from runtime.cli.inputs import BotsOption, CandlesOption, gather

if TYPE_CHECKING:
    from portfolio.verify import CheckResult, Progress

PANEL = "Check"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "verify", json=True, panel=PANEL)(verify)
    config = typer.Typer(help="Settings and bot files: check, explain, show.", no_args_is_help=True)
    command(config, "check", json=True)(check_config)
    command(config, "schema")(config_schema)
    command(config, "show", json=True)(show_config)
    app.add_typer(config, name="config", rich_help_panel=PANEL)


# ---- verify ---------------------------------------------------------------------------------------------


def verify(place: Place) -> None:
    """Prove the books: cash, lots, incremental = recomputed, the chain of hashes. Exit code 1 when one fails."""
    from portfolio import verify as proofs
    from runtime.cli.output import show_json

    bar = _Bar()
    try:
        results = place.read(lambda connection: proofs.verify(connection, bar.progress))
    finally:
        bar.stop()
    passed = sum(result.ok for result in results)
    if place.json:
        show_json({"ok": passed == len(results), "passed": passed, "checks": [_check_wire(r) for r in results]})
    else:
        _show_results(results, passed)
    if passed < len(results):
        raise CommandFailed(f"{len(results) - passed} of {len(results)} checks failed", FAILED)


def _check_wire(result: "CheckResult") -> dict[str, Any]:
    return {
        "number": result.number,
        "name": result.name,
        "ok": result.ok,
        "figures": result.figures,
        "problems": result.problems,
    }


def _show_results(results: "list[CheckResult]", passed: int) -> None:
    from rich.text import Text

    from runtime.cli.output import show

    for result in results:
        mark = ("✓", "green") if result.ok else ("✗", "bold red")
        figures = ", ".join(f"{name} {value}" for name, value in result.figures.items())
        show(Text.assemble(f"[{result.number}/{len(results)}] ", mark, f" {result.name}", (f"  ({figures})", "dim")))
        for problem in result.problems:
            show(f"        {problem}")
    if passed == len(results):
        show(f"All checks passed ({passed}/{len(results)})")


class _Bar:
    """Progress on stderr, only on a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._tasks: dict[int, Any] = {}

    @property
    def progress(self) -> "Progress":
        """For `portfolio.verify`."""
        import sys

        return self._update if sys.stderr.isatty() else lambda _number, _done, _total: None

    def _update(self, number: int, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        if self._bar is None:
            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
        if number not in self._tasks:
            self._tasks[number] = self._bar.add_task(f"check {number}", total=total)
        self._bar.update(self._tasks[number], completed=done, total=total)

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


# ---- config ---------------------------------------------------------------------------------------------


def check_config(place: Place, bots: BotsOption = None, candles: CandlesOption = None) -> None:
    """Check settings, bot files and candle files; name every fault at once (exit code 2)."""
    from runtime.cli.output import show, show_json

    inputs = gather(place, bots, candles or ())
    files = [
        {
            "symbol": file.symbol,
            "file": str(file.path),
            "timeframe": summary.timeframe,
            "candles": summary.candles,
        }
        for file, summary in zip(inputs.files, inputs.summaries, strict=True)
    ]
    names = [bot.name for bot in inputs.bots]
    config_file = place.loaded.config_file
    if place.json:
        shown = None if config_file is None else str(config_file)
        show_json({"ok": True, "config_file": shown, "bots": names, "candle_files": files})
        return
    show(f"settings: ok ({config_file or 'no fillbook.toml, defaults'})")
    show(f"bots: ok ({', '.join(names) or 'none'})")
    for item in files:
        show(f"candles: ok ({item['file']}: {item['candles']:,} x {item['timeframe']} of {item['symbol']})")


def config_schema(
    place: Place,  # noqa: ARG001 - every command has it
    what: Annotated[
        str, typer.Argument(metavar="settings|bot", help="Of fillbook.toml or of bot files.")
    ] = "settings",
) -> None:
    """Print the JSON Schema of fillbook.toml, or of bot files, for editors."""
    from runtime.cli.output import show_json

    if what == "settings":
        from config.settings import settings_schema

        show_json(settings_schema())
    elif what == "bot":
        from signals.bot_schema import bot_file_schema, schema_text

        sys.stdout.write(schema_text(bot_file_schema()))
    else:
        raise typer.BadParameter(f"settings or bot, not {what!r}", param_hint="WHAT")


def show_config(place: Place) -> None:
    """Every setting in force and where its value is from; secrets are masked."""
    from config.loading import effective_rows
    from runtime.cli.output import show_json, show_table

    rows = effective_rows(place.loaded)
    if place.json:
        show_json(page(row._asdict() for row in rows))
    else:
        show_table(["setting", "value", "from"], [list(row) for row in rows], empty="")
