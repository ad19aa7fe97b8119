"""What a feed of candles is, whatever is behind it."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Protocol

from execution.model import Candle


class Feed(Protocol):
    """Closed candles of some symbols, in the order in which they close."""

    @property
    def source(self) -> str:
        """What kind of feed this is: "file", or "synthetic" for invented candles."""
        ...

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols, sorted."""
        ...

    def timeframe(self, symbol: str) -> str:
        """The timeframe of a symbol's candles, such as "1m"."""
        ...

    def candles(self, after: Mapping[str, datetime]) -> Iterator[Candle]:
        """Candles by close time, then symbol. A symbol in `after` starts with the first candle that OPENS
        later than that: hand in the times of the last stored candles, and a restart goes on behind them.
        """
        ...

    def opening(self, stored: Mapping[str, datetime]) -> tuple[list[Candle], dict[str, datetime]]:
        """What to do before the first live candle of books whose last candles opened at `stored`: candles to
        store that only warm indicators, and the `after` to hand to `candles`."""
        ...
