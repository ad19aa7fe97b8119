"""The SMA cross against an implementation that shares nothing with it."""

import random
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import pytest

from config.exact import ZERO
from execution.model import Side
from signals.bot import PositionView
from signals.classes import build_bot
from signals.runner import bars
from signals.sma_cross import SmaCross
from tests.signals.stage import SMA, bot, candle


def crosses(closes: Sequence[Decimal], fast: int, slow: int) -> list[int]:
    """+1, -1 or 0 per close, by the definition: whole windows of fractions, nothing rolled on."""
    found = []
    previous = None
    for end in range(1, len(closes) + 1):
        if end < slow:
            found.append(0)
            continue
        window = [Fraction(close) for close in closes[:end]]
        difference = sum(window[-fast:]) / fast - sum(window[-slow:]) / slow
        epsilon = Fraction(1, 10**9) * window[-1]
        cross = 0
        if previous is not None and previous <= epsilon < difference:
            cross = 1
        elif previous is not None and previous >= -epsilon > difference:
            cross = -1
        found.append(cross)
        previous = difference
    return found


@pytest.mark.parametrize("seed", range(12))
def test_it_decides_as_defined_on_random_series_with_ties(seed: int) -> None:
    dice = random.Random(seed)
    fast, slow = dice.choice([(10, 30), (1, 3), (3, 7), (2, 30)])
    price, closes = 100, []
    for _ in range(400):
        price = max(1, price + dice.choice([0, 0, 0, 1, -1]) * dice.choice([1, 5]))
        closes.append(Decimal(price) / dice.choice([1, 10]) if dice.random() < 0.02 else Decimal(price))
    brain = SmaCross(fast, slow)
    held = ZERO
    expected_held = 0
    for bar, cross in zip(
        bars([candle(i, c) for i, c in enumerate(closes)]), crosses(closes, fast, slow), strict=True
    ):
        brain.update(bar)
        verdict = brain.decide(PositionView(held, False))
        expected = None
        if cross > 0 and not expected_held:
            expected, expected_held = Side.BUY, 1
        elif cross < 0 and expected_held:
            expected, expected_held = Side.SELL, 0
        assert verdict.side is expected
        assert verdict.close is (expected is Side.SELL)
        if expected is not None:
            held = Decimal(expected_held)


def test_the_first_decision_falls_on_the_31st_close() -> None:
    brain = build_bot(bot(SMA, fast=10, slow=30))
    falling = [candle(i, 100 - i) for i in range(30)]
    for bar in bars(falling):
        brain.update(bar)
        assert brain.decide(PositionView(ZERO, False)).score is None
    (bar,) = bars([candle(30, 1000)])
    brain.update(bar)
    verdict = brain.decide(PositionView(ZERO, False))
    assert (verdict.side, verdict.score) == (Side.BUY, 1.0)


def test_a_tie_of_a_billionth_is_no_cross() -> None:
    brain = SmaCross(1, 2)
    for bar in bars([candle(0, 100), candle(1, 100), candle(2, "100.0000001")]):
        brain.update(bar)
    assert brain.decide(PositionView(ZERO, False)).side is None


def test_gaps_and_candles_without_volume_change_nothing() -> None:
    closes = [10, 9, 8, 7, 6, 5, 4, 20, 21]
    dense, sparse = SmaCross(3, 7), SmaCross(3, 7)
    for i, close in enumerate(closes):
        (a,) = bars([candle(i, close)])
        (b,) = bars([candle(i * 500, close, volume=0)])
        dense.update(a)
        sparse.update(b)
        flat = PositionView(ZERO, False)
        assert dense.decide(flat) == sparse.decide(flat)


def test_fast_must_be_below_slow() -> None:
    with pytest.raises(ValueError, match="below the slow"):
        SmaCross(30, 10)


@pytest.mark.parametrize(
    ("closes", "held", "side"),
    [
        (["100", "100.0000004", "200"], "0", Side.BUY),  # the previous d is exactly eps
        (["100", "100.0000006", "200"], "0", None),  # a little above: it crossed before
        (["100", "99.9999999", "50"], "1", Side.SELL),  # the previous d is exactly -eps
        (["100", "99.9999997", "50"], "1", None),
    ],
)
def test_a_previous_difference_of_exactly_epsilon_still_counts_as_the_other_side(
    closes: list[str], held: str, side: Side | None
) -> None:
    brain = SmaCross(1, 2)
    for bar in bars([candle(i, close) for i, close in enumerate(closes)]):
        brain.update(bar)
    assert brain.decide(PositionView(Decimal(held), False)).side is side
