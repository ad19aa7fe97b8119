"""The equity curve of a run: how far it fell, and how much of the time and of the money was at risk.

The curve has one point per instant at which a candle closes: cash + quantities x last closes, after the last
candle of that instant. A fill belongs to the point of the candle that brought it. Formulas:
max drawdown = greatest (peak - equity) / peak, the peak being the highest equity so far, the opening cash
included; time in the market = points with a position / points; average exposure = sum of |quantity x close|
over all points / sum of equity over all points. Money is exact; only these last ratios are rounded.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from config.exact import ZERO, divide
from execution.model import Candle
from portfolio.books import FillOutcome
from portfolio.valuation import RATIO_PLACES


@dataclass(frozen=True, slots=True)
class EquityMeasures:
    """What an equity curve says. Ratios are fractions (0.25 = 25 %); None where there is nothing to divide by.

    `closing_fills` are the fills that realized a P&L, `winning_fills` those of them that realized a profit.
    """

    opening: Decimal
    equity: Decimal
    points: int
    return_ratio: Decimal | None
    max_drawdown: Decimal | None
    time_in_market: Decimal | None
    average_exposure: Decimal | None
    closing_fills: int
    winning_fills: int


class EquityCurve:
    """Follows one run, candle by candle. `opening` is the cash that it starts with; no money moves later.

    Fees are taken as paid in the account's currency, as the paper exchange charges them.
    """

    __slots__ = (
        "_at",
        "_changed",
        "_closes",
        "_closing",
        "_deepest",
        "_equity",
        "_equity_sum",
        "_exposure",
        "_exposure_sum",
        "_held_points",
        "_opening",
        "_peak",
        "_pending",
        "_points",
        "_quantities",
        "_trough",
        "_winning",
        "cash",
    )

    def __init__(self, opening: Decimal) -> None:
        self._opening = opening
        self.cash = opening
        """Cash as of the last candle."""
        self._quantities: dict[str, Decimal] = {}
        self._closes: dict[str, Decimal] = {}
        self._pending: list[FillOutcome] = []
        self._at: datetime | None = None
        self._changed = False
        self._equity, self._exposure = opening, ZERO
        self._peak = self._trough = opening
        self._deepest = (ZERO, Decimal(1))
        self._equity_sum = self._exposure_sum = ZERO
        self._points = self._held_points = 0
        self._closing = self._winning = 0

    def on_fill(self, outcome: FillOutcome) -> None:
        """A fill; it counts from the next candle on, which is the one that filled it."""
        self._pending.append(outcome)

    def on_candle(self, candle: Candle, closes_at: datetime) -> None:
        """A closed candle, after everything that it filled. Instants ascend."""
        if closes_at != self._at:
            if self._at is not None:
                self._point()
            self._at = closes_at
        if self._pending:
            self._book()
        symbol = candle[0]
        self._closes[symbol] = candle[6]
        if symbol in self._quantities:
            self._changed = True

    def measures(self) -> EquityMeasures:
        """What the curve says up to the last candle. Call it once, at the end."""
        if self._pending:
            self._book()
        if self._at is not None:
            self._point()
            self._at = None
        self._leave_peak()
        fall, peak = self._deepest
        opening, points = self._opening, self._points
        return EquityMeasures(
            opening=opening,
            equity=self._equity,
            points=points,
            return_ratio=_ratio(self._equity - opening, opening),
            max_drawdown=divide(fall, peak, RATIO_PLACES) if opening > 0 else None,
            time_in_market=_ratio(Decimal(self._held_points), Decimal(points)),
            average_exposure=_ratio(self._exposure_sum, self._equity_sum),
            closing_fills=self._closing,
            winning_fills=self._winning,
        )

    def _book(self) -> None:
        for outcome in self._pending:
            trade, realized = outcome.trade, outcome.realized_pnl
            symbol = trade.symbol
            self.cash += trade.cash_effect
            quantity = self._quantities.pop(symbol, ZERO) + trade.quantity * trade.side.sign
            if quantity:
                self._quantities[symbol] = quantity
            self._closes.setdefault(symbol, trade.price)
            if realized is not None:
                self._closing += 1
                self._winning += realized > 0
        self._pending.clear()
        self._changed = True

    def _point(self) -> None:
        """One point of the curve; nothing is computed when neither holdings nor their prices changed."""
        if self._changed:
            self._value()
        self._points += 1
        self._equity_sum += self._equity
        if self._quantities:
            self._held_points += 1
            self._exposure_sum += self._exposure

    def _value(self) -> None:
        closes = self._closes
        equity, exposure = self.cash, ZERO
        for symbol, quantity in self._quantities.items():
            value = quantity * closes[symbol]
            equity += value
            exposure += abs(value)
        self._equity, self._exposure, self._changed = equity, exposure, False
        if equity >= self._peak:
            self._leave_peak()
            self._peak = self._trough = equity
        elif equity < self._trough:
            self._trough = equity

    def _leave_peak(self) -> None:
        """Whether the fall from this peak was the deepest: compared crosswise, so without rounding."""
        fall, peak = self._peak - self._trough, self._peak
        deepest, of = self._deepest
        if peak > 0 and fall * of > deepest * peak:
            self._deepest = (fall, peak)


def _ratio(part: Decimal, whole: Decimal) -> Decimal | None:
    return divide(part, whole, RATIO_PLACES) if whole > 0 else None
