"""The weighted bot: several signals, each with a score and a weight, combined into one score.

S = sum(w s) / sum(w of the voters); the side is the sign of S once |S| reaches the threshold.
"""

from collections.abc import Sequence
from typing import Protocol

from execution.model import Side
from signals.bot import Bar, BaseBot, Floats, PositionView, Verdict
from signals.indicators import Activity, Stream, number, seed_length
from signals.model import Part
from signals.scores import CROSS_EPSILON, after_cross, band, combine, cross_side, per_atr

ATR_PERIOD = 14
MAX_GAP = 250
"""A hole of more missing candles than this reopens every indicator: nothing before it still counts."""


class Signal(Protocol):
    """One opinion on a market. `atr` is the ATR(14) of the same candles, None while it has no value."""

    def update(self, floats: Floats, atr: float | None, activity: Activity) -> float | None:
        """The score after one more candle; None = no vote."""
        ...

    def reopen(self) -> None:
        """Forget everything."""
        ...


class RsiSignal:
    """band(RSI; floor, lo, hi, ceil): oversold is a BUY."""

    __slots__ = ("_bounds", "_period", "_seed", "_stream")

    def __init__(self, period: int, floor: float, lo: float, hi: float, ceil: float) -> None:
        self._period = period
        self._bounds = (floor, lo, hi, ceil)
        self._seed = seed_length(period)
        self._stream = Stream("RSI", timeperiod=period)

    def update(self, floats: Floats, atr: float | None, activity: Activity) -> float | None:
        """The score after one more candle."""
        value = number(self._stream.update(floats.close))
        if value is None or not activity.is_warm(self._seed) or not activity.allows(self._period):
            return None
        return band(value, *self._bounds)

    def reopen(self) -> None:
        """Forget everything."""
        self._stream.reopen()


class MacdSignal:
    """tanh(histogram / (scale x ATR)): momentum relative to how much the market moves anyway."""

    __slots__ = ("_scale", "_seed", "_stream", "_window")

    def __init__(self, fast: int, slow: int, signal: int, scale: float) -> None:
        self._scale = scale
        self._window = slow
        self._seed = seed_length(slow)
        self._stream = Stream("MACD", fastperiod=fast, slowperiod=slow, signalperiod=signal)

    def update(self, floats: Floats, atr: float | None, activity: Activity) -> float | None:
        """The score after one more candle."""
        values = self._stream.update(floats.close)
        histogram = None if values is None else number(values[2])
        if histogram is None or atr is None or not activity.is_warm(self._seed):
            return None
        return per_atr(histogram, atr, self._scale) if activity.allows(self._window) else None

    def reopen(self) -> None:
        """Forget everything."""
        self._stream.reopen()


class CrossSignal:
    """tanh((fast - slow) / (scale x ATR)) of two averages, pronounced for some candles after a cross.

    A tie is no side: a cross is a change from one side to the other, however many ties lie between.
    """

    __slots__ = ("_age", "_bars", "_cross", "_fast", "_scale", "_seed", "_side", "_slow", "_strength", "_window")

    def __init__(self, average: str, fast: int, slow: int, scale: float, bars: int, strength: float) -> None:
        self._fast = Stream(average, timeperiod=fast)
        self._slow = Stream(average, timeperiod=slow)
        self._scale = scale
        self._bars = bars
        self._strength = strength
        self._window = slow
        # A simple average has a finite memory; an exponential one needs its start to fade.
        self._seed = 0 if average == "SMA" else seed_length(slow)
        self._side = self._cross = self._age = 0

    def update(self, floats: Floats, atr: float | None, activity: Activity) -> float | None:
        """The score after one more candle."""
        fast = number(self._fast.update(floats.close))
        slow = number(self._slow.update(floats.close))
        if fast is None or slow is None:
            return None
        side = cross_side(fast - slow, floats.close)
        self._age += 1
        if side != 0:
            if side == -self._side:
                self._cross = side
                self._age = 0
            self._side = side
        if atr is None or not activity.is_warm(self._seed) or not activity.allows(self._window):
            return None
        score = per_atr(fast - slow, atr, self._scale)
        return after_cross(score, self._cross, self._age, self._bars, self._strength)

    def reopen(self) -> None:
        """Forget everything."""
        self._fast.reopen()
        self._slow.reopen()
        self._side = self._cross = self._age = 0


class Weighted(BaseBot):
    """The bot behind `class = "weighted"`: named signals with weights, and a threshold for acting."""

    __slots__ = ("_activity", "_atr", "_atr_seed", "_max_gap", "_signals", "_threshold", "_verdict")

    def __init__(
        self, signals: Sequence[tuple[str, Signal, float]], threshold: float, max_gap: int = MAX_GAP
    ) -> None:
        self._signals = tuple(signals)
        self._threshold = threshold
        self._max_gap = max_gap
        self._atr = Stream("ATR", timeperiod=ATR_PERIOD)
        self._atr_seed = seed_length(ATR_PERIOD)
        self._activity = Activity()
        self._verdict = self._silent()

    def update(self, bar: Bar) -> None:
        """Feed every signal and combine their scores."""
        if bar.missing > self._max_gap:
            self._reopen()
        floats = bar.floats
        if not floats.are_finite:
            self._verdict = self._silent()
            return
        activity = self._activity
        activity.update(floats)
        atr = self._usable_atr(floats)
        parts = tuple(
            [Part(name, signal.update(floats, atr, activity), weight) for name, signal, weight in self._signals]
        )
        score = combine(parts)
        side = None
        if score is not None and abs(score) >= self._threshold and score != 0:
            side = Side.BUY if score > 0 else Side.SELL
        self._verdict = Verdict(side, score, parts)

    def decide(self, position: PositionView) -> Verdict:
        """The combined opinion; what is held makes no difference to it."""
        return self._verdict

    def _usable_atr(self, floats: Floats) -> float | None:
        """The ATR, None while it is cold or so small that dividing by it would shout about nothing."""
        atr = number(self._atr.update(floats.high, floats.low, floats.close))
        if atr is None or not self._activity.is_warm(self._atr_seed) or atr <= CROSS_EPSILON * floats.close:
            return None
        return atr

    def _reopen(self) -> None:
        self._atr.reopen()
        self._activity.reopen()
        for _, signal, _ in self._signals:
            signal.reopen()

    def _silent(self) -> Verdict:
        return Verdict(None, None, tuple(Part(name, None, weight) for name, _, weight in self._signals))
