"""Trades of a live venue: each is recorded once, with the order that it belongs to."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from execution import ledger
from execution.ledger import derived_id
from execution.model import Account, AccountKind, OrderStatus, Side
from tests.execution.exchanges import TIMES, LiveHouse, ScriptedExchange, a_trade, alerts, later
from tests.execution.house import BTC, START, Books, answers, at, bar, facts_in

BUY, SELL = Side.BUY, Side.SELL


async def test_a_fill_that_is_streamed_twice_and_fetched_too_is_one_trade(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await live.resting()
    trade = exchange.fill(order, "0.5")
    exchange.streamed += [trade, trade]
    events = await live.listen()
    assert [answer.status for answer in answers(events)] == ["partially_filled"]
    assert await live.round() == []
    assert [(fill.quantity, fill.order_id, fill.triggered_by) for fill in live.live_trades()] == [
        (Decimal("0.5"), order.id, "manual")
    ]


async def test_a_fill_that_the_stream_lost_is_fetched(live: LiveHouse, exchange: ScriptedExchange) -> None:
    order = await live.resting()
    exchange.fill(order, "2", status=OrderStatus.FILLED)
    (answer,) = answers(await live.round())
    assert answer.status == "filled"
    assert live.state.open_orders("live") == []


async def test_fills_in_any_order_fill_their_order_once(live: LiveHouse, exchange: ScriptedExchange) -> None:
    order = await live.resting()
    told = [exchange.fill(order, "0.5", number, minute=number) for number in (1, 2, 3, 4)]
    exchange.streamed += [told[2], told[0], told[2], told[3], told[1]]
    events = await live.listen()
    assert [answer.final for answer in answers(events)] == [False, False, False, True]
    assert sum(trade.quantity for trade in live.live_trades()) == 2


async def test_an_order_stays_open_until_the_ledger_has_all_that_the_venue_filled(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await live.resting()
    exchange.fill(order, "0.5", 1)
    exchange.fill(order, "0.7", 2, status=OrderStatus.CANCELLED)
    late = exchange.told.pop()
    (answer,) = answers(await live.round())
    assert answer.status == "partially_filled"
    exchange.told.append(late)
    (filled, cancelled) = answers(await live.round())
    assert (filled.status, cancelled.status, len(cancelled.trades)) == ("partially_filled", "cancelled", 2)


async def test_an_order_for_an_amount_of_money_closes_when_the_venue_says_so(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = live.placed(await live.buy(notional="100"))
    exchange.fill(order, "0.4", 1)
    assert [answer.status for answer in answers(await live.round())] == ["partially_filled"]
    exchange.fill(order, "0.6", 2, status=OrderStatus.FILLED)
    assert [answer.status for answer in answers(await live.round())][-1] == "filled"
    assert live.state.free_cash("live") == live.state.cash("live") == 9900


async def test_fills_are_recorded_whether_or_not_the_account_can_pay(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await live.resting("100")
    exchange.fill(order, "100", price="105", fee="9", status=OrderStatus.FILLED)
    await live.round()
    assert live.state.cash("live") == 10_000 - 10_500 - 9


async def test_a_back_dated_fill_is_found_by_the_deep_round(live: LiveHouse, exchange: ScriptedExchange) -> None:
    live.clock.advance(at(61))
    exchange.told.append(a_trade("1", 1, minute=60))
    await live.round()
    exchange.told.append(a_trade("1", 2, minute=2))
    await live.round()
    assert len(live.live_trades()) == 1, "an hour before the last trade is beyond the short overlap"
    later(TIMES.deep_poll)
    await live.round()
    assert [trade.executed_at for trade in live.live_trades()] == [at(60), at(2)]


async def test_trades_are_fetched_since_the_last_stored_one_also_after_a_restart(
    live: LiveHouse, make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    overlap, deep = timedelta(seconds=TIMES.overlap), timedelta(seconds=TIMES.deep_overlap)
    await live.round()
    live.clock.advance(at(61))
    exchange.told.append(a_trade("1", 1, minute=60))
    await live.round()
    await live.round()
    live.close()
    second = make(now=at(90))
    await second.open()
    await second.round()
    assert exchange.since == [START - deep, START - overlap, at(60) - overlap, at(60) - deep]


async def test_trades_are_fetched_since_the_oldest_open_order_however_late_others_were_traded(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    live.clock.advance(at(30))
    await live.resting()
    live.clock.advance(at(61))
    exchange.told.append(a_trade("1", 1, minute=60))
    await live.round()
    await live.round()
    assert exchange.since[1] == at(30) - timedelta(seconds=TIMES.overlap)


async def test_a_deep_round_that_the_venue_did_not_answer_is_made_again(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.down = True
    await live.round()
    exchange.down = False
    await live.round()
    assert exchange.since[0] == exchange.since[1]


async def test_a_trade_that_is_told_with_other_content_changes_nothing_and_is_alerted_once(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await live.resting()
    trade = exchange.fill(order, "0.5")
    await live.round()
    exchange.told = [replace(trade, price=Decimal(99))]
    assert alerts(await live.round()) == ["conflicting_trade"]
    assert alerts(await live.round()) == []
    assert [fill.price for fill in live.live_trades()] == [100]


@pytest.mark.parametrize(
    ("trade", "word"),
    [
        (a_trade(symbol="BTC-EUR"), "EUR"),
        (a_trade(symbol="btc/usd"), "symbol"),
        (a_trade("0"), "no fill"),
        (a_trade("NaN"), "number"),
    ],
)
async def test_a_trade_that_cannot_be_recorded_is_alerted_and_keeps_no_other_out(
    live: LiveHouse, exchange: ScriptedExchange, trade: Any, word: str
) -> None:
    exchange.told += [trade, a_trade("2", 9)]
    events = await live.round()
    assert "unrecordable_trade" in alerts(events)
    assert any(word in event.message for event in events if hasattr(event, "message"))
    assert [fill.quantity for fill in live.live_trades()] == [2]


async def test_a_trade_that_the_database_refuses_keeps_no_other_out(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    taken = derived_id("external", "broker", "live", "v-77")
    await live.ask(live.order(BUY, "1", limit="90", request_id=taken))
    exchange.told += [a_trade("1", 1), a_trade("2", 2, venue_order_id="v-78")]
    assert alerts(await live.round()) == ["unrecordable", "external_order"]
    assert alerts(await live.round()) == []
    assert [fill.quantity for fill in live.live_trades()] == [2]


async def test_a_trade_from_the_future_hides_none_that_comes_after_it(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.told.append(a_trade("1", 1, minute=1_000_000))
    await live.round()
    exchange.told.append(a_trade("1", 2))
    await live.round()
    assert len(live.live_trades()) == 2


async def test_a_fee_in_a_third_asset_is_paid_with_that_asset(live: LiveHouse, exchange: ScriptedExchange) -> None:
    await live.candle(bar(-5, "300", symbol="BNB-USD"))
    order = await live.resting()
    exchange.fill(order, "2", fee="0.01", fee_asset="BNB", status=OrderStatus.FILLED)
    (answer,) = answers(await live.round())
    assert (answer.status, len(answer.trades)) == ("filled", 1)
    fill, disposal = live.live_trades()
    assert (fill.cash_effect, disposal.cash_effect) == (-203, 3)
    assert (disposal.symbol, disposal.side, disposal.quantity, disposal.order_id) == (
        "BNB-USD", SELL, Decimal("0.01"), None,
    )  # fmt: skip


async def test_a_fee_in_the_base_asset_takes_of_what_was_bought(live: LiveHouse, exchange: ScriptedExchange) -> None:
    order = await live.resting()
    exchange.fill(order, "2", fee="0.01", fee_asset="BTC", status=OrderStatus.FILLED)
    (answer,) = answers(await live.round())
    assert (answer.status, live.state.held("live", BTC)) == ("filled", Decimal("1.99"))


async def test_what_could_not_be_stored_is_told_by_the_venue_again(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    order = await live.resting()
    exchange.fill(order, "2", status=OrderStatus.FILLED)

    with live.full_disk():
        assert alerts(await live.round()) == ["storage_unavailable"]
    assert [answer.status for answer in answers(await live.round())] == ["filled"]


async def test_what_a_venue_tells_of_an_account_that_the_process_did_not_know_is_recorded(
    live: LiveHouse, exchange: ScriptedExchange, books: Books
) -> None:
    books.do(lambda c: ledger.add_account(c, Account("second", kind=AccountKind.LIVE, venue="broker"), START))
    live.state.accounts = books.ask(ledger.accounts)
    assert live.reconciler.accounts == ["live", "second"]
    exchange.streamed.append(a_trade(symbol=BTC))
    await live.reconciler.listen("second")
    assert [trade.account for trade in facts_in(live.events)] == ["second"]
