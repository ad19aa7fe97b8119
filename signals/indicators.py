"""Indicators on TA-Lib's streaming handles: O(1) per candle, the same floats as the batch API.

Three rules keep false signals out: an indicator has no value before it is warm, a market that did not
move or trade in the whole window has no vote (a flat RSI is 0, "the strongest BUY"), and a hole in the
candles is never filled with an invented one.
"""

from collections.abc import Sequence
from math import isnan
from typing import Any

import numpy as np
from talib import abstract, stream

from signals.bot import Floats

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

    __slots__ = ("_handle", "_history", "_name", "_needed", "_parameters")

    def __init__(self, name: str, **parameters: int) -> None:
        function = abstract.Function(name)  # type: ignore[attr-defined]
        function.set_parameters(parameters)
        self._name = name
        self._parameters = parameters
        self._needed: int = function.lookback + 1
        self._history: list[Sequence[float]] = []
        self._handle: Any = None

    def update(self, *inputs: float) -> Any:
        """The output after one more candle (several outputs: a tuple); None before it can be calculated."""
        if self._handle is not None:
            return self._handle.update(*inputs)
        self._history.append(inputs)
        if len(self._history) < self._needed:
            return None
        columns = [np.array(column, dtype=np.float64) for column in zip(*self._history, strict=True)]
        self._handle = getattr(stream, self._name)(*columns, **self._parameters)
        self._history = []
        return self._handle.value

    def reopen(self) -> None:
        """Forget everything: the candles to come have nothing to do with those before."""
        self._handle = None
        self._history = []


class Activity:
    """Whether a market moves and trades: run lengths, so that a window of any length is one comparison.

    `moved` counts the candles whose close differs from the one before since the last reopening:
    candles that do not move teach a recursive indicator nothing, so they do not warm it up.
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
    """An indicator's output, or None when it is missing or not a number."""
    return None if value is None or isnan(value) else value
