"""Limits on losses: a broken one halts the account; flows are no losses; nothing is forgotten or forgiven."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from execution import marks, orders
from execution.limits import RiskLimits
from execution.losses import LossWatch
from execution.marks import LossMarks, trading_day
from execution.model import (
    AlertRaised,
    CashFlowKind,
    Event,
    HaltChanged,
    OrderChanged,
    OrderStatus,
    Reason,
    Severity,
    Side,
)
from tests.execution.house import BTC, FREE, START, Books, House, answers, at, bar, fill, flow, reason

ETH = "ETH-USD"
NEXT_DAY = 14 * 60
"""Minutes from 10:00 to midnight."""


async def opened(build: Callable[..., House], *, now: datetime = START, costs: Any = FREE, **limits: str) -> House:
    house = build(limits=RiskLimits(**{name: Decimal(value) for name, value in limits.items()}), now=now, costs=costs)  # type: ignore[arg-type]  # each is a Decimal
    await house.open()
    return house


def halts(events: list[Event]) -> list[HaltChanged]:
    return [event for event in events if isinstance(event, HaltChanged)]


def alerts(events: list[Event]) -> list[AlertRaised]:
    return [event for event in events if isinstance(event, AlertRaised)]


class TestDailyLoss:
    """What an account lost since midnight."""

    async def test_exactly_the_limit_is_allowed_and_a_cent_more_halts(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_daily_loss="50")
        await house.price("100")
        await house.buy("10")
        assert halts(await house.price("95")) == []
        events = await house.price("94.999", 5)
        said = "lost 50.01 USD on 2026-01-01 (UTC), more than 50"
        assert halts(events) == [HaltChanged("main", True, "limit:daily_loss", said, at(5))]
        (alert,) = alerts(events)
        assert (alert.severity, alert.code, alert.account) == (Severity.HIGH, "daily_loss", "main")
        assert said in alert.message
        assert reason(await house.buy("1")).code == "trading_halted"

    async def test_a_candle_halts_as_a_price_does(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_daily_loss="50")
        await house.candle(bar(0, "100"))
        await house.buy("10")
        assert [h.by for h in halts(await house.candle(bar(1, "100", close="94")))] == ["limit:daily_loss"]

    async def test_a_fill_halts_by_what_it_costs(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_daily_loss="9", costs=replace(FREE, taker_fee_bps=Decimal(100)))
        await house.price("100")
        assert halts(await house.send(house.order(Side.BUY, "9"))) == []
        events = await house.send(house.order(Side.BUY, "0.1"))
        assert [answer.status for answer in answers(events)] == ["filled"]
        assert [h.reason for h in halts(events)] == ["lost 9.1 USD on 2026-01-01 (UTC), more than 9"]

    async def test_a_profit_of_the_day_may_be_lost_again(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_daily_loss="50")
        await house.price("100")
        await house.buy("10")
        await house.price("200")
        assert halts(await house.price("95")) == []

    async def test_a_new_day_begins_with_the_last_profit_and_loss_of_the_old_one(
        self, build: Callable[..., House]
    ) -> None:
        house = await opened(build, max_daily_loss="50")
        await house.price("100")
        await house.buy("10")
        await house.price("96")
        assert halts(await house.price("92", NEXT_DAY + 1)) == [], "40 yesterday, 40 today"
        assert halts(await house.price("91", NEXT_DAY + 2)) == []
        assert len(halts(await house.price("90.9", NEXT_DAY + 3))) == 1

    async def test_a_daily_candle_that_closes_at_midnight_belongs_to_the_day_it_ends(
        self, build: Callable[..., House]
    ) -> None:
        house = await opened(build, max_daily_loss="50", now=START - timedelta(days=1))
        await house.candle(bar(-600 - 1440, "100", timeframe="1d"))
        await house.buy("10")
        events = await house.candle(bar(-600, "100", close="94", timeframe="1d"))
        assert [h.reason for h in halts(events)] == ["lost 60 USD on 2026-01-01 (UTC), more than 50"]

    @pytest.mark.parametrize(
        ("instant", "day"),
        [
            (datetime(2026, 1, 2, tzinfo=UTC), date(2026, 1, 1)),
            (datetime(2026, 1, 2, microsecond=1, tzinfo=UTC), date(2026, 1, 2)),
            (datetime(2026, 1, 2, 23, 59, tzinfo=UTC), date(2026, 1, 2)),
        ],
    )
    def test_midnight_ends_a_day(self, instant: datetime, day: date) -> None:
        assert trading_day(instant) == day

    async def test_deposits_are_no_profit_and_withdrawals_no_loss(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_daily_loss="50")
        await house.price("100")
        await house.buy("10")
        await house.withdraw("8000")
        assert halts(await house.price("95")) == []
        await house.deposit("5000")
        assert [h.reason for h in halts(await house.price("94"))] == ["lost 60 USD on 2026-01-01 (UTC), more than 50"]

    async def test_a_fee_charged_to_the_account_is_a_loss(self, build: Callable[..., House], books: Books) -> None:
        house = await opened(build, max_daily_loss="50")
        await house.price("100")
        await house.buy("1")
        books.record(flow("custody", "51", CashFlowKind.FEE))
        assert len(halts(await house.price("100"))) == 1

    @pytest.mark.parametrize(("price", "told"), [("83.2987654321", "50.1"), ("83.3332987654", "50.0001")])
    async def test_a_reason_tells_cents_and_more_digits_only_where_they_decide(
        self, build: Callable[..., House], price: str, told: str
    ) -> None:
        house = await opened(build, max_daily_loss="50")
        await house.price("100")
        await house.buy("3")
        (halt,) = halts(await house.price(price))
        assert halt.reason == f"lost {told} USD on 2026-01-01 (UTC), more than 50"


class TestDrawdown:
    """How far equity fell below its highest."""

    async def test_exactly_the_limit_is_allowed_and_a_cent_more_halts(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_drawdown_pct="10")
        await house.price("100")
        await house.buy("100")
        await house.price("200")
        assert halts(await house.price("180")) == []
        (halt,) = halts(await house.price("179.9999"))
        assert halt.by == "limit:drawdown"
        assert halt.reason == "equity 17999.99 USD is 10.00005 % below its peak of 20000, more than 10 %"

    async def test_its_reason_tells_cents_and_hundredths_of_a_percent(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_drawdown_pct="10")
        await house.price("100")
        await house.buy("90")
        await house.price("133.33333333")
        (halt,) = halts(await house.price("110.12345678"))
        assert halt.reason == "equity 10911.11 USD is 16.07 % below its peak of 13000, more than 10 %"

    async def test_a_withdrawal_during_a_drawdown_does_not_deepen_it(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_drawdown_pct="10")
        await house.price("100")
        await house.buy("50")
        await house.price("84")
        assert house.state.marks_of("main") == LossMarks(
            date(2026, 1, 1), Decimal(0), Decimal(10_000), Decimal(10_000)
        )
        await house.withdraw("4200")
        found = house.state.marks_of("main")
        assert found is not None
        assert found.peak_equity == round(Decimal(10_000) * 5000 / 9200, 8), "8 % below, as before"
        assert halts(await house.price("84")) == []
        assert halts(await house.price("81.9")) == []
        assert len(halts(await house.price("81"))) == 1

    async def test_a_deposit_does_not_heal_it(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_drawdown_pct="10")
        await house.price("100")
        await house.buy("100")
        await house.price("91")
        await house.deposit("9100")
        found = house.state.marks_of("main")
        assert found is not None
        assert found.peak_equity == 20_000
        assert len(halts(await house.price("88.9"))) == 1

    async def test_an_emptied_account_starts_anew(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_drawdown_pct="10")
        await house.price("100")
        await house.buy("10")
        await house.price("95")
        await house.sell(close=True)
        await house.withdraw("9950")
        await house.deposit("100")
        await house.buy("1", symbol=BTC)
        found = house.state.marks_of("main")
        assert found is not None
        assert found.peak_equity == 100

    async def test_an_account_without_own_money_breaks_any_share_of_nothing(
        self, build: Callable[..., House]
    ) -> None:
        house = await opened(build, max_drawdown_pct="50")
        await house.price("100")
        assert (await house.buy("1", account="margin")).status == "filled"
        assert halts(await house.price("100")) == []
        (halt,) = halts(await house.price("99"))
        assert (halt.account, halt.by) == ("margin", "limit:drawdown")

    async def test_a_short_position_loses_when_the_price_rises(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_drawdown_pct="10")
        await house.deposit("1000", account="margin")
        await house.price("100")
        await house.sell("5", account="margin")
        assert halts(await house.price("120")) == []
        assert [h.account for h in halts(await house.price("121"))] == ["margin"]


class TestHaltByLimit:
    """What follows from a broken limit."""

    async def broken(self, house: House) -> list[Event]:
        await house.price("100")
        await house.buy("10")
        return await house.price("90")

    async def test_open_orders_are_cancelled(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_daily_loss="50")
        await house.price("100")
        await house.buy("10")
        resting = await house.sell("4", limit="120")
        events = await house.price("90")
        changed = [event.order for event in events if isinstance(event, OrderChanged)]
        assert [(order.id, order.status) for order in changed] == [(resting.order_id, OrderStatus.CANCELLED)]
        assert house.state.free_quantity("main", BTC) == 10

    async def test_only_the_account_that_lost_is_halted(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_daily_loss="50")
        await self.broken(house)
        assert house.state.halt_of("margin") is None
        assert (await house.buy("1", account="margin")).status == "filled"

    async def test_it_is_said_once(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_daily_loss="50", max_drawdown_pct="0.1")
        assert len(halts(await self.broken(house))) == 1
        assert halts(await house.price("80")) == []
        assert halts(await house.candle(bar(1, "70"))) == []

    async def test_an_order_that_finds_a_limit_broken_names_it_and_halts(
        self, build: Callable[..., House], books: Books
    ) -> None:
        house = await opened(build, max_daily_loss="50")
        await house.price("100")
        await house.buy("10")
        await house.sell("1", limit="120")
        books.record(flow("custody", "51", CashFlowKind.FEE))
        request = house.order(Side.SELL, "1")
        events = await house.send(request)
        expected = "a loss of at most 50 USD a day; lost 51 USD on 2026-01-01 (UTC), more than 50"
        refused, cancelled = answers(events)
        assert refused.reason == Reason("daily_loss", "account", "main", expected)
        assert cancelled.status == "cancelled"
        assert [h.by for h in halts(events)] == ["limit:daily_loss"]
        assert len(alerts(events)) == 1
        assert (await house.ask(request)) == refused, "the same answer again"
        assert house.books.count("orders") == 2

    async def test_it_survives_a_restart_that_cancels_what_was_left_open(
        self, build: Callable[..., House], books: Books
    ) -> None:
        first = await opened(build, max_daily_loss="50")
        await first.candle(bar(0, "100"))
        await first.buy("10")
        resting = await first.sell("4", limit="120")
        # Killed between the commit of the halt and the cancelling of the order.
        first.state.prices.note_candle(bar(1, "90"))
        await first.writer.submit(lambda connection: first.service._losses.watch(connection, ["main"]))
        first.close()
        second = await opened(build, max_daily_loss="50", now=at(2))
        assert [alert.code for alert in alerts(second.started)] == ["daily_loss"], "nobody heard the first one"
        assert second.stored_order(resting.order_id).status is OrderStatus.CANCELLED
        assert reason(await second.buy("1")).code == "trading_halted"
        assert books.ask(orders.halts)["main"].by == "limit:daily_loss"

    async def test_it_is_said_at_each_start_under_the_same_id(self, build: Callable[..., House]) -> None:
        first = await opened(build, max_daily_loss="50")
        (said,) = alerts(await self.broken(first))
        first.close()
        second = await opened(build, max_daily_loss="50", now=at(2))
        assert alerts(second.started) == [said]
        await second.resume()
        second.close()
        third = await opened(build, max_daily_loss="50", now=at(3))
        assert alerts(third.started) == [], "somebody has resumed"

    async def test_a_persons_resume_begins_day_and_peak_anew(self, build: Callable[..., House], books: Books) -> None:
        house = await opened(build, max_daily_loss="50", max_drawdown_pct="0.8")
        await self.broken(house)
        await house.price("85")
        assert halts(await house.resume())[0].halted is False
        assert halts(await house.price("85")) == []
        assert (await house.buy("1")).status == "filled"
        assert books.ask(marks.read)["main"].peak_equity == 9850
        assert halts(await house.price("81")) == []
        assert len(halts(await house.price("79"))) == 1

    async def test_a_resume_begins_anew_although_a_person_halted_on_top(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_daily_loss="50")
        await self.broken(house)
        await house.halt("lunch")
        await house.resume()
        assert halts(await house.price("90")) == []

    async def test_a_resume_of_a_persons_own_halt_forgives_no_loss(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_daily_loss="50")
        await house.price("100")
        await house.buy("10")
        await house.price("96")
        await house.halt("lunch")
        await house.resume()
        assert len(halts(await house.price("94"))) == 1

    async def test_resuming_without_prices_begins_anew_with_the_first_price(
        self, build: Callable[..., House], books: Books
    ) -> None:
        first = await opened(build, max_daily_loss="50")
        await self.broken(first)
        first.close()
        second = await opened(build, max_daily_loss="50", now=at(2))
        await second.resume()
        assert books.ask(marks.read) == {}
        assert halts(await second.price("80")) == []
        assert books.ask(marks.read)["main"].day_start_pnl == -200
        assert len(halts(await second.price("70"))) == 1


class TestRestart:
    """What a restart remembers: everything."""

    async def test_the_peak_is_not_forgotten(self, build: Callable[..., House]) -> None:
        first = await opened(build, max_drawdown_pct="10")
        await first.candle(bar(0, "100"))
        await first.buy("100")
        await first.candle(bar(1, "200"))
        await first.candle(bar(2, "185"))
        first.close()
        second = await opened(build, max_drawdown_pct="10", now=at(4))
        assert len(halts(await second.candle(bar(4, "179")))) == 1

    async def test_the_start_of_the_day_is_not_forgotten(self, build: Callable[..., House]) -> None:
        first = await opened(build, max_daily_loss="50")
        await first.candle(bar(0, "100"))
        await first.buy("10")
        await first.candle(bar(1, "96"))
        first.close()
        second = await opened(build, max_daily_loss="50", now=at(3))
        assert len(halts(await second.candle(bar(3, "94")))) == 1

    async def test_a_day_that_began_while_the_daemon_was_down_begins_with_the_last_candle(
        self, build: Callable[..., House]
    ) -> None:
        first = await opened(build, max_daily_loss="50")
        await first.candle(bar(0, "100"))
        await first.buy("10")
        await first.candle(bar(1, "96"))
        first.close()
        second = await opened(build, max_daily_loss="50", now=at(NEXT_DAY + 5))
        assert halts(await second.candle(bar(NEXT_DAY + 5, "91"))) == []
        assert len(halts(await second.candle(bar(NEXT_DAY + 6, "90.9")))) == 1

    async def test_marks_are_written_only_when_they_move(self, build: Callable[..., House], books: Books) -> None:
        house = await opened(build, max_daily_loss="50")
        await house.price("100", 0)
        await house.buy("10")
        await house.price("101", 1)

        def written() -> str:
            return str(books.ask(lambda c: c.exec_driver_sql("SELECT updated_at FROM risk_marks").scalar_one()))

        before = written()
        await house.price("100", 2)
        await house.price("99", 3)
        assert written() == before
        await house.price("101.5", 4)
        assert written() != before


class TestUnknownPrices:
    """Something held without a price: losses cannot be measured."""

    async def test_increases_are_refused_by_name_and_reductions_go_through(
        self, build: Callable[..., House], books: Books
    ) -> None:
        books.record(fill(1, quantity="1", symbol=ETH), fill(2, quantity="1"))
        house = await opened(build, max_drawdown_pct="10")
        await house.price("100")
        found = reason(await house.buy("1"))
        assert (found.code, found.value) == ("no_price", ETH)
        assert (await house.sell("0.5")).status == "filled"
        assert (await house.sell(close=True)).status == "filled"
        await house.price("10", symbol=ETH)
        assert (await house.buy("1")).status == "filled"


async def test_a_transaction_that_fails_moves_no_mark(build: Callable[..., House], books: Books) -> None:
    house = await opened(build, max_drawdown_pct="10")
    await house.price("100")
    await house.buy("10")
    before = house.state.marks_of("main"), house.state.last_pnl("main"), books.ask(marks.read)

    def work(connection: Any) -> None:
        house.state.prices.note_candle(bar(1, "300"))
        watch: LossWatch = house.service._losses
        assert watch.watch(connection, ["main"]) == []
        assert house.state.marks_of("main") != before[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await house.writer.submit(work)
    assert (house.state.marks_of("main"), house.state.last_pnl("main"), books.ask(marks.read)) == before


async def test_a_halt_whose_transaction_fails_did_not_happen(build: Callable[..., House], books: Books) -> None:
    house = await opened(build, max_daily_loss="50")
    await house.price("100")
    await house.buy("10")

    def work(connection: Any) -> None:
        house.state.prices.note_candle(bar(1, "50"))
        assert len(house.service._losses.watch(connection, ["main"])) == 1
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await house.writer.submit(work)
    assert house.state.halt_of("main") is None
    assert books.ask(orders.halts) == {}
    assert len(halts(await house.price("50", 3))) == 1


async def test_with_the_limits_off_nothing_is_measured_or_stored(house: House, books: Books) -> None:
    await house.price("100")
    await house.buy("10")
    await house.price("1")
    assert house.state.marks_of("main") is None
    assert books.count("risk_marks") == 0


async def test_the_writers_thread_measures_while_fills_are_under_way(build: Callable[..., House]) -> None:
    house = build(limits=RiskLimits(max_drawdown_pct=Decimal(1)), threaded=True)
    await house.open()
    await house.price("100")
    for _ in range(20):
        events = [*await house.send(house.order(Side.BUY, notional="5000")), *await house.price("100")]
        events += [*await house.send(house.order(Side.SELL, close=True)), *await house.price("100")]
        assert halts(events) == []
