"""The last price of each symbol, from prices and from the closes of candles."""

from collections.abc import Iterator, MutableMapping

from execution.model import Candle, Price


class LastPrices(MutableMapping[str, Price]):
    """Written by the event loop, read by works of the writer. A candle becomes a Price only when asked for:
    replay notes 100,000 of them a second and looks at few."""

    def __init__(self) -> None:
        self._latest: dict[str, Price | Candle] = {}

    def note_candle(self, candle: Candle) -> None:
        """A closed candle, not older than the last one of its series; a later price stays."""
        known = self._latest.get(candle.symbol)
        if (
            known is None
            or (type(known) is Candle and known.timeframe == candle.timeframe)
            or candle.close_time >= _as_price(known).time
        ):
            self._latest[candle.symbol] = candle

    def note_price(self, price: Price) -> bool:
        """A price; False when a later one is known."""
        known = self.get(price.symbol)
        if known is not None and price.time < known.time:
            return False
        self._latest[price.symbol] = price
        return True

    def __getitem__(self, symbol: str) -> Price:
        return _as_price(self._latest[symbol])

    def __setitem__(self, symbol: str, price: Price) -> None:
        self._latest[symbol] = price

    def __delitem__(self, symbol: str) -> None:
        del self._latest[symbol]

    def __iter__(self) -> Iterator[str]:
        return iter(self._latest)

    def __len__(self) -> int:
        return len(self._latest)


def _as_price(known: Price | Candle) -> Price:
    return Price(known.symbol, known.close, known.close_time) if isinstance(known, Candle) else known
