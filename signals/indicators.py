"""Indicators on TA-Lib's streaming handles: O(1) per candle, the same floats as the batch API.

Three rules keep false signals out: an indicator has no value before it is warm, a market that did not
move or trade in the whole window has no vote (a flat RSI is 0, "the strongest BUY"), and a hole in the
candles is never filled with an invented one.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import numpy as np
from talib import stream

from signals.bot import Floats
from signals.functions import Number, lookback

SEED = 250
"""Candles that a recursive indicator needs until its start no longer shows: RSI(14) is 4.9 points off
after 50, 5e-6 after 250."""


def seed_length(period: int) -> int:
    """Candles until a recursive indicator of `period` is warm: max(250, 5 x period)."""
    return max(SEED, 5 * period)


class Stream:
    """One TA-Lib function as a stream, opened as soon as there is enough history.

    A handle cannot be pickled: after a restart it is rebuilt by feeding the stored candles again.
    """

    __slots__ = ("_history", "_name", "_parameters", "needed", "update")

    def __init__(self, name: str, **parameters: Number) -> None:
        self._name = name
        self._parameters = parameters
        self.needed = lookback(name, parameters) + 1
        """Candles until the first output."""
        self.reopen()

    def reopen(self) -> None:
        """Forget everything: the candles to come have nothing to do with those before."""
        self._history: list[Sequence[float]] = []
        self.update: Callable[..., Any] = self._collect
        """Takes one more candle's inputs in and gives the output (several: a tuple); None before there is
        one. Once the handle is open this is the handle's own method: no call of ours in between."""

    @property
    def fed(self) -> int:
        """Candles taken in while there is no output yet."""
        return len(self._history)

    def _collect(self, *inputs: float) -> Any:
        self._history.append(inputs)
        if len(self._history) < self.needed:
            return None
        columns = [np.array(column, dtype=np.float64) for column in zip(*self._history, strict=True)]
        handle = getattr(stream, self._name)(*columns, **self._parameters)
        self._history = []
        self.update = handle.update
        return handle.value


class Activity:
    """Whether a market moves and trades: run lengths, so that a window of any length is one comparison.

    `moved` counts the candles whose close differs from the one before since the last reopening:
    candles that do not move teach a recursive indicator nothing, so they do not warm it up. After as many of
    them as warm it up it has forgotten what was before (RSI's averages have decayed to nothing, and its next
    value is 0 or 100): then it is warmed anew.
    """

    __slots__ = ("_last", "idle", "moved", "still")

    def __init__(self) -> None:
        self.reopen()

    def reopen(self) -> None:
        """Forget everything."""
        self._last: float | None = None
        self.still = 0
        self.idle = 0
        self.moved = 0

    def update(self, floats: Floats) -> None:
        """Take one candle in."""
        if floats.close == self._last:
            self.still += 1
            if self.still == SEED:
                self.moved = 0
        else:
            self.still = 0
            self.moved += 1
            self._last = floats.close
        self.idle = self.idle + 1 if floats.volume <= 0 else 0

    def allows(self, window: int) -> bool:
        """Whether closes moved and something was traded within the last `window` candles."""
        return self.still < window and self.idle < window

    def is_warm(self, seed: int) -> bool:
        """Whether at least `seed` candles that moved were taken in."""
        return self.moved >= seed


def number(value: float | None) -> float | None:
    """An indicator's output, or None when it is missing or not a number (nor infinite)."""
    return value if value is not None and isfinite(value) else None


def silence(activity: Activity, window: int, seed: int, stream: Stream) -> str | None:
    """Why an indicator has no vote, in a few words; None when it is neither flat nor cold."""
    if activity.idle >= window:
        return "no volume"
    if activity.still >= window:
        return "flat market"
    if activity.moved < seed:
        return warming_up(activity.moved, seed)
    return warming_up(stream.fed, stream.needed) if stream.fed else None


def no_range(activity: Activity) -> str:
    """Why there is nothing to measure in: the ATR is cold (it is warm after `SEED` candles) or almost 0."""
    return warming_up(activity.moved, SEED) if activity.moved < SEED else "flat market"


def warming_up(have: int, needed: int) -> str:
    """ "warming up (120 of 250 candles)"."""
    return f"warming up ({have} of {needed} candles)"
