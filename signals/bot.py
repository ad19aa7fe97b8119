"""The small protocol of a bot: closed candles in, a verdict out.

A bot knows one symbol and one timeframe. It never sees cash, fills, a clock or the future, and it sends
nothing: its verdict goes through the policy (confirmation, cooldown, sizing) before anything is asked for.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from math import isfinite
from typing import NamedTuple, Protocol

from execution.model import Candle, Json, Side
from signals.model import Part


class Floats(NamedTuple):
    """A candle's numbers for indicators."""

    open: float
    high: float
    low: float
    close: float
    volume: float

    @property
    def are_finite(self) -> bool:
        """Whether an indicator may be fed with them: a NaN inside a handle never leaves it again."""
        opened, high, low, close, volume = self
        return isfinite(close) and isfinite(high) and isfinite(low) and isfinite(volume) and isfinite(opened)


class Bar:
    """A closed candle on its way through the bots of its series.

    `missing` is the number of whole timeframes between the previous candle and this one in which there
    was no candle. The floats are converted at most once per candle, whichever number of bots reads them.
    """

    __slots__ = ("_floats", "candle", "missing")

    def __init__(self, candle: Candle, missing: int = 0) -> None:
        self.candle = candle
        self.missing = missing
        self._floats: Floats | None = None

    @property
    def floats(self) -> Floats:
        """Open, high, low, close and volume as floats."""
        floats = self._floats
        if floats is None:
            candle = self.candle
            floats = self._floats = Floats(
                float(candle.open), float(candle.high), float(candle.low), float(candle.close), float(candle.volume)
            )
        return floats


class PositionView(NamedTuple):
    """What a bot may know of its account: the quantity of its symbol, and whether it waits for an answer."""

    quantity: Decimal
    has_open_request: bool


class Verdict(NamedTuple):
    """A bot's opinion after a candle. `side` None is HOLD, `score` None is no opinion.

    `close` on a SELL: the whole position, whatever the sizing says. `context` is what else explains the
    verdict; it is stored with the trades that follow.
    """

    side: Side | None
    score: float | None
    parts: tuple[Part, ...] = ()
    close: bool = False
    context: Mapping[str, Json] | None = None


class Bot(Protocol):
    """A decision engine. Whatever it raises stops only itself."""

    def update(self, bar: Bar) -> None:
        """Take one closed candle in. Called once per candle, in time order, also for stored history."""
        ...

    def decide(self, position: PositionView) -> Verdict:
        """The verdict on the candles taken in so far. Changes nothing: it may be asked again."""
        ...

    def warm(self, history: Iterable[Bar]) -> None:
        """Rebuild the indicators from stored candles, in time order, as if they came one by one."""
        ...

    def dump(self) -> dict[str, Json]:
        """What stored candles cannot rebuild, as JSON. Most bots have nothing."""
        ...

    def load(self, state: Mapping[str, Json]) -> None:
        """Take back what `dump` gave; called after `warm`."""
        ...

    def close(self) -> None:
        """The end: stopped, failed or replaced. May be called twice; `dump` still answers afterwards."""
        ...


class BaseBot:
    """What most bots share: warming is updating, and nothing else needs to survive a restart."""

    __slots__ = ()

    def update(self, bar: Bar) -> None:
        """Take one closed candle in."""
        raise NotImplementedError

    def decide(self, position: PositionView) -> Verdict:
        """The verdict on the candles taken in so far."""
        raise NotImplementedError

    def warm(self, history: Iterable[Bar]) -> None:
        """Feed stored candles one by one, so that a restart leads to the very same floats."""
        for bar in history:
            self.update(bar)

    def dump(self) -> dict[str, Json]:
        """Nothing."""
        return {}

    def load(self, state: Mapping[str, Json]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
