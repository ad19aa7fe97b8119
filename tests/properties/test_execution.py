"""Whatever people, bots and markets do: cash and quantities stay where they can be, and the facts say it all."""

from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from config.exact import ZERO
from execution import ledger, marks, orders
from execution.marks import LossMarks
from execution.model import CashFlowKind, Halt, OrderStatus, OrderType, Request, Responded, Side, Trade
from execution.paper import PaperCosts
from execution.state import TradingState
from tests.execution.house import (
    BTC,
    START,
    Books,
    House,
    answers,
    at,
    bar,
    fill,
    flow,
    reason,
    snapshot,
)
from tests.properties.trading import SYMBOLS, candles, decimals, prices, run, wishes

pytestmark = pytest.mark.usefixtures("template")

asked = wishes(
    4, decimals("0.1", "400", 1), decimals("1", "1500", 2), 1, expires_in=st.none() | st.sampled_from(["30", "90"])
)
buys = asked.map(lambda wish: {**wish, "side": Side.BUY, "size": ("notional", "900"), "limit": None})
steps = st.one_of(
    st.tuples(st.just("order"), asked),
    st.tuples(st.just("order"), asked),
    st.tuples(st.just("order"), buys),
    candles("300"),
    st.tuples(st.just("price"), st.tuples(st.sampled_from(SYMBOLS), prices)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("repeat"), st.integers(0, 30)),
    st.tuples(st.just("deposit"), decimals("0.01", "500", 2)),
    st.tuples(st.just("withdraw"), decimals("0.01", "9000", 2)),
    st.tuples(st.just("timer"), st.none()),
    st.tuples(st.just("halt"), st.sampled_from([True, False, False])),
    st.tuples(st.just("restart"), st.none()),
)
all_costs = st.sampled_from(
    [
        PaperCosts(),
        PaperCosts(*(Decimal(0) for _ in range(6))),
        PaperCosts(slippage_bps=Decimal(500), slippage_cap_bps=Decimal(900), max_volume_share=Decimal("0.5")),
        PaperCosts(taker_fee_bps=Decimal(900), max_volume_share=ZERO),
    ]
)


class Day:
    """One day of trading over one database; checks after each step."""

    def __init__(self, folder: Path, costs: PaperCosts) -> None:
        self.books = Books(folder, cash="5000")
        self.costs = costs
        self.house = House(self.books, costs=costs)
        self.minute = 0
        self.asked: list[Request] = []
        self.final: dict[str, Responded] = {}

    async def run(self, plan: list[tuple[str, Any]]) -> None:
        await self.house.open()
        for symbol in SYMBOLS:
            await self.house.candle(bar(0, "10", symbol=symbol))
        for what, details in plan:
            await self.step(what, details)
            self.check_balances()
        self.check_orders()
        await self.check_answers()
        self.check_reload()

    async def step(self, what: str, details: Any) -> None:
        house = self.house
        if what == "order":
            await self.ask(self.wish(**details))
        elif what == "candle":
            symbol, open_, *rest, volume = details
            self.minute += 1
            high, low = (str(pick(map(Decimal, (open_, *rest)))) for pick in (max, min))
            self.hear(await house.candle(bar(self.minute, open_, high, low, rest[0], volume=volume, symbol=symbol)))
        elif what == "price":
            self.hear(await house.price(details[1], symbol=details[0]))
        elif what == "cancel" and self.asked:
            self.hear(await house.send_cancel(self.asked[details % len(self.asked)].request_id))
        elif what == "repeat" and self.asked:
            await self.repeat(self.asked[details % len(self.asked)])
        elif what == "deposit":
            await self.ask(house.cash_request(CashFlowKind.DEPOSIT, details))
        elif what == "withdraw":
            await self.ask(house.cash_request(CashFlowKind.WITHDRAWAL, details))
        elif what == "timer":
            self.hear(list(await house.service.on_timer()))
        elif what == "halt":
            await self.ask(house.halt_request(details))
        elif what == "restart":
            house.close()
            self.house = House(self.books, costs=self.costs, now=house.clock.now())
            self.hear(await self.house.open())

    def wish(
        self, side: Side, symbol: str, size: tuple[str, Any], limit: str | None, waits: bool, **more: Any
    ) -> Any:
        tag = "bot:a" if waits else "manual"
        named = {"quantity": size[1]} if size[0] == "quantity" else {size[0]: size[1]}
        decided = self.minute + 1 if waits else None
        quantity = named.pop("quantity", None)
        return self.house.order(
            side, quantity, symbol=symbol, limit=limit, decided=decided, triggered_by=tag, **named, **more
        )

    async def ask(self, request: Request) -> None:
        self.asked.append(request)
        self.hear(await self.house.send(request))

    def hear(self, events: list[Any]) -> None:
        for answer in answers(events):
            known = self.final.get(answer.request_id)
            assert known is None or known == answer, "a final answer never changes"
            if answer.final:
                self.final[answer.request_id] = answer

    async def repeat(self, request: Request) -> None:
        facts = len(self.books.facts())
        answer = await self.house.ask(request)
        known = self.final.get(request.request_id)
        assert answer.final == (known is not None)
        assert known is None or answer == known
        assert len(self.books.facts()) == facts, "a repeated request does nothing"

    def check_balances(self) -> None:
        state, cash, held = self.house.state, ZERO, defaultdict[str, Decimal](Decimal)
        facts = self.books.facts()
        assert [fact.sequence for fact in facts] == list(range(1, len(facts) + 1))
        for fact in facts:
            cash += fact.cash_effect
            assert cash >= 0, f"cash {cash} after fact {fact.sequence}"
            if isinstance(fact, Trade):
                held[fact.symbol] += fact.quantity * fact.side.sign
                assert held[fact.symbol] >= 0
        assert state.cash("main") == cash
        assert all(state.held("main", symbol) == held[symbol] for symbol in SYMBOLS)

    def check_orders(self) -> None:
        for order in self.books.ask(orders.orders):
            fills = self.house.trades(order.id)
            filled = sum((trade.quantity for trade in fills), ZERO)
            if order.quantity is not None:
                assert filled <= order.quantity
                assert (filled == order.quantity) == (order.status is OrderStatus.FILLED)
            elif order.side is Side.BUY and order.notional is not None and order.type is OrderType.LIMIT:
                assert -sum((trade.cash_effect for trade in fills), ZERO) <= order.notional
            assert bool(fills) or order.status not in (OrderStatus.FILLED, OrderStatus.PARTIALLY_FILLED)
            assert not fills or order.status not in (OrderStatus.PENDING, OrderStatus.REJECTED)
            for trade in fills:
                assert (trade.symbol, trade.side, trade.triggered_by) == (
                    order.symbol,
                    order.side,
                    order.triggered_by,
                )
                if order.limit_price is not None:
                    assert (trade.price - order.limit_price) * order.side.sign <= 0, "never worse than its limit"

    async def check_answers(self) -> None:
        for request in self.asked:
            await self.repeat(request)

    def check_reload(self) -> None:
        running, loaded = self.house.state, TradingState()
        loaded.prices = running.prices
        self.books.do(loaded.load)
        drop = {o.id for o in running.open_orders() if o.type is OrderType.MARKET and o.quantity is not None}
        assert without(snapshot(loaded), drop) == without(snapshot(running), drop)

    def close(self) -> None:
        self.house.close()
        self.books.close()


def without(state: dict[str, Any], order_ids: set[str]) -> dict[str, Any]:
    """Market orders of a quantity reserve by the price when they came, which a later load cannot know."""
    kept = {key: held for key, held in state["reservations"].items() if key not in order_ids}
    left_out = ("reservations", "reserved_cash") if order_ids else ()
    return {key: value for key, value in state.items() if key not in left_out} | {"reservations": kept}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=st.lists(steps, min_size=10, max_size=40), costs=all_costs)
def test_no_day_of_trading_makes_cash_or_quantities_negative_or_the_books_disagree(
    plan: list[tuple[str, Any]], costs: PaperCosts
) -> None:
    async def example(folder: Path) -> None:
        day = Day(folder, costs)
        try:
            await day.run(plan)
        finally:
            day.close()

    run(example)


changes = st.lists(
    st.one_of(
        st.tuples(st.just("trade"), st.sampled_from(Side), decimals("0.1", "9", 1)),
        st.tuples(st.just("flow"), st.just(None), decimals("0.1", "9", 1)),
        st.tuples(st.just("open"), st.sampled_from(Side), decimals("0.5", "9", 1)),
        st.tuples(st.just("change"), st.sampled_from(OrderStatus), st.integers(0, 9)),
        st.tuples(st.just("spend"), st.sampled_from(Side), st.integers(0, 9)),
        st.tuples(st.just("halt"), st.booleans(), st.just(None)),
        st.tuples(st.just("accept"), st.just(None), st.integers(0, 3)),
        st.tuples(st.just("mark"), st.booleans(), st.integers(0, 9)),
    ),
    max_size=12,
)


def exact(state: TradingState) -> dict[str, Any]:
    """Everything of the state, copied, zeros and all."""
    names = (
        "_cash", "_held", "_reserved_cash", "_reserved_quantity", "_reservations", "_open", "_halts", "_deposited",
        "_accepted", "_marks", "_last_pnl",
    )  # fmt: skip
    return {"sequence": state.sequence} | {name: dict(getattr(state, name)) for name in names}


class Power(Exception):
    """The power goes off inside the transaction."""


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kept=changes, lost=changes, again=changes)
def test_a_transaction_that_is_rolled_back_leaves_no_trace_in_memory(
    kept: list[Any], lost: list[Any], again: list[Any]
) -> None:
    async def example(folder: Path) -> None:
        books = Books(folder)
        house = House(books)
        try:
            await house.open()
            number = iter(range(1000))

            def apply(plan: list[Any], fails: bool) -> Callable[[Connection], None]:
                def work(connection: Connection) -> None:
                    house.state.catch_up(connection)
                    for change in plan:
                        change_state(house, connection, next(number), *change)
                    if fails:
                        raise Power

                return work

            await house.writer.submit(apply(kept, False))
            before = exact(house.state)
            with pytest.raises(Power):
                house.writer.submit(apply(lost, True))
            assert exact(house.state) == before
            await house.writer.submit(apply(again, False))
            facts = books.facts()
            assert house.state.sequence == facts[-1].sequence == len(facts)
            assert house.state.cash("main") == sum((fact.cash_effect for fact in facts), ZERO)
            assert books.ask(marks.read) == house.state._marks, "what is remembered is what is stored"
        finally:
            house.close()
            books.close()

    run(example)


def change_state(house: House, connection: Connection, number: int, what: str, which: Any, amount: Any) -> None:
    """One change as the service makes them inside its transactions."""
    state = house.state
    opened = list(state.open_orders())
    if what == "trade":
        trade = house.tail.append_trade(connection, fill(number, which, amount), START)
        assert trade is not None
        state.fold(trade)
    elif what == "flow":
        new = house.tail.append_flow(connection, flow(f"{number}", amount), START)
        assert new is not None
        state.fold(new)
    elif what == "open":
        order = an_order(number, which, Decimal(amount))
        state.opened(order, state.reservation_of(order))
    elif what == "change" and opened:
        from dataclasses import replace

        order = replace(opened[amount % len(opened)], status=which)
        state.changed(order, None if which.is_final else state.reservation_of(order))
    elif what == "spend" and opened:
        order = opened[amount % len(opened)]
        trade = house.tail.append_trade(connection, fill(number, order.side, "0.5"), START)
        assert trade is not None
        state.fold(trade)
        state.spent(order.id, trade)
    elif what == "halt":
        state.halted("main", Halt("manual", None, START) if which else None)
    elif what == "accept":
        state.counted("main", at(amount))
    elif what == "mark":
        found = LossMarks(START.date(), Decimal(amount), Decimal(amount), ZERO) if which else None
        state.marked("main", found, START)
        state.noted_pnl("main", Decimal(amount))


def an_order(number: int, side: Side, quantity: Decimal) -> Any:
    from execution.model import Order, TimeInForce

    return Order(
        id=f"order-{number}",
        request_id=f"{number}",
        client_order_id=f"{number}",
        account="main",
        symbol=BTC,
        side=side,
        type=OrderType.LIMIT,
        time_in_force=TimeInForce.GTC,
        status=OrderStatus.PENDING,
        triggered_by="manual",
        created_at=START,
        expires_at=None,
        quantity=quantity,
        limit_price=Decimal(100),
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    instants=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.none() | st.integers(0, 2),
            st.sampled_from(Side),
            st.sampled_from(["a", "B", "é", "z"]),
        ),
        max_size=25,
    )
)
def test_trades_come_in_the_total_order_however_they_were_recorded(instants: list[Any]) -> None:
    async def example(folder: Path) -> None:
        books = Books(folder)
        try:
            new = [
                fill(number, side, minute=minute, venue_sequence=sequence, id=f"{name}{number}")
                for number, (minute, sequence, side, name) in enumerate(instants)
            ]
            books.record(*new)
            found = books.ask(lambda c: list(ledger.trades_in_order(c, "main", BTC)))
            keys = [trade.order_key for trade in found]
            assert keys == sorted(keys)
            assert len(set(keys)) == len(new)
            assert {trade.id for trade in found} == {one.id for one in new}
        finally:
            books.close()

    run(example)


def test_the_plans_do_trade() -> None:
    """The properties above would hold in a house where nothing ever happens: a plan that must fill does."""
    trades: list[int] = []

    async def example(folder: Path) -> None:
        day = Day(folder, PaperCosts())
        common = {"symbol": BTC, "limit": None, "waits": False, "expires_in": None}
        try:
            await day.run(
                [
                    ("order", {**common, "side": Side.BUY, "size": ("notional", "1000")}),
                    ("order", {**common, "side": Side.SELL, "size": ("close", True), "waits": True}),
                    ("restart", None),
                    ("candle", (BTC, "11", "12", "10", "11", "300")),
                    ("withdraw", "9000"),
                ]
            )
            trades.append(len(day.house.trades()))
            assert day.house.clock.now() == at(2)
            assert reason(day.final[day.asked[-1].request_id]).code == "insufficient_cash"
        finally:
            day.close()

    run(example)
    assert trades == [2]
