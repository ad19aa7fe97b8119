"""Invented candles: the same for a seed, resumable anywhere, valid, and lively enough for bots."""

import random
from datetime import timedelta
from decimal import Decimal
from itertools import islice, pairwise

import pytest

from execution.model import Candle
from signals.feeds.feed import Feed
from signals.feeds.synthetic import BLOCK, START, SyntheticFeed

SYMBOLS = ("ETH-USD", "BTC-USD", "XYZ")


def market(seed: int = 1, symbols: tuple[str, ...] = SYMBOLS, warmup: int = 300) -> SyntheticFeed:
    return SyntheticFeed(symbols, seed=seed, seeded=random.Random, warmup=warmup)


def first(feed: SyntheticFeed, count: int) -> list[Candle]:
    return list(islice(feed.candles({}), count))


def test_it_is_a_feed_and_says_that_it_is_synthetic() -> None:
    feed: Feed = market()
    assert feed.source == "synthetic"
    assert feed.symbols == ("BTC-USD", "ETH-USD", "XYZ")
    assert feed.timeframe("XYZ") == "1m"
    with pytest.raises(KeyError):
        feed.timeframe("ABC")


def test_the_same_seed_gives_the_same_candles_and_another_gives_others() -> None:
    assert first(market(1), 1000) == first(market(1), 1000)
    assert first(market(1), 10) != first(market(2), 10)


def test_a_symbol_does_not_depend_on_the_others() -> None:
    alone = first(market(symbols=("XYZ",)), 200)
    together = [candle for candle in first(market(), 600) if candle.symbol == "XYZ"]
    assert alone == together


def test_candles_are_valid_one_minute_apart_and_on_ticks() -> None:
    candles = first(market(symbols=("BTC-USD",)), 5 * BLOCK)
    assert candles[0].time == START
    for candle in candles:
        assert isinstance(candle, Candle)
        assert 0 < candle.low <= min(candle.open, candle.close)
        assert candle.high >= max(candle.open, candle.close)
        assert candle.volume > 0
        for price in candle[3:7]:
            assert isinstance(price, Decimal)
            assert price % Decimal("0.01") == 0
    for before, after in pairwise(candles):
        assert after.time - before.time == timedelta(minutes=1)
        assert after.open == before.close


def test_it_can_be_resumed_at_any_candle() -> None:
    whole = first(market(), 3 * 400)
    for index in (0, 1, BLOCK - 1, BLOCK, 250):
        after = dict.fromkeys(SYMBOLS, START + timedelta(minutes=index))
        resumed = list(islice(market().candles(after), 60))
        assert resumed == whole[3 * (index + 1) :][:60]


def test_symbols_resume_each_at_its_own_place() -> None:
    after = {"BTC-USD": START + timedelta(minutes=2)}
    got = [(candle.symbol, candle.time.minute) for candle in islice(market().candles(after), 8)]
    assert got == [(symbol, n) for n in range(3) for symbol in ("ETH-USD", "XYZ")] + [("BTC-USD", 3), ("ETH-USD", 3)]


def test_a_far_away_candle_costs_one_block() -> None:
    drawn: list[str] = []

    def counting(seed: str) -> random.Random:
        drawn.append(seed)
        return random.Random(seed)

    feed = SyntheticFeed(["A"], seed=1, seeded=counting)
    assert feed.candle("A", 10_000_000).time == START + timedelta(minutes=10_000_000)
    assert len(drawn) == 3  # the block and its two edges


def test_live_candles_follow_the_history_without_a_seam() -> None:
    feed = market(warmup=150)
    history, after = feed.opening({})
    assert len(history) == 450
    assert history + list(islice(feed.candles(after), 90)) == first(market(), 540)
    history, after = market(warmup=0).opening({})
    assert history + list(islice(market(warmup=0).candles(after), 3)) == first(market(), 3)


def test_books_that_were_cut_off_in_the_middle_of_a_minute_go_on_with_every_symbol_where_it_was() -> None:
    feed = market(warmup=5)
    stored = {symbol: START + timedelta(minutes=20) for symbol in SYMBOLS}
    stored[SYMBOLS[0]] += timedelta(minutes=1)
    assert feed.opening(stored) == ([], stored)


def test_a_symbol_that_is_new_to_the_books_joins_where_the_others_are_with_a_history() -> None:
    feed = market(warmup=5)
    known, new = SYMBOLS[0], SYMBOLS[1:]
    history, after = feed.opening({known: START + timedelta(minutes=999)})
    assert {candle.symbol for candle in history} == set(new)
    assert [candle.time for candle in history if candle.symbol == new[0]] == [
        START + timedelta(minutes=minute) for minute in range(995, 1000)
    ]
    assert after == dict.fromkeys(SYMBOLS, START + timedelta(minutes=999))


def test_books_that_end_with_real_candles_go_on_behind_them() -> None:
    feed = market(warmup=5)
    real = START + timedelta(days=6_000, seconds=30)
    _, after = feed.opening({SYMBOLS[0]: real})
    assert all(candle.time > real for candle in islice(feed.candles(after), 9))


def test_prices_stay_near_their_base_for_ever() -> None:
    feed = market(symbols=("BTC-USD",))
    closes = [feed.candle("BTC-USD", index).close for index in range(0, 1_000_000, 9_973)]
    assert all(48_000 < close < 75_000 for close in closes)


def test_moving_averages_cross_every_few_dozen_candles() -> None:
    for seed in range(5):
        closes = [float(candle.close) for candle in first(market(seed, ("BTC-USD",)), 1_500)]
        above = [sum(closes[n - 9 : n + 1]) / 10 > sum(closes[n - 29 : n + 1]) / 30 for n in range(29, 1_500)]
        crosses = sum(a != b for a, b in pairwise(above))
        assert 25 <= crosses <= 80


@pytest.mark.parametrize("symbols", [(), ("A", "A")])
def test_bad_symbols_are_refused(symbols: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="at least one symbol, and each only once"):
        market(symbols=symbols)
