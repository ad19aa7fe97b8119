"""`run` and `demo`: start the daemon in the foreground."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.base import Place, command
from runtime.cli.inputs import BotsOption, CandlesOption, Inputs, candle_paths, gather, invalid_input

if TYPE_CHECKING:
    from pathlib import Path

    from config.settings import Settings
    from signals.bot_file import BotFile

PANEL = "Run"
DEMO_SPEED = "600"
"""Ten 1-minute candles a second."""
DEMO_WARMUP = 300
"""Candles of a file that warm the indicators, so that the show starts at once."""

SpeedOption = Annotated[
    str | None,
    typer.Option("--speed", metavar="X", help="How fast candles come: 1 = real time, 600 = ten minutes a second."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "run", panel=PANEL)(run)
    command(app, "demo", panel=PANEL)(demo)


def run(
    place: Place,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="ROLE", help="Only execution, portfolio or signals. Repeatable."),
    ] = None,
    candles: CandlesOption = None,
    speed: SpeedOption = None,
    bots: BotsOption = None,
) -> None:
    """Run the daemon until Ctrl-C: bots, execution, portfolio, broker. Without candles it takes them from the bus."""
    from runtime.core import ROLES

    for role in only or ():
        if role not in ROLES:
            raise typer.BadParameter(f"one of {', '.join(ROLES)}, not {role!r}", param_hint="--only")
    place.implied = (*_feed_of(candles), *(() if speed is None else (f"feed.speed={speed}",)))
    inputs = gather(place, bots, candles or ())
    roles = tuple(role for role in ROLES if not only or role in only)
    idle = None if "signals" not in roles else nobody_trades(inputs.bots, inputs.bot_paths)
    _serve(place, place.settings, inputs, roles=roles, warning=idle)


def nobody_trades(bots: "Sequence[BotFile]", paths: "Sequence[Path]") -> str | None:
    """What to say when no bot is enabled, so that a daemon would only wait; None when one is."""
    if any(bot.enabled for bot in bots):
        return None
    where = ", ".join(map(str, paths))
    if not bots:
        return f"there is no bot in {where}: put a bot file there, or name other folders with --bots"
    files, says = ("the only bot file", "says") if len(bots) == 1 else (f"all {len(bots)} bot files", "say")
    name = bots[0].name
    return (
        f"no bot is enabled, so none will trade: {files} in {where} {says} enabled = false."
        f" Set enabled = true in a file (it is taken up at once), or start with --set bots.{name}.enabled=true,"
        f" or `fillbook bot start {name}` until the next start; --bots names a folder of your own"
    )


def demo(
    place: Place,
    candles: CandlesOption = None,
    speed: SpeedOption = None,
    seed: Annotated[
        str | None, typer.Option("--seed", metavar="N", help="The same seed gives the same invented candles.")
    ] = None,
    bots: BotsOption = None,
) -> None:
    """Show the whole chain: several bots trade paper money on invented candles (or on files), live."""
    from config.settings import SHIPPED_BOTS
    from runtime.cli.live import LiveView

    implied = list(_feed_of(candles)) if candles else ["feed.synthetic=true"]
    if candles:
        implied += [f"feed.speed={speed or DEMO_SPEED}", f"feed.file_warmup_candles={DEMO_WARMUP}"]
    elif speed is not None:
        implied.append(f"feed.candles_per_second={_per_second(speed)}")
    if seed is not None:
        implied.append(f"feed.synthetic_seed={seed}")
    place.implied = tuple(implied)
    inputs = gather(place, bots or [SHIPPED_BOTS.with_name("demo")], candles or ())
    settings = place.settings
    if "log.level" not in place.loaded.sources:  # the live lines say what happens
        settings = settings.model_copy(update={"log": settings.log.model_copy(update={"level": "warning"})})
    view = LiveView(
        synthetic=settings.feed.synthetic,
        account=settings.account.name,
        base_topic=settings.base_topic,
        symbol=_example_symbol(inputs.bots),
        hint=place.option_text,
    )
    _serve(place, settings, inputs, observe=view.observe)
    view.goodbye()


def _feed_of(candles: Sequence[str] | None) -> tuple[str, ...]:
    """The settings that `--candles` stands for."""
    if not candles:
        return ()
    faults: list[str] = []
    files = candle_paths(candles, faults)
    if faults:
        raise invalid_input(faults)
    return ("feed.synthetic=false", *(f"feed.candles.{symbol}={path}" for symbol, path in files.items()))


def _per_second(speed: str) -> str:
    """The pace of invented 1-minute candles at `speed` times real time."""
    from decimal import Decimal

    from config.exact import NotADecimal, divide, parse_decimal, plain
    from config.toml_errors import Fault

    try:
        wanted = parse_decimal(speed)
    except NotADecimal:
        wanted = Decimal(0)
    if wanted <= 0:
        raise invalid_input([str(Fault("--speed", None, None, speed, "a number above 0 for invented candles"))])
    return plain(divide(wanted, Decimal(60)))


def _example_symbol(bots: Sequence["BotFile"]) -> str:
    symbols = sorted({bot.symbol for bot in bots})
    return symbols[0] if symbols else "BTC-USD"


def _serve(
    place: Place,
    settings: "Settings",
    inputs: Inputs,
    *,
    roles: tuple[str, ...] | None = None,
    observe: Callable[[object], None] | None = None,
    warning: str | None = None,
) -> None:
    """Run the daemon until it is told to stop; Ctrl-C is a clean end. `warning` is logged first."""
    import asyncio
    from contextlib import suppress

    import structlog

    from runtime.app import Daemon
    from runtime.log import configure_logging
    from runtime.reload import Sources

    configure_logging(settings.log)
    if warning is not None:
        structlog.get_logger(__name__).warning(warning)
    chosen: dict[str, Any] = {} if roles is None else {"roles": roles}
    sources = Sources(inputs.bot_paths, place.loaded.bot_overrides, inputs.owners, place.loaded, place.load)
    daemon = Daemon(settings, inputs.bots, observe=observe, sources=sources, **chosen)
    with suppress(KeyboardInterrupt):  # before the daemon listens to signals itself
        asyncio.run(daemon.run())
