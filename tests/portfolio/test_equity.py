"""The equity curve against a naive computation over whole lists."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from execution.model import Candle, Side, Trade
from portfolio.books import FillOutcome
from portfolio.equity import EquityCurve, EquityMeasures

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
D = Decimal


def candle(symbol: str, minute: int, close: str | Decimal) -> Candle:
    price = D(close)
    return Candle(symbol, "1m", START + minute * MINUTE, price, price, price, price, D(1))


class Fill:
    """What the curve reads of a fill: its trade and what it realized."""

    def __init__(self, symbol: str, side: Side, quantity: str, price: str, fee: str = "0", pnl: str | None = None):
        self.symbol, self.side, self.quantity, self.price = symbol, side, D(quantity), D(price)
        self.cash_effect = -side.sign * self.quantity * self.price - D(fee)
        self.trade = self
        self.realized_pnl = None if pnl is None else D(pnl)


def fill(symbol: str, side: Side, quantity: str, price: str, fee: str = "0", pnl: str | None = None) -> FillOutcome:
    return cast("FillOutcome", Fill(symbol, side, quantity, price, fee, pnl))


def run(opening: str, steps: list[tuple[Candle, list[FillOutcome]]]) -> EquityMeasures:
    curve = EquityCurve(D(opening))
    for bar, fills in steps:
        for one in fills:
            curve.on_fill(one)
        curve.on_candle(bar, bar.time + MINUTE)
    return curve.measures()


def test_a_run_by_hand() -> None:
    """100 in cash; buys 1 at 50 (fee 1), sees 60, 30, 45, sells at 45 (fee 1)."""
    found = run(
        "100",
        [
            (candle("A", 0, "50"), []),
            (candle("A", 1, "60"), [fill("A", Side.BUY, "1", "50", "1")]),  # 49 + 60 = 109
            (candle("A", 2, "30"), []),  # 79
            (candle("A", 3, "45"), []),  # 94
            (candle("A", 4, "99"), [fill("A", Side.SELL, "1", "45", "1", "-7")]),  # 93
        ],
    )
    assert found.equity == 93
    assert found.return_ratio == D("-0.07")
    assert found.max_drawdown == D("0.27522936")  # 30 of 109
    assert found.time_in_market == D("0.6")
    assert found.average_exposure == D("0.28421053")  # 135 of 475
    assert (found.closing_fills, found.winning_fills, found.points) == (1, 0, 5)


def test_a_fill_counts_from_the_candle_that_filled_it_not_from_the_one_before() -> None:
    found = run("100", [(candle("A", 0, "50"), []), (candle("A", 1, "10"), [fill("A", Side.BUY, "2", "50")])])
    assert found.max_drawdown == D("0.8")
    assert found.time_in_market == D("0.5")


def test_candles_that_close_together_are_one_point() -> None:
    """Between A's fall and B's rise at the same instant there was no moment at which anybody was poorer."""
    found = run(
        "100",
        [
            (candle("A", 0, "10"), []),
            (candle("B", 0, "10"), []),
            (candle("A", 1, "10"), [fill("A", Side.BUY, "5", "10")]),
            (candle("B", 1, "10"), [fill("B", Side.BUY, "5", "10")]),
            (candle("A", 2, "5"), []),
            (candle("B", 2, "15"), []),
        ],
    )
    assert found.points == 3
    assert found.max_drawdown == 0
    assert found.equity == 100


def test_the_fall_from_the_opening_cash_counts_although_equity_never_was_above_it() -> None:
    found = run("100", [(candle("A", 0, "40"), [fill("A", Side.BUY, "1", "50", "5")])])
    assert found.max_drawdown == D("0.15")


def test_a_later_smaller_fall_does_not_replace_a_deeper_one_and_a_deeper_one_does() -> None:
    def drawdown(*closes: str) -> Decimal | None:
        steps = [
            (candle("A", i, close), [] if i else [fill("A", Side.BUY, "1", "100")]) for i, close in enumerate(closes)
        ]
        return run("100", cast("Any", steps)).max_drawdown

    assert drawdown("100", "50", "200", "150") == D("0.5")
    assert drawdown("100", "90", "200", "50") == D("0.75")


def test_without_a_candle_or_without_cash_there_is_nothing_to_divide_by() -> None:
    idle = EquityCurve(D(100)).measures()
    assert (idle.return_ratio, idle.max_drawdown, idle.points) == (0, 0, 0)
    assert idle.time_in_market is None
    assert idle.average_exposure is None
    broke = run("0", [(candle("A", 0, "10"), [])])
    assert (broke.return_ratio, broke.max_drawdown, broke.average_exposure) == (None, None, None)
    assert broke.time_in_market == 0


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Candle, list[FillOutcome]]]:
    """Two symbols, some candles missing, purchases and sales of what is held."""
    held = {"A": 0, "B": 0}
    steps = []
    for minute in range(draw(st.integers(1, 15))):
        for symbol in draw(st.sampled_from([("A",), ("B",), ("A", "B")])):
            price = str(draw(st.integers(1, 200)))
            fills = []
            change = draw(st.integers(-held[symbol], 3))
            if change:
                held[symbol] += change
                side = Side.BUY if change > 0 else Side.SELL
                pnl = str(draw(st.integers(-5, 5))) if change < 0 else None
                fills.append(fill(symbol, side, str(abs(change)), price, str(draw(st.integers(0, 2))), pnl))
            steps.append((candle(symbol, minute, str(draw(st.integers(1, 200)))), fills))
    return steps


def naive(opening: Decimal, steps: list[tuple[Candle, list[FillOutcome]]]) -> dict[str, Fraction | None]:
    """Whole lists, fractions, no shortcuts."""
    curve: list[Fraction] = []
    exposures: list[Fraction] = []
    for moment in sorted({bar.time for bar, _ in steps}):
        until = [(bar, fills) for bar, fills in steps if bar.time <= moment]
        closes = {bar.symbol: bar.close for bar, _ in until}
        trades: list[Trade] = [one.trade for _, fills in until for one in fills]
        value = sum((Fraction(t.side.sign * t.quantity * closes[t.symbol]) for t in trades), Fraction(0))
        curve.append(Fraction(opening) + sum(Fraction(t.cash_effect) for t in trades) + value)
        exposures.append(value)
    peaks = [max([Fraction(opening), *curve[: i + 1]]) for i in range(len(curve))]
    falls = [(peak - equity) / peak for peak, equity in zip(peaks, curve, strict=True)]
    return {
        "equity": curve[-1],
        "max_drawdown": max(falls),
        "time_in_market": Fraction(sum(1 for value in exposures if value), len(curve)),
        "average_exposure": sum(exposures, Fraction(0)) / sum(curve) if sum(curve) > 0 else None,
    }


@given(histories(), st.integers(10, 5000))
def test_the_curve_equals_the_naive_computation(steps: list[tuple[Candle, list[FillOutcome]]], opening: int) -> None:
    found, expected = run(str(opening), steps), naive(D(opening), steps)
    for name, value in expected.items():
        measured = getattr(found, name)
        assert (measured is None) == (value is None), name
        if value is not None:
            assert abs(Fraction(measured) - value) <= Fraction(1, 10**8), name
