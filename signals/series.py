"""Series of candles, one for each symbol and timeframe, and the bots that each of them feeds."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from config.times import timeframe_length
from execution.model import Candle
from signals.runner import BotRunner


class Series:
    """The candles of one symbol and timeframe."""

    __slots__ = ("last", "length", "runners", "seen")

    def __init__(self, length: timedelta) -> None:
        self.length = length
        self.last: datetime | None = None
        self.runners: list[BotRunner] = []
        self.seen = False
        """Whether a candle came in this run."""

    def join(self, runner: BotRunner) -> None:
        """Feed a bot too."""
        if runner not in self.runners:
            self.runners.append(runner)
            # Who asks first gets the last of cash and volume: not a matter of when a bot found its candles.
            self.runners.sort(key=_name)


class AllSeries:
    """Every series that is known."""

    __slots__ = ("_series",)

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], Series] = {}

    def get(self, symbol: str, timeframe: str) -> Series | None:
        """A series; None when nobody asked for it yet."""
        return self._series.get((symbol, timeframe))

    def of(self, symbol: str, timeframe: str) -> Series:
        """A series; a new one when there is none."""
        series = self._series.get((symbol, timeframe))
        if series is None:
            series = self._series[symbol, timeframe] = Series(timeframe_length(timeframe))
        return series

    def feeding(self, runner: BotRunner) -> list[Series]:
        """Where a bot gets its candles from."""
        return [series for series in self._series.values() if runner in series.runners]

    def leave(self, runner: BotRunner) -> None:
        """A bot gets no more candles."""
        for series in self.feeding(runner):
            series.runners.remove(runner)


def newest(latest: Mapping[tuple[str, str], Candle], symbol: str) -> str | None:
    """The timeframe of the symbol's most recent stored candle."""
    found = [candle for (of, _), candle in latest.items() if of == symbol]
    return max(found, key=lambda candle: candle.time).timeframe if found else None


def _name(runner: BotRunner) -> str:
    return runner.file.name
