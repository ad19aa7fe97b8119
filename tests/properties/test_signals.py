"""Laws of the weighted bot on random markets: scores stay in their range, silence where there is nothing to say,
and no trace of a restart."""

import random
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from config.exact import ZERO
from execution.model import Candle
from signals.classes import build_bot
from signals.model import Part
from signals.runner import bars
from signals.scores import combine
from tests.signals.market import FLAT, one_signal, verdicts
from tests.signals.stage import MINUTE, START, bot

ENTRIES = [
    *(f'function = "{name}"' for name in ("RSI", "STOCH", "WILLR", "MFI", "CCI", "MACD", "SMA", "EMA", "ADX")),
    'function = "BBANDS", params = {timeperiod = 5}',
    'function = "CDLDOJI"',
    'function = "STOCHRSI", mapper = "band", params = {floor = 0, lo = 20, hi = 80, ceil = 100}',
    'function = "OBV", mapper = "zscore", params = {window = 10}, invert = true',
    'function = "VAR", mapper = "zscore", params = {window = 10}',
    'function = "LINEARREG", mapper = "slope"',
    'function = "SAR", mapper = "price_vs"',
    'function = "EXP", mapper = "slope"',
]
SCALES = [Decimal(1).scaleb(places) for places in (-8, -4, 0, 5, 12)]


@st.composite
def markets(draw: st.DrawFn, least: int = 260, most: int = 420) -> list[Candle]:
    """Prices of any scale that stand still, jump, and trade now and then."""
    scale = draw(st.sampled_from(SCALES))
    dice = random.Random(draw(st.integers(0, 2**32)))  # drawn one by one, 400 candles are too many to shrink
    count = draw(st.integers(least, most))
    rest, quiet = draw(st.sampled_from([0.0, 0.3, 0.97])), draw(st.sampled_from([0.0, 0.5, 0.97]))
    found, price = [], Decimal(1000)
    for minute in range(count):
        opened = price
        if dice.random() >= rest:
            price = max(Decimal(10), price + dice.randint(-40, 40))
        high = max(opened, price) + (0 if dice.random() < rest else dice.randint(0, 9))
        low = min(opened, price) - (0 if dice.random() < rest else dice.randint(0, 9))
        volume = ZERO if dice.random() < quiet else Decimal(dice.randint(1, 10**6)) / 1000
        numbers = (*(number * scale for number in (opened, high, low, price)), volume)
        found.append(Candle("BTC-USD", "1m", START + minute * MINUTE, *numbers))
    return found


@given(markets(), st.sampled_from(ENTRIES), st.data())
@settings(max_examples=60, deadline=None)
def test_scores_stay_in_their_range_and_a_restart_anywhere_leaves_no_trace(
    candles: list[Candle], entry: str, data: st.DataObject
) -> None:
    text = one_signal(entry)
    lived = verdicts(candles, text)
    for verdict in lived:
        (part,) = verdict.parts
        assert part.score is None or -1 <= part.score <= 1
        assert (part.score is None) == (part.why is not None)
        assert verdict.score == combine(verdict.parts)
    split = data.draw(st.integers(0, len(candles) - 1))
    warmed = build_bot(bot(text))
    warmed.warm(list(bars(candles[:split])))
    for bar, expected in list(zip(bars(candles), lived, strict=True))[split:]:
        warmed.update(bar)
        assert warmed.decide(FLAT) == expected


@given(markets(), st.sampled_from(ENTRIES), st.sampled_from(["still", "idle", "both"]))
@settings(max_examples=40, deadline=None)
def test_where_nothing_moves_or_nothing_trades_there_is_no_vote(candles: list[Candle], entry: str, how: str) -> None:
    last = candles[-1]
    tail = [last._replace(time=last.time + ahead * MINUTE) for ahead in range(1, 60)]
    if how != "idle":
        tail = [one._replace(open=last.close, high=last.close, low=last.close) for one in tail]
    else:  # prices go on moving, but nobody trades
        tail = [one._replace(close=last.low if i % 2 else last.high) for i, one in enumerate(tail)]
    if how != "still":
        tail = [one._replace(volume=ZERO) for one in tail]
    found = verdicts([*candles, *tail], one_signal(entry))
    assert all(verdict.score is None and verdict.side is None for verdict in found[len(candles) + 45 :])


@given(st.lists(st.tuples(st.none() | st.floats(-1, 1), st.floats(0, 1e6)), max_size=8))
def test_the_combined_score_is_between_those_of_the_voters(votes: list[tuple[float | None, float]]) -> None:
    parts = [Part(str(index), score, weight) for index, (score, weight) in enumerate(votes)]
    heard = [score for score, weight in votes if score is not None and weight > 0]
    score = combine(parts)
    if score is not None:
        assert min(heard) - 1e-9 <= score <= max(heard) + 1e-9
        assert -1 <= score <= 1
