"""Methods beside FIFO, by examples: which lot each takes, what people may choose, what a fill costs."""

import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from execution.model import AccountMode, Side, Trade
from portfolio.errors import FifoError
from portfolio.fifo import LotEngine
from portfolio.fills import fill_of
from portfolio.lots import AverageEngine, HifoEngine, LifoEngine, LofoEngine, Method, Selection, engine_for
from portfolio.units import to_units
from tests.portfolio.bookkeeping import Line
from tests.portfolio.oracles.histories import fee_in

D = Decimal
ALL = [method for method in Method if method is not Method.SPECIFIC]


def three_lots(line: Line) -> list[Trade]:
    """1 @ 100, 1 @ 300, 1 @ 200, in this order."""
    return [line.buy("1", "100"), line.buy("1", "300"), line.buy("1", "200")]


def matched(engine: LotEngine, *trades: Trade) -> list[tuple[str | None, Decimal]]:
    """Which lots the trades closed, and how much of each."""
    rows = [row for trade in trades for row in engine.apply(trade, fee_in(trade)).allocations]
    return [(row.sell_trade if row.closed_by_buy else row.buy_trade, row.quantity) for row in rows]


# ---- which lot ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "order", "pnl"),
    [
        (Method.FIFO, [0, 1], 500 - 250),
        (Method.LIFO, [2, 1], 500 - 350),
        (Method.HIFO, [1, 2], 500 - 400),
        (Method.LOFO, [0, 2], 500 - 200),
        (Method.AVERAGE, [0, 1], 500 - 300),
    ],
)
def test_each_method_takes_its_lot_first(method: Method, order: list[int], pnl: int) -> None:
    line = Line()
    lots = three_lots(line)
    # Half a lot costs 50, 150 or 100; what is sold is one lot and a half of it, at 333 1/3 each but in whole cents.
    sell = line.sell("1.5", "334")
    engine = engine_for(method, AccountMode.SPOT)

    assert matched(engine, *lots, sell) == [(lots[order[0]].id, D(1)), (lots[order[1]].id, D("0.5"))]
    assert engine.realized_pnl == D(501) - (500 - pnl)


@pytest.mark.parametrize(("method", "first"), [(Method.HIFO, 1), (Method.LOFO, 0)])
def test_the_cost_of_a_unit_includes_its_fee_and_a_lot_keeps_it_while_it_is_closed(
    method: Method, first: int
) -> None:
    line = Line()
    lots = [line.buy("2", "100"), line.buy("2", "99", fee="3")]  # 100 and 100.5 a unit
    engine = engine_for(method, AccountMode.SPOT)

    rows = matched(engine, *lots, line.sell("1", "120"), line.sell("2", "120"))

    other = 1 - first
    assert rows == [(lots[first].id, D(1)), (lots[first].id, D(1)), (lots[other].id, D(1))]


@pytest.mark.parametrize("method", [Method.HIFO, Method.LOFO])
def test_of_two_lots_at_one_cost_the_older_goes_first(method: Method) -> None:
    line = Line()
    lots = [line.buy("1", "100"), line.buy("1", "100")]

    assert matched(engine_for(method, AccountMode.SPOT), *lots, line.sell("1", "1")) == [(lots[0].id, D(1))]


@pytest.mark.parametrize(
    ("method", "order"), [(Method.FIFO, 0), (Method.LIFO, 2), (Method.HIFO, 1), (Method.LOFO, 0)]
)
def test_short_lots_are_chosen_by_the_same_rule(method: Method, order: int) -> None:
    line = Line()
    lots = [line.sell("1", price, account="margin") for price in ("100", "300", "200")]
    cover = line.buy("1", "150", account="margin")

    assert matched(engine_for(method, AccountMode.MARGIN), *lots, cover) == [(lots[order].id, D(1))]


@pytest.mark.parametrize("method", ALL)
def test_every_method_cuts_a_flip_at_zero_and_counts_each_fee_once(method: Method) -> None:
    line = Line()
    trades = [line.buy("1", "100", fee="0.3"), line.sell("3", "110", fee="0.1"), line.buy("2", "90", fee="0.2")]
    engine = engine_for(method, AccountMode.MARGIN)

    assert matched(engine, *trades) == [(trades[0].id, D(1)), (trades[1].id, D(2))]
    assert (engine.quantity, engine.cost_basis) == (0, 0)
    assert engine.realized_pnl == sum(trade.cash_effect for trade in trades)


# ---- average cost ---------------------------------------------------------------------------------------------


def test_average_cost_leaves_nothing_behind_when_it_does_not_divide() -> None:
    line = Line()
    trades = [line.buy("1", "1"), line.buy("2", "0.5"), *(line.sell("1", "1") for _ in range(3))]
    engine = engine_for(Method.AVERAGE, AccountMode.SPOT)
    costs = [row.cost_basis or D(0) for trade in trades for row in engine.apply(trade).allocations]

    third = D(2) / D(3)
    assert all(abs(cost - third) < D("1e-35") for cost in costs)
    assert sum(costs) == 2
    assert (engine.quantity, engine.cost_basis) == (0, 0)


def test_average_cost_of_a_short_sale_whose_fee_was_more_than_it_brought() -> None:
    line = Line()
    trades = [line.sell("0.01", "1", fee="1"), line.buy("0.005", "2"), line.buy("0.005", "2")]
    engine = engine_for(Method.AVERAGE, AccountMode.MARGIN)
    for trade in trades:
        engine.apply(trade)

    assert (engine.quantity, engine.cost_basis) == (0, 0)
    assert engine.realized_pnl == D("0.01") - 1 - D("0.02")


def test_average_cost_of_what_a_rebate_made_cheaper_than_free() -> None:
    line = Line()
    engine = engine_for(Method.AVERAGE, AccountMode.SPOT)
    engine.apply(line.buy("2", "0", fee="-1"))

    assert engine.apply(line.sell("1", "3")).realized_pnl == D("3.5")
    assert engine.cost_basis == D("-0.5")
    assert engine.apply(line.sell("1", "3")).realized_pnl == D("3.5")
    assert engine.cost_basis == 0


# ---- state ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LotEngine, LifoEngine, HifoEngine, LofoEngine, AverageEngine])
def test_a_dumped_engine_of_any_method_goes_on_where_it_was(kind: type[LotEngine]) -> None:
    line = Line()
    before = [*three_lots(line), line.sell("1.3", "250", fee="0.7")]
    after = [line.sell("0.3", "250", fee="0.01"), line.buy("1", "120", fee="0.05"), line.sell("2", "90")]
    through = kind(AccountMode.SPOT)
    for trade in before:
        through.apply(trade)

    restarted = kind.load(json.loads(json.dumps(through.dump())))

    assert (restarted.quantity, restarted.cost_basis) == (through.quantity, through.cost_basis)
    for trade in after:
        assert restarted.apply(trade) == through.apply(trade)
    assert restarted.dump() == through.dump()


# ---- choosing -------------------------------------------------------------------------------------------------


def choosing(
    line: Line, *chosen: tuple[Trade | str, str], sells: str = "1.5"
) -> tuple[LotEngine, Trade, list[Trade]]:
    """An engine with the three lots and a sell that chooses."""
    lots = three_lots(line)
    sell = line.sell(sells, "300")
    lines = [Selection(lot if isinstance(lot, str) else lot.id, to_units(D(quantity))) for lot, quantity in chosen]
    engine = engine_for(Method.SPECIFIC, AccountMode.SPOT, {sell.id: lines})
    for lot in lots:
        engine.apply(lot)
    return engine, sell, lots


def test_a_sell_takes_what_was_chosen_in_the_order_in_which_it_was() -> None:
    engine, sell, _ = choosing(Line(), ("t3", "1"), ("t2", "0.5"))

    assert matched(engine, sell) == [("t3", D(1)), ("t2", D("0.5"))]
    assert [lot.trade_id for lot in engine.open_lots()] == ["t1", "t2"]


def test_what_was_not_chosen_is_matched_first_in_first_out() -> None:
    engine, sell, _ = choosing(Line(), ("t3", "0.2"))

    assert matched(engine, sell) == [("t3", D("0.2")), ("t1", D(1)), ("t2", D("0.3"))]


def test_one_lot_may_be_chosen_twice() -> None:
    engine, sell, _ = choosing(Line(), ("t2", "0.2"), ("t3", "1"), ("t2", "0.3"))

    assert matched(engine, sell) == [("t2", D("0.2")), ("t3", D(1)), ("t2", D("0.3"))]


def test_a_sell_of_more_than_there_is_takes_its_choice_and_leaves_the_rest_unmatched() -> None:
    engine, sell, _ = choosing(Line(), ("t3", "1"), sells="5")

    assert matched(engine, sell) == [("t3", D(1)), ("t1", D(1)), ("t2", D(1)), (None, D(2))]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ([("t2", "1.1")], "selection for t4: at most what is left of t2"),
        ([("t2", "0.6"), ("t2", "0.6")], "selection for t4: at most what is left of t2"),
        ([("t9", "1")], "selection for t4: an open lot, not t9"),
        ([("t1", "1"), ("t2", "0.6")], "selection for t4: at most what it closes"),
        ([("t1", "0")], "selection for t4: more than 0 of t1"),
        ([("t1", "-1")], "selection for t4: more than 0 of t1"),
    ],
)
def test_a_choice_that_cannot_be_kept_is_an_error_and_changes_nothing(
    chosen: list[tuple[Trade | str, str]], said: str
) -> None:
    engine, sell, _ = choosing(Line(), *chosen)
    before = engine.dump()

    with pytest.raises(FifoError, match=said):
        engine.apply(sell)
    assert engine.dump() == before


def test_a_lot_that_is_gone_cannot_be_chosen_also_when_nothing_at_all_is_open() -> None:
    line = Line()
    buy, first, second = line.buy("1", "100"), line.sell("1", "110"), line.sell("1", "120")
    engine = engine_for(Method.SPECIFIC, AccountMode.SPOT, {second.id: [Selection(buy.id, to_units(D(1)))]})
    engine.apply(buy)
    engine.apply(first)

    with pytest.raises(FifoError, match="an open lot, not t1"):
        engine.apply(second)


def test_short_lots_can_be_chosen_too_and_a_flip_opens_what_is_left() -> None:
    line = Line()
    trades = [line.sell("1", "100"), line.sell("1", "120"), line.buy("3", "90")]
    engine = engine_for(Method.SPECIFIC, AccountMode.MARGIN, {"t3": [Selection("t2", to_units(D("0.5")))]})

    assert matched(engine, *trades) == [("t2", D("0.5")), ("t1", D(1)), ("t2", D("0.5"))]
    assert [(lot.trade_id, lot.quantity) for lot in engine.open_lots()] == [("t3", D(1))]


# ---- what a fill costs ----------------------------------------------------------------------------------------


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """How many calls of functions, also built-in ones, are made.

    Without the collector: a collection that falls into the block calls its callbacks (hypothesis has one), which are
    none of the engine's.
    """
    count = [0]

    def on_event(_frame: Any, event: str, _argument: Any) -> None:
        if event in ("call", "c_call"):
            count[0] += 1

    before, collecting = sys.getprofile(), gc.isenabled()
    gc.disable()
    sys.setprofile(on_event)
    try:
        yield count
    finally:
        sys.setprofile(before)
        if collecting:
            gc.enable()


def calls_of_a_sell(method: Method, open_lots: int, pieces: int) -> int:
    """The calls that a sell over so many lots makes when so many are open."""
    line = Line()
    engine = engine_for(method, AccountMode.SPOT)
    for number in range(open_lots):
        engine.apply(line.trade(Side.BUY, "1", str(100 + number * 7919 % 1000)))
    last = line.sell(str(pieces), "100", fee="0.1")
    fill = fill_of(last, fee_in(last))
    with counted_calls() as count:
        result = engine.apply_fill(fill)
    assert len(result.allocations) == pieces
    return count[0]


@pytest.mark.parametrize("method", Method)
def test_a_fill_costs_by_its_pieces_whatever_else_is_open(method: Method) -> None:
    few, many = (calls_of_a_sell(method, lots, 3) for lots in (50, 5_000))
    assert few == many

    ten, hundred = (calls_of_a_sell(method, 5_000, pieces) for pieces in (10, 100))
    assert hundred <= 10 * ten
