"""The paper exchange in spot, whatever is asked of it: nothing goes below zero, nothing is lost, all has a name."""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.exact import ZERO
from execution import orders
from execution.exposure import exposures, total
from execution.limits import RiskLimits
from execution.model import (
    AlertRaised,
    CashFlowKind,
    Event,
    HaltChanged,
    OrderStatus,
    OrderType,
    Responded,
    ResponseStatus,
    Side,
    Trade,
)
from execution.paper import PaperCosts
from tests.execution.house import Books, House, answers, bar
from tests.properties.trading import SYMBOLS, candles, decimals, run, wishes

VENUE_NAMES = {"INSUFFICIENT_FUND", "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL", "volume", "not_marketable", "expired"}
REFUSALS = {
    "below_minimum", "above_maximum", "quantity_increment", "price_increment", "insufficient_cash",
    "insufficient_quantity", "nothing_to_close", "no_price", "order_final", "unknown_order", "trading_halted",
    "price_collar", "symbol_exposure", "total_exposure", "order_rate", "daily_loss", "drawdown",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("template")
asked = wishes(1, decimals("0.01", "300", 2), decimals("0.5", "1500", 2), 2)
whole_cash = st.fixed_dictionaries(
    {
        "side": st.just(Side.BUY),
        "symbol": st.sampled_from(SYMBOLS),
        "size": st.tuples(st.just("quantity"), st.integers(50, 100).map(str)),
        "limit": st.none(),
        "waits": st.just(True),
    }
)
"""Buys that can be paid at 10, and no longer when the next bar opens higher."""
steps = st.one_of(
    st.tuples(st.just("order"), asked),
    st.tuples(st.just("order"), asked),
    st.tuples(st.just("order"), whole_cash),
    candles("3000"),
    candles("3000"),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("deposit"), decimals("0.01", "500", 2)),
    st.tuples(st.just("withdraw"), decimals("0.01", "1500", 2)),
    st.tuples(st.just("restart"), st.none()),
)
some_costs = st.sampled_from(
    [
        PaperCosts(),
        PaperCosts(slippage_bps=Decimal(500), slippage_cap_bps=Decimal(900), max_volume_share=Decimal("0.5")),
        PaperCosts(taker_fee_bps=Decimal(900), maker_fee_bps=ZERO, max_volume_share=Decimal("0.01")),
        PaperCosts(ZERO, ZERO, ZERO, ZERO, ZERO, Decimal(1)),
    ]
)


class Exchange:
    """A spot account at the exchange; only bots' orders, which wait for candles, if `waiting`."""

    def __init__(self, folder: Path, costs: PaperCosts, limits: RiskLimits | None = None) -> None:
        self.books = Books(folder, cash="1000")
        self.costs, self.limits = costs, limits
        self.house = House(self.books, costs=costs, limits=limits)
        self.minute = 0
        self.asked: list[str] = []
        self.events: list[Event] = []

    async def open(self) -> None:
        await self.house.open()
        for symbol in SYMBOLS:
            await self.house.candle(bar(0, "10", symbol=symbol))

    async def step(self, what: str, details: Any) -> list[Event]:
        """One thing that happens, and what came of it."""
        house = self.house
        events: list[Event] = []
        if what == "order":
            events = await self.order(**details)
        elif what == "candle":
            symbol, open_, *rest, volume = details
            self.minute += 1
            high, low = (str(pick(map(Decimal, (open_, *rest)))) for pick in (max, min))
            candle = bar(self.minute, open_, high, low, rest[0], volume=volume, symbol=symbol)
            events = await house.candle(candle)
            self.check_share(candle.volume, symbol, events)
        elif what == "cancel" and self.asked:
            events = await house.send_cancel(self.asked[details % len(self.asked)])
        elif what == "deposit":
            events = await house.send(house.cash_request(CashFlowKind.DEPOSIT, details))
        elif what == "withdraw":
            events = await house.send(house.cash_request(CashFlowKind.WITHDRAWAL, details))
        elif what == "restart":
            house.close()
            self.house = House(self.books, costs=self.costs, limits=self.limits, now=house.clock.now())
            events = await self.house.open()
        self.events += events
        self.check_names(events)
        return events

    async def order(
        self, side: Side, symbol: str, size: tuple[str, Any], limit: str | None, waits: bool
    ) -> list[Event]:
        named = {size[0]: size[1]}
        quantity = named.pop("quantity", None)
        decided = self.minute + 1 if waits else None
        wish = self.house.order(side, quantity, symbol=symbol, limit=limit, decided=decided, **named)
        self.asked.append(wish.request_id)
        return await self.house.send(wish)

    def check_share(self, volume: Decimal, symbol: str, events: list[Event]) -> None:
        """What one bar filled, all orders together; a halt that it brings about answers for some of them again."""
        trades = {trade.id: trade for answer in answers(events) for trade in answer.trades if self.in_last_bar(trade)}
        taken = sum((trade.quantity for trade in trades.values()), ZERO)
        assert taken <= volume * self.costs.max_volume_share, symbol

    def in_last_bar(self, trade: Trade) -> bool:
        from tests.execution.house import at

        return at(self.minute) <= trade.executed_at < at(self.minute + 1)

    def check_names(self, events: list[Event]) -> None:
        """Nothing is refused, rejected or cut short without a name, a value where there is one, and a way out."""
        for answer in answers(events):
            if answer.status is ResponseStatus.REFUSED:
                assert answer.reason is not None
                assert answer.reason.code in REFUSALS, answer
                assert answer.reason.field is not None
                assert answer.reason.expected
            elif answer.status is ResponseStatus.REJECTED:
                assert answer.reason is not None
                assert answer.reason.code in VENUE_NAMES, answer
            elif answer.reason is not None:
                halted = answer.status is ResponseStatus.CANCELLED and answer.reason.code == "trading_halted"
                assert halted or answer.reason.code in VENUE_NAMES, answer

    def check_balances(self) -> None:
        state, cash, held = self.house.state, ZERO, defaultdict[str, Decimal](Decimal)
        for fact in self.books.facts():
            cash += fact.cash_effect
            assert cash >= 0
            if isinstance(fact, Trade):
                held[fact.symbol] += fact.quantity * fact.side.sign
                assert held[fact.symbol] >= 0
        assert state.cash("main") == cash
        assert state.positions("main") == {symbol: quantity for symbol, quantity in held.items() if quantity}

    def check_orders(self) -> None:
        """Fills never exceed their order, and together they are the position."""
        together = defaultdict[str, Decimal](Decimal)
        for order in self.books.ask(orders.orders):
            filled = sum((trade.quantity for trade in self.house.trades(order.id)), ZERO)
            together[order.symbol] += filled * order.side.sign
            if order.quantity is not None:
                assert filled <= order.quantity
            if order.status is OrderStatus.FILLED:
                assert filled > 0
            if order.type is OrderType.MARKET:
                assert order.status is not OrderStatus.PARTIALLY_FILLED, "the rest of a market order never stays"
        assert all(self.house.state.held("main", symbol) == together[symbol] for symbol in SYMBOLS)

    async def check_released(self) -> None:
        """With every order closed nothing is held back."""
        state = self.house.state
        for order in state.open_orders():
            await self.house.cancel(order.id)
        assert state.open_orders() == []
        assert state.free_cash("main") == state.cash("main")
        assert all(state.free_quantity("main", symbol) == state.held("main", symbol) for symbol in SYMBOLS)

    def close(self) -> None:
        self.house.close()
        self.books.close()


async def play(
    exchange: Exchange, step: Callable[[str, Any], Awaitable[object]], plan: list[tuple[str, Any]]
) -> None:
    """All steps of a plan, then what must hold at its end."""
    try:
        await exchange.open()
        for what, details in plan:
            await step(what, details)
        exchange.check_balances()
        exchange.check_orders()
        await exchange.check_released()
    finally:
        exchange.close()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=st.lists(steps, min_size=8, max_size=40), costs=some_costs)
def test_cash_and_quantities_are_conserved_and_every_refusal_has_a_name(
    plan: list[tuple[str, Any]], costs: PaperCosts
) -> None:
    async def example(folder: Path) -> None:
        exchange = Exchange(folder, costs)
        await play(exchange, exchange.step, plan)

    run(example)


all_limits = st.builds(
    RiskLimits,
    maximum_notional=st.sampled_from([ZERO, Decimal(600)]),
    max_symbol_exposure=st.sampled_from([ZERO, Decimal(500)]),
    max_total_exposure=st.sampled_from([ZERO, Decimal(700)]),
    max_orders_per_minute=st.sampled_from([0, 2]),
    max_daily_loss=st.sampled_from([ZERO, Decimal(50)]),
    max_drawdown_pct=st.sampled_from([ZERO, Decimal(3)]),
    price_collar_pct=st.sampled_from([ZERO, Decimal(20)]),
)
limited_steps = st.one_of(steps, steps, steps, st.tuples(st.just("resume"), st.none()))


class Limited(Exchange):
    """An exchange behind limits: each answer is compared with what the limits say."""

    async def check_step(self, what: str, details: Any) -> None:
        limits = self.limits
        assert limits is not None
        before = {symbol: found.value or ZERO for symbol, found in exposures("main", self.house.state).items()}
        if what == "resume":
            events = await self.house.resume()
        else:
            events = await self.step(what, details)
        self.check_halts(events)
        if what == "order" and self.accepted(events):
            self.check_exposure(before, details)

    def accepted(self, events: list[Event]) -> bool:
        return all(answer.status is not ResponseStatus.REFUSED for answer in answers(events))

    def check_exposure(self, before: dict[str, Decimal], details: dict[str, Any]) -> None:
        """An accepted order that raised an exposure left it within its limits (but for the costs of its fill)."""
        limits, symbol = self.limits, details["symbol"]
        assert limits is not None
        after = {symbol: found.value or ZERO for symbol, found in exposures("main", self.house.state).items()}
        if after.get(symbol, ZERO) <= before.get(symbol, ZERO):
            return
        if limits.max_symbol_exposure:
            assert after[symbol] <= limits.max_symbol_exposure
        reached = total(exposures("main", self.house.state).values())
        if limits.max_total_exposure:
            assert reached is not None
            assert reached <= limits.max_total_exposure

    def check_halts(self, events: list[Event]) -> None:
        """A halt by a limit names a limit that is on, comes with an alert, and leaves nothing open."""
        limits = self.limits
        assert limits is not None
        for halt in events:
            if isinstance(halt, HaltChanged) and halt.halted:
                assert halt.by in {
                    name
                    for name, on in (
                        ("limit:daily_loss", limits.max_daily_loss),
                        ("limit:drawdown", limits.max_drawdown_pct),
                    )
                    if on
                }
                assert any(isinstance(event, AlertRaised) for event in events)
                assert self.house.state.open_orders("main") == []
        if self.house.state.halt_of("main") is not None:
            assert self.house.state.open_orders("main") == []
            assert not any(isinstance(e, Responded) and e.status is ResponseStatus.ACCEPTED for e in events)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=st.lists(limited_steps, min_size=8, max_size=40), costs=some_costs, limits=all_limits)
def test_limits_hold_whatever_is_asked(plan: list[tuple[str, Any]], costs: PaperCosts, limits: RiskLimits) -> None:
    async def example(folder: Path) -> None:
        exchange = Limited(folder, costs, limits)
        await play(exchange, exchange.check_step, plan)

    run(example)
