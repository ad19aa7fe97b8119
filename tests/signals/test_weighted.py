"""The weighted bot against TA-Lib's batch API, and what must never become a vote."""

from decimal import Decimal
from math import tanh

import numpy as np
import pytest
import talib

from config.exact import ZERO
from execution.model import Candle, Side
from signals.classes import build_bot
from signals.runner import bars
from signals.scores import after_cross, band, combine, cross_side
from tests.signals.market import FLAT, verdicts
from tests.signals.stage import WEIGHTED, bot, candle, walk


def lively(count: int, seed: int) -> list[Candle]:
    """A walk whose every close differs from the one before, so that warm-up counts every candle."""
    return [c._replace(close=c.close + i % 2 * Decimal("0.0001")) for i, c in enumerate(walk(count, seed))]


@pytest.mark.parametrize("average", ["SMA", "EMA"])
def test_every_score_equals_the_one_from_the_batch_api(average: str) -> None:
    candles = walk(700, seed=3)
    high, low, close = (np.array([float(getattr(c, k)) for c in candles]) for k in ("high", "low", "close"))
    rsi = talib.RSI(close, 14)
    histogram = talib.MACD(close, 12, 26, 9)[2]
    atr = talib.ATR(high, low, close, 14)
    fast, slow = (getattr(talib, average)(close, n) for n in (10, 30))
    side = cross = 0
    age = 0
    compared = 0
    for i, verdict in enumerate(verdicts(candles, WEIGHTED.replace('"SMA"', f'"{average}"'))):
        if not np.isnan(slow[i]):
            age += 1
            now = cross_side(fast[i] - slow[i], close[i])
            if now and now == -side:
                cross, age = now, 0
            side = now or side
        if verdict.score is None:
            continue
        scores = [part.score for part in verdict.parts]
        expected = [
            band(rsi[i], 0, 30, 70, 100),
            tanh(histogram[i] / (0.30 * atr[i])),
            after_cross(tanh((fast[i] - slow[i]) / (1.5 * atr[i])), cross, age, 5, 0.8),
        ]
        assert scores == expected
        assert verdict.score == combine(verdict.parts)
        assert verdict.side is (None if abs(verdict.score) < 0.05 else Side.BUY if verdict.score > 0 else Side.SELL)
        compared += 1
    assert compared > 300


def test_no_vote_before_250_candles_that_moved() -> None:
    found = verdicts(lively(260, seed=1))
    assert all(v.score is None and v.side is None for v in found[:249])
    assert all(v.score is not None for v in found[249:])


def test_a_flat_market_never_votes() -> None:
    found = verdicts([candle(i, 100) for i in range(600)])
    assert all(v.score is None and v.side is None for v in found)
    assert all(part.score is None for v in found for part in v.parts)
    assert {part.why for part in found[-1].parts} == {"flat market"}


def test_a_market_that_goes_flat_falls_silent_and_the_first_move_is_no_false_buy() -> None:
    candles = [*lively(300, seed=2), *(candle(i, 77) for i in range(300, 400))]
    found = verdicts(candles)
    assert found[299].score is not None
    assert all(v.side is None and v.score is None for v in found[331:])
    after_flat = verdicts([*(candle(i, 100) for i in range(400)), candle(400, 99), candle(401, 98)])
    assert all(v.side is None and v.score is None for v in after_flat)


def test_a_market_without_volume_never_votes() -> None:
    candles = lively(400, seed=5)
    found = verdicts([*candles[:300], *(c._replace(volume=ZERO) for c in candles[300:])])
    assert found[299].score is not None
    assert all(v.side is None and v.score is None for v in found[330:])


def test_a_small_gap_is_no_candle_and_a_large_one_starts_over() -> None:
    candles = lively(600, seed=6)
    shifted = {}
    for hole in (100, 5000):
        moved = [
            c._replace(time=c.time + hole * (c.close_time - c.time)) if i >= 300 else c for i, c in enumerate(candles)
        ]
        shifted[hole] = verdicts(moved)
    assert shifted[100] == verdicts(candles)
    assert all(v.score is None for v in shifted[5000][300:549])
    assert shifted[5000][549:] == verdicts(candles[300:])[249:]


def test_a_number_beyond_floats_is_no_vote_and_leaves_the_indicators_whole() -> None:
    candles = lively(300, seed=7)
    broken = candles[299]._replace(high=Decimal("1e999"))
    found = verdicts([*candles[:299], broken, *lively(305, seed=7)[300:]])
    assert found[299].score is None
    assert found[300].score is not None


def test_warming_leads_to_the_same_floats_as_living_through_it() -> None:
    candles = walk(700, seed=8)
    whole = build_bot(bot(WEIGHTED))
    whole.warm(list(bars(candles)))
    lived = verdicts(candles)[-1]
    assert whole.decide(FLAT) == lived
