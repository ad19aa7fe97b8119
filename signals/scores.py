"""Scores in [-1, 1], +1 the strongest BUY. None is no vote; a true 0 votes.

The defaults were measured on BTC-USD 1 h and 1 min candles; each can be changed in the bot file.
"""

from collections.abc import Iterable
from math import tanh

from signals.model import Part, Temperature

CROSS_EPSILON = 1e-9
"""Averages closer than this share of the price are equal: float ties gave 17 wrong crosses in 248."""


def clip(score: float) -> float:
    """`score` into [-1, 1]."""
    return -1.0 if score < -1.0 else 1.0 if score > 1.0 else score


def band(x: float, floor: float, lo: float, hi: float, ceil: float) -> float:
    """An oscillator by its zones: +.5 at `lo` rising to +1 at `floor`, -.5 at `hi` falling to -1 at `ceil`.

    Between the zones it is a straight line through 0 in the middle.
    """
    if x <= lo:
        return clip(0.5 + 0.5 * (lo - x) / (lo - floor))
    if x >= hi:
        return clip(-(0.5 + 0.5 * (x - hi) / (ceil - hi)))
    return 0.5 * ((lo + hi) / 2 - x) / ((hi - lo) / 2)


def per_atr(difference: float, atr: float, scale: float) -> float:
    """tanh(difference / (scale x ATR)), ATR > 0: MACD (histogram, 0.30) and average crosses (1.5)."""
    return tanh(difference / (scale * atr))


def after_cross(score: float, side: int, age: int, bars: int, strength: float) -> float:
    """`score`, but for `bars` candles after a cross at least side x strength x (1 - age / bars).

    `side` is +1 for a cross upwards, -1 downwards, 0 when there was none; `age` is 0 on the cross itself.
    """
    if side == 0 or age >= bars:
        return score
    least = strength * (1 - age / bars)
    return max(score, least) if side > 0 else min(score, -least)


def cross_side(difference: float, price: float) -> int:
    """Which side of a tie a difference of averages is on: +1, -1, or 0 within the epsilon."""
    epsilon = CROSS_EPSILON * price
    return 1 if difference > epsilon else -1 if difference < -epsilon else 0


def combine(parts: Iterable[Part]) -> float | None:
    """S = sum(w s) / sum(w of the voters); None when the voters hold under half of the weight."""
    total = voting = weighted = 0.0
    for _, score, weight, _, _, _ in parts:
        total += weight
        if score is not None:
            voting += weight
            weighted += weight * score
    if voting <= 0 or voting * 2 < total:
        return None
    return clip(weighted / voting)


def temperature(score: float | None, hot: float, warm: float, cool: float) -> Temperature:
    """How strong a score is; the cuts are lower bounds of |score|."""
    if score is None:
        return Temperature.FROZEN
    size = -score if score < 0 else score
    if size >= hot:
        return Temperature.HOT
    if size >= warm:
        return Temperature.WARM
    return Temperature.COOL if size >= cool else Temperature.COLD
