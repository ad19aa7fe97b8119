"""Mappers at work: from one output of a function to a score, candle by candle.

Those with a memory keep the last outputs; a sum over them is exact (`math.fsum`), so that it does not depend on
when the bot was started.
"""

from collections import deque
from math import fsum, isfinite, sqrt, tanh
from typing import Protocol

from signals.indicators import Activity, no_range, warming_up
from signals.scores import band, clip, per_atr

SPREAD_EPSILON = 1e-12
"""A standard deviation below this share of the mean is none: the values differ in their last bits only."""


class Mapper(Protocol):
    """From an output to a score. Called once per candle from the first output of a warm indicator on."""

    def score(self, value: float, close: float, atr: float | None) -> float | None:
        """The score in [-1, 1]; None: no vote."""
        ...

    def reopen(self) -> None:
        """Forget everything."""
        ...

    def why(self, activity: Activity) -> str:
        """Why the last score was None, in a few words."""
        ...


class Band:
    """band(x + shift; floor, lo, hi, ceil)."""

    __slots__ = ("_bounds", "_shift")

    def __init__(self, floor: float, lo: float, hi: float, ceil: float, shift: float = 0.0) -> None:
        self._bounds = (floor, lo, hi, ceil)
        self._shift = shift

    def score(self, value: float, close: float, atr: float | None) -> float | None:
        """The score."""
        return band(value + self._shift, *self._bounds)

    def reopen(self) -> None:
        """Nothing to forget."""

    def why(self, activity: Activity) -> str:
        """Never asked."""
        return "no value"


class PerAtr:
    """tanh(x / (scale x ATR)) of a difference such as MACD's histogram."""

    __slots__ = ("_scale",)

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def score(self, value: float, close: float, atr: float | None) -> float | None:
        """The score."""
        return None if atr is None else per_atr(value, atr, self._scale)

    def reopen(self) -> None:
        """Nothing to forget."""

    def why(self, activity: Activity) -> str:
        """There is no range to measure in."""
        return no_range(activity)


class PriceVs(PerAtr):
    """tanh((close - x) / (scale x ATR))."""

    __slots__ = ()

    def score(self, value: float, close: float, atr: float | None) -> float | None:
        """The score."""
        return None if atr is None else per_atr(close - value, atr, self._scale)


class Slope:
    """tanh((x - x `bars` candles ago) / (scale x ATR))."""

    __slots__ = ("_bars", "_scale", "_values")

    def __init__(self, bars: int, scale: float) -> None:
        self._bars = bars
        self._scale = scale
        self._values: deque[float] = deque(maxlen=bars + 1)

    def score(self, value: float, close: float, atr: float | None) -> float | None:
        """The score."""
        values = self._values
        values.append(value)
        if atr is None or len(values) <= self._bars:
            return None
        return per_atr(value - values[0], atr, self._scale)

    def reopen(self) -> None:
        """Forget the outputs."""
        self._values.clear()

    def why(self, activity: Activity) -> str:
        """Too few outputs, or no range."""
        have = len(self._values)
        return warming_up(have, self._bars + 1) if have <= self._bars else no_range(activity)


class ZScore:
    """tanh(-(x - mean) / (scale x sd)): mean and standard deviation (of the population) of the last `window`
    outputs, this one among them. A value far above its mean is a SELL."""

    __slots__ = ("_scale", "_values", "_window")

    def __init__(self, window: int, scale: float) -> None:
        self._window = window
        self._scale = scale
        self._values: deque[float] = deque(maxlen=window)

    def score(self, value: float, close: float, atr: float | None) -> float | None:
        """The score."""
        values = self._values
        values.append(value)
        if len(values) < self._window:
            return None
        try:
            mean = fsum(values) / self._window
            spread = sqrt(fsum([(each - mean) ** 2 for each in values]) / self._window)
        except OverflowError:
            return None
        if not isfinite(spread) or spread <= SPREAD_EPSILON * abs(mean):
            return None
        return tanh((mean - value) / (self._scale * spread))

    def reopen(self) -> None:
        """Forget the outputs."""
        self._values.clear()

    def why(self, activity: Activity) -> str:
        """Too few outputs, or all alike."""
        have = len(self._values)
        return warming_up(have, self._window) if have < self._window else "no spread in its values"


class Pattern:
    """clip(value / 100): TA-Lib's patterns are -200 to 200, 0 for none."""

    __slots__ = ()

    def score(self, value: float, close: float, atr: float | None) -> float | None:
        """The score."""
        return clip(value / 100)

    def reopen(self) -> None:
        """Nothing to forget."""

    def why(self, activity: Activity) -> str:
        """Never asked."""
        return "no value"
