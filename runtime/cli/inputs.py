"""What a command is given to run: settings, bot files, candle files. All of it is checked before anything starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli.base import USAGE, CommandFailed, Place

if TYPE_CHECKING:
    from signals.bot_file import BotFile
    from signals.feeds.candle_file import CandleFile, CandleFileSummary

CandlesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--candles", metavar="SYM=FILE", help="Candle file of a symbol (time,open,high,low,close,volume). Repeatable."
    ),
]
BotsOption = Annotated[
    list[Path] | None,
    typer.Option("--bots", metavar="FILE|DIR", help="Bot file, or folder of bot files. Repeatable."),
]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Checked: nothing here has a fault."""

    bots: tuple["BotFile", ...]
    bot_paths: tuple[Path, ...]
    owners: Mapping[str, Path]
    """The file of each bot."""
    files: tuple["CandleFile", ...]
    summaries: tuple["CandleFileSummary", ...]


def gather(place: Place, bot_paths: Sequence[Path] | None, given: Sequence[str]) -> Inputs:
    """Check the settings, the bot files (None: those of the settings), and candle files.

    `given` are the `--candles`; without them the settings' candle files are checked. Raises CommandFailed
    (exit code 2) with every fault of all of them, one on a line.
    """
    from config.settings import LogSettings
    from config.toml_errors import ConfigurationInvalid
    from runtime.bot_files import owners_of
    from runtime.composition import bot_limits
    from runtime.log import configure_logging
    from signals.isolation.limits import BotLimits
    from signals.loading import load_bots

    faults: list[str] = []
    files: Mapping[str, Path] = {}
    overrides: dict[str, dict[str, object]] = {}
    usable = True
    try:
        overrides = place.loaded.bot_overrides
        files = place.settings.feed.candles
    except ConfigurationInvalid as invalid:
        usable = False
        faults += map(str, invalid.faults)
    if given:
        files = candle_paths(given, faults)
    bots: list[BotFile] = []
    # What a bot prints when it is tried, and in replay, is for stderr: stdout is for data.
    configure_logging(place.settings.log if usable else LogSettings())
    if bot_paths or usable:
        try:
            trial = bot_limits(place.settings) if usable else BotLimits()
            bots = load_bots(list(bot_paths or [place.settings.bots_folder]), overrides, trial=trial)
        except ConfigurationInvalid as invalid:
            faults += map(str, invalid.faults)
    opened, summaries = _open_files(files, faults)
    if faults:
        raise invalid_input(faults)
    paths = bot_paths or [place.settings.bots_folder]
    return Inputs(tuple(bots), tuple(paths), owners_of(paths), tuple(opened), tuple(summaries))


def invalid_input(faults: Sequence[str]) -> CommandFailed:
    """The error that lists faults, each on its line."""
    unique = list(dict.fromkeys(faults))
    count = "1 fault" if len(unique) == 1 else f"{len(unique)} faults"
    return CommandFailed("\n".join([f"{count}, nothing was started:", *(f"  {fault}" for fault in unique)]), USAGE)


def candle_paths(given: Sequence[str], faults: list[str]) -> dict[str, Path]:
    """`SYM=FILE` texts as a mapping; what is none becomes a fault."""
    from config.instruments import SYMBOL_PATTERN, is_symbol
    from config.toml_errors import Fault, value_text

    files: dict[str, Path] = {}
    for text in given:
        symbol, equals, path = text.partition("=")
        if not equals or not path:
            faults.append(str(Fault("--candles", None, None, value_text(text), "SYM=FILE, such as BTC-USD=btc.csv")))
        elif not is_symbol(symbol):
            faults.append(str(Fault("--candles", None, None, value_text(symbol), f"a symbol: {SYMBOL_PATTERN}")))
        elif symbol in files:
            faults.append(str(Fault("--candles", None, symbol, value_text(path), "one file per symbol")))
        else:
            files[symbol] = Path(path)
    return files


def _open_files(files: Mapping[str, Path], faults: list[str]) -> tuple[list["CandleFile"], list["CandleFileSummary"]]:
    from signals.feeds.candle_file import CandleFile, CandleFileInvalid

    opened: list[CandleFile] = []
    summaries: list[CandleFileSummary] = []
    for symbol, path in files.items():
        try:
            file = CandleFile.open(path.expanduser(), symbol)
            summaries.append(file.check())
            opened.append(file)
        except CandleFileInvalid as invalid:
            faults += str(invalid).splitlines()
    return opened, summaries
