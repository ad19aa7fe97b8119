"""The command line, put together."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import (
    allocations,
    bankroll,
    books,
    bots,
    candles,
    catalogue,
    checks,
    correct,
    daemon,
    db,
    export,
    importing,
    replay,
    reports,
    requests,
    reviews,
    status,
    watch,
)
from runtime.cli.base import ConfigOption, DataDirOption, SetOption, silence_stdout
from runtime.cli.interrupts import INTERRUPTED

app = typer.Typer(
    name="fillbook",
    help="A reactive bot runtime with a portfolio service: bots advise, execution records, books explain.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import tomllib

        project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8"))
        typer.echo(f"fillbook {project['project']['version']}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """A reactive bot runtime with a portfolio service: bots advise, execution records, books explain."""
    ctx.obj = {"data_dir": data_dir, "config": config, "sets": set_}


for module in (
    daemon,
    replay,
    candles,
    requests,
    importing,
    correct,
    books,
    bankroll,
    export,
    allocations,
    reports,
    reviews,
    bots,
    status,
    watch,
    checks,
    db,
    catalogue,
):
    module.register(app)


def main() -> None:
    """Run one command and end the process with its exit code."""
    try:
        app(prog_name="fillbook")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        silence_stdout()
        sys.exit(0)
