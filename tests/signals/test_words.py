"""A recommendation in words, from the JSON that is on the bus."""

import json
from typing import Any

import pytest

from runtime.wire import recommendation_wire
from signals.words import explained, length, number
from tests.signals.market import market, one_signal
from tests.signals.stage import MINUTE, Stage, advices, bot, candle, play


def advice(**changes: Any) -> dict[str, Any]:
    whole = {
        "bot": "b", "symbol": "BTC-USD", "account": "main", "timeframe": "1h", "side": "BUY", "score": 0.5,
        "temperature": "HOT", "signals": [], "confirmed_since": "2026-01-01T10:00:00Z", "cooldown_until": None,
        "ready_to_trade": True, "time": "2026-01-01T09:00:00Z", "decided_at": "2026-01-01T10:00:00Z",
        "threshold": 0.3, "confirmation_due": None, "waiting_for": None,
    }  # fmt: skip
    return whole | changes


def part(name: str, score: float | None, value: float | None = None, **how: Any) -> dict[str, Any]:
    return {"name": name, "score": score, "weight": 0.4, "value": value, "why": None, "how": how or None}


ZONES = {"mapper": "band", "zones": [0, 30, 70, 100]}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (part("RSI(14)", 0.55, 27.31, **ZONES), "RSI(14) is 27.3, below 30: oversold, which speaks for buying (+0."),
        (part("RSI(14)", -0.6, 76.0, **ZONES), "RSI(14) is 76, above 70: overbought, which speaks for selling"),
        (part("RSI(14)", 0.12, 45.0, **ZONES), "between 30 and 70, in the lower half, which speaks for buying"),
        (part("RSI(14)", -0.55, 27.3, inverted=True, **ZONES), "oversold (turned around by the file), which speaks"),
        (part("MACD", 0.2, 1.5, mapper="macd"), "MACD is 1.5, above 0: momentum points up, which speaks for buying"),
        (part("SMA", 0.2, 1.5, mapper="cross"), "the fast average lies above the slow one, which"),
        (part("SMA", -0.8, 1.5, mapper="cross"), "above the slow one, though it crossed the other way a moment ago"),
        (part("BB", 0.9, 0.05, mapper="bollinger"), "the close is 5% of the way from the lower to the upper band"),
        (part("BB", 1.0, -0.2, mapper="bollinger"), "the close is under the lower band"),
        (part("ADX", -0.5, 40.0, mapper="adx", full=50), "ADX is 40, a strong trend down, which speaks for selling"),
        (part("CDL", 1.0, 100.0, mapper="pattern"), "a bullish pattern"),
        (part("CDL", 0.0, 0.0, mapper="pattern"), "no such pattern on this candle, which speaks for neither side"),
        (part("OBV", 0.4, 9.0, mapper="zscore", window=40), "below the mean of its last 40 values"),
        (part("L", -0.4, 9.0, mapper="slope", bars=3), "lower than 3 candles ago"),
        (part("L", 0.0, 9.0, mapper="slope", bars=1), "as a candle ago"),
        (part("K", 0.4, 9.0, mapper="price_vs"), "the close lies above it"),
        (part("mine", 0.4, 9.0), "mine is 9, which speaks for buying (+0.40, weight 0.40)."),
        (part("mine", 0.4), "mine, which speaks for buying"),
        (part("mine", None), "mine has no vote: it has no opinion (weight 0.40)."),
        ({**part("RSI(14)", None), "why": "flat market"}, "RSI(14) has no vote: flat market (weight 0.40)."),
    ],
)  # fmt: skip
def test_a_signal_says_its_value_and_what_that_means(said: dict[str, Any], words: str) -> None:
    assert words in explained(advice(signals=[said]))[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "b advises BUY on BTC-USD at the close of its 1h candle of 2026-01-01 09:00 UTC."),
        ({}, "The combined score is +0.500 (HOT): at least the threshold of 0.30."),
        ({}, "BUY is confirmed since 2026-01-01 10:00 UTC."),
        ({}, "It is ready: an order request went out with this advice."),
        ({"side": "HOLD", "score": -0.2, "temperature": "WARM", "ready_to_trade": False},
         "The combined score is -0.200 (WARM): short of the threshold of 0.30 by 0.100."),
        ({"side": "HOLD", "ready_to_trade": False}, "There is nothing to do."),
        ({"confirmed_since": None, "confirmation_due": "2026-01-01T11:30:05Z", "ready_to_trade": False},
         "BUY is not confirmed yet: it must hold for 1 h 30 min more, until a close at or after "
         "2026-01-01 11:30:05 UTC."),
        ({"cooldown_until": "2026-01-01T10:15:00Z", "ready_to_trade": False, "waiting_for": "cooldown"},
         "It cools down after its last fill until 2026-01-01 10:15 UTC, for 15 min more."),
        ({"ready_to_trade": False, "waiting_for": "cash"}, "There is not enough cash to buy with."),
        ({"ready_to_trade": False, "waiting_for": "answer"}, "It waits for the answer to its last order request."),
        ({"score": None, "temperature": "FROZEN", "side": "HOLD", "ready_to_trade": False,
          "signals": [part("a", 0.5), part("b", None), part("c", None)]},
         "The signals that vote hold 0.40 of 1.20 of the weight: less than half, so there is no score (FROZEN)."),
        ({"score": None, "temperature": "FROZEN", "side": "HOLD"}, "It has no score (FROZEN)."),
    ],
)  # fmt: skip
def test_the_advice_says_how_strong_it_is_and_what_it_waits_for(changes: dict[str, Any], words: str) -> None:
    assert words in explained(advice(**changes))


def test_a_message_without_the_newer_keys_is_explained_as_far_as_it_goes() -> None:
    old = advice(signals=[{"name": "RSI(14)", "score": 0.5, "weight": 1.0}])
    for key in ("threshold", "confirmation_due", "waiting_for"):
        del old[key]
    assert explained(old)[1:3] == [
        "RSI(14), which speaks for buying (+0.50, weight 1.00).",
        "The combined score is +0.500 (HOT).",
    ]


async def test_a_bots_own_advice_is_explained_from_warming_up_to_its_order() -> None:
    text = one_signal('function = "RSI"', threshold="0.05").replace(
        "threshold", "confirmation_minutes = 2\nthreshold"
    )
    stage = Stage([bot(text)])
    await stage.service.start()
    candles = market(300, seed=3)
    found = [json.loads(json.dumps(recommendation_wire(one))) for one in advices(await play(stage, candles))]
    assert "RSI(14) has no vote: warming up (" in explained(found[100])[1]
    waiting = next(one for one in found if one["waiting_for"] == "confirmation")
    assert waiting["confirmation_due"] is not None
    assert any("is not confirmed yet: it must hold for 2 min more" in line for line in explained(waiting))
    ready = next(one for one in found if one["ready_to_trade"])
    assert (ready["waiting_for"], ready["confirmation_due"]) == (None, None)
    assert explained(ready)[-1] == "It is ready: an order request went out with this advice."
    cooling = next(one for one in found if one["waiting_for"] == "cooldown")
    assert cooling["cooldown_until"] is not None


async def test_what_keeps_a_bot_from_acting_is_told() -> None:
    text = 'name = "s"\nclass = "sma-cross"\nsymbol = "BTC-USD"\nfast = 2\nslow = 3\nquantity = 1\n'
    stage = Stage([bot(text)])
    await stage.service.start()
    closes = [100, 100, 100, 99, 105]
    outputs = [await stage.service.on_candle(candle(i, close)) for i, close in enumerate(closes)]
    (asked,) = advices(outputs[-1])
    assert asked.ready_to_trade
    assert stage.service.open_requests()
    again = await stage.service.set_bot("s", "evaluate")
    assert [one.waiting_for for one in advices(again)] == ["answer"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (27.3456, "27.3"), (100.0, "100"), (-85.25, "-85.2"), (1.2345, "1.23"), (0.12345, "0.123"),
        (0.00012345, "0.000123"), (123456.7, "123457"), (12345.678, "12345.7"), (1e-9, "1e-09"), (1.5e18, "1.5e+18"),
    ],
)  # fmt: skip
def test_a_value_is_short_and_keeps_what_matters(value: float, text: str) -> None:
    assert number(value) == text


def test_lengths_are_read_in_two_units() -> None:
    assert [length(MINUTE * minutes) for minutes in (0, 1, 61, 1500, 90.5)] == [
        "0 s", "1 min", "1 h 1 min", "1 d 1 h", "1 h 30 min",
    ]  # fmt: skip
