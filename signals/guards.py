"""Guards against values that TA-Lib gives where there is nothing to tell.

Without any range STOCH's and WILLR's quotient is 0 / 0, and TA-Lib answers 0: "the strongest BUY". A smoothed
output carries such a 0 on for as long as it remembers.
"""

from collections import deque
from typing import Protocol

from signals.bot import Floats

NO_RANGE_IN_WINDOW = "flat market (no range in its window)"
NO_MONEY_FLOW = "no money flow in its window"


class Guard(Protocol):
    """Says whether an output means anything."""

    why: str

    def update(self, floats: Floats) -> None:
        """Take one candle in."""
        ...

    def allows(self) -> bool:
        """Whether the output of this candle may be mapped."""
        ...

    def reopen(self) -> None:
        """Forget everything."""
        ...


class RangeGuard:
    """No vote while one of the last `hold` outputs came from `window` candles at one and the same price."""

    __slots__ = ("_hold", "_price", "_run", "_since", "_window", "why")

    def __init__(self, window: int, hold: int) -> None:
        self.why = NO_RANGE_IN_WINDOW
        self._window = window
        self._hold = hold
        self._price = 0.0
        self._run = 0
        self._since = hold

    def update(self, floats: Floats) -> None:
        """Take one candle in."""
        high = floats.high
        if high != floats.low:
            self._run = 0
        else:
            self._run = self._run + 1 if high == self._price and self._run else 1
            self._price = high
        self._since = 0 if self._run >= self._window else self._since + 1

    def allows(self) -> bool:
        """Whether all outputs that still show came from windows with a range."""
        return self._since >= self._hold

    def reopen(self) -> None:
        """Forget everything."""
        self._price = 0.0
        self._run = 0
        self._since = self._hold


class StillGuard:
    """No vote while one of the last `hold` outputs came from `window` equal closes: between them RSI stands
    still as well, and STOCHRSI finds no range."""

    __slots__ = ("_close", "_hold", "_run", "_since", "_window", "why")

    def __init__(self, window: int, hold: int) -> None:
        self.why = NO_RANGE_IN_WINDOW
        self._window = window
        self._hold = hold
        self._close: float | None = None
        self._run = 0
        self._since = hold

    def update(self, floats: Floats) -> None:
        """Take one candle in."""
        self._run = self._run + 1 if floats.close == self._close else 1
        self._close = floats.close
        self._since = 0 if self._run >= self._window else self._since + 1

    def allows(self) -> bool:
        """Whether all outputs that still show came from windows that moved."""
        return self._since >= self._hold

    def reopen(self) -> None:
        """Forget everything."""
        self._close = None
        self._run = 0
        self._since = self._hold


class FlowGuard:
    """MFI: no vote while no money flowed in the whole window, because nothing that moved was traded."""

    __slots__ = ("_flows", "_typical", "why")

    def __init__(self, window: int) -> None:
        self.why = NO_MONEY_FLOW
        self._flows: deque[bool] = deque(maxlen=window)
        self._typical: float | None = None

    def update(self, floats: Floats) -> None:
        """Take one candle in."""
        typical = (floats.high + floats.low + floats.close) / 3
        self._flows.append(typical != self._typical and floats.volume > 0)
        self._typical = typical

    def allows(self) -> bool:
        """Whether a candle that moved was traded."""
        return True in self._flows

    def reopen(self) -> None:
        """Forget everything."""
        self._typical = None
        self._flows.clear()
