"""Replay with many bots on many symbols: speed, whether a bot costs the same among many, memory."""

import asyncio
import csv
import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from runtime.feeding import open_files
from runtime.replay import Replay, ReplayResult
from signals.bot_file import BotFile
from signals.sma_cross_file import SmaCrossFile
from signals.weighted_file import WeightedFile
from tests.bench.material import RICH, candle_file, settings_for
from tests.bench.measure import Effort, Row, say, seconds
from tests.bench.memory import alone

SYMBOLS = tuple(f"S{number:02}-USD" for number in range(20))
COUNTS = (5, 10, 25, 50, 100)
"""Numbers of bots. Multiples of the five kinds, so that the mix is always the same."""
WANTED = 50


def many_bots(effort: Effort) -> list[Row]:
    """5 to 100 bots over 20 symbols. Each bot sees the candles of its symbol: a twentieth of them all."""
    length = effort.size(2_000, 300)
    files = {s: candle_file(effort.folder / f"{s}.csv", length, seed=n) for n, s in enumerate(SYMBOLS)}
    nobody = _best(effort, files, 0)
    found = {count: _best(effort, files, count) for count in COUNTS}
    bare = {count: _best_bare(effort, files, count) for count in (0, WANTED)}
    return [
        *_speeds(found[WANTED], bare[WANTED], length),
        *_costs(nobody, found, bare, length),
        *_memory(files),
    ]


def _speeds(result: "Ran", bare: float, length: int) -> list[Row]:
    candles, bot_candles = length * len(SYMBOLS), length * WANTED
    is_ = "bare loop: csv, Decimal, two sums per bot"
    what = f"replay, {WANTED} bots on {len(SYMBOLS)} symbols"
    return [
        Row(what, candles / result.seconds, "candles/s", candles / bare, is_),
        Row("  candles times the bots that see them", bot_candles / result.seconds, "/s", bot_candles / bare, is_),
        Row("  of which trades", result.fills, "fills"),
    ]


def _costs(nobody: "Ran", found: "Mapping[int, Ran]", bare: Mapping[int, float], length: int) -> list[Row]:
    """What a bot adds to a candle that it sees, its share of the trades included.

    In CPU time: the differences of several runs say nothing when another program takes a core in one of them.
    """
    costs = {n: (ran.cpu_seconds - nobody.cpu_seconds) / (n * length) * 1e6 for n, ran in found.items()}
    least = (bare[WANTED] - bare[0]) / (WANTED * length) * 1e6
    idle = nobody.seconds / (length * len(SYMBOLS)) * 1e6
    rows = [Row("a candle without a bot", idle, "us", lower_is_better=True)]
    rows += [
        Row(f"a candle of a bot, among {n} bots", cost, "us of CPU", least, "two sums", lower_is_better=True)
        for n, cost in costs.items()
    ]
    few, many = costs[10], costs[100]
    return [*rows, Row("growth 10 -> 100 bots", many / few, "x", 1.0, "flat", 1.25, lower_is_better=True)]


def _memory(files: Mapping[str, Path]) -> list[Row]:
    """The peak above that of the imports, each in a process of its own."""
    measured = {count: alone(_run_in_process, (dict(files), count)) for count in (0, *COUNTS[1:])}
    return [
        Row(f"peak memory, {count} bots", megabytes, "MB", measured[0], "no bots", lower_is_better=True)
        for count, megabytes in measured.items()
        if count
    ]


# ---- one run --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ran:
    """What counts of a run; the result itself holds all of its trades."""

    seconds: float
    cpu_seconds: float
    fills: int
    state_hash: str

    def or_better(self, other: "Ran") -> "Ran":
        """The better of two runs, in each measure."""
        return replace(
            self, seconds=min(self.seconds, other.seconds), cpu_seconds=min(self.cpu_seconds, other.cpu_seconds)
        )


def _best(effort: Effort, files: Mapping[str, Path], count: int) -> Ran:
    best: Ran | None = None
    for number in range(effort.repetitions):
        say(f"replay, {count} bots {number + 1}")
        began = time.process_time()
        result = run(files, count)
        ran = Ran(result.seconds, time.process_time() - began, result.fills, result.state_hash)
        assert best is None or ran.state_hash == best.state_hash, "two replays of the same bots differ"
        best = ran if best is None else ran.or_better(best)
    assert best is not None
    return best


def run(files: Mapping[str, Path], count: int) -> ReplayResult:
    """One replay of so many bots, books in memory."""
    settings = settings_for(Path("unused"))
    try:
        return asyncio.run(Replay(settings, bots(count), open_files(dict(files)), cash=RICH).run())
    finally:
        gc.unfreeze()
        gc.collect()


def _run_in_process(given: tuple[dict[str, Path], int]) -> object:
    return run(*given)


# ---- the bots -------------------------------------------------------------------------------------------


def bots(count: int) -> list[BotFile]:
    """Five kinds in turn, over all symbols, each with periods of its own."""
    return [_bot(number) for number in range(count)]


def _bot(number: int) -> BotFile:
    kind, shift = number % 5, number // 5 % 7
    common = {
        "name": f"bot-{number}",
        "symbol": SYMBOLS[(number + number // len(SYMBOLS)) % len(SYMBOLS)],
        "confirmation_minutes": 0,
    }
    if kind == 0:
        return SmaCrossFile.model_validate(_cross(common, 10 + shift))
    if kind == 1:
        return SmaCrossFile.model_validate({**_cross(common, 20 + shift), "trailing_stop_pct": 1})
    keys: dict[str, Any] = {"threshold": Decimal("0.4"), "notional": 100}
    if kind == 2:
        signals = [_signal("RSI", timeperiod=10 + shift), _signal("MACD"), _signal("SMA")]
        return WeightedFile.model_validate({**common, **keys, "signals": signals})
    if kind == 3:
        stops = {"stop_loss_pct": 1, "take_profit_pct": 2, "exit": "close"}
        signals = [_signal("RSI", timeperiod=10 + shift)]
        return WeightedFile.model_validate({**common, **keys, **stops, "signals": signals})
    signals = [_signal("EMA", fast=8 + shift, slow=30 + shift), _signal("MACD")]
    return WeightedFile.model_validate({**common, **keys, "exit": "close", "signals": signals})


def _cross(common: Mapping[str, Any], fast: int) -> dict[str, Any]:
    return {**common, "class": "sma-cross", "fast": fast, "slow": 3 * fast, "quantity": Decimal("0.01")}


def _signal(function: str, **params: int) -> dict[str, Any]:
    return {"function": function, "weight": 1, **({"params": params} if params else {})}


# ---- the baseline ---------------------------------------------------------------------------------------


def _best_bare(effort: Effort, files: Mapping[str, Path], count: int) -> float:
    seen = [sum(bot.symbol == symbol for bot in bots(count)) for symbol in files]
    paths = list(files.values())
    return min(seconds(lambda: _bare(paths, seen)) for _ in range(effort.repetitions))


def _bare(paths: Sequence[Path], bots_of: Sequence[int]) -> None:
    """Read the files; for every bot of a candle two sums and a comparison, nothing else."""
    for path, count in zip(paths, bots_of, strict=True):
        sums = [[Decimal(0), Decimal(0)] for _ in range(count)]
        with path.open(newline="") as file:
            rows = csv.reader(file)
            next(rows)
            for time_, opened, high, low, close, volume in rows:
                datetime.fromisoformat(time_)
                Decimal(opened), Decimal(high), Decimal(low), Decimal(volume)
                now = Decimal(close)
                for pair in sums:
                    pair[0] += now
                    pair[1] += now
                    assert pair[0] <= pair[1]
