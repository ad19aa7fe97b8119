"""Planted faults: ways in which books have been wrong, each with the law that must notice it."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from portfolio import allocations, allocator, batch, books, fifo, fills, lots
from portfolio.allocations import ScopeKey
from portfolio.fifo import Lot, LotEngine
from portfolio.fills import FeeIn, Fill
from portfolio.lots import AverageEngine, Method, SpecificEngine
from portfolio.matches import Allocation, FillResult, Row, result_of
from tests.portfolio.oracles import laws, stored_laws
from tests.portfolio.oracles.cases import Case

Plant = Callable[[pytest.MonkeyPatch], None]
DUST = 10**12
"""A millionth, in units of 10^-18."""


@dataclass(frozen=True)
class Fault:
    """A fault, the law that notices it, and the method in which it is planted."""

    name: str
    law: Callable[[Case], None]
    plant: Plant
    method: Method = Method.FIFO


def _change(target: object, name: str, value: object) -> Plant:
    return lambda patch: patch.setattr(target, name, value)


# ---- rows that say something else --------------------------------------------------------------------------------

Closed = tuple[tuple[Row, ...], int, int, bool]
Close = Callable[..., Closed]
_close = LotEngine._close


def closing_with(change: Callable[[Row], Row]) -> Close:
    """Each row as something else, and the total as the rows."""

    def close(engine: LotEngine, *arguments: Any) -> Closed:
        rows, rest, _, is_whole = _close(engine, *arguments)
        changed = tuple(map(change, rows))
        return changed, rest, sum(row[10] or 0 for row in changed), is_whole

    return close


def losing_fees(row: Row) -> Allocation:
    """Lots that lose a part of their fee."""
    piece = Allocation(*row)
    assert piece.buy_price_units is not None
    assert piece.buy_fee_units is not None
    buy_fee, sell_fee = piece.buy_fee_units, piece.sell_fee_units
    if piece.closed_by_buy:
        sell_fee = sell_fee // 10**36 * 10**36
    else:
        buy_fee = buy_fee // 10**36 * 10**36
    return _with_fees(piece, buy_fee, sell_fee, piece.pnl_units is None)


def _in_cents(row: Row) -> Allocation:
    """Each P&L rounded to cents."""
    piece = Allocation(*row)
    assert piece.pnl_units is not None
    return piece._replace(pnl_units=piece.pnl_units // 10**34 * 10**34)


def _gross(row: Row) -> Allocation:
    """The sell's fee forgotten in net proceeds and P&L alike."""
    piece = Allocation(*row)
    assert piece.cost_units is not None
    return piece._replace(net_units=piece.proceeds_units, pnl_units=piece.proceeds_units - piece.cost_units)


def _cost_without_fee(row: Row) -> Allocation:
    """The buy's fee forgotten in cost and P&L alike."""
    piece = Allocation(*row)
    assert piece.cost_units is not None
    assert piece.buy_fee_units is not None
    cost = piece.cost_units - piece.buy_fee_units
    return piece._replace(cost_units=cost, buy_fee_units=0, pnl_units=piece.net_units - cost)


# ---- shares of a fee, the choice of a lot ------------------------------------------------------------------------

Share = Callable[[Fill, int, int], int]
"""The share of a fill's fee that its part [start, end) has."""


def _share_floored_alone(fill: Fill, start: int, end: int) -> int:
    """floor(F*q/S) of each piece by itself: the parts do not add up."""
    return fill.fee * (end - start) // fill.quantity * fill.grain


def _share_by_the_unit(fill: Fill, start: int, end: int) -> int:
    """A fee per unit, of 18 decimals, times the quantity."""
    return fill.fee * 10**18 // fill.quantity * (end - start) // 10**18 * fill.grain


def _share_in_floating_point(fill: Fill, start: int, end: int) -> int:
    return int(fill.fee * ((end - start) / fill.quantity)) * fill.grain


def _share_as_it_is(fill: Fill, start: int, end: int) -> int:
    return (fill.fee * end // fill.quantity - fill.fee * start // fill.quantity) * fill.grain


def _closing(
    share: Share = _share_as_it_is,
    pick: Callable[[int], int] = lambda _: 0,
    dust: int = 0,
    unknown: Callable[[bool, bool], bool] = lambda fill, lot: fill or lot,
) -> Close:
    """FIFO piece by piece, with its own shares of fees, a choice of its own, a blind eye for dust or for unknown
    fees."""

    def close(engine: LotEngine, fill: Fill, fee_units: int) -> Closed:
        queue = engine._queue
        found: list[Allocation] = []
        reached = 0
        while reached < fill.quantity and queue:
            place = pick(len(queue))
            _to_front(engine, place)
            lot, offset = queue[0], engine._offset
            end = reached + min(lot.quantity - offset, fill.quantity - reached)
            ((row,), *_) = _close(engine, fill, fee_units, reached, end)
            buy_fee, sell_fee = share(lot, offset, offset + end - reached), share(fill, reached, end)
            if fill.sign > 0:
                buy_fee, sell_fee = sell_fee, buy_fee
            found.append(_with_fees(Allocation(*row), buy_fee, sell_fee, unknown(fill.flagged, lot.flagged)))
            reached = end
            if engine._offset and lot.quantity - engine._offset <= dust:
                queue.popleft()
                engine._offset = engine._fee_taken = 0
            elif engine._offset:
                _back(engine, place)
        known = [row.pnl_units for row in found if row.pnl_units is not None]
        return tuple(found), fill.quantity - reached, sum(known), len(known) == len(found)

    return close


def _with_fees(piece: Allocation, buy_fee: int, sell_fee: int, is_unknown: bool) -> Allocation:
    assert piece.buy_price_units is not None
    cost, net = piece.quantity_units * piece.buy_price_units + buy_fee, piece.proceeds_units - sell_fee
    pnl = None if is_unknown else net - cost
    return piece._replace(
        cost_units=cost, buy_fee_units=buy_fee, sell_fee_units=sell_fee, net_units=net, pnl_units=pnl
    )


def _to_front(engine: LotEngine, place: int) -> None:
    """Make a lot the one that is closed next."""
    if place:
        lot = engine._queue[place]
        del engine._queue[place]
        engine._queue.appendleft(lot)


def _back(engine: LotEngine, place: int) -> None:
    """What is left of the first lot, as a lot of its own, goes back to where it was."""
    if place:
        lot = engine._queue.popleft()
        rest = lot._replace(quantity=lot.quantity - engine._offset, fee=lot.fee - engine._fee_taken)
        engine._queue.insert(place, rest)
        engine._offset = engine._fee_taken = 0


closing_last_in = _closing(pick=lambda count: count - 1)

# ---- fills that are left out or taken for others -----------------------------------------------------------------

_match = LotEngine.match
_share = AverageEngine._share
_open = LotEngine._open
_make_fill = fills.make_fill


def _without_tiny_fills(engine: LotEngine, fill: Fill) -> FillResult:
    return FillResult((), 0, None, 0, False) if fill.quantity < DUST else result_of(_match(engine, fill))


def _without_unmatched_rows(engine: LotEngine, fill: Fill) -> FillResult:
    result = result_of(_match(engine, fill))
    return result._replace(allocations=tuple(row for row in result.allocations if row.buy_trade is not None))


def _without_the_rest_of_a_flip(engine: LotEngine, fill: Fill, rest: int, fee_units: int) -> None:
    if rest == fill.quantity:
        _open(engine, fill, rest, fee_units)


def _with_the_whole_of_a_flip(engine: LotEngine, fill: Fill, _: int, fee_units: int) -> None:
    _open(engine, fill, fill.quantity, fee_units)


def _free_when_unmatched(fill: Fill, rest: int) -> Allocation:
    """A sell without a lot as if what it sold had cost nothing."""
    proceeds = rest * fill.price
    return Allocation(
        fill.trade_id, None, rest, fill.price, 0, 0, 0, proceeds, 0, proceeds, proceeds, fill.at, fill.at
    )  # fmt: skip


def _fill_with(change: Callable[[FeeIn], FeeIn], cash: Callable[[int], int] = lambda units: units) -> Plant:
    """Fees of another kind than they are."""

    def make(
        name: str, sign: int, quantity: int, price: int, fee: int, kind: FeeIn, money: int, at: datetime
    ) -> Fill:
        return _make_fill(name, sign, quantity, price, fee, change(kind), cash(money), at)

    return lambda patch: patch.setattr(fills, "make_fill", make)


def _third_assets_for_nothing(
    name: str, sign: int, quantity: int, price: int, fee: int, kind: FeeIn, money: int, at: datetime
) -> Fill:
    return _make_fill(name, sign, quantity, price, 0 if kind is FeeIn.OTHER else fee, kind, money, at)


# ---- costs of other methods --------------------------------------------------------------------------------------


def _by_price_alone(ranked: lots._LotsByUnitCost, fill: Fill) -> None:
    """The dearest lot, its fee left out."""
    _by_unit_cost(ranked, fill._replace(fee=0))
    ranked.change(Lot(fill, 0, 0))


_by_unit_cost = lots._LotsByUnitCost.append


def _ignoring_choices(patch: pytest.MonkeyPatch) -> None:
    """First in, first out, whatever was chosen, and nobody looks whether that could be."""
    patch.setattr(SpecificEngine, "_check", lambda *_: None)
    patch.setattr(SpecificEngine, "_next", lambda engine, _: (engine._kept.first(), engine._kept.first().rest))


# ---- order --------------------------------------------------------------------------------------------------------

_in_order = batch.in_order


def _buys_first(*arguments: Any) -> Iterator[Any]:
    """Sells that can have what was bought after them."""
    return iter(sorted(_in_order(*arguments), key=lambda row: row[2] == "SELL"))


def _never_late(_book: books.SymbolBook, _trade: object) -> bool:
    return False


# ---- state and versions -------------------------------------------------------------------------------------------

_load = LotEngine.load.__func__  # type: ignore[attr-defined]  # of a classmethod
_close_rows = allocations.close
_compute = batch.compute


def _load_whole_lots(kind: type[LotEngine], state: Mapping[str, Any]) -> LotEngine:
    """Lots as they were opened, not as they were left."""
    engine: LotEngine = _load(kind, {**state, "lots": [[*lot[:5], "0", *lot[6:]] for lot in state["lots"]]})
    return engine


def _load_without_flags(kind: type[LotEngine], state: Mapping[str, Any]) -> LotEngine:
    """Lots that do not know any more that their fee has no value."""
    engine: LotEngine = _load(kind, {**state, "lots": [[*lot[:7], False] for lot in state["lots"]]})
    return engine


def _closing_rows(versions: int, later: timedelta) -> Plant:
    def close(connection: Connection, key: ScopeKey, version: int, since: datetime | None) -> int:
        return _close_rows(connection, key, version + versions, None if since is None else since + later)

    return _change(allocations, "close", close)


def _since_exclusive(*arguments: Any, since: datetime | None = None, **more: Any) -> batch.Computed:
    return _compute(*arguments, since=None if since is None else since + stored_laws.MICROSECOND, **more)


FAULTS = [
    Fault(
        "shares of a fee floored one by one",
        laws.fees_add_up,
        _change(LotEngine, "_close", _closing(_share_floored_alone)),
    ),
    Fault(
        "a fee by the unit",
        laws.fees_add_up,
        _change(LotEngine, "_close", _closing(_share_by_the_unit)),
    ),
    Fault(
        "a fee in floating point",
        laws.fees_add_up,
        _change(LotEngine, "_close", _closing(_share_in_floating_point)),
    ),
    Fault(
        "last in, first out",
        laws.each_method_takes_its_own_lot,
        _change(LotEngine, "_close", closing_last_in),
    ),
    Fault(
        "a later lot",
        laws.each_method_takes_its_own_lot,
        _change(LotEngine, "_close", _closing(pick=lambda count: min(1, count - 1))),
    ),
    Fault(
        "what is left of a lot dropped as dust",
        laws.each_trade_is_allocated_exactly,
        _change(LotEngine, "_close", _closing(dust=DUST)),
    ),
    Fault(
        "tiny fills skipped",
        laws.each_trade_is_allocated_exactly,
        _change(LotEngine, "match", _without_tiny_fills),
    ),
    Fault(
        "unmatched sells left out",
        laws.each_trade_is_allocated_exactly,
        _change(LotEngine, "match", _without_unmatched_rows),
    ),
    Fault(
        "the rest of a flip forgotten",
        laws.each_trade_is_allocated_exactly,
        _change(LotEngine, "_open", _without_the_rest_of_a_flip),
    ),
    Fault(
        "a flip opened in whole",
        laws.each_trade_is_allocated_exactly,
        _change(LotEngine, "_open", _with_the_whole_of_a_flip),
    ),
    Fault(
        "a flip closed again in whole",
        laws.no_lot_is_over_allocated,
        _change(LotEngine, "_open", _with_the_whole_of_a_flip),
    ),
    Fault(
        "a base fee taken for a quote fee",
        laws.each_trade_is_allocated_exactly,
        _fill_with(lambda kind: FeeIn.QUOTE if kind is FeeIn.BASE else kind),
    ),
    Fault(
        "fees in third assets for nothing",
        laws.cash_and_lots_add_up,
        _change(fills, "make_fill", _third_assets_for_nothing),
    ),
    Fault(
        "P&L in cents",
        laws.profit_is_net_proceeds_less_cost,
        _change(LotEngine, "_close", closing_with(_in_cents)),
    ),
    Fault(
        "the fee of a sell forgotten",
        laws.profit_is_net_proceeds_less_cost,
        _change(LotEngine, "_close", closing_with(_gross)),
    ),
    Fault(
        "the fee of a sell forgotten in the total",
        laws.cash_and_lots_add_up,
        _change(LotEngine, "_close", closing_with(_gross)),
    ),
    Fault(
        "the fee of a buy forgotten",
        laws.costs_add_up,
        _change(LotEngine, "_close", closing_with(_cost_without_fee)),
    ),
    Fault(
        "what has no lot for free",
        laws.what_has_no_lot_is_unknown,
        _change(fifo, "unmatched_row", _free_when_unmatched),
    ),
    Fault(
        "a profit as if the fee of its sell were nothing",
        laws.what_a_fee_is_worth_or_nobody_knows_the_profit,
        _change(LotEngine, "_close", _closing(unknown=lambda _, lot: lot)),
    ),
    Fault(
        "a profit as if the fee of its buy were nothing",
        laws.what_a_fee_is_worth_or_nobody_knows_the_profit,
        _change(LotEngine, "_close", _closing(unknown=lambda fill, _: fill)),
    ),
    Fault(
        "an average that forgets a fee without a value with its lot",
        laws.what_a_fee_is_worth_or_nobody_knows_the_profit,
        _change(lots._Pool, "append", deque.append),
        Method.AVERAGE,
    ),
    Fault(
        "fees without a value forgotten by a restart",
        laws.a_restart_changes_nothing,
        _change(LotEngine, "load", classmethod(_load_without_flags)),
    ),
    Fault(
        "an average by the unit",
        laws.a_closed_position_leaves_nothing,
        # The cost of a unit first, to 18 decimals, then times the quantity.
        _change(AverageEngine, "_share", staticmethod(lambda pool, held, piece: pool // held * piece)),
        Method.AVERAGE,
    ),
    Fault(
        "a pool without its sign",
        laws.a_closed_position_leaves_nothing,
        # A pool that fees or rebates brought below zero taken for one above.
        _change(AverageEngine, "_share", staticmethod(lambda pool, held, piece: _share(abs(pool), held, piece))),
        Method.AVERAGE,
    ),
    Fault(
        "the dearest without its fee",
        laws.each_method_takes_its_own_lot,
        _change(lots._LotsByUnitCost, "append", _by_price_alone),
        Method.HIFO,
    ),
    Fault(
        "choices ignored",
        laws.choices_are_kept,
        _ignoring_choices,
    ),
    Fault(
        "whole lots after a restart",
        laws.a_restart_changes_nothing,
        _change(LotEngine, "load", classmethod(_load_whole_lots)),
    ),
    Fault(
        "a pool forgotten by a restart",
        laws.a_restart_changes_nothing,
        _change(AverageEngine, "load", classmethod(_load)),
        Method.AVERAGE,
    ),
    Fault(
        "stored quantities in floating point",
        stored_laws.streaming_equals_the_batch,
        _change(batch, "units_of_text", lambda text: int(float(text) * 10**18)),
    ),
    Fault(
        "trades of an instant as they came",
        stored_laws.streaming_equals_the_batch,
        _change(batch, "_settled", lambda rows: rows),
    ),
    Fault(
        "buys before all sells",
        stored_laws.nothing_closes_before_it_opened,
        _change(batch, "in_order", _buys_first),
    ),
    Fault(
        "first in by arrival",
        stored_laws.the_order_of_arrival_changes_nothing,
        _change(books.SymbolBook, "_is_late", _never_late),
    ),
    Fault(
        "a taken back trade that counts",
        stored_laws.what_was_taken_back_never_was,
        _change(batch, "taken_back", lambda *_: frozenset()),
    ),
    Fault(
        "rows of the instant itself kept",
        stored_laws.a_partial_recomputation_equals_one_from_scratch,
        _closing_rows(0, stored_laws.MICROSECOND),
    ),
    Fault(
        "two versions valid at once",
        stored_laws.a_partial_recomputation_equals_one_from_scratch,
        _closing_rows(1, timedelta(0)),
    ),
    Fault(
        "an instant computed from after itself",
        stored_laws.a_partial_recomputation_equals_one_from_scratch,
        _change(batch, "compute", _since_exclusive),
    ),
    Fault(
        "rows that are not ended",
        stored_laws.a_full_recomputation_repairs_what_is_stored,
        _change(allocations, "close", lambda *_: 0),
    ),
    Fault(
        "fills stored again after a restart",
        stored_laws.what_the_daemon_stores_equals_a_batch,
        _change(allocator.Allocator, "stored_up_to", lambda *_: 0),
    ),
    Fault(
        "late trades that change no rows",
        stored_laws.what_the_daemon_stores_equals_a_batch,
        _change(allocator.Allocator, "rewrite", lambda *_: None),
    ),
]
