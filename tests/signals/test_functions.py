"""All 201 of TA-Lib's functions as signals: each can be configured, none raises, a restart changes nothing."""

from decimal import Decimal

import numpy as np
import pytest
import talib
from talib import abstract

from config.exact import ZERO
from execution.model import Candle
from signals.classes import build_bot
from signals.functions import Function, function, function_names, lookback
from signals.mappers_file import default_mapper, fitting_mappers, rules
from signals.runner import bars
from tests.signals.market import FLAT, columns, market, one_signal, verdicts
from tests.signals.stage import bot, candle

CANDLES = market(650, seed=12)
ZONES = "params = {floor = -100, lo = -50, hi = 50, ceil = 100}"


def entries(name: str) -> list[str]:
    """An entry with the default mapper, if there is one, and one with each mapper that fits."""
    found = [] if default_mapper(function(name)) is None else [f'function = "{name}"']
    zones = {"band": f", {ZONES}"}
    found += [f'function = "{name}", mapper = "{m}"{zones.get(m, "")}' for m in fitting_mappers(function(name))]
    return found


def test_there_are_201_functions_and_each_has_a_mapper_that_fits() -> None:
    assert len(function_names()) == 201
    assert all(fitting_mappers(function(name)) for name in function_names())


@pytest.mark.parametrize("name", function_names())
def test_a_function_runs_and_a_restart_in_the_middle_changes_no_later_verdict(name: str) -> None:
    for entry in entries(name):
        text = one_signal(entry)
        lived = verdicts(CANDLES, text)
        assert all(v.score is None or -1 <= v.score <= 1 for v in lived)
        assert all((v.parts[0].score is None) == (v.parts[0].why is not None) for v in lived)
        warmed = build_bot(bot(text))
        warmed.warm(list(bars(CANDLES[:400])))
        for index, bar in enumerate(list(bars(CANDLES))[400:], 400):
            warmed.update(bar)
            assert warmed.decide(FLAT) == lived[index]


@pytest.mark.parametrize("name", function_names())
def test_a_function_never_votes_without_movement_or_volume(name: str) -> None:
    still: list[list[Candle]] = [
        [candle(i, 100) for i in range(450)],
        [candle(i, 100, volume=0) for i in range(450)],
        [*CANDLES[:350], *(c._replace(volume=ZERO) for c in CANDLES[350:550])],
        [*CANDLES[:350], *(candle(i, CANDLES[349].close) for i in range(350, 550))],
    ]
    for entry in entries(name):
        for candles in still:
            assert all(v.score is None and v.side is None for v in verdicts(candles, one_signal(entry))[450:])
        assert all(v.score is None for v in verdicts(still[0], one_signal(entry))[20:100])


# ---- what is written down about them equals what TA-Lib does -----------------------------------------------


@pytest.mark.parametrize("name", function_names())
def test_each_default_lies_in_its_range_and_talib_takes_the_least(name: str) -> None:
    for rule in function(name).rules:
        assert rule.default is not None
        assert rule.low <= rule.default <= rule.high
        assert lookback(name, {rule.name: rule.low}) >= 0 or rule.above is not None, rule
        if rule.whole and rule.low > 0:
            assert lookback(name, {rule.name: int(rule.low) - 1}) < 0, rule


def outputs(chosen: Function, first: int, last: int) -> list[float]:
    """The outputs on candle `last` from the candles `first` to `last`."""
    data = columns(CANDLES)
    inputs = [data[series][first : last + 1].copy() for series in chosen.inputs]
    found = getattr(talib, chosen.name)(*inputs)
    return [float(each[-1]) for each in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("name", [n for n in function_names() if function(n).forgets({})])
def test_a_function_that_forgets_needs_no_more_than_it_looks_back_on(name: str) -> None:
    chosen = function(name)
    for last in (300, 649):
        short = outputs(chosen, last - lookback(name, {}), last)
        assert short == pytest.approx(outputs(chosen, 0, last), rel=1e-7, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize("name", [n for n in function_names() if not function(n).forgets({})])
def test_a_function_that_remembers_is_warm_after_its_seed(name: str) -> None:
    text = one_signal(entries(name)[-1])
    assert all(v.score is None for v in verdicts(CANDLES[:249], text))


@pytest.mark.parametrize(
    ("entry", "needed"),
    [
        ('function = "RSI", params = {timeperiod = 80}', 400),
        ('function = "EMA", params = {fast = 10, slow = 90}', 450),
        ('function = "MACD", params = {slowperiod = 70}', 350),
        ('function = "EMA", mapper = "price_vs"', 250),  # five times 30 would be less
        ('function = "SMA", params = {fast = 10, slow = 90}', 250),  # no memory, but the ATR has one
        ('function = "STOCH"', 9),
    ],
)
def test_warm_up_takes_250_candles_or_five_of_the_longest_period(entry: str, needed: int) -> None:
    candles = [c._replace(close=c.close + i % 2 * Decimal("0.001")) for i, c in enumerate(CANDLES)]  # each moves
    found = verdicts(candles, one_signal(entry))
    first = next(index for index, verdict in enumerate(found) if verdict.score is not None)
    assert first == needed - 1


def test_names_of_the_mappers_parameters_are_no_parameters_of_functions() -> None:
    for name in function_names():
        for mapper in fitting_mappers(function(name)):
            names = [rule.name for rule in rules(function(name), mapper)]
            assert len(names) == len(set(names))


def test_the_inputs_are_talibs_own() -> None:
    for name in function_names():
        own = abstract.Function(name).input_names  # type: ignore[attr-defined]  # made by talib at import
        flat = [each for value in own.values() for each in ([value] if isinstance(value, str) else value)]
        assert [("volume" if each == "periods" else each) for each in flat] == list(function(name).inputs)


# ---- values that would look like the strongest BUY ---------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        'function = "STOCH"',
        'function = "STOCH", params = {slowk_matype = 1}',
        f'function = "STOCHF", mapper = "band", {ZONES}',
        'function = "STOCHRSI", mapper = "band", params = {floor = 0, lo = 20, hi = 80, ceil = 100}',
        'function = "WILLR", params = {timeperiod = 5}',
        'function = "CCI", params = {timeperiod = 5}',
    ],
)
def test_a_short_window_without_a_range_has_no_vote_and_leaves_none_behind(entry: str) -> None:
    price = CANDLES[349].close
    pause = [candle(i, price) for i in range(350, 356)]
    rise = [candle(i, price + Decimal(i - 355), spread="0.5") for i in range(356, 400)]
    found = verdicts([*CANDLES[:350], *pause, *rise], one_signal(entry))
    assert found[349].score is not None
    assert found[355].score is None
    assert "flat market" in str(found[355].parts[0].why)
    assert all(v.score is None or v.score <= 0 for v in found[355:])  # a rise after a pause is no BUY of theirs


def test_money_that_did_not_flow_is_no_vote_of_mfi() -> None:
    text = one_signal('function = "MFI", params = {timeperiod = 5}')
    idle = [c._replace(volume=ZERO) for c in CANDLES[350:356]]
    found = verdicts([*CANDLES[:350], *idle, *CANDLES[356:380]], text)
    assert found[349].score is not None
    assert (found[355].score, found[355].parts[0].why) == (None, "no volume")
    # trades in a window whose typical price stands still move no money either
    turned = [
        c._replace(open=Decimal(100), close=Decimal(100 + i % 2), high=Decimal(101), low=Decimal(99 + (i + 1) % 2))
        for i, c in enumerate(CANDLES[350:360])
    ]
    still = verdicts([*CANDLES[:350], *turned], text)
    assert len({(c.high + c.low + c.close) for c in turned}) == 1
    assert (still[-1].score, still[-1].parts[0].why) == (None, "no money flow in its window")


def test_an_output_that_is_no_number_is_no_vote() -> None:
    found = verdicts(CANDLES, one_signal('function = "ACOS", mapper = "zscore"'))
    assert {(v.score, v.parts[0].why) for v in found} == {(None, "its value is no number")}
    assert np.isnan(talib.ACOS(columns(CANDLES)["close"])).all()


def test_a_market_that_stood_still_for_as_long_as_a_warm_up_is_warmed_anew() -> None:
    price = CANDLES[299].close
    pause = [candle(i, price) for i in range(300, 551)]
    after = market(400, seed=2, first=551)
    found = verdicts([*CANDLES[:300], *pause, *after], one_signal('function = "RSI"'))
    assert found[299].score is not None
    assert found[551].score is None
    assert str(found[560].parts[0].why).startswith("warming up (")
    assert found[-1].score is not None
