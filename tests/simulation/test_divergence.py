"""The simulation trades as the real services do: the candles of a calm world, played through replay."""

import asyncio
import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from config.exact import plain
from config.settings import Settings
from config.times import time_text
from execution import candles, ledger
from execution.model import Candle, Trade
from runtime.feeding import open_files
from runtime.replay import Replay
from tests.simulation.faults import CALM
from tests.simulation.people import TIMEFRAME
from tests.simulation.run import quiet
from tests.simulation.setting import HISTORY, SYMBOLS, bot_files
from tests.simulation.world import World

COLUMNS = ("time", "open", "high", "low", "close", "volume")


def told(trades: Sequence[Trade], symbol: str) -> list[tuple[str, ...]]:
    """What must be the same of each trade."""
    return sorted(  # bots that decided on the same candle may ask in any order
        (time_text(t.executed_at), t.side, plain(t.quantity), plain(t.price), plain(t.fee), t.triggered_by)
        for t in trades
        if t.symbol == symbol
    )


def write(path: Path, history: Sequence[Candle]) -> None:
    """Candles as a file."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for c in history:
            rows.writerow([time_text(c.time), *map(plain, (c.open, c.high, c.low, c.close, c.volume))])


def simulate(folder: Path) -> tuple[list[Trade], Settings]:
    """A calm world: its trades, and its candles as files."""
    with quiet() as memory:
        world = World(11, memory, faults=CALM)
        outcome = world.run()
        assert outcome.violation is None, outcome.trace[-5:]
        for symbol in SYMBOLS:
            write(folder / f"{symbol}.csv", world.read(partial(candles.history, symbol=symbol, timeframe=TIMEFRAME)))
        trades = world.read(ledger.trades)
        world.close()
    return trades, world.settings


def test_a_calm_world_trades_as_replay_does(tmp_path: Path) -> None:
    simulated, settings = simulate(tmp_path)
    feed = open_files({symbol: tmp_path / f"{symbol}.csv" for symbol in SYMBOLS}, warmup=HISTORY)
    replay = Replay(settings, bot_files(), feed, cash=settings.account.initial_deposit)
    replayed = [trade for trade, _realized in asyncio.run(replay.run()).trades]
    for symbol in SYMBOLS:
        found = told(simulated, symbol)
        assert len(found) >= 5, "hardly anything to compare"
        # The simulated bots are stopped at the end, and the candles go on for a while.
        assert found == told(replayed, symbol)[: len(found)]
