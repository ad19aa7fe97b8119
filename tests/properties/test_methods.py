"""Every method of matching against a slow and obvious engine of our own: equal to the last digit."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution.model import Side, Trade
from portfolio.lots import Method
from tests.portfolio.bookkeeping import Line
from tests.portfolio.oracles import histories, naive, ours
from tests.portfolio.oracles.histories import MOVES, TAKEN_BACK, Moves, arrivals, effective
from tests.portfolio.oracles.naive import FINE, Chosen, NaiveLot

BY_RULE = [Method.FIFO, Method.LIFO, Method.HIFO, Method.LOFO]


def agree(mine: ours.Ours, theirs: naive.Naive) -> None:
    """Rows, open lots, P&L and what is unmatched, to the last digit."""
    assert mine.pieces == theirs.pieces
    assert mine.remaining == theirs.remaining
    assert Fraction(mine.engine.realized_pnl) == theirs.realized
    assert Fraction(mine.engine.unmatched_quantity) == theirs.unmatched
    assert Fraction(mine.engine.cost_basis) == theirs.cost_basis
    assert Fraction(mine.engine.quantity) == sum((quantity for _, quantity, _ in theirs.remaining), Fraction(0))


@pytest.mark.parametrize("method", BY_RULE)
@settings(max_examples=80, deadline=None)
@given(moves=MOVES, taken_back=TAKEN_BACK, margin=st.booleans())
def test_rows_lots_and_profit_are_those_of_the_slow_engine(
    method: Method, moves: Moves, taken_back: list[int], margin: bool
) -> None:
    trades = effective(arrivals(moves, taken_back))

    agree(ours.book(trades, method, margin=margin), naive.book(trades, method=str(method), margin=margin))


@settings(max_examples=80, deadline=None)
@given(moves=MOVES, taken_back=TAKEN_BACK, margin=st.booleans(), data=st.data())
def test_specific_identification_takes_what_was_chosen_and_the_rest_first_in(
    moves: Moves, taken_back: list[int], margin: bool, data: st.DataObject
) -> None:
    trades = effective(arrivals(moves, taken_back))
    chosen: dict[str, Chosen] = {}

    def choose(trade: Trade, lots: Sequence[NaiveLot]) -> Chosen:
        rest = naive.size_of(trade)
        lines: Chosen = []
        for lot in data.draw(st.permutations(lots))[: data.draw(st.integers(0, 3))]:
            most = min(rest, lot.left) * 10**18
            quantity = Fraction(data.draw(st.one_of(st.just(most), st.integers(0, int(most)))), 10**18)
            if quantity:
                lines.append((lot.trade.id, quantity))
                rest -= quantity
        chosen[trade.id] = lines
        return list(lines)

    theirs = naive.Naive("specific", margin, choose).book(trades)

    agree(ours.book(trades, Method.SPECIFIC, margin=margin, selections=chosen), theirs)


@settings(max_examples=80, deadline=None)
@given(moves=MOVES, taken_back=TAKEN_BACK, margin=st.booleans())
def test_average_cost_is_that_of_the_slow_engine_and_within_a_step_of_the_true_average(
    moves: Moves, taken_back: list[int], margin: bool
) -> None:
    trades = effective(arrivals(moves, taken_back))

    mine = ours.book(trades, Method.AVERAGE, margin=margin)
    theirs = naive.book(trades, method="average", margin=margin)

    assert mine.pieces == theirs.pieces
    assert Fraction(mine.engine.cost_basis) == theirs.cost_basis
    assert Fraction(mine.engine.realized_pnl) == theirs.realized
    pool, held = Fraction(0), Fraction(0)  # walked through once more
    for trade in trades:
        size = naive.size_of(trade)
        done = Fraction(0)
        for piece in map(ours.piece_of, mine.results[trade.id].allocations):
            if piece.buy is None:
                continue
            taken = piece.net if trade.side is Side.BUY else piece.cost
            assert taken is not None
            # As a pool of `held` units it is split in proportion, but for one step of the last digit.
            assert abs(taken - pool * piece.quantity / held) < FINE
            pool -= taken
            held -= piece.quantity
            done += piece.quantity
            if not held:
                assert pool == 0
        if done < size and (margin or trade.side is Side.BUY):
            pool += naive.NaiveLot(trade, done).cost
            held += size - done
    assert Fraction(abs(mine.engine.quantity)) == held


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(Side), st.integers(0, 6), st.integers(0, 10**6)), min_size=1, max_size=20),
    st.booleans(),
)
def test_average_cost_is_exact_where_the_division_is(history: list[tuple[Side, int, int]], margin: bool) -> None:
    """Lots of powers of two at whole prices: every average has few decimals, and no flooring is needed."""
    line = Line()
    pool = held = Fraction(0)
    trades = [line.trade(side, str(2**power), str(price)) for side, power, price in history]
    mine = ours.book(trades, Method.AVERAGE, margin=margin)
    for trade in trades:
        quantity, price = Fraction(trade.quantity), Fraction(trade.price)
        signed = quantity if trade.side is Side.BUY else -quantity
        if held * signed < 0:
            closing = signed if abs(signed) <= abs(held) else -held
            average = pool / held
            rows = map(ours.piece_of, mine.results[trade.id].allocations)
            closed = [row for row in rows if row.buy is not None]
            assert sum((row.quantity for row in closed), Fraction(0)) == abs(closing)
            if (average * 10**30).denominator == 1:
                taken = [row.net if signed > 0 else row.cost for row in closed]
                assert taken == [row.quantity * average for row in closed]
            pool += closing * average
            held += closing
            signed -= closing
        if signed > 0 or margin:
            pool += signed * price
            held += signed
    assert Fraction(mine.engine.quantity) == held
    assert abs(Fraction(mine.engine.cost_basis) - pool) < len(trades) * 20 * FINE


@pytest.mark.parametrize("method", [*BY_RULE, Method.AVERAGE])
@settings(max_examples=50, deadline=None)
@given(moves=MOVES, margin=st.booleans())
def test_all_that_was_bought_is_in_the_rows_or_still_open_and_a_closed_position_leaves_nothing(
    method: Method, moves: Moves, margin: bool
) -> None:
    trades = effective(arrivals(moves))
    mine = ours.book(trades, method, margin=margin)
    if mine.engine.quantity:
        line = Line()
        line.facts.extend(trades)
        side = Side.SELL if mine.engine.quantity > 0 else Side.BUY
        last = histories.add(line, side, abs(mine.engine.quantity), trades[0].price, trades[0].fee, minute=60)
        trades = [*trades, last]
        mine = ours.book(trades, method, margin=margin)

    assert (mine.engine.quantity, mine.engine.cost_basis, mine.remaining) == (0, 0, [])
    if not margin:  # nothing was sold short: the costs are the buys, fees and all
        bought = sum(
            naive.size_of(trade) * Fraction(trade.price) + naive.fee_of(trade)
            for trade in trades
            if trade.side is Side.BUY
        )
        assert sum(piece.cost or Fraction(0) for piece in mine.pieces) == bought
