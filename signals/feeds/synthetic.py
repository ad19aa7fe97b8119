"""An invented market of 1-minute candles for demonstrations and tests, labelled "synthetic".

Candle n of a symbol depends on nothing but the seed, the symbol and n: time is cut into blocks, each with
its own random stream and a log price at its edges that is drawn from the seed alone. So the walk goes on
for ever, stays near its base price, and can be resumed anywhere at the cost of one block.

Within a block the price goes from edge to edge in one of several regimes (trend, swing, quiet, nervous),
so that crosses and reversals come every few dozen candles.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple, Protocol

from execution.model import Candle
from signals.feeds.merge import merge_candles

TIMEFRAME = "1m"
TICK_PLACES = 2  # prices are multiples of 0.01
BLOCK = 120  # candles that share a regime
START = datetime(2000, 1, 1, tzinfo=UTC)  # before any real candles, so that these can follow in the same books
DEFAULT_PRICE = 100.0
BASE_PRICES: Mapping[str, float] = {"BTC-USD": 60_000.0, "ETH-USD": 3_000.0, "SOL-USD": 150.0, "AAPL": 200.0}
TYPICAL_BAR_VALUE = 500_000.0  # traded per candle, in the quote currency

_MINUTE = timedelta(minutes=1)
_EDGE_SPREAD = 0.02  # standard deviation of the log price at the edges of blocks


class Randomness(Protocol):
    """The part of `random.Random` that is used."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def gauss(self, mu: float, sigma: float) -> float:
        """Normally distributed."""
        ...


Seeded = Callable[[str], Randomness]
"""Makes a stream of random numbers from a seed text; `random.Random` is one."""


class _Regime(NamedTuple):
    """noise: standard deviation of the log price per candle; swing: height of the waves in it."""

    noise: float
    swing: float


_REGIMES = (
    _Regime(noise=0.0006, swing=0.0),  # trend
    _Regime(noise=0.0006, swing=0.012),  # swing
    _Regime(noise=0.0003, swing=0.003),  # quiet
    _Regime(noise=0.0018, swing=0.006),  # nervous
)


class SyntheticFeed:
    """Endless invented candles of several symbols, as a `Feed`.

    Each symbol starts at `start` with candle 0. `warmup` candles come before the live ones (`opening`).
    """

    source = "synthetic"

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        seed: int,
        seeded: Seeded,
        warmup: int = 0,
        start: datetime = START,
    ) -> None:
        if not symbols or len(set(symbols)) != len(symbols):
            raise ValueError("at least one symbol, and each only once")
        self.symbols = tuple(sorted(symbols))
        self.start = start
        self.warmup = warmup
        self._seed = seed
        self._seeded = seeded
        self._block = lru_cache(maxsize=4 * len(symbols))(self._make_block)

    def timeframe(self, symbol: str) -> str:
        """Always "1m"."""
        if symbol not in self.symbols:
            raise KeyError(symbol)
        return TIMEFRAME

    def opening(self, stored: Mapping[str, datetime]) -> tuple[list[Candle], dict[str, datetime]]:
        """What comes before the live candles of books that end at `stored` (open times by symbol): candles
        that only warm the indicators, and after which candle of each symbol the live ones start.

        A symbol that is new to the books, or was left out for long, joins where the others are.
        """
        indices = {symbol: self._next_index(stored[symbol]) for symbol in self.symbols if symbol in stored}
        now = max((self.warmup, *indices.values()))
        joining = [symbol for symbol in self.symbols if indices.get(symbol, -1) < now - self.warmup]
        if not indices:
            joining = list(self.symbols)
        history = [self.candle(symbol, index) for index in range(now - self.warmup, now) for symbol in joining]
        starts = {symbol: indices[symbol] for symbol in indices} | dict.fromkeys(joining, now)
        return history, {symbol: self.start + (index - 1) * _MINUTE for symbol, index in starts.items()}

    def candles(self, after: Mapping[str, datetime]) -> Iterator[Candle]:
        """See `Feed.candles`; never ends."""
        return merge_candles(
            {(symbol, TIMEFRAME): self._from(symbol, self._next_index(after.get(symbol))) for symbol in self.symbols}
        )

    def candle(self, symbol: str, index: int) -> Candle:
        """Candle number `index` (from 0) of a symbol."""
        return self._block(symbol, index // BLOCK)[index % BLOCK]

    def _next_index(self, after: datetime | None) -> int:
        return 0 if after is None else max(0, (after - self.start) // _MINUTE + 1)

    def _from(self, symbol: str, index: int) -> Iterator[Candle]:
        while True:
            yield self.candle(symbol, index)
            index += 1

    def _make_block(self, symbol: str, number: int) -> tuple[Candle, ...]:
        draw = self._seeded(f"fillbook {self._seed} {symbol} block {number}")
        path = self._log_prices(symbol, number, draw)
        first = self.start + number * BLOCK * _MINUTE
        return tuple(_candle(symbol, first + at * _MINUTE, path[at], path[at + 1], draw) for at in range(BLOCK))

    def _edge(self, symbol: str, number: int) -> float:
        """The log price at the beginning of a block."""
        draw = self._seeded(f"fillbook {self._seed} {symbol} edge {number}")
        return math.log(BASE_PRICES.get(symbol, DEFAULT_PRICE)) + draw.gauss(0.0, _EDGE_SPREAD)

    def _log_prices(self, symbol: str, number: int, draw: Randomness) -> list[float]:
        """The log price at the BLOCK + 1 instants of a block: a random walk pinned at both edges."""
        begin, end = self._edge(symbol, number), self._edge(symbol, number + 1)
        regime = _REGIMES[int(draw.random() * len(_REGIMES))]
        waves = 1 + int(draw.random() * 3)  # whole waves are 0 at both edges
        swing = regime.swing * (1.0 if draw.random() < 0.5 else -1.0)
        walk = [0.0]
        for _ in range(BLOCK):
            walk.append(walk[-1] + draw.gauss(0.0, regime.noise))
        path = []
        for at, step in enumerate(walk):
            share = at / BLOCK
            wave = swing * math.sin(2 * math.pi * waves * share)
            path.append(begin + (end - begin) * share + wave + step - walk[-1] * share)
        return path


def _candle(symbol: str, time: datetime, before: float, after: float, draw: Randomness) -> Candle:
    opened, closed = _price(before), _price(after)
    reach = abs(draw.gauss(0.0, 0.0003))
    depth = abs(draw.gauss(0.0, 0.0003))
    high = max(opened, closed, _price(max(before, after) + reach))
    low = min(opened, closed, _price(min(before, after) - depth))
    volume = TYPICAL_BAR_VALUE * math.exp(draw.gauss(0.0, 0.5)) / math.exp(after)
    # Floats only choose ticks; from here on the numbers are exact.
    return Candle(symbol, TIMEFRAME, time, opened, high, low, closed, Decimal(round(volume * 10_000)).scaleb(-4))


def _price(log_price: float) -> Decimal:
    return Decimal(max(1, round(math.exp(log_price) * 10**TICK_PLACES))).scaleb(-TICK_PLACES)
