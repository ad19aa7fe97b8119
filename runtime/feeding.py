"""Plays a feed into the services: paced, and never ahead of what a candle has caused.

A candle is settled when everything that it triggered is committed; only then comes the next one. So any
speed gives the same trades, and a restart goes on after the last stored candle.
"""

import asyncio
import random  # noqa: TID251 - seeded by whoever asks for generated candles
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import structlog
from sqlalchemy import Connection

from config.instruments import default_instrument
from config.settings import FeedSettings
from config.times import EPOCH, time_text, timeframe_length
from execution import candles as stored_candles
from execution import ledger
from execution.model import Candle, Price
from runtime.clock import FeedClock
from runtime.core import Core
from signals.feeds.candle_file import CandleFile
from signals.feeds.feed import Feed
from signals.feeds.merge import FileFeed
from signals.feeds.synthetic import SyntheticFeed

log = structlog.get_logger(__name__)


def open_feed(settings: FeedSettings) -> FileFeed | SyntheticFeed | None:
    """The configured feed; None when candles come from the bus. Raises CandleFileInvalid."""
    if settings.candles:
        return open_files(settings.candles, settings.file_warmup_candles)
    if settings.synthetic:
        return SyntheticFeed(
            settings.synthetic_symbols,
            seed=settings.synthetic_seed,
            seeded=random.Random,
            warmup=settings.warmup_candles,
        )
    return None


def open_files(files: dict[str, Path], warmup: int = 0) -> FileFeed:
    """Candle files by symbol, checked from the first line to the last before anything starts."""
    feed = FileFeed([CandleFile.open(path, symbol) for symbol, path in files.items()], warmup=warmup)
    for symbol, path in files.items():
        CandleFile(path, symbol, feed.timeframe(symbol)).check()
    return feed


def describe(feed: Feed | None) -> str:
    """What kind of candles these are, for people: invented ones are always called so."""
    if feed is None:
        return "candles and prices from the bus"
    symbols = ", ".join(f"{symbol} {feed.timeframe(symbol)}" for symbol in feed.symbols)
    return f"SYNTHETIC candles of {symbols}" if feed.source == "synthetic" else f"candle files of {symbols}"


class Pacer:
    """Waits so that candles come at the wanted pace: `seconds_per` maps feed time to seconds."""

    def __init__(self, speed: Decimal) -> None:
        self._speed = float(speed)
        self._last: datetime | None = None
        self._due = 0.0

    async def wait(self, close_time: datetime) -> None:
        """Return when a candle that closes at `close_time` is due; at once for speed 0."""
        if not self._speed:
            return
        if self._last is None:
            self._due = asyncio.get_running_loop().time()
        elif close_time > self._last:
            self._due += (close_time - self._last).total_seconds() / self._speed
        self._last = close_time
        delay = self._due - asyncio.get_running_loop().time()
        if delay > 0:
            await asyncio.sleep(delay)  # noqa: TID251 - the loop's time, which is simulated
        else:
            self._due -= delay  # late: go on from here instead of rushing after


def pace_of(settings: FeedSettings) -> Decimal:
    """Feed seconds per second."""
    return settings.candles_per_second * 60 if settings.synthetic else settings.speed


class Feeder:
    """Plays one feed until it ends. `announce` shows candles to others on the bus when the pace is human."""

    def __init__(
        self,
        core: Core,
        feed: Feed,
        clock: FeedClock,
        settings: FeedSettings,
        answered: asyncio.Event,
        announce: Callable[[Candle | Price], None],
    ) -> None:
        self._core = core
        self._feed = feed
        self._clock = clock
        self._pacer = Pacer(pace_of(settings))
        self._shown = bool(pace_of(settings)) or core.execution is None  # another process needs them to fill orders
        self._answered = answered
        self._announce = announce
        self._lengths: dict[str, timedelta] = {s: timeframe_length(feed.timeframe(s)) for s in feed.symbols}
        self.candles = 0

    async def run(self, after: dict[str, datetime]) -> None:
        """Play what opens later than `after`, the times of the last candles by symbol."""
        await self._settled()  # requests from before a restart come first
        for candle in self._feed.candles(after):
            close_time = candle.time + self._lengths[candle.symbol]
            await self._pacer.wait(close_time)
            self._clock.advance(close_time)
            await self._core.surely_on_candle(candle)
            if self._shown:
                self._announce(candle)
                self._announce(Price(candle.symbol, candle.close, close_time))
            await self._settled()
            self.candles += 1
            if not self.candles % 100:
                await asyncio.sleep(0)  # at full speed, leave room for requests and timers  # noqa: TID251 - the loop's time, which is simulated
        log.info("the feed is at its end", candles=self.candles, time=time_text(self._clock.now()))

    async def _settled(self) -> None:
        """Return when execution has committed (or refused) everything that the bots asked for."""
        assert self._core.signals is not None
        while self._core.signals.open_requests():
            self._answered.clear()
            await self._answered.wait()


def last_times(connection: Connection, feed: Feed) -> dict[str, datetime]:
    """When the last stored candle of each of the feed's symbols opened."""
    return {
        symbol: candle.time
        for (symbol, timeframe), candle in stored_candles.latest(connection).items()
        if symbol in feed.symbols and timeframe == feed.timeframe(symbol)
    }


def open_books_to(connection: Connection, feed: Feed, clock: FeedClock) -> dict[str, datetime]:
    """Get books ready for a feed: its symbols in the catalogue, its history stored, the clock where the books
    are. Returns after which candles the live ones start."""
    known = ledger.instruments(connection)
    for symbol in feed.symbols:
        if symbol not in known:
            ledger.add_instrument(connection, default_instrument(symbol))
    history, after = feed.opening(last_times(connection, feed))
    stored_candles.store(connection, history)
    closes = [candle.close_time for candle in stored_candles.latest(connection).values()]
    if not closes:
        first = next(feed.candles(after), None)
        closes = [EPOCH if first is None else first.time]
    clock.advance(max(closes))
    return after
