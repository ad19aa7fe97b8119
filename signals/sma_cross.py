"""The SMA cross: long only, a fixed quantity, exact.

With d = SMA(fast) - SMA(slow) of the closes and eps = 1e-9 x close: BUY when the previous d <= eps and now
d > eps and the account is flat in the symbol; SELL, the whole position, when the previous d >= -eps and
now d < -eps. The first decision falls on the candle after the slow average first exists. Gaps and volume do
not matter.

The window sums are exact Decimals: a float sum that rolls on carries its rounding along, and a restart
would then decide a tie differently.
"""

from collections import deque
from decimal import Decimal

from config.exact import ZERO
from execution.model import Side
from signals.bot import Bar, BaseBot, PositionView, Verdict
from signals.model import Part

EPSILON = Decimal("0.000000001")
"""eps as a share of the close."""

_PART = "sma-cross"
_WARMING = Verdict(None, None, (Part(_PART, None, 1.0),))
_HOLD = Verdict(None, 0.0, (Part(_PART, 0.0, 1.0),))
_BUY_PARTS = (Part(_PART, 1.0, 1.0),)
_SELL_PARTS = (Part(_PART, -1.0, 1.0),)


class SmaCross(BaseBot):
    """The bot behind `class = "sma-cross"`. Its score is +1 or -1 on a cross and 0 otherwise."""

    __slots__ = (
        "_closes", "_cross", "_difference", "_fast", "_fast_factor", "_fast_length", "_scaled_epsilon",
        "_slow", "_slow_factor", "_warm",
    )  # fmt: skip

    def __init__(self, fast: int, slow: int) -> None:
        if not 0 < fast < slow:
            raise ValueError(f"a fast length above 0 and below the slow one, not {fast} and {slow}")
        self._fast_length = fast
        self._fast_factor = Decimal(fast)
        self._slow_factor = Decimal(slow)
        self._closes: deque[Decimal] = deque(maxlen=slow)
        self._fast = ZERO
        self._slow = ZERO
        # d and eps are compared multiplied by fast x slow, so that nothing is ever divided.
        self._scaled_epsilon = EPSILON * fast * slow
        self._difference: Decimal | None = None
        self._warm = False
        self._cross = 0

    def update(self, bar: Bar) -> None:
        """Roll the two windows on and note whether the averages crossed on this candle."""
        closes = self._closes
        close = bar.candle.close
        filled = len(closes)
        if filled >= self._fast_length:
            self._fast += close - closes[-self._fast_length]
        else:
            self._fast += close
        if filled == closes.maxlen:
            self._slow += close - closes[0]
        else:
            self._slow += close
            filled += 1
        closes.append(close)
        if filled != closes.maxlen:
            return
        previous = self._difference
        difference = self._difference = self._fast * self._slow_factor - self._slow * self._fast_factor
        if previous is None:
            return
        self._warm = True
        epsilon = self._scaled_epsilon * close
        if difference > epsilon:
            self._cross = 1 if previous <= epsilon else 0
        elif difference < -epsilon:
            self._cross = -1 if previous >= -epsilon else 0
        else:
            self._cross = 0

    def decide(self, position: PositionView) -> Verdict:
        """BUY on a cross upwards while flat, SELL all on a cross downwards while not, else HOLD."""
        cross = self._cross
        if cross == 0:
            return _HOLD if self._warm else _WARMING
        if cross > 0 and not position.quantity:
            return Verdict(Side.BUY, 1.0, _BUY_PARTS, context=self._averages())
        if cross < 0 and position.quantity:
            return Verdict(Side.SELL, -1.0, _SELL_PARTS, close=True, context=self._averages())
        return _HOLD

    def _averages(self) -> dict[str, float]:
        return {"fast": float(self._fast / self._fast_factor), "slow": float(self._slow / self._slow_factor)}
