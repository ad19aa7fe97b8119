"""The paper exchange: each formula with its numbers worked out by hand."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from execution.model import Candle, Reason, Side, TimeInForce
from execution.paper import PaperCosts
from tests.execution.house import FREE, House, answers, at, bar, reason

BUY, SELL = Side.BUY, Side.SELL
Opener = Callable[..., Awaitable[House]]


def costs(**changed: str) -> PaperCosts:
    """A free paper exchange but for what is named."""
    return replace(FREE, **{name: Decimal(value) for name, value in changed.items()})


@pytest.fixture
def exchange(build: Callable[..., House]) -> Opener:
    """Opens houses with the costs named, after one bar at 100."""

    async def make(**changed: str) -> House:
        house = build(costs=costs(**changed))
        await house.open()
        await house.candle(bar(0, "100"))
        return house

    return make


async def market(house: House, side: Side, candle: Candle, **wish: Any) -> tuple[str, str, str]:
    """Status, quantity and price of a market order decided before `candle`, filled by it."""
    await house.ask(house.order(side, decided=1, triggered_by="bot:a", **wish))
    (answer,) = answers(await house.candle(candle))
    (trade,) = answer.trades
    return str(answer.status), format(trade.quantity.normalize(), "f"), format(trade.price.normalize(), "f")


class TestMarketOrders:
    """At the open of the next bar, moved by what trading costs."""

    async def test_the_defaults_are_those_of_the_reference(self) -> None:
        values = PaperCosts()
        assert (values.taker_fee_bps, values.maker_fee_bps) == (60, 40)
        assert (values.half_spread_bps, values.slippage_bps, values.slippage_cap_bps) == (Decimal("0.5"), 5, 50)
        assert values.max_volume_share == Decimal("0.1")

    async def test_without_costs_it_fills_at_the_next_open_at_the_time_of_the_open(self, exchange: Opener) -> None:
        house = await exchange()
        assert await market(house, BUY, bar(1, "101", "110", "90", "95"), quantity="2") == ("filled", "2", "101")
        assert house.trades()[0].executed_at == at(1)
        assert house.trades()[0].fee == 0

    async def test_half_the_spread_is_paid_on_each_side(self, exchange: Opener) -> None:
        house = await exchange(half_spread_bps="10")
        assert await market(house, BUY, bar(1, "100"), quantity="2") == ("filled", "2", "100.1")
        await house.ask(house.order(SELL, "2", decided=2, triggered_by="bot:a"))
        (answer,) = answers(await house.candle(bar(2, "100")))
        assert answer.trades[0].price == Decimal("99.9")

    async def test_slippage_grows_with_the_share_of_the_volume(self, exchange: Opener) -> None:
        house = await exchange(slippage_bps="50", slippage_cap_bps="500")
        # 50 bp x 2 / 10 = 10 bp
        assert await market(house, BUY, bar(1, "100", "120", volume="10"), quantity="2") == ("filled", "2", "100.1")

    async def test_slippage_is_capped(self, exchange: Opener) -> None:
        house = await exchange(slippage_bps="1000", slippage_cap_bps="50")
        assert await market(house, BUY, bar(1, "100", "120", volume="2"), quantity="2") == ("filled", "2", "100.5")

    async def test_slippage_stays_inside_the_bar_but_half_the_spread_does_not(self, exchange: Opener) -> None:
        house = await exchange(slippage_bps="1000", slippage_cap_bps="1000", half_spread_bps="10")
        # 10 % of slippage would give 110; the bar's high is 101; then 10 bp of the open for the spread
        assert await market(house, BUY, bar(1, "100", "101", volume="2"), quantity="2") == ("filled", "2", "101.1")

    async def test_spread_and_slippage_are_added_up(self, exchange: Opener) -> None:
        house = await exchange(slippage_bps="1000", slippage_cap_bps="1000", half_spread_bps="500")
        # 100 x (1 + (0.05 + 0.10)), not 100 x 1.05 x 1.10
        assert await market(house, BUY, bar(1, "100", "120", volume="2"), quantity="2") == ("filled", "2", "115")

    async def test_a_sell_slips_downwards_and_not_below_the_low(self, exchange: Opener) -> None:
        house = await exchange(slippage_bps="1000", slippage_cap_bps="1000")
        await house.buy("2")
        assert await market(house, SELL, bar(1, "100", low="99", volume="2"), quantity="2") == ("filled", "2", "99")

    @pytest.mark.parametrize(
        ("quantity", "price", "bps", "fee"),
        [
            ("1", "100", "60", "0.6"),
            ("0.00000001", "50000", "60", "0.000003"),
            ("0.00000125", "100", "1", "0.00000001"),  # 0.0000000125 rounds down
            ("0.0000015", "100", "100", "0.0000015"),
            ("0.00005", "1", "3", "0.00000002"),  # 0.000000015: the even neighbour is above
            ("0.00005", "1", "5", "0.00000002"),  # 0.000000025: the even neighbour is below
        ],
    )
    async def test_fees_have_eight_decimals_rounded_half_to_even(
        self, exchange: Opener, quantity: str, price: str, bps: str, fee: str
    ) -> None:
        house = await exchange(taker_fee_bps=bps)
        house.state.instruments = {
            symbol: replace(i, minimum_notional=Decimal(0)) for symbol, i in house.state.instruments.items()
        }
        await market(house, BUY, bar(1, price), quantity=quantity)
        (trade,) = house.trades()
        assert trade.fee == Decimal(fee)
        assert trade.cash_effect == -(trade.quantity * trade.price) - trade.fee
        assert trade.fee_asset == "USD"

    async def test_a_notional_buys_what_it_pays_for_with_the_fee_rounded_down(self, exchange: Opener) -> None:
        house = await exchange(taker_fee_bps="60")
        # floor((1000 / 1.006) / 3 / 1e-8) x 1e-8
        status, quantity, _ = await market(house, BUY, bar(1, "3"), notional="1000")
        assert (status, quantity) == ("filled", "331.34526176")
        (trade,) = house.trades()
        assert Decimal("999.9999") < -trade.cash_effect <= 1000

    async def test_a_notional_is_sized_at_the_price_that_is_paid_and_in_whole_increments(
        self, exchange: Opener
    ) -> None:
        house = await exchange(half_spread_bps="1000")
        await house.candle(bar(0, "10", symbol="LOT"))
        # 100 / 11 = 9.09.. -> 9 (increment 0.5)
        assert await market(house, BUY, bar(1, "10", symbol="LOT"), notional="100", symbol="LOT") == (
            "filled", "9", "11",
        )  # fmt: skip

    async def test_a_notional_below_one_increment_is_rejected_with_the_venues_name(self, exchange: Opener) -> None:
        house = await exchange()
        await house.candle(bar(0, "100", symbol="LOT"))
        await house.ask(house.order(BUY, notional="40", symbol="LOT", decided=1, triggered_by="bot:a"))
        (answer,) = answers(await house.candle(bar(1, "100", symbol="LOT")))
        expected = "at least 2, more than 40 USD buys at this price"
        refusal = Reason("PREVIEW_INVALID_BASE_SIZE_TOO_SMALL", "quantity", "0", expected)
        assert (answer.status, answer.reason) == ("rejected", refusal)
        at_once = await house.buy(notional="40", symbol="LOT")
        assert (at_once.status, at_once.reason) == ("rejected", refusal)

    @pytest.mark.parametrize("wish", [{}, {"limit": "100"}, {"decided": 1, "limit": "100"}])
    async def test_a_notional_below_the_minimum_quantity_is_rejected_with_the_venues_name(
        self, exchange: Opener, wish: dict[str, Any]
    ) -> None:
        house = await exchange()
        await house.candle(bar(0, "100", symbol="LOT"))
        answer = await house.buy(notional="199", symbol="LOT", **wish)
        expected = "at least 2, more than 199 USD buys at this price"
        refusal = Reason("PREVIEW_INVALID_BASE_SIZE_TOO_SMALL", "quantity", "1.5", expected)
        assert (answer.status, answer.reason) == ("rejected", refusal)
        assert (await house.buy(notional="200", symbol="LOT", **wish)).status != "rejected"


class TestVolume:
    """An order takes at most its share of a bar."""

    async def test_the_rest_of_a_market_order_is_cancelled(self, exchange: Opener) -> None:
        house = await exchange(max_volume_share="0.1")
        await house.buy("5", decided=1, triggered_by="bot:a")
        (answer,) = answers(await house.candle(bar(1, "100", volume="20")))
        expected = Reason("volume", "quantity", None, "the rest exceeds the bar's share of volume")
        assert (answer.status, answer.trades[0].quantity, answer.reason) == ("cancelled", 2, expected)
        assert await house.candle(bar(2, "100", volume="20")) == []

    async def test_the_share_is_rounded_down_to_the_increment(self, exchange: Opener) -> None:
        house = await exchange(max_volume_share="0.1")
        await house.candle(bar(0, "10", symbol="LOT"))
        await house.buy("5", symbol="LOT", decided=1, triggered_by="bot:a")
        (answer,) = answers(await house.candle(bar(1, "10", symbol="LOT", volume="29")))
        assert answer.trades[0].quantity == Decimal("2.5")

    async def test_several_orders_share_one_bar(self, exchange: Opener) -> None:
        house = await exchange(max_volume_share="0.1")
        for _ in range(3):
            await house.buy("1.5", decided=1, triggered_by="bot:a")
        said = answers(await house.candle(bar(1, "100", volume="20")))
        assert [sum(t.quantity for t in a.trades) for a in said] == [Decimal("1.5"), Decimal("0.5"), 0]
        assert [a.status for a in said] == ["filled", "cancelled", "cancelled"]

    async def test_a_bar_without_volume_fills_nothing_while_there_is_a_cap(self, exchange: Opener) -> None:
        house = await exchange(max_volume_share="0.1")
        await house.buy("1", decided=1, triggered_by="bot:a")
        await house.buy("1", limit="99", decided=1, triggered_by="bot:a")
        assert await house.candle(bar(1, "90", volume="0")) == []
        said = answers(await house.candle(bar(3, "95", volume="100")))
        assert [(a.status, a.trades[0].price, a.trades[0].executed_at) for a in said] == [("filled", 95, at(3))] * 2

    async def test_a_bar_without_volume_fills_as_any_other_when_the_cap_is_off(self, exchange: Opener) -> None:
        house = await exchange(slippage_bps="5", slippage_cap_bps="50")
        # volume unknown: slippage as if all of it was taken, here outside of the bar and so clamped
        assert await market(house, BUY, bar(1, "100", volume="0"), quantity="1") == ("filled", "1", "100")

    async def test_without_a_cap_any_quantity_is_filled(self, exchange: Opener) -> None:
        house = await exchange()
        assert await market(house, BUY, bar(1, "1", volume="3"), quantity="99") == ("filled", "99", "1")


class TestLimitOrders:
    """Filled only when the price trades through the limit."""

    @pytest.mark.parametrize(
        ("side", "limit", "candle", "price"),
        [
            (BUY, "90", bar(1, "95", low="89"), "90"),
            (BUY, "90", bar(1, "85", "95", "80"), "85"),
            (BUY, "90", bar(1, "90", low="89"), "90"),
            (SELL, "110", bar(1, "105", high="111"), "110"),
            (SELL, "110", bar(1, "115", "120", "110"), "115"),
        ],
    )
    async def test_it_fills_at_the_open_if_it_gapped_and_at_the_limit_otherwise(
        self, exchange: Opener, side: Side, limit: str, candle: Candle, price: str
    ) -> None:
        house = await exchange(half_spread_bps="10", slippage_bps="10", slippage_cap_bps="50", maker_fee_bps="40")
        await house.buy("5")
        await house.ask(house.order(side, "2", limit=limit))
        (answer,) = answers(await house.candle(candle))
        (trade,) = answer.trades
        assert (trade.price, trade.fee) == (Decimal(price), 2 * Decimal(price) * Decimal("0.004"))
        assert at(1) <= trade.executed_at < at(2)

    @pytest.mark.parametrize(("side", "candle"), [(BUY, bar(1, "95", low="90")), (SELL, bar(1, "105", high="110"))])
    async def test_a_price_that_only_touches_the_limit_fills_nothing(
        self, exchange: Opener, side: Side, candle: Candle
    ) -> None:
        house = await exchange()
        await house.buy("5")
        await house.ask(house.order(side, "2", limit="90" if side is BUY else "110"))
        assert await house.candle(candle) == []

    async def test_the_rest_rests_when_the_bar_had_too_little_volume(self, exchange: Opener) -> None:
        house = await exchange(max_volume_share="0.5")
        placed = await house.buy("5", limit="90")
        await house.candle(bar(1, "89", volume="4"))
        await house.candle(bar(2, "95", volume="400"))
        await house.candle(bar(3, "88", volume="400"))
        assert [(t.quantity, t.price) for t in house.trades(placed.order_id)] == [(2, 89), (3, 88)]

    async def test_it_never_costs_more_than_its_notional_at_whatever_prices_it_fills(self, exchange: Opener) -> None:
        house = await exchange(max_volume_share="0.5", maker_fee_bps="40", taker_fee_bps="60")
        placed = await house.buy(notional="1000", limit="99.5")
        for minute, open_ in enumerate(("99", "50", "20", "99", "99"), 1):
            await house.candle(bar(minute, open_, volume="8"))
        fills = house.trades(placed.order_id)
        assert len(fills) > 1
        assert -sum(trade.cash_effect for trade in fills) <= 1000
        assert house.stored_order(placed.order_id).status == "filled"

    async def test_one_that_can_be_filled_at_once_takes_the_last_price_as_a_taker(self, exchange: Opener) -> None:
        house = await exchange(taker_fee_bps="60", half_spread_bps="10")
        answer = await house.buy("1", limit="101")
        assert (answer.status, answer.trades[0].price, answer.trades[0].fee) == (
            "filled", Decimal("100.1"), Decimal("0.6006"),
        )  # fmt: skip
        assert (await house.buy("1", limit="100.05")).status == "accepted", "with the spread it is too dear"

    async def test_immediate_or_cancel_never_rests(self, exchange: Opener) -> None:
        house = await exchange()
        answer = await house.buy("1", limit="99", time_in_force=TimeInForce.IOC)
        assert (answer.status, reason(answer)) == (
            "cancelled", Reason("not_marketable", "limit_price", "99", "a limit at which it fills at once"),
        )  # fmt: skip
        await house.buy("1", limit="99", time_in_force=TimeInForce.IOC, decided=1, triggered_by="bot:a")
        (answer,) = answers(await house.candle(bar(1, "100")))
        assert (answer.status, reason(answer).code) == ("cancelled", "not_marketable")

    async def test_a_candle_that_had_opened_before_the_order_cannot_fill_it(self, exchange: Opener) -> None:
        house = await exchange()
        house.clock.advance(at(1.5))
        await house.buy("1", limit="90")
        assert await house.candle(bar(1, "80")) == []
        assert len(answers(await house.candle(bar(2, "80")))) == 1


class TestLastPrices:
    """With live prices an order fills at once, and a limit when a price trades through it."""

    async def test_a_market_order_fills_at_the_last_price_with_spread_and_slippage(self, exchange: Opener) -> None:
        house = await exchange(slippage_bps="50", slippage_cap_bps="500", half_spread_bps="10")
        await house.price("200", 2)
        answer = await house.buy("20")
        # 50 bp x 20 / 1000 of the last bar's volume = 1 bp, and 10 bp of spread
        assert answer.trades[0].price == Decimal("200.22")
        assert answer.trades[0].executed_at == at(2)

    async def test_a_limit_that_fills_at_once_slips_like_a_market_order(self, exchange: Opener) -> None:
        house = await exchange(slippage_bps="50", slippage_cap_bps="500", half_spread_bps="10")
        await house.price("200", 2)
        answer = await house.buy("20", limit="210")
        assert answer.trades[0].price == Decimal("200.22")

    async def test_a_resting_limit_fills_at_its_limit_as_a_maker(self, exchange: Opener) -> None:
        house = await exchange(maker_fee_bps="40", taker_fee_bps="60")
        await house.buy("1", limit="90")
        assert await house.price("90", 2) == []
        (answer,) = answers(await house.price("80", 3))
        assert (answer.trades[0].price, answer.trades[0].fee) == (90, Decimal("0.36"))

    async def test_an_order_that_waits_for_its_candle_is_not_filled_by_a_price(self, exchange: Opener) -> None:
        house = await exchange()
        await house.buy("1", decided=1, triggered_by="bot:a")
        assert await house.price("80", 1) == []
        assert len(answers(await house.candle(bar(1, "101")))) == 1


@pytest.mark.parametrize("order", [("1", None), (None, "50")])
async def test_two_runs_of_the_same_day_make_the_same_trades_with_the_same_ids(
    build: Callable[..., House], tmp_path: object, order: tuple[str | None, str | None]
) -> None:
    from pathlib import Path

    from tests.execution.house import Books

    seen = []
    for run in range(2):
        folder = Path(str(tmp_path)) / str(run)
        folder.mkdir()
        books = Books(folder)
        house = House(books, costs=PaperCosts())
        await house.open()
        await house.candle(bar(0, "100"))
        for number in range(3):
            await house.buy(order[0], notional=order[1], request_id=f"r{number}", decided=1, triggered_by="bot:a")
        await house.candle(bar(1, "101", "102", "100", volume="500"))
        seen.append([(t.id, t.hash) for t in house.trades()])
        house.close()
        books.close()
    assert seen[0] == seen[1]
    assert len(seen[0]) == 3
