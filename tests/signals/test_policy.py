"""Confirmation, cooldown, back-off and sizing, at their edges."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from config.instruments import default_instrument
from execution.model import CashFlow, CashFlowKind, Side, Source, Trade
from signals.bot import Verdict
from signals.holdings import Holdings
from signals.policy import Policy, Size, Sizing
from tests.signals.stage import MINUTE, START, WEIGHTED, bot

BUY, SELL = Side.BUY, Side.SELL


def at(minute: float) -> object:
    return START + minute * MINUTE


def policy(**overrides: object) -> Policy:
    return Policy(bot(WEIGHTED, **overrides), MINUTE)


def confirmed(found: Policy, sides: Sequence[tuple[float, Side | None]]) -> list[bool]:
    result = []
    for minute, side in sides:
        found.observe(side, START + minute * MINUTE)
        result.append(found.confirmed_since is not None)
    return result


def test_confirmation_runs_from_the_first_close_until_the_minutes_have_passed() -> None:
    found = policy(confirmation_minutes=3)
    assert confirmed(found, [(m, BUY) for m in range(1, 7)]) == [False, False, False, True, True, True]
    assert found.confirmed_since == at(4)


def test_no_confirmation_is_confirmed_at_once() -> None:
    assert confirmed(policy(confirmation_minutes=0), [(1, SELL)]) == [True]


@pytest.mark.parametrize("between", [SELL, None])
def test_another_side_or_hold_starts_confirmation_anew(between: Side | None) -> None:
    sides = [(1, BUY), (2, BUY), (3, between), (4, BUY), (5, BUY), (6, BUY)]
    assert confirmed(policy(confirmation_minutes=2), sides) == [False, False, False, False, False, True]


def test_a_gap_over_two_timeframes_starts_it_anew_and_one_of_two_does_not() -> None:
    assert confirmed(policy(confirmation_minutes=3), [(1, BUY), (3, BUY), (5, BUY)]) == [False, False, True]
    assert confirmed(policy(confirmation_minutes=3), [(1, BUY), (4.1, BUY), (5, BUY)]) == [False, False, False]


HOUR = timedelta(hours=1)


def hourly(closes: Sequence[tuple[float, Side | None]], **overrides: object) -> list[bool]:
    """Whether it is confirmed at closes so many hours after the start."""
    found = Policy(bot(WEIGHTED, **overrides), HOUR)
    result = []
    for hours, side in closes:
        found.observe(side, START + hours * HOUR)
        result.append(found.confirmed_since is not None)
    return result


def test_a_timeframe_longer_than_the_minutes_needs_the_close_after_the_first() -> None:
    assert hourly([(1, BUY), (2, BUY), (3, BUY)], confirmation_minutes=5) == [False, True, True]
    assert hourly([(1, BUY), (2, SELL), (3, BUY), (4, BUY)], confirmation_minutes=5) == [False, False, False, True]
    assert hourly([(1, BUY), (3, BUY)], confirmation_minutes=5) == [False, True]  # a gap of exactly two
    assert hourly([(1, BUY), (4, BUY), (5, BUY)], confirmation_minutes=5) == [False, False, True]
    assert hourly([(1, BUY), (2, None), (3, BUY)], confirmation_minutes=5) == [False, False, False]
    assert hourly([(1, BUY), (4, SELL)], confirmation_minutes=0) == [True, True]


def test_the_minutes_may_pass_exactly_and_a_moment_less_is_too_early() -> None:
    moment = 1 / 60_000_000  # a microsecond
    assert confirmed(policy(confirmation_minutes=2), [(1, BUY), (3, BUY)]) == [False, True]
    assert confirmed(policy(confirmation_minutes=2), [(1, BUY), (3 - moment, BUY)]) == [False, False]
    assert confirmed(policy(confirmation_minutes=2), [(1, BUY), (3, BUY), (5 + moment, BUY)]) == [False, True, False]


def test_a_confirmation_once_complete_holds_until_the_side_ends() -> None:
    found = policy(confirmation_minutes=1)
    assert confirmed(found, [(m, BUY) for m in range(1, 6)]) == [False, True, True, True, True]
    assert found.confirmed_since == at(2)
    assert confirmed(found, [(6, SELL)]) == [False]
    assert found.confirmed_since is None


@pytest.mark.parametrize("cut", range(9))
@pytest.mark.parametrize("minutes", [0, 2, 3])
def test_a_restart_at_any_close_changes_no_confirmation(cut: int, minutes: int) -> None:
    sides = [(1, BUY), (2, BUY), (3, None), (4, BUY), (5, BUY), (6, BUY), (9, BUY), (10, SELL), (11, SELL)]
    whole = confirmed(policy(confirmation_minutes=minutes), sides)
    found = policy(confirmation_minutes=minutes)
    before = confirmed(found, sides[:cut])
    again = policy(confirmation_minutes=minutes)
    again.load(found.dump())
    if cut:
        again.continue_from(START + sides[cut - 1][0] * MINUTE)  # the last stored candle
    assert before + confirmed(again, sides[cut:]) == whole


def test_asking_again_for_the_same_candle_changes_nothing() -> None:
    found = policy(confirmation_minutes=2)
    assert confirmed(found, [(1, BUY), (1, BUY), (2, BUY), (2, BUY), (3, BUY)]) == [False] * 4 + [True]


def trade(sequence: int, side: Side, quantity: str, minute: float = 0, **other: Any) -> Trade:
    found = Trade(
        id=f"t{sequence}", sequence=sequence, account="main", symbol="BTC-USD", side=side,
        quantity=Decimal(quantity), price=Decimal(100), executed_at=START + minute * MINUTE, recorded_at=START,
        fee=Decimal(0), fee_asset="USD", cash_effect=-side.sign * Decimal(quantity) * 100, order_id=None,
        venue="paper", venue_trade_id=None, venue_sequence=None, order_type=None, source=Source.EXCHANGE,
        triggered_by="bot:weighted", signal_context=None, corrects=None, hash="",
    )  # fmt: skip
    return replace(found, **other)


def holdings(*facts: Trade, cash: str = "10000") -> Holdings:
    found = Holdings()
    flow = CashFlow("f", 1, "main", CashFlowKind.DEPOSIT, Decimal(cash), "USD", START, START, "manual", "k", None, "")
    assert found.apply([flow, *facts])
    return found


def test_cooldown_counts_from_the_bots_own_last_fill() -> None:
    found = policy(cooldown_minutes=3)
    after = holdings(trade(2, BUY, "1", 10), trade(3, BUY, "1", 5), trade(4, BUY, "1", 99, triggered_by="manual"))
    assert found.cooldown_until(START + 12 * MINUTE, after) == at(13)
    assert found.cooldown_until(START + 13 * MINUTE, after) is None
    assert found.cooldown_until(START, holdings()) is None
    assert policy(cooldown_minutes=0).cooldown_until(START + 10 * MINUTE, after) is None


def test_a_cooldown_ends_at_its_very_end_and_counts_from_the_execution_not_from_the_candle() -> None:
    found = policy(cooldown_minutes=3)
    after = holdings(trade(2, BUY, "1", 10.5))
    until = START + 13.5 * MINUTE
    moment = timedelta(microseconds=1)
    assert found.cooldown_until(until - moment, after) == until
    assert found.cooldown_until(until, after) is None
    assert found.cooldown_until(START + 5 * MINUTE, after) == until  # a fill of the future, by another clock


def test_a_fill_of_the_bots_stop_cools_down_too_and_the_later_one_counts() -> None:
    found = policy(cooldown_minutes=3)
    stop, own = trade(2, SELL, "1", 10, triggered_by="stop:weighted"), trade(3, BUY, "1", 5)
    assert found.cooldown_until(START + 12 * MINUTE, holdings(stop, own)) == at(13)
    assert found.cooldown_until(START + 12 * MINUTE, holdings(replace(own, sequence=2))) is None
    others = replace(stop, triggered_by="stop:other")
    assert found.cooldown_until(START + 12 * MINUTE, holdings(others)) is None


def test_a_refusal_starts_a_back_off_and_a_fill_does_not() -> None:
    found = policy(confirmation_minutes=0, backoff_minutes=2)
    verdict = Verdict(BUY, 1.0)
    found.observe(BUY, START)
    assert found.size(verdict, START, Decimal(100), holdings()) == Size(notional=Decimal(10))
    found.backoff_until = START + 2 * MINUTE
    assert found.size(verdict, START + MINUTE, Decimal(100), holdings()) is None
    assert found.size(verdict, START + 2 * MINUTE, Decimal(100), holdings()) is not None
    found.open_request = "waiting"
    assert found.size(verdict, START + 3 * MINUTE, Decimal(100), holdings()) is None


def test_the_state_of_a_policy_survives() -> None:
    found = policy(confirmation_minutes=3)
    confirmed(found, [(1, BUY), (2, BUY)])
    found.backoff_until = START + timedelta(seconds=90)
    again = policy(confirmation_minutes=3)
    again.load(found.dump())
    again.continue_from(START + 2 * MINUTE)
    assert again.dump() == found.dump()
    assert confirmed(again, [(3, BUY), (4, BUY)]) == [False, True]
    assert policy().dump() == {}


def sizes() -> Iterator[object]:
    buy, sell = "BUY", "SELL"
    yield {}, buy, Size(notional=Decimal(10))
    yield {"notional": 50}, buy, Size(notional=Decimal(50))
    yield {"notional": 10_001}, buy, None
    yield {"quantity": "0.5"}, buy, Size(quantity=Decimal("0.5"))
    yield {"fraction": "0.3333333"}, buy, Size(notional=Decimal("2999.99"))
    yield {"notional": 50}, sell, Size(quantity=Decimal("0.5"))
    yield {"notional": 200}, sell, Size(close=True)  # more than is held
    yield {"notional": "99.5"}, sell, Size(close=True)  # the rest would be below the venue's minimum
    yield {"quantity": "0.5"}, sell, Size(quantity=Decimal("0.5"))
    yield {"quantity": 3}, sell, Size(close=True)
    yield {"fraction": "0.25"}, sell, Size(quantity=Decimal("0.25"))
    yield {"notional": 50, "exit": "close"}, sell, Size(close=True)


@pytest.mark.parametrize(("keys", "side", "expected"), list(sizes()))
def test_how_much_a_bot_asks_for(keys: dict[str, object], side: str, expected: Size | None) -> None:
    sizing = Sizing(bot(WEIGHTED, **keys))
    after = holdings(trade(2, BUY, "1"), cash="9100")
    assert sizing.size(Side(side), False, Decimal(100), after) == expected
    assert sizing.size(SELL, True, Decimal(100), after) == Size(close=True)
    assert sizing.size(SELL, True, Decimal(100), holdings()) is None


def test_a_share_of_the_cash_below_the_venues_minimum_is_not_asked_for() -> None:
    sizing = Sizing(bot(WEIGHTED, fraction="0.5"))
    least = {"BTC-USD": replace(default_instrument("BTC-USD"), minimum_notional=Decimal(10))}
    for cash, expected in (("19.98", None), ("20", Size(notional=Decimal(10)))):
        found = holdings(cash=cash)
        found.learn(least)
        assert sizing.size(BUY, False, Decimal(100), found) == expected


def test_holdings_follow_the_facts_and_notice_a_hole() -> None:
    found = holdings(trade(2, BUY, "1"), trade(3, SELL, "0.25"))
    assert found.quantity("main", "BTC-USD") == Decimal("0.75")
    assert found.cash("main") == Decimal(10_000 - 75)
    assert found.apply([trade(3, SELL, "0.25")])
    assert not found.apply([trade(5, BUY, "1")])
    assert found.sequence == 3


def test_a_fee_in_the_base_asset_reduces_what_is_held() -> None:
    base = default_instrument("BTC-USD").base_asset
    found = holdings(trade(2, BUY, "1", fee=Decimal("0.001"), fee_asset=base))
    assert found.quantity("main", "BTC-USD") == Decimal("0.999")
