"""What must hold of any trades and one engine: each law runs the product over a case and raises AssertionError when
it is broken. Those of what is stored are in `stored_laws`.

The quantities, fees and unit costs of trades that the laws go by are those of the oracle (`naive`), never the
product's own.
"""

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction

from execution.model import Side, Trade
from portfolio.books import SymbolBook
from portfolio.lots import Method, SpecificEngine, engine_for
from tests.portfolio.oracles import naive, ours
from tests.portfolio.oracles.cases import SYMBOL, ZERO, Case, opening
from tests.portfolio.oracles.histories import fee_in
from tests.portfolio.oracles.naive import Chosen, NaiveLot, fee_of, has_unknown_fee, size_of, unit_cost


def each_trade_is_allocated_exactly(case: Case) -> None:
    """What a trade moved is in rows, or still open, to the last digit, and in no other place."""
    mine = case.booked
    left = {trade: abs(quantity) for trade, quantity, _ in mine.remaining}
    for trade in mine.trades:
        rows = [row for row in mine.allocations if trade.id in (row.sell_trade, row.buy_trade)]
        assert all(row.quantity > 0 for row in rows)
        assert sum((Fraction(row.quantity) for row in rows), left.get(trade.id, ZERO)) == size_of(trade)
        if case.margin:
            assert all(row.buy_trade is not None for row in rows)


def no_lot_is_over_allocated(case: Case) -> None:
    """At no time more of a trade was closed than it had opened."""
    mine = case.booked
    left = {trade.id: size_of(trade) for trade in mine.trades}
    for row in mine.allocations:
        for trade in (row.sell_trade, row.buy_trade):
            if trade is not None:
                left[trade] -= Fraction(row.quantity)
                assert left[trade] >= 0


def profit_is_net_proceeds_less_cost(case: Case) -> None:
    """In each row, and every part of it from the trades' own prices."""
    trades = {trade.id: trade for trade in case.trades}
    for row in case.booked.allocations:
        if row.buy_trade is None or row.cost_basis is None:
            continue
        assert row.pnl in (None, row.net_proceeds - row.cost_basis)
        assert row.net_proceeds == row.proceeds - row.sell_fee
        if case.method is not Method.AVERAGE:
            assert row.cost_basis == row.quantity * trades[row.buy_trade].price + (row.buy_fee or 0)
            assert row.proceeds == row.quantity * trades[row.sell_trade].price


def fees_add_up(case: Case) -> None:
    """The shares of a trade's fee, in rows and in its open lot, are its fee; each is in proportion but for one
    step of the last digit."""
    if case.method is Method.AVERAGE:
        return  # a pool has no fees of single trades
    mine = case.booked
    open_lots = {trade: (quantity, cost) for trade, quantity, cost in mine.remaining}
    for trade in mine.trades:
        total, size = fee_of(trade), size_of(trade)
        shares = []
        for row in mine.allocations:
            if trade.id == row.sell_trade:
                shares.append((Fraction(row.quantity), Fraction(row.sell_fee)))
            elif trade.id == row.buy_trade and row.buy_fee is not None:
                shares.append((Fraction(row.quantity), Fraction(row.buy_fee)))
        if trade.id in open_lots:
            quantity, cost = open_lots[trade.id]
            shares.append((abs(quantity), cost - quantity * Fraction(trade.price)))
        assert sum((share for _, share in shares), ZERO) == total
        for quantity, share in shares:
            assert abs(share - total * quantity / size) < naive.COARSE


def costs_add_up(case: Case) -> None:
    """The cost of what was sold and of what is left is the cost of all that was bought, fees and all."""
    if case.margin:
        return  # what was sold short has no cost before it is bought: see `cash_and_lots_add_up`
    mine = case.booked
    bought = sum(
        (size_of(trade) * Fraction(trade.price) + fee_of(trade) for trade in mine.trades if trade.side is Side.BUY),
        ZERO,
    )
    sold = sum((piece.cost for piece in mine.pieces if piece.cost is not None), ZERO)
    assert sold + Fraction(mine.engine.cost_basis) == bought


def cash_and_lots_add_up(case: Case) -> None:
    """All cash that moved is realized P&L, what rows without a known P&L brought beyond their known cost, or lies in
    the open lots at cost."""
    mine = case.booked
    moved = sum((_cash(trade) for trade in mine.trades), ZERO)
    unknown = sum((piece.net - (piece.cost or 0) for piece in mine.pieces if piece.pnl is None), ZERO)
    realized = sum((piece.pnl for piece in mine.pieces if piece.pnl is not None), ZERO)
    assert moved == realized + unknown - Fraction(mine.engine.cost_basis)
    assert realized == Fraction(mine.engine.realized_pnl)


def _cash(trade: Trade) -> Fraction:
    return Fraction(trade.cash_effect)


def what_a_fee_is_worth_or_nobody_knows_the_profit(case: Case) -> None:
    """A row has no P&L exactly when it has no buy, or a fee without a value on one of its sides (by average cost: in
    its pool); cost, proceeds and shares stay numbers. Sums leave such rows out, and the book says incomplete."""
    book = SymbolBook(case.account, SYMBOL, engine_for(case.method, case.account.mode))
    trades = {trade.id: trade for trade in case.trades}
    pooled: list[Trade] = []
    held = ZERO
    realized = Decimal(0)
    wins = 0
    for trade in case.trades:
        result = book.apply(trade)
        assert result is not None
        assert result.fee_flagged == has_unknown_fee(trade)
        for row in result.allocations:
            lot = opening(row)
            behind = pooled if case.method is Method.AVERAGE or lot is None else [trades[lot]]
            assert (row.pnl is None) == (lot is None or any(map(has_unknown_fee, [trade, *behind])))
            assert lot is None or row.cost_basis is not None
            realized += row.pnl or 0
        known = [row.pnl for row in result.allocations if row.pnl is not None]
        is_whole = len(known) == len(result.allocations) > 0
        assert result.realized_pnl == (sum(known) if is_whole else None)
        wins += trade.side is Side.SELL and is_whole and sum(known) > 0
        before, held = held, held + trade.side.sign * size_of(trade)
        if not case.margin:
            held = max(held, ZERO)
        if before * held <= 0:
            pooled = []
        if trade.side.sign * held > 0:
            pooled.append(trade)
    assert book.engine.realized_pnl == realized
    assert sum((group.realized_pnl for group in book.attribution.values()), Decimal(0)) == realized
    assert book.winning_sells == wins
    assert book.incomplete == (bool(book.engine.unmatched_quantity) or any(map(has_unknown_fee, case.trades)))


def a_closed_position_leaves_nothing(case: Case) -> None:
    """Whenever nothing is held, nothing is left of any cost."""
    engine = engine_for(case.method, case.account.mode)
    for trade in case.trades:
        engine.apply(trade, fee_in(trade))
        if not engine.quantity:
            assert (engine.cost_basis, engine.open_lots(), engine.lot_count) == (0, (), 0)


def each_method_takes_its_own_lot(case: Case) -> None:
    """First in, last in, dearest or cheapest, the older of two equal ones; average tells them first in."""
    mine = case.booked
    trades = {trade.id: trade for trade in mine.trades}
    left: dict[str, Fraction] = {}
    for trade in mine.trades:
        done = ZERO
        for row in mine.results[trade.id].allocations:
            done += Fraction(row.quantity)
            lot = opening(row)
            if lot is None:
                assert not left
                continue
            assert lot == _due(case.method, [trades[name] for name in left])
            left[lot] -= Fraction(row.quantity)
            if not left[lot]:
                del left[lot]
        if done < size_of(trade):
            left[trade.id] = size_of(trade) - done


def _due(method: Method, lots: Sequence[Trade]) -> str:
    """The lot, of some in the order of their opening, that a method closes next."""
    costs = [unit_cost(lot) for lot in lots]
    match method:
        case Method.LIFO:
            return lots[-1].id
        case Method.HIFO:
            return lots[costs.index(max(costs))].id
        case Method.LOFO:
            return lots[costs.index(min(costs))].id
        case _:
            return lots[0].id


def what_has_no_lot_is_unknown(case: Case) -> None:
    """A sell without a lot has proceeds, and neither cost nor P&L; the book that holds one says incomplete."""
    book = SymbolBook(case.account, SYMBOL, engine_for(case.method, case.account.mode))
    held = ZERO
    for trade in case.trades:
        result = book.apply(trade)
        assert result is not None
        size = size_of(trade)
        missing = ZERO if case.margin or trade.side is Side.BUY else max(ZERO, size - held)
        held += trade.side.sign * size + missing
        rows = [row for row in result.allocations if row.buy_trade is None]
        assert sum((Fraction(row.quantity) for row in rows), ZERO) == missing == Fraction(result.unmatched_quantity)
        for row in rows:
            assert (row.buy_price, row.cost_basis, row.buy_fee, row.pnl, row.opened_at) == (None,) * 5
            assert row.net_proceeds == row.proceeds - row.sell_fee
            assert row.proceeds == row.quantity * trade.price
            assert result.realized_pnl is None
            assert book.incomplete


def choices_are_kept(case: Case) -> None:
    """Specific identification closes what was chosen, here from the last lot backwards."""
    chosen: dict[str, Chosen] = {}

    def choose(trade: Trade, lots: Sequence[NaiveLot]) -> Chosen:
        rest, lines = size_of(trade), []
        for lot in reversed(lots[-2:]):
            if piece := min(rest, lot.left):
                lines.append((lot.trade.id, piece))
                rest -= piece
        chosen[trade.id] = lines
        return list(lines)

    trades = case.trades
    naive.Naive("specific", case.margin, choose).book(trades)
    mine = ours.book(trades, Method.SPECIFIC, margin=case.margin, selections=chosen)

    assert isinstance(mine.engine, SpecificEngine)
    for trade, lines in chosen.items():
        rows = [(opening(row), Fraction(row.quantity)) for row in mine.results[trade].allocations]
        assert rows[: len(lines)] == lines


def a_restart_changes_nothing(case: Case) -> None:
    """An engine that was written down and read back is the same engine, in whatever moment."""
    through = engine_for(case.method, case.account.mode)
    restarted = engine_for(case.method, case.account.mode)
    for number, trade in enumerate(case.trades):
        if number in case.numbers:
            restarted = type(restarted).load(json.loads(json.dumps(restarted.dump())))
        assert restarted.apply(trade, fee_in(trade)) == through.apply(trade, fee_in(trade))
    assert restarted.dump() == through.dump()
    assert (restarted.quantity, restarted.cost_basis) == (through.quantity, through.cost_basis)


IN_MEMORY: list[Callable[[Case], None]] = [
    each_trade_is_allocated_exactly,
    no_lot_is_over_allocated,
    profit_is_net_proceeds_less_cost,
    fees_add_up,
    costs_add_up,
    cash_and_lots_add_up,
    what_a_fee_is_worth_or_nobody_knows_the_profit,
    a_closed_position_leaves_nothing,
    each_method_takes_its_own_lot,
    what_has_no_lot_is_unknown,
    choices_are_kept,
    a_restart_changes_nothing,
]
