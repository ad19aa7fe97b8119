"""Several symbols as one stream: by close time, then symbol, the same on every run."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice

from config.times import timeframe_length
from execution.model import Candle
from signals.feeds.candle_file import CandleFile


def merge_candles(streams: Mapping[tuple[str, str], Iterator[Candle]]) -> Iterator[Candle]:
    """The candles of all streams by (close time, symbol, timeframe).

    Each stream belongs to the (symbol, timeframe) that is its key and ascends in time. Lazy: it holds one
    candle per stream.
    """
    if len(streams) == 1:
        return next(iter(streams.values()))
    lengths = {key: timeframe_length(key[1]) for key in streams}
    ordered = [streams[key] for key in sorted(streams)]  # merge is stable: ties go to the earlier stream
    return heapq.merge(*ordered, key=_closing(lengths))


def _closing(lengths: Mapping[tuple[str, str], timedelta]) -> Callable[[Candle], tuple[datetime, str]]:
    def key(candle: Candle) -> tuple[datetime, str]:
        return candle[2] + lengths[candle[0], candle[1]], candle[0]

    return key


class FileFeed:
    """Candle files, one per symbol, as a `Feed`."""

    source = "file"

    def __init__(self, files: Sequence[CandleFile], *, warmup: int = 0) -> None:
        self._warmup = warmup
        self._files = {file.symbol: file for file in sorted(files, key=lambda file: file.symbol)}
        if len(self._files) != len(files):
            raise ValueError("one candle file per symbol")
        self.symbols = tuple(self._files)

    def timeframe(self, symbol: str) -> str:
        """The timeframe of a symbol's file."""
        return self._files[symbol].timeframe

    def candles(self, after: Mapping[str, datetime]) -> Iterator[Candle]:
        """See `Feed.candles`. Raises CandleFileInvalid at the first bad part of a file."""
        streams = {(symbol, file.timeframe): file.candles(after.get(symbol)) for symbol, file in self._files.items()}
        return merge_candles(streams)

    def opening(self, stored: Mapping[str, datetime]) -> tuple[list[Candle], dict[str, datetime]]:
        """See `Feed.opening`: the first `warmup` candles of files that the books do not reach by far."""
        after = {symbol: time for symbol, time in stored.items() if symbol in self._files}
        history: list[Candle] = []
        for symbol, file in self._files.items():
            head = list(islice(file.candles(), self._warmup))
            if head and (symbol not in after or after[symbol] < self._joining_from(head[0])):
                history += head
                after[symbol] = head[-1].time
        return history, after

    def _joining_from(self, first: Candle) -> datetime:
        return first.time - self._warmup * timeframe_length(first.timeframe)
