"""The state behind the screen: what it keeps of messages, what it leaves out, and that it stays small."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from runtime.watch import rows
from runtime.watch.model import MOST_ALERTS, MOST_FACTS, MOST_KEYS, MOST_TRADES, BooksSeen, DayStart
from runtime.watch.rows import trade_row
from tests.runtime.watch.house import FEED, NOW, TOPICS, Told, advice, bot, halt, portfolio, position, trade


def test_a_portfolio_brings_its_open_positions_and_totals() -> None:
    told = Told()
    flat = position("ETH-USD", quantity="0", market_value="0", unrealized_pnl="0", average_cost=None)
    told(TOPICS.portfolio("main"), portfolio(position(), flat))
    (found,) = told.watch.positions(["main"])
    assert (found.symbol, found.quantity, found.unrealized_pnl) == ("BTC-USD", Decimal("0.5"), Decimal(500))
    assert told.watch.portfolios["main"].total_pnl == Decimal("512.5")


def test_money_keeps_every_digit() -> None:
    told = Told()
    exact = "123456789012345678.000000000000000001"
    told(TOPICS.portfolio("main"), portfolio(cash=exact))
    assert told.watch.portfolios["main"].cash == Decimal(exact)


def test_an_older_portfolio_never_replaces_a_newer_one() -> None:
    told = Told()
    told(TOPICS.portfolio("main"), portfolio(sequence=9, cash="9"))
    told(TOPICS.portfolio("main"), portfolio(sequence=8, cash="8"))
    assert told.watch.portfolios["main"].cash == 9


def test_the_newest_advice_of_a_bot_counts_whether_it_comes_alone_or_with_its_state() -> None:
    told = Told()
    told(TOPICS.bot_state("trend"), bot())
    told(TOPICS.recommendation("trend"), advice(score=-0.5, decided_at="2026-03-02T12:00:00Z"))
    told(TOPICS.bot_state("trend"), bot())  # its retained state is renewed only now and then
    (found,) = told.watch.bots(["main"])
    assert found.advice is not None
    assert found.advice.score == -0.5


def test_a_cleared_state_takes_the_bot_from_the_screen() -> None:
    told = Told()
    told(TOPICS.bot_state("trend"), bot())
    told(TOPICS.bot_state("trend"), b"")
    assert told.watch.bots(["main"]) == []
    assert told.watch.not_understood == 0


def test_a_trade_shows_what_it_realized_when_the_next_portfolio_says_so() -> None:
    told = Told()
    told(TOPICS.portfolio("main"), portfolio(position(realized_pnl="10"), sequence=7))
    told(TOPICS.trade("main"), trade(8, side="SELL"))
    told(TOPICS.portfolio("main"), portfolio(position(realized_pnl="12.25"), sequence=8))
    assert told.watch.trades(["main"])[0].realized_pnl == Decimal("2.25")


def test_two_trades_of_a_symbol_between_two_portfolios_cannot_be_told_apart() -> None:
    told = Told()
    told(TOPICS.portfolio("main"), portfolio(position(realized_pnl="10"), sequence=7))
    told(TOPICS.trade("main"), trade(8))
    told(TOPICS.trade("main"), trade(9))
    told(TOPICS.portfolio("main"), portfolio(position(realized_pnl="12"), sequence=9))
    assert [row.realized_pnl for row in told.watch.trades(["main"])] == [None, None]


def test_where_a_part_is_unknown_a_difference_is_not_what_a_trade_realized() -> None:
    told = Told()
    told(TOPICS.portfolio("main"), portfolio(position(realized_pnl="10"), sequence=7))
    told(TOPICS.trade("main"), trade(8, side="SELL"))
    told(TOPICS.portfolio("main"), portfolio(position(realized_pnl="12", incomplete=True), sequence=8))
    assert told.watch.trades(["main"])[0].realized_pnl is None


def test_a_trade_that_was_not_heard_leaves_the_others_unexplained() -> None:
    told = Told()
    told(TOPICS.portfolio("main"), portfolio(position(realized_pnl="10"), sequence=7))
    told(TOPICS.trade("main"), trade(9))
    told(TOPICS.portfolio("main"), portfolio(position(realized_pnl="12"), sequence=9))
    assert told.watch.trades(["main"])[0].realized_pnl is None


def test_a_deposit_between_does_not_stand_in_the_way() -> None:
    told = Told()
    told(TOPICS.portfolio("main"), portfolio(position(realized_pnl="10"), sequence=7))
    told(TOPICS.cash_flow("main"), {"sequence": 8})
    told(TOPICS.trade("main"), trade(9))
    told(TOPICS.portfolio("main"), portfolio(position(realized_pnl="12"), sequence=9))
    assert told.watch.trades(["main"])[0].realized_pnl == 2


def test_a_trade_that_comes_twice_is_shown_once() -> None:
    told = Told()
    told(TOPICS.trade("main"), trade(8))
    told(TOPICS.trade("main"), trade(8))
    told.watch.take_books(seen(trades=(trade_row(trade(8)),)))
    assert len(told.watch.trades(["main"])) == 1


def seen(**other: Any) -> BooksSeen:
    """What was read of the database."""
    return BooksSeen(**{"sequence": 3, "dead_letters": 0, "open_orders": 0, "trades": (), "halts": (), **other})


def test_trades_are_the_newest_first_wherever_they_come_from() -> None:
    told = Told()
    told(TOPICS.trade("main"), trade(9))
    told.watch.take_books(seen(trades=(trade_row(trade(8)), trade_row(trade(10)))))
    assert [row.sequence for row in told.watch.trades(["main"])] == [10, 9, 8]


def test_a_database_that_cannot_be_read_leaves_what_was_read_before() -> None:
    told = Told()
    told.watch.take_books(seen(dead_letters=4))
    told.watch.take_books("the database is busy")
    assert told.watch.books is not None
    assert told.watch.books.dead_letters == 4
    assert told.watch.books_problem == "the database is busy"
    told.watch.take_books(seen())
    assert told.watch.books_problem is None


def test_the_start_of_the_day_is_that_of_the_account() -> None:
    told = Told()
    told.watch.take_books(seen(days=(DayStart("main", NOW.date(), Decimal(5)),)))
    assert told.watch.day_start("main") == DayStart("main", NOW.date(), Decimal(5))
    assert told.watch.day_start("other") is None


def test_a_halt_of_the_bus_and_of_the_database_is_one_and_the_newer_counts() -> None:
    told = Told()
    told(TOPICS.halt("main"), halt(halted=False, at="2026-03-02T12:00:00Z"))
    told.watch.take_books(seen(halts=(rows.halt_row(halt()),)))
    assert told.watch.halted("main") is None
    told(TOPICS.halt("main"), halt(at="2026-03-02T12:01:00Z"))
    assert told.watch.halted("main") is not None


def test_only_a_live_message_says_that_a_market_speaks() -> None:
    told = Told()
    told(TOPICS.price("BTC-USD"), {"price": "61000", "time": FEED}, retained=True)
    assert told.watch.heard_at("BTC-USD") is None
    told(TOPICS.candle("BTC-USD", "1m"), candle(), at=NOW)
    assert told.watch.heard_at("BTC-USD") == NOW
    market = told.watch.markets["BTC-USD"]
    assert (market.price, market.timeframe) == (Decimal(61000), "1m")  # the candle opened before the price was made


def candle(**other: Any) -> dict[str, Any]:
    """A candle."""
    body = {"open": "1", "high": "2", "low": "1", "close": "60999", "volume": "3", "time": "2026-03-02T11:58:00Z"}
    return {**body, **other}


def test_accounts_come_from_whatever_names_them_the_default_one_first() -> None:
    told = Told()
    told(TOPICS.portfolio("zeta"), portfolio(account="zeta"))
    told(TOPICS.halt("alpha"), halt("alpha"))
    assert told.watch.accounts == ["main", "alpha", "zeta"]


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b"null",
        b"[]",
        b'"text"',
        json.dumps(portfolio(cash=9500.25)).encode(),
        json.dumps(portfolio(cash="NaN")).encode(),
        json.dumps(portfolio(cash="1e999999999")).encode(),
        json.dumps(portfolio(cash="-")).encode(),
        json.dumps(portfolio(cash="٣")).encode(),
        json.dumps(portfolio(sequence="7")).encode(),
        json.dumps(portfolio(sequence=True)).encode(),
        json.dumps(portfolio(positions={})).encode(),
        json.dumps(portfolio(7)).encode(),  # type: ignore[arg-type]  # what is no position
        json.dumps(portfolio(position(mark_time="yesterday"))).encode(),
    ],
)
def test_a_bad_message_is_counted_and_changes_nothing(body: bytes) -> None:
    told = Told()
    told(TOPICS.portfolio("main"), portfolio(cash="1"))
    told(TOPICS.portfolio("main"), body)
    assert told.watch.not_understood == 1
    assert told.watch.portfolios["main"].cash == 1


def test_a_score_that_is_no_score_is_not_understood() -> None:
    told = Told()
    for score in ("0.5", True, 2, float("nan")):
        told(TOPICS.recommendation("trend"), advice(score=score))
    assert told.watch.not_understood == 4


def test_an_unknown_topic_is_counted() -> None:
    told = Told()
    told("somebody/else", b"{}")
    told(TOPICS.bot_set("trend"), b"stop")
    assert told.watch.not_understood == 2


def test_texts_of_others_cannot_write_to_the_terminal() -> None:
    told = Told()
    told(TOPICS.bot_state("trend"), bot(last_error="\x1b[2Jgone\r\n‮tfel", status="ERROR"))
    (found,) = told.watch.bots(["main"])
    assert found.last_error == " [2Jgone   tfel"


def test_a_flood_leaves_everything_bounded() -> None:
    told = Told()
    for number in range(3000):
        told(TOPICS.trade("main"), trade(number))
        told(TOPICS.price(f"S{number}"), {"price": "1", "time": FEED})
        told(TOPICS.alert(), {"severity": "high", "code": "c", "message": "m", "account": None, "time": FEED})
    watch = told.watch
    assert len(watch.trades(["main"])) == MOST_TRADES
    assert watch.trades(["main"])[0].sequence == 2999
    assert len(watch._trades) <= 2 * MOST_TRADES
    assert len(watch._facts) <= 2 * MOST_FACTS
    assert len(watch.alerts) == MOST_ALERTS
    assert len(watch.markets) == MOST_KEYS
    assert watch.left_out == 3000 - MOST_KEYS


def test_a_lost_connection_makes_everything_stale_until_it_is_back() -> None:
    watch = Told().watch
    seen = [watch.is_stale]
    watch.connected(NOW)
    seen.append(watch.is_stale)
    watch.disconnected("broken pipe", NOW)
    seen.append(watch.is_stale)
    assert seen == [True, False, True]
    assert (watch.link.reason, watch.link.since, watch.link.ever) == ("broken pipe", NOW, True)


def test_a_daemon_that_died_makes_everything_stale_though_its_broker_lives() -> None:
    told = Told()
    told.watch.connected(NOW)
    told(TOPICS.status(), {"state": "offline", "time": None, "version": None})
    assert told.watch.is_stale
    assert told.watch.daemon is not None
    assert told.watch.daemon.time == NOW  # a last will knows no time


def test_the_pnl_since_begins_anew_at_midnight() -> None:
    told = Told()
    told(TOPICS.portfolio("main"), portfolio(total_pnl="100", sequence=7))
    told(TOPICS.portfolio("main"), portfolio(total_pnl="150", sequence=8))
    assert told.watch.since["main"].total_pnl == 100
    told(TOPICS.portfolio("main"), portfolio(total_pnl="160", sequence=9), at=NOW + timedelta(days=1))
    assert told.watch.since["main"].total_pnl == 160
