"""Protective stops: when a position is closed, whatever its bot advises.

Tested on the closes of candles against the account's average cost (buy fees included) and the best close
since the position was opened. A stop acts on the position of the account, whoever opened it. Once triggered
it stays so until the position is closed, also when the price comes back.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, Protocol

from config.exact import plain
from config.times import parse_time, time_text
from execution.model import AlertRaised, Candle, Json, Reason, Severity
from signals.bot_file import BotFile
from signals.holdings import Holdings
from signals.model import StopKind, StopLevels

NOTHING_TO_CLOSE = "nothing_to_close"
"""Execution's word for: flat by now, or another order has taken the whole position already."""


class OpenCost(NamedTuple):
    """The open lots of a position: `quantity` in base units (negative when short), and the average cost of
    one unit in quote currency, buy fees included."""

    quantity: Decimal
    average: Decimal

    @property
    def sign(self) -> int:
        """-1 when short: then a loss is a price above the cost."""
        return -1 if self.quantity < 0 else 1


class CostBasis(Protocol):
    """Where stops learn what a position has cost, by the books (first in, first out)."""

    def open_cost(self, account: str, symbol: str) -> OpenCost | None:
        """The open lots of a position; None when there are none."""
        ...


class NoCosts:
    """The cost basis of a process that keeps no books: no stop ever fires."""

    def open_cost(self, account: str, symbol: str) -> OpenCost | None:
        """Nothing."""


class Stops:
    """The stops of one bot, and their state: it survives a restart through `dump` and `load`.

    Without a known cost (a spot account that sold what the books never saw bought) nothing fires.
    """

    __slots__ = (
        "_account", "_bot", "_costs", "_holdings", "_loss", "_mark", "_opened", "_refused", "_seen", "_symbol",
        "_target", "_told", "_trailing", "triggered",
    )  # fmt: skip

    def __init__(self, file: BotFile, holdings: Holdings, costs: CostBasis) -> None:
        self._bot = file.name
        self._account = file.account
        self._symbol = file.symbol
        self._holdings = holdings
        self._costs = costs
        self._loss = _share(file.stop_loss_pct)
        self._target = _share(file.take_profit_pct)
        self._trailing = _share(file.trailing_stop_pct)
        self._forget(None)
        self._seen: datetime | None = None

    @classmethod
    def of(cls, file: BotFile, holdings: Holdings, costs: CostBasis) -> "Stops | None":
        """The stops that a bot file asks for; None when it asks for none."""
        wanted = (file.stop_loss_pct, file.take_profit_pct, file.trailing_stop_pct)
        return None if wanted == (None, None, None) else cls(file, holdings, costs)

    def _forget(self, opened: int | None) -> None:
        self._opened = opened
        self._mark: Decimal | None = None
        self.triggered: StopKind | None = None
        self._refused: Reason | None = None
        self._told = False

    # ---- work -----------------------------------------------------------------------------------------

    @property
    def blocks(self) -> bool:
        """Whether a stop is closing the position, so that the bot itself asks for nothing."""
        return self.triggered is not None and self._opened == self._holdings.opened(self._account, self._symbol)

    @property
    def is_short(self) -> bool:
        """Whether the position is short, so that a BUY closes it."""
        return self._holdings.quantity(self._account, self._symbol) < 0

    def observe(self, close: Decimal, decided_at: datetime) -> AlertRaised | None:
        """The close of a candle: whether a stop fires now, or one at work is kept from closing."""
        self._follow_position()
        self._seen = decided_at
        if self._opened is None:
            return None
        if self.triggered is not None:
            return self._stuck()
        cost = self._cost()
        if cost is None:
            return None
        self._raise_mark(close, cost.sign)
        levels = self._levels(cost)
        kind = _hit(levels, close, cost.sign)
        if kind is None:
            return None
        self.triggered = kind
        return self._fired(kind, close, levels)

    def _follow_position(self) -> None:
        """A position that is gone, or another one than before, begins anew."""
        opened = self._holdings.opened(self._account, self._symbol)
        if opened != self._opened:
            self._forget(opened)

    def _raise_mark(self, close: Decimal, sign: int) -> None:
        mark = self._mark
        if mark is None or (close - mark) * sign > 0:
            self._mark = close

    def missed(self, history: Iterable[Candle]) -> None:
        """Stored candles, newest first, of which some closed while this bot was not running: they raise the mark,
        but no stop fires on a price of the past."""
        self._follow_position()
        cost = self._cost()
        if self._opened is None or self._seen is None or self._mark is None or cost is None:
            return
        for candle in history:
            if candle.close_time <= self._seen:
                return
            self._raise_mark(candle.close, cost.sign)

    def answered(self, reason: Reason | None) -> AlertRaised | None:
        """The final answer to a request of a stop: why it did not fill, if it did not."""
        self._refused = reason
        # The position may just be flat by now, or a neighbour's order closes it: the next close will tell.
        return None if reason is None or reason.code == NOTHING_TO_CLOSE else self._stuck()

    # ---- levels ---------------------------------------------------------------------------------------

    def levels(self) -> StopLevels:
        """Where the stops stand now."""
        opened = self._holdings.opened(self._account, self._symbol)
        cost = self._cost()
        if opened is None or cost is None:
            return StopLevels()
        levels = self._levels(cost)
        if opened != self._opened:  # opened since the last close: the marks of another position say nothing
            levels = levels._replace(trailing_stop=None, high_water_mark=None, triggered=None)
        return levels

    def _cost(self) -> OpenCost | None:
        cost = self._costs.open_cost(self._account, self._symbol)
        if cost is None or (cost.quantity < 0) is not self.is_short:
            return None
        return cost

    def _levels(self, cost: OpenCost) -> StopLevels:
        average, mark, sign = cost.average, self._mark, cost.sign
        return StopLevels(
            average,
            None if self._loss is None else average * (1 - sign * self._loss),
            None if self._trailing is None or mark is None else mark * (1 - sign * self._trailing),
            None if self._target is None else average * (1 + sign * self._target),
            mark,
            self.triggered,
        )

    # ---- what is said ---------------------------------------------------------------------------------

    def context(self, candle: Candle) -> dict[str, Json]:
        """Why the position is closed: it stays with the order and its trades."""
        levels = self.levels()
        numbers: dict[str, Json] = {
            name: plain(value) for name, value in levels._asdict().items() if isinstance(value, Decimal)
        }
        return {
            "bot": self._bot,
            "timeframe": candle.timeframe,
            "candle": time_text(candle.time),
            "close": plain(candle.close),
            "stop": str(self.triggered),
            "levels": numbers,
        }

    def _fired(self, kind: StopKind, close: Decimal, levels: StopLevels) -> AlertRaised:
        level = getattr(levels, kind.value)
        words = kind.value.replace("_", " ")
        return AlertRaised(
            Severity.WARNING,
            "stop_triggered",
            f"{words} of bot {self._bot}: {self._symbol} closed at {plain(close)}, the level was {plain(level)};"
            f" closing the position of account {self._account}",
            self._account,
            {"bot": self._bot, "symbol": self._symbol, "stop": kind.value},
        )

    def _stuck(self) -> AlertRaised | None:
        """Once for each time that a stop fires: a person has to know that it cannot do its work."""
        reason = self._refused
        if reason is None or self._told or not self.blocks:
            return None
        self._told = True
        return AlertRaised(
            Severity.HIGH,
            "stop_refused",
            f"{str(self.triggered).replace('_', ' ')} of bot {self._bot} cannot close {self._symbol} in account"
            f" {self._account}: {reason}; it tries again at every close",
            self._account,
            {"bot": self._bot, "symbol": self._symbol, "reason": reason.code},
        )

    # ---- surviving ------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Json]:
        """What a restart must know; empty while there is no position."""
        if self._opened is None:
            return {}
        state: dict[str, Json] = {"opened": self._opened}
        if self._mark is not None:
            state["mark"] = plain(self._mark)
        if self._seen is not None:
            state["seen"] = time_text(self._seen)
        if self.triggered is not None:
            state["triggered"] = self.triggered.value
        if self._told:
            state["told"] = True
        return state

    def load(self, state: Mapping[str, Json]) -> None:
        """Take back what `dump` gave. A stop that the file does not have any more is not at work any more."""
        opened, mark, seen, triggered = (state.get(key) for key in ("opened", "mark", "seen", "triggered"))
        self._forget(opened if isinstance(opened, int) else None)
        self._mark = None if mark is None else Decimal(str(mark))
        self._seen = None if seen is None else parse_time(str(seen))
        if triggered is not None and self._has(StopKind(str(triggered))):
            self.triggered = StopKind(str(triggered))
        self._told = state.get("told") is True

    def _has(self, kind: StopKind) -> bool:
        share = {StopKind.LOSS: self._loss, StopKind.TRAILING: self._trailing, StopKind.TARGET: self._target}[kind]
        return share is not None


def _hit(levels: StopLevels, close: Decimal, sign: int) -> StopKind | None:
    """The stop that a close reaches: a loss before a target, as inside one bar."""
    for kind, level in (
        (StopKind.LOSS, levels.stop_loss),
        (StopKind.TRAILING, levels.trailing_stop),
    ):
        if level is not None and (close - level) * sign <= 0:
            return kind
    target = levels.take_profit
    return StopKind.TARGET if target is not None and (close - target) * sign >= 0 else None


def _share(per_cent: Decimal | None) -> Decimal | None:
    return None if per_cent is None else per_cent / 100
