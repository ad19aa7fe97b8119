"""Limits on orders: rate, price collar and exposure, each at its edge, and what they never refuse."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from execution import ledger
from execution.exposure import exposures, total
from execution.ledger import LedgerTail
from execution.limits import RiskLimits
from execution.model import Account, Reason, Responded, Side
from tests.execution.house import BTC, START, Books, House, at, bar, fill, reason

BUY, SELL = Side.BUY, Side.SELL
ETH = "ETH-USD"


async def opened(build: Callable[..., House], **limits: Any) -> House:
    house = build(limits=RiskLimits(**{name: Decimal(value) for name, value in limits.items()}))  # type: ignore[arg-type]  # each is a Decimal
    await house.open()
    return house


def refused(answer: Responded) -> Reason:
    assert answer.status == "refused", answer
    return reason(answer)


def test_every_limit_is_off_by_default() -> None:
    limits = asdict(RiskLimits(request_expiry=timedelta(0)))
    assert not any(limits.values())
    assert not RiskLimits().on_exposure
    assert not RiskLimits().on_losses


class TestOrderRate:
    """At most so many orders in any 60 seconds."""

    async def house(self, build: Callable[..., House], most: int = 2, **more: Any) -> House:
        house = build(limits=RiskLimits(max_orders_per_minute=most), **more)
        await house.open()
        return house

    async def test_one_order_more_than_the_limit_is_refused_until_the_first_is_a_minute_old(
        self, build: Callable[..., House]
    ) -> None:
        house = await self.house(build)
        await house.price("100", 0)
        assert (await house.buy("1")).status == "filled"
        house.clock.advance(at(0.5))
        assert (await house.buy("1")).status == "filled"
        expected = "at most 2 orders in 60 s; the next one from 2026-01-01T10:01:00Z"
        assert refused(await house.buy("1")) == Reason("order_rate", "account", "main", expected)
        house.clock.advance(at(1) - timedelta(microseconds=1))
        assert refused(await house.buy("1")).code == "order_rate"
        house.clock.advance(at(1))
        assert (await house.buy("1")).status == "filled"
        assert refused(await house.buy("1")).expected == (
            "at most 2 orders in 60 s; the next one from 2026-01-01T10:01:30Z"
        )

    async def test_refused_orders_do_not_count(self, build: Callable[..., House]) -> None:
        house = await self.house(build)
        await house.price("100")
        for _ in range(5):
            assert refused(await house.buy("1000")).code == "insufficient_cash"
        assert (await house.buy("1")).status == "filled"

    async def test_closing_a_position_is_exempt_but_counts(self, build: Callable[..., House]) -> None:
        house = await self.house(build)
        await house.price("100")
        await house.buy("1")
        await house.buy("1")
        assert (await house.sell(close=True)).status == "filled"
        house.clock.advance(at(0.9))
        assert refused(await house.buy("1")).code == "order_rate"

    async def test_each_account_has_a_rate_of_its_own(self, build: Callable[..., House]) -> None:
        house = await self.house(build, most=1)
        await house.price("100")
        assert (await house.buy("1")).status == "filled"
        assert (await house.buy("1", account="margin")).status == "filled"
        assert refused(await house.buy("1")).code == "order_rate"

    async def test_a_restart_forgets_no_order(self, build: Callable[..., House]) -> None:
        first = await self.house(build)
        await first.candle(bar(0, "100"))
        await first.buy("1")
        first.close()
        second = await self.house(build, now=at(1.5))
        assert (await second.buy("1")).status == "filled"
        assert refused(await second.buy("1")).code == "order_rate"
        second.close()
        third = await self.house(build, now=at(2))
        assert (await third.buy("1")).status == "filled"
        assert refused(await third.buy("1")).code == "order_rate"

    async def test_an_order_whose_transaction_failed_does_not_count(self, build: Callable[..., House]) -> None:
        house = await self.house(build)
        await house.price("100")

        def work(connection: Any) -> None:
            house.state.counted("main", START)
            raise RuntimeError

        with pytest.raises(RuntimeError):
            await house.writer.submit(work)
        assert house.state.accepted_after("main", at(-1)) == ()


class TestPriceCollar:
    """A limit far on the wrong side of the market is a slip."""

    @pytest.mark.parametrize(("limit", "fits"), [("105", True), ("105.01", False), ("1", True)])
    async def test_a_buy_may_be_so_far_above_the_last_price(
        self, build: Callable[..., House], limit: str, fits: bool
    ) -> None:
        house = await opened(build, price_collar_pct="5")
        await house.price("100")
        answer = await house.buy("1", limit=limit)
        if fits:
            assert answer.status in ("filled", "accepted")
        else:
            expected = "at most 105, 5 % above the last price 100"
            assert refused(answer) == Reason("price_collar", "limit_price", "105.01", expected)

    @pytest.mark.parametrize(("limit", "fits"), [("95", True), ("94.99", False), ("1000", True)])
    async def test_a_sell_may_be_so_far_below_the_last_price(
        self, build: Callable[..., House], limit: str, fits: bool
    ) -> None:
        house = await opened(build, price_collar_pct="5")
        await house.price("100")
        await house.buy("1")
        answer = await house.sell("1", limit=limit)
        if fits:
            assert answer.status in ("filled", "accepted")
        else:
            expected = "at least 95, 5 % below the last price 100"
            assert refused(answer) == Reason("price_collar", "limit_price", "94.99", expected)

    async def test_without_any_last_price_nothing_can_be_compared(self, build: Callable[..., House]) -> None:
        house = await opened(build, price_collar_pct="5")
        found = refused(await house.buy("1", limit="100"))
        assert found == Reason("no_price", "symbol", BTC, "a last price to compare the limit price with")

    async def test_a_market_order_has_no_limit_to_compare(self, build: Callable[..., House]) -> None:
        house = await opened(build, price_collar_pct="0.01")
        await house.price("100")
        assert (await house.buy("1")).status == "filled"


class TestSymbolExposure:
    """What is held and on order of one symbol."""

    async def test_exactly_the_limit_is_allowed_and_a_cent_more_is_not(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_symbol_exposure="500")
        await house.price("100")
        assert (await house.buy(notional="500")).status == "filled"
        found = refused(await house.buy(notional="1"))
        expected = "an exposure of at most 500 USD in BTC-USD, not 501"
        assert found == Reason("symbol_exposure", "notional", "1", expected)

    async def test_a_quantity_counts_at_the_last_price_or_its_limit(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_symbol_exposure="500")
        await house.price("100")
        assert refused(await house.buy("5.01")).expected == "an exposure of at most 500 USD in BTC-USD, not 501"
        assert refused(await house.buy("10", limit="50.01")).field == "quantity"
        assert (await house.buy("10", limit="50")).status == "accepted"

    async def test_open_buys_count_until_they_are_cancelled(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_symbol_exposure="500")
        await house.price("100")
        resting = await house.buy("5", limit="90")
        assert refused(await house.buy("1")).expected == "an exposure of at most 500 USD in BTC-USD, not 550"
        assert resting.order_id is not None
        await house.cancel(resting.order_id)
        assert (await house.buy("5")).status == "filled"

    async def test_the_position_counts_at_the_last_price_whatever_it_cost(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_symbol_exposure="500")
        await house.price("100")
        await house.buy("4")
        await house.price("130")
        assert refused(await house.buy(notional="1")).code == "symbol_exposure"
        await house.price("120")
        assert (await house.buy(notional="20")).status == "filled"

    async def test_reducing_and_closing_is_allowed_far_above_the_limit(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_symbol_exposure="500", max_total_exposure="500")
        await house.price("100")
        await house.buy("5")
        await house.price("1000")
        assert (await house.sell("1")).status == "filled"
        assert (await house.sell(notional="1000")).status == "filled"
        assert (await house.sell("1", limit="2000")).status == "accepted"
        assert (await house.sell(close=True)).status == "filled"

    async def test_another_symbol_has_a_limit_of_its_own(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_symbol_exposure="500")
        await house.price("100")
        await house.price("10", symbol=ETH)
        assert (await house.buy("5")).status == "filled"
        assert (await house.buy("50", symbol=ETH)).status == "filled"

    async def test_what_is_held_without_a_price_is_never_counted_as_nothing(
        self, build: Callable[..., House], books: Books
    ) -> None:
        books.record(fill(1, quantity="1", symbol=ETH))
        house = await opened(build, max_symbol_exposure="500")
        found = refused(await house.buy("1", symbol=ETH, limit="10"))
        assert found == Reason(
            "no_price", "symbol", ETH, "a price of ETH-USD, which is held, to test the limits of risk"
        )
        await house.price("100")
        assert (await house.buy("1")).status == "filled", "of another symbol than the one without a price"
        assert (await house.sell("1", symbol=ETH, limit="10")).status == "accepted", "it reduces"


class TestShortPositions:
    """Exposure is the size of a position, whichever way it points."""

    async def test_a_short_position_counts_like_a_long_one(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_symbol_exposure="500")
        await house.price("100")
        assert (await house.sell("5", account="margin")).status == "filled"
        found = refused(await house.sell("0.01", account="margin"))
        assert found.expected == "an exposure of at most 500 USD in BTC-USD, not 501"
        assert refused(await house.sell(notional="1", account="margin")).code == "symbol_exposure"

    async def test_buying_a_short_position_back_is_allowed_and_turning_it_too_far_is_not(
        self, build: Callable[..., House]
    ) -> None:
        house = await opened(build, max_symbol_exposure="500")
        await house.price("100")
        await house.sell("5", account="margin")
        await house.price("200")
        assert refused(await house.buy("11", account="margin")).code == "symbol_exposure"
        assert (await house.buy("2", account="margin")).status == "filled"
        assert (await house.buy(close=True, account="margin")).status == "filled"

    async def test_open_orders_of_both_sides_count_by_the_worse_outcome(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_symbol_exposure="500")
        await house.price("100")
        await house.buy("2", account="margin")
        await house.sell("4", account="margin", limit="110")
        (found,) = exposures("margin", house.state).values()
        assert found.value == 200, "now; if the SELL fills it is 200 the other way"
        assert (await house.buy("3", account="margin", limit="99")).status == "accepted"
        assert refused(await house.buy("1", account="margin", limit="99")).code == "symbol_exposure"
        assert (await house.sell("3", account="margin", limit="110")).status == "accepted"
        assert refused(await house.sell("0.01", account="margin", limit="110")).code == "symbol_exposure"

    async def test_two_orders_that_reduce_one_by_one_do_not_turn_the_position_together(
        self, build: Callable[..., House]
    ) -> None:
        house = await opened(build, max_symbol_exposure="100")
        await house.price("10")
        await house.sell("10", account="margin")
        await house.price("100")
        assert (await house.buy("10", account="margin", limit="90")).status == "accepted"
        assert (await house.buy("10", account="margin", limit="90")).status == "accepted", "no more than there was"
        assert refused(await house.buy("10", account="margin", limit="90")).code == "symbol_exposure"


class TestTotalExposure:
    """All symbols of an account together."""

    async def test_exactly_the_limit_is_allowed_and_a_cent_more_is_not(self, build: Callable[..., House]) -> None:
        house = await opened(build, max_total_exposure="500")
        await house.price("100")
        await house.price("10", symbol=ETH)
        await house.buy("3")
        assert (await house.buy("20", symbol=ETH)).status == "filled"
        found = refused(await house.buy(notional="1", symbol=ETH))
        expected = "a total exposure of at most 500 USD, not 501"
        assert found == Reason("total_exposure", "notional", "1", expected)
        assert total(exposures("main", house.state).values()) == 500

    async def test_anything_held_without_a_price_stops_increases_by_name(
        self, build: Callable[..., House], books: Books
    ) -> None:
        books.record(fill(1, quantity="1", symbol=ETH))
        house = await opened(build, max_total_exposure="500")
        await house.price("100")
        assert refused(await house.buy("1")).value == ETH
        assert total(exposures("main", house.state).values()) is None
        await house.price("10", symbol=ETH)
        assert (await house.buy("1")).status == "filled"

    async def test_accounts_do_not_share_it(self, build: Callable[..., House], books: Books) -> None:
        books.do(lambda c: ledger.add_account(c, Account("other"), START))
        house = await opened(build, max_total_exposure="500")
        await house.deposit("1000", account="other")
        await house.price("100")
        assert (await house.buy("5")).status == "filled"
        assert (await house.buy("5", account="other")).status == "filled"


async def test_limits_read_what_other_processes_recorded(build: Callable[..., House], books: Books) -> None:
    house = await opened(build, max_symbol_exposure="500")
    await house.price("100")
    await house.buy("1")
    books.tail = LedgerTail()
    books.writer.join(books.tail)
    books.record(fill(7, quantity="4"))
    assert refused(await house.buy("1")).code == "symbol_exposure"
