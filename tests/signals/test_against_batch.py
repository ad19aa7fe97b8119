"""Every score formula through the streaming bot against the formula over TA-Lib's batch API, written anew here."""

from collections.abc import Callable
from math import isnan, tanh
from typing import Any

import numpy as np
import pytest
import talib

from tests.signals.market import REAL, columns, market, one_signal, real, verdicts

Column = Any
"""An array of floats, one for each candle."""
Data = dict[str, Column]
Expected = Callable[[Data], "list[float]"]


def zones(x: float, floor: float, lo: float, hi: float, ceil: float) -> float:
    """`band`, written in another way than in the code under test: interpolation between the five points."""
    middle = (lo + hi) / 2
    return float(np.interp(x, [floor, lo, middle, hi, ceil], [1.0, 0.5, 0.0, -0.5, -1.0]))


def atr(data: Data) -> Column:
    return talib.ATR(data["high"], data["low"], data["close"], 14)


def hlc(data: Data) -> tuple[Column, Column, Column]:
    return data["high"], data["low"], data["close"]


def banded(values: Column, bounds: tuple[float, float, float, float]) -> list[float]:
    return [zones(x, *bounds) for x in values]


def in_atr(difference: Column, data: Data, scale: float) -> list[float]:
    return [tanh(d / (scale * a)) for d, a in zip(difference, atr(data), strict=True)]


def crossing(fast: Column, slow: Column, data: Data, scale: float, bars: int, strength: float) -> list[float]:
    """After a change of side: at least side x strength x (1 - age / bars)."""
    found = []
    last = cross = 0
    since = 10**6
    for f, s, a, close in zip(fast, slow, atr(data), data["close"], strict=True):
        side = 0 if isnan(s) or abs(f - s) <= 1e-9 * close else int(np.sign(f - s))
        since += 1
        if side and last and side != last:
            cross, since = side, 0
        last = side or last
        score = tanh((f - s) / (scale * a))
        if since < bars:
            score = cross * max(cross * score, strength * (1 - since / bars))
        found.append(score)
    return found


def bollinger(outputs: tuple[Column, Column, Column], data: Data) -> list[float]:
    upper, _, lower = outputs
    with np.errstate(divide="ignore", invalid="ignore"):
        return list(np.clip(1 - 2 * (data["close"] - lower) / (upper - lower), -1, 1))


def direction(data: Data, period: int, full: float) -> list[float]:
    plus, minus = talib.PLUS_DI(*hlc(data), period), talib.MINUS_DI(*hlc(data), period)
    adx = talib.ADX(*hlc(data), period)
    return list((plus - minus) / (plus + minus) * np.minimum(1, adx / full))


def change(values: Column, bars: int) -> Column:
    return np.concatenate([np.full(bars, np.nan), values[bars:] - values[:-bars]])


def deviation(values: Column, window: int, scale: float) -> list[float]:
    """tanh(-(x - mean) / (scale sd)) over the last `window` values."""
    found = []
    for index, x in enumerate(values):
        past = values[max(0, index - window + 1) : index + 1]
        full = len(past) == window
        found.append(tanh(-(x - np.mean(past)) / (scale * np.std(past))) if full else float("nan"))
    return found


CASES: dict[str, Expected] = {
    'function = "RSI"': lambda d: banded(talib.RSI(d["close"], 14), (0, 30, 70, 100)),
    'function = "RSI", input = "high", params = {timeperiod = 9, floor = 10, lo = 25, hi = 60, ceil = 90}': (
        lambda d: banded(talib.RSI(d["high"], 9), (10, 25, 60, 90))
    ),
    'function = "RSI", invert = true': lambda d: [-x for x in banded(talib.RSI(d["close"], 14), (0, 30, 70, 100))],
    'function = "STOCH"': lambda d: banded(talib.STOCH(*hlc(d))[0], (0, 20, 80, 100)),
    'function = "STOCH", output = "slowd"': lambda d: banded(talib.STOCH(*hlc(d))[1], (0, 20, 80, 100)),
    'function = "WILLR"': lambda d: banded(talib.WILLR(*hlc(d)) + 100, (0, 20, 80, 100)),
    'function = "MFI"': lambda d: banded(talib.MFI(*hlc(d), d["volume"]), (0, 20, 80, 100)),
    'function = "CCI"': lambda d: banded(talib.CCI(*hlc(d)), (-200, -100, 100, 200)),
    'function = "MACD"': lambda d: in_atr(talib.MACD(d["close"])[2], d, 0.30),
    'function = "MACD", params = {fastperiod = 5, slowperiod = 13, signalperiod = 4, scale = 0.5}': lambda d: in_atr(
        talib.MACD(d["close"], 5, 13, 4)[2], d, 0.5
    ),
    'function = "SMA"': lambda d: crossing(talib.SMA(d["close"], 10), talib.SMA(d["close"], 30), d, 1.5, 5, 0.8),
    'function = "EMA"': lambda d: crossing(talib.EMA(d["close"], 10), talib.EMA(d["close"], 30), d, 1.5, 5, 0.8),
    'function = "T3", params = {fast = 4, slow = 9, vfactor = 0.5, scale = 1, bars = 3, strength = 0.6}': lambda d: (
        crossing(talib.T3(d["close"], 4, 0.5), talib.T3(d["close"], 9, 0.5), d, 1.0, 3, 0.6)
    ),
    'function = "MIDPRICE", mapper = "cross"': lambda d: crossing(
        talib.MIDPRICE(d["high"], d["low"], 10), talib.MIDPRICE(d["high"], d["low"], 30), d, 1.5, 5, 0.8
    ),
    'function = "BBANDS"': lambda d: bollinger(talib.BBANDS(d["close"], 20), d),
    'function = "DONCHIAN", mapper = "bollinger"': lambda d: bollinger(talib.DONCHIAN(d["high"], d["low"]), d),
    'function = "ADX"': lambda d: direction(d, 14, 50),
    'function = "ADX", params = {timeperiod = 7, full = 25}': lambda d: direction(d, 7, 25),
    'function = "CDLENGULFING"': lambda d: list(
        np.clip(talib.CDLENGULFING(d["open"], *hlc(d)) / 100, -1, 1)
    ),
    'function = "OBV", mapper = "zscore", params = {window = 40}': lambda d: deviation(
        talib.OBV(d["close"], d["volume"]), 40, 2.0
    ),
    'function = "EMA", mapper = "zscore"': lambda d: deviation(talib.EMA(d["close"], 30), 100, 2.0),
    'function = "LINEARREG", mapper = "slope", params = {bars = 3}': lambda d: in_atr(
        change(talib.LINEARREG(d["close"], 14), 3), d, 0.30
    ),
    'function = "KAMA", mapper = "price_vs", params = {scale = 2}': lambda d: in_atr(
        d["close"] - talib.KAMA(d["close"], 30), d, 2.0
    ),
}  # fmt: skip

MARKETS = ("generated", *REAL)


@pytest.mark.parametrize("where", MARKETS)
@pytest.mark.parametrize("entry", CASES)
def test_a_score_equals_the_formula_over_the_batch_api(entry: str, where: str) -> None:
    candles = market(900, seed=4) if where == "generated" else real(where)
    if not candles:
        pytest.skip("no real candles: REAL_CANDLES names no folder with them")
    found = verdicts(candles, one_signal(entry))
    expected = CASES[entry](columns(candles))
    voted = [index for index, verdict in enumerate(found) if verdict.parts[0].score is not None]
    assert [found[index].parts[0].score for index in voted] == pytest.approx(
        [expected[index] for index in voted], rel=1e-9, abs=1e-9
    )
    assert len(voted) > 0.6 * (len(candles) - 350)  # it does vote
    assert all(verdict.parts[0].why for verdict in found if verdict.parts[0].score is None)


def test_the_value_of_a_part_is_the_output_behind_its_score() -> None:
    candles = market(400, seed=9)
    data = columns(candles)
    outputs: dict[str, Column] = {
        'function = "RSI"': talib.RSI(data["close"], 14),
        'function = "WILLR"': talib.WILLR(*hlc(data)),
        'function = "MACD"': talib.MACD(data["close"])[2],
        'function = "SMA"': talib.SMA(data["close"], 10) - talib.SMA(data["close"], 30),
        'function = "ADX"': talib.ADX(*hlc(data)),
        'function = "STOCH", output = "slowd"': talib.STOCH(*hlc(data))[1],
    }
    for entry, expected in outputs.items():
        assert verdicts(candles, one_signal(entry))[-1].parts[0].value == expected[-1]
