"""`candles invent|export`: candle files to try bots on."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli.base import Place, command, say
from runtime.cli.inputs import invalid_input

if TYPE_CHECKING:
    from execution.model import Candle

PANEL = "Run"
HEADER = "time,open,high,low,close,volume"

OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write (default: stdout).")
]
SymbolArgument = Annotated[str, typer.Argument(metavar="SYMBOL", help='Such as "BTC-USD".')]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    candles = typer.Typer(
        help="Candle files to try bots on: invent some, export the stored ones.", no_args_is_help=True
    )
    command(candles, "invent")(invent)
    command(candles, "export")(export)
    app.add_typer(candles, name="candles", rich_help_panel=PANEL)


def invent(
    place: Place,  # noqa: ARG001 - every command has it
    symbol: SymbolArgument,
    count: Annotated[int, typer.Option("--count", min=1, max=10_000_000, help="How many 1-minute candles.")] = 5_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same candles.")] = 1,
    output: OutputOption = None,
) -> None:
    """Write invented 1-minute candles: no market is behind them, they only show how things work."""
    import random

    from config.instruments import SYMBOL_PATTERN, is_symbol
    from config.toml_errors import Fault
    from signals.feeds.synthetic import SyntheticFeed

    if not is_symbol(symbol):
        raise invalid_input([str(Fault("SYMBOL", None, None, symbol, f"a symbol that matches {SYMBOL_PATTERN}"))])
    feed = SyntheticFeed([symbol], seed=seed, seeded=random.Random)
    _write((feed.candle(symbol, index) for index in range(count)), output)
    if output is not None:
        say(f"{output}: {count:,} INVENTED 1-minute candles of {symbol}")


def export(
    place: Place,
    symbol: SymbolArgument,
    timeframe: Annotated[str, typer.Argument(metavar="TIMEFRAME", help='Such as "1m" or "1h".')],
    output: OutputOption = None,
) -> None:
    """Write the stored candles of a symbol, those that the bots have seen."""
    from execution import candles
    from runtime.cli.base import CommandFailed

    found = place.read(lambda connection: candles.history(connection, symbol, timeframe))
    if not found:
        latest = place.read(candles.latest)
        known = ", ".join(f"{name} {length}" for name, length in sorted(latest)) or "none"
        raise CommandFailed(f"no candles of {symbol} {timeframe} are stored; there are: {known}")
    _write(found, output)
    if output is not None:
        say(f"{output}: {len(found):,} candles of {symbol} {timeframe}")


def _write(candles: Iterable["Candle"], output: Path | None) -> None:
    from config.exact import plain
    from config.times import time_text
    from runtime.files import whole_file

    lines = (f"{time_text(candle.time)},{','.join(map(plain, candle[3:]))}\n" for candle in candles)
    if output is None:
        sys.stdout.write(HEADER + "\n")
        sys.stdout.writelines(lines)
        return
    with whole_file(output) as file:
        file.write(HEADER + "\n")
        file.writelines(lines)
