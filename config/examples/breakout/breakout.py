"""A breakout (Donchian) bot: buys a new high, sells a new low. The worked example of docs/writing-a-bot.md.

It wins when a move goes on, and loses when prices swing inside a range: each false breakout costs two fees.
"""

from collections import deque
from decimal import Decimal

from signals.api import Bar, BaseBot, Part, PositionView, Side, Verdict


class Breakout(BaseBot):
    """BUY when a candle closes above the highest high of the `length` candles before it, while flat.

    SELL everything when one closes below the lowest low of the `exit_length` candles before it.
    """

    def __init__(self, length: int = 20, exit_length: int = 10) -> None:
        if not 1 <= exit_length <= length:
            raise ValueError(f"exit_length ({exit_length}) from 1 to length ({length})")
        self._highs: deque[Decimal] = deque(maxlen=length)
        self._lows: deque[Decimal] = deque(maxlen=exit_length)
        self._high: Decimal | None = None
        self._low: Decimal | None = None
        self._close = Decimal(0)

    def update(self, bar: Bar) -> None:
        """One closed candle. The channel is that of the candles before it."""
        candle = bar.candle
        is_warm = len(self._highs) == self._highs.maxlen
        self._high = max(self._highs) if is_warm else None
        self._low = min(self._lows) if is_warm else None
        self._close = candle.close
        self._highs.append(candle.high)
        self._lows.append(candle.low)

    def decide(self, position: PositionView) -> Verdict:
        """The verdict on the last candle."""
        if self._high is None or self._low is None:
            return Verdict(None, None, (Part("channel", None, 1.0, why="warming up"),))
        context = {"high": str(self._high), "low": str(self._low)}
        if self._close > self._high and not position.quantity:
            return Verdict(Side.BUY, 1.0, (Part("channel", 1.0, 1.0),), context=context)
        if self._close < self._low and position.quantity:
            return Verdict(Side.SELL, -1.0, (Part("channel", -1.0, 1.0),), close=True, context=context)
        return Verdict(None, 0.0, (Part("channel", 0.0, 1.0),))
