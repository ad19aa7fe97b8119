"""FIFO against bookkeepers that are not ours: beancount's booking of lots, and through it the slow engine's."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution.model import Side, Trade
from portfolio.lots import Method
from tests.portfolio.bookkeeping import Line
from tests.portfolio.oracles import histories, naive, ours
from tests.portfolio.oracles.histories import MOVES, TAKEN_BACK, Moves, arrivals, effective

pytest.importorskip("beancount", reason="beancount is not installed: its opinion on the lots is missing")
from tests.portfolio.oracles import beancount


def signed(trade: Trade) -> Decimal:
    """The quantity that a trade moved, below 0 for a sell."""
    size = naive.size_of(trade)
    return trade.side.sign * Decimal(size.numerator) / Decimal(size.denominator)


def by_price(trades: Sequence[Trade]) -> list[beancount.Movement]:
    """Trades at their price, without their fees."""
    return [beancount.Movement(trade.id, trade.executed_at, signed(trade), trade.price) for trade in trades]


def rows_of(mine: ours.Ours) -> list[tuple[str, str, Decimal]]:
    """(closing, opening, quantity) of the matched rows."""
    return [
        (row.buy_trade, row.sell_trade, row.quantity)
        if row.closed_by_buy
        else (row.sell_trade, row.buy_trade, row.quantity)
        for row in mine.allocations
        if row.buy_trade is not None
    ]


def unmatched_of(mine: ours.Ours) -> dict[str, Decimal]:
    """What of each sell found no lot."""
    return {row.sell_trade: row.quantity for row in mine.allocations if row.buy_trade is None}


@settings(max_examples=120, deadline=None)
@given(moves=MOVES, taken_back=TAKEN_BACK, margin=st.booleans())
def test_beancount_closes_the_same_lots_by_the_same_amounts(
    moves: Moves, taken_back: list[int], margin: bool
) -> None:
    """Any sizes, fees, instants, oversells and flips. Fees have no part in which lot is taken; that of each row is
    what its P&L is away from beancount's, and adds up to the fees of the trades."""
    trades = effective(arrivals(moves, taken_back))

    mine = ours.book(trades, margin=margin)
    theirs = beancount.book(by_price(trades), margin=margin)

    assert rows_of(mine) == theirs.closed
    assert unmatched_of(mine) == theirs.cut
    assert {trade: quantity for trade, quantity, _ in mine.remaining} == theirs.open
    shares = [row.buy_fee + row.sell_fee for row in mine.allocations if row.buy_fee is not None]
    # A row beside a fee without a value has no P&L; what it brought and cost without that fee is known.
    unknown = sum(
        row.net_proceeds - row.cost_basis
        for row in mine.allocations
        if row.pnl is None and row.cost_basis is not None
    )
    assert mine.engine.realized_pnl + unknown == theirs.pnl - sum(shares)
    prices = {trade.id: trade.price for trade in trades}
    at_price = sum(quantity * prices[trade] for trade, quantity in theirs.open.items())
    left = mine.engine.cost_basis - at_price
    # The fees of all trades are in the rows, in the open lots, or with what was sold without a lot.
    nowhere = sum(row.sell_fee for row in mine.allocations if row.buy_trade is None)
    assert Fraction(sum(shares) + left + nowhere) == sum(map(naive.fee_of, trades))


WHOLE_FEES = st.lists(
    st.tuples(
        st.sampled_from(Side),
        st.one_of(st.integers(1, 5), st.integers(1, 10**24)).map(lambda units: Decimal(units).scaleb(-9)),
        # Above the largest fee of a unit: beancount knows no cost below 0.
        st.integers(1, 10**9).map(lambda units: Decimal(units).scaleb(-4)),
        st.integers(-5, 10**4).map(lambda units: Decimal(units).scaleb(-9)),  # the fee of one unit
        st.integers(0, 40),
    ),
    min_size=1,
    max_size=20,
)


def with_whole_fees(
    history: list[tuple[Side, Decimal, Decimal, Decimal, int]],
) -> tuple[list[Trade], dict[str, Decimal]]:
    """Trades whose fee divides by their quantity, and what a unit of each cost or brought."""
    line = Line()
    costs = {}
    for side, quantity, price, fee, minute in history:
        trade = histories.add(line, side, quantity, price, quantity * fee, minute=minute)
        costs[trade.id] = price + side.sign * fee
    return effective([fact for fact in line.facts if isinstance(fact, Trade)]), costs


@settings(max_examples=80, deadline=None)
@given(history=WHOLE_FEES, margin=st.booleans())
def test_beancount_comes_to_the_same_profit_and_cost_with_fees_in_the_basis(
    history: list[tuple[Side, Decimal, Decimal, Decimal, int]], margin: bool
) -> None:
    trades, costs = with_whole_fees(history)

    mine = ours.book(trades, margin=margin)
    theirs = beancount.book(
        [beancount.Movement(trade.id, trade.executed_at, signed(trade), costs[trade.id]) for trade in trades],
        margin=margin,
    )

    assert rows_of(mine) == theirs.closed
    assert mine.engine.realized_pnl == theirs.pnl
    lots = {lot.trade_id: (lot.quantity, lot.cost_basis) for lot in mine.engine.open_lots()}
    assert lots == {trade: (quantity, quantity * costs[trade]) for trade, quantity in theirs.open.items()}
    for row in mine.allocations:
        if row.buy_trade is not None:
            assert row.cost_basis == row.quantity * costs[row.buy_trade]
            assert row.net_proceeds == row.quantity * costs[row.sell_trade]


@pytest.mark.parametrize("method", [Method.LIFO, Method.HIFO])
@settings(max_examples=60, deadline=None)
@given(history=WHOLE_FEES, margin=st.booleans())
def test_beancount_agrees_on_other_methods_that_it_knows(
    method: Method, history: list[tuple[Side, Decimal, Decimal, Decimal, int]], margin: bool
) -> None:
    trades, costs = with_whole_fees(history)

    mine = ours.book(trades, method, margin=margin)
    theirs = beancount.book(  # each trade on a day of its own: its LIFO goes by the day alone
        [beancount.Movement(trade.id, trade.id, signed(trade), costs[trade.id]) for trade in trades],
        method=method.name,
        margin=margin,
    )

    assert rows_of(mine) == theirs.closed
    assert mine.engine.realized_pnl == theirs.pnl
    assert {trade: quantity for trade, quantity, _ in mine.remaining} == theirs.open


@settings(max_examples=60, deadline=None)
@given(moves=MOVES, margin=st.booleans())
def test_the_slow_engine_that_speaks_for_the_other_methods_agrees_with_beancount(moves: Moves, margin: bool) -> None:
    trades = effective(arrivals(moves))

    slow = naive.book(trades, margin=margin)
    theirs = beancount.book(by_price(trades), margin=margin)

    assert {trade: quantity for trade, quantity, _ in slow.remaining} == theirs.open
    assert [piece.quantity for piece in slow.pieces if piece.buy is not None] == [row[2] for row in theirs.closed]
    assert {piece.sell: piece.quantity for piece in slow.pieces if piece.buy is None} == theirs.cut
