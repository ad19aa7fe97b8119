"""`config check|schema|show`: are settings and files as they must be?"""

import sys
from typing import Annotated

import typer

from runtime.cli import verifying
from runtime.cli.base import Place, command
from runtime.cli.books import page
from runtime.cli.inputs import BotsOption, CandlesOption, gather

PANEL = "Check"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    verifying.register(app, PANEL)
    config = typer.Typer(help="Settings and bot files: check, show, print their JSON Schema.", no_args_is_help=True)
    command(config, "check", json=True)(check_config)
    command(config, "schema")(config_schema)
    command(config, "show", json=True)(show_config)
    app.add_typer(config, name="config", rich_help_panel=PANEL)


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
