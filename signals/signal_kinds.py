"""The signals of the weighted bot: TA-Lib functions at work, each with a score per candle."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Protocol

from signals.bot import Floats
from signals.functions import SERIES
from signals.guards import Guard
from signals.indicators import Activity, Stream, no_range, number, silence
from signals.mappers import Mapper
from signals.scores import after_cross, clip, cross_side, per_atr

NO_NUMBER = "its value is no number"


class Signal(Protocol):
    """One opinion on a market. `atr` is the ATR(14) of the same candles, None while it has no value."""

    @property
    def value(self) -> float | None:
        """The output behind the last score."""
        ...

    def update(self, floats: Floats, atr: float | None, activity: Activity) -> float | None:
        """The score after one more candle; None = no vote."""
        ...

    def why(self, activity: Activity) -> str:
        """Why the last update gave no vote, in a few words."""
        ...

    def reopen(self) -> None:
        """Forget everything."""
        ...


class Memory:
    """What a signal must know of its function's past: `seed` candles until it is warm, and `window` candles in
    which the market must have moved and traded."""

    __slots__ = ("seed", "window")

    def __init__(self, seed: int, window: int) -> None:
        self.seed = seed
        self.window = window


def _reader(inputs: Sequence[str]) -> Callable[[Floats], tuple[float, ...]]:
    """A function's inputs from a candle, always as a tuple."""
    places = [SERIES.index(series) for series in inputs]
    if len(places) > 1:
        return itemgetter(*places)
    (place,) = places
    return lambda floats: (floats[place],)


class FunctionSignal:
    """One output of one function through a mapper."""

    __slots__ = ("_guard", "_mapper", "_output", "_place", "_read", "_seed", "_stream", "_window", "value")

    def __init__(
        self,
        stream: Stream,
        inputs: Sequence[str],
        output: int | None,
        mapper: Mapper,
        memory: Memory,
        guard: Guard | None = None,
    ) -> None:
        self.value: float | None = None
        self._stream = stream
        self._read = _reader(inputs)
        self._place = SERIES.index(inputs[0]) if len(inputs) == 1 else None
        self._output = output
        self._mapper = mapper
        self._seed = memory.seed
        self._window = memory.window
        self._guard = guard

    def update(self, floats: Floats, atr: float | None, activity: Activity) -> float | None:
        """The score after one more candle."""
        place = self._place
        stream = self._stream
        found = stream.update(*self._read(floats)) if place is None else stream.update(floats[place])
        if found is not None and self._output is not None:
            found = found[self._output]
        value = self.value = number(found)
        guard = self._guard
        if guard is not None:
            guard.update(floats)
        if value is None or activity.moved < self._seed:
            return None
        score = self._mapper.score(value, floats.close, atr)
        if activity.still >= self._window or activity.idle >= self._window:
            return None
        return score if guard is None or guard.allows() else None

    def why(self, activity: Activity) -> str:
        """Why the last update gave no vote."""
        known = silence(activity, self._window, self._seed, self._stream)
        if known is not None:
            return known
        if self.value is None:
            return NO_NUMBER
        if self._guard is not None and not self._guard.allows():
            return self._guard.why
        return self._mapper.why(activity)

    def reopen(self) -> None:
        """Forget everything."""
        self.value = None
        self._stream.reopen()
        self._mapper.reopen()
        if self._guard is not None:
            self._guard.reopen()


class CrossSignal:
    """tanh((fast - slow) / (scale x ATR)) of two averages, pronounced for some candles after a cross.

    A tie is no side: a cross is a change from one side to the other, however many ties lie between.
    """

    __slots__ = (
        "_age", "_bars", "_cross", "_fast", "_place", "_read", "_scale", "_seed", "_side", "_slow", "_strength",
        "_window", "value",
    )  # fmt: skip

    def __init__(
        self,
        averages: tuple[Stream, Stream],
        inputs: Sequence[str],
        memory: Memory,
        scale: float,
        bars: int,
        strength: float,
    ) -> None:
        self.value: float | None = None
        self._fast, self._slow = averages
        self._read = _reader(inputs)
        self._place = SERIES.index(inputs[0]) if len(inputs) == 1 else None
        self._scale = scale
        self._bars = bars
        self._strength = strength
        self._window = memory.window
        self._seed = memory.seed
        self._side = self._cross = self._age = 0

    def update(self, floats: Floats, atr: float | None, activity: Activity) -> float | None:
        """The score after one more candle."""
        place = self._place
        if place is None:
            read = self._read(floats)
            fast, slow = number(self._fast.update(*read)), number(self._slow.update(*read))
        else:
            price = floats[place]
            fast, slow = number(self._fast.update(price)), number(self._slow.update(price))
        if fast is None or slow is None:
            self.value = None
            return None
        difference = self.value = fast - slow
        side = cross_side(difference, floats.close)
        self._age += 1
        if side != 0:
            if side == -self._side:
                self._cross = side
                self._age = 0
            self._side = side
        if atr is None or not activity.is_warm(self._seed) or not activity.allows(self._window):
            return None
        return after_cross(per_atr(difference, atr, self._scale), self._cross, self._age, self._bars, self._strength)

    def why(self, activity: Activity) -> str:
        """Why the last update gave no vote."""
        known = silence(activity, self._window, self._seed, self._slow)
        return known or (NO_NUMBER if self.value is None else no_range(activity))

    def reopen(self) -> None:
        """Forget everything."""
        self.value = None
        self._fast.reopen()
        self._slow.reopen()
        self._side = self._cross = self._age = 0


class BollingerSignal:
    """clip(1 - 2 (close - lower) / (upper - lower)): at the lower band +1, at the upper one -1.

    The value is where the close is between the bands: 0 at the lower, 1 at the upper one.
    """

    __slots__ = ("_lower", "_read", "_seed", "_stream", "_upper", "_window", "value")

    def __init__(self, stream: Stream, inputs: Sequence[str], upper: int, lower: int, memory: Memory) -> None:
        self.value: float | None = None
        self._stream = stream
        self._read = _reader(inputs)
        self._upper = upper
        self._lower = lower
        self._seed = memory.seed
        self._window = memory.window

    def update(self, floats: Floats, atr: float | None, activity: Activity) -> float | None:
        """The score after one more candle."""
        found = self._stream.update(*self._read(floats))
        self.value = None
        if found is None:
            return None
        upper, lower = number(found[self._upper]), number(found[self._lower])
        close = floats.close
        if upper is None or lower is None or cross_side(upper - lower, close) <= 0:
            return None
        share = self.value = (close - lower) / (upper - lower)
        if not activity.is_warm(self._seed) or not activity.allows(self._window):
            return None
        return clip(1 - 2 * share)

    def why(self, activity: Activity) -> str:
        """Why the last update gave no vote."""
        return silence(activity, self._window, self._seed, self._stream) or no_range(activity)

    def reopen(self) -> None:
        """Forget everything."""
        self.value = None
        self._stream.reopen()


class DirectionSignal:
    """(+DI - -DI) / (+DI + -DI) x min(1, ADX / full): the direction, as far as there is a trend.

    The value is the ADX.
    """

    __slots__ = ("_adx", "_full", "_minus", "_plus", "_seed", "_window", "value")

    def __init__(self, period: int, full: float, memory: Memory) -> None:
        self.value: float | None = None
        self._adx, self._plus, self._minus = (
            Stream(name, timeperiod=period) for name in ("ADX", "PLUS_DI", "MINUS_DI")
        )
        self._full = full
        self._seed = memory.seed
        self._window = memory.window

    def update(self, floats: Floats, atr: float | None, activity: Activity) -> float | None:
        """The score after one more candle."""
        high, low, close = floats.high, floats.low, floats.close
        adx = self.value = number(self._adx.update(high, low, close))
        plus = number(self._plus.update(high, low, close))
        minus = number(self._minus.update(high, low, close))
        if adx is None or plus is None or minus is None or plus + minus <= 0:
            return None
        if not activity.is_warm(self._seed) or not activity.allows(self._window):
            return None
        return clip((plus - minus) / (plus + minus) * min(1.0, adx / self._full))

    def why(self, activity: Activity) -> str:
        """Why the last update gave no vote."""
        return silence(activity, self._window, self._seed, self._adx) or no_range(activity)

    def reopen(self) -> None:
        """Forget everything."""
        self.value = None
        for stream in (self._adx, self._plus, self._minus):
            stream.reopen()


class Inverted:
    """Another signal's score the other way round."""

    __slots__ = ("_signal",)

    def __init__(self, signal: Signal) -> None:
        self._signal = signal

    @property
    def value(self) -> float | None:
        """The other signal's value."""
        return self._signal.value

    def update(self, floats: Floats, atr: float | None, activity: Activity) -> float | None:
        """The score after one more candle."""
        score = self._signal.update(floats, atr, activity)
        return None if score is None else -score

    def why(self, activity: Activity) -> str:
        """Why the last update gave no vote."""
        return self._signal.why(activity)

    def reopen(self) -> None:
        """Forget everything."""
        self._signal.reopen()
