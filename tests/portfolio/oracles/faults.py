"""Planted faults: ways in which books have been wrong, each with the law that must notice it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from portfolio import allocations, allocator, batch, books, fifo, lots
from portfolio.allocations import ScopeKey
from portfolio.fifo import Allocation, FeeIn, Fill, FillResult, Lot, LotEngine
from portfolio.lots import AverageEngine, Method, SpecificEngine
from tests.portfolio.oracles import laws
from tests.portfolio.oracles.laws import Case

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


# ---- shares of a fee ------------------------------------------------------------------------------------------


def _share_floored_alone(lot: Lot, quantity: int) -> int:
    """floor(F*q/S) of each piece by itself: the parts do not add up."""
    lot.offset += quantity
    return lot.fee * quantity // lot.total * lot.grain


def _share_by_the_unit(lot: Lot, quantity: int) -> int:
    """A fee per unit, of 18 decimals, times the quantity."""
    lot.offset += quantity
    return lot.fee * 10**18 // lot.total * quantity // 10**18 * lot.grain


def _share_in_floating_point(lot: Lot, quantity: int) -> int:
    lot.offset += quantity
    return int(lot.fee * (quantity / lot.total)) * lot.grain


def _closing_with(
    share: Callable[[Lot, int], int] | None = None,
    pick: Callable[[int], int] = lambda _: 0,
    dust: int = 0,
    unknown: Callable[[bool, bool], bool] = lambda fill, lot: fill or lot,
) -> Callable[..., tuple[list[Allocation], int, int, bool]]:
    """FIFO's loop with its own shares of fees, a choice of its own, a blind eye for dust or for unknown fees."""

    def close(engine: LotEngine, fill: Fill) -> tuple[list[Allocation], int, int, bool]:
        trade_id, sign, quantity, price, fee, grain, at, flagged = fill
        queue = engine._queue
        mine = Lot(trade_id, price, fee, grain, quantity, 0, at)
        of = share or Lot.take
        found: list[Allocation] = []
        while mine.offset < quantity and queue:
            number = pick(len(queue))
            lot = queue[number]
            piece = min(lot.total - lot.offset, quantity - mine.offset)
            row = engine._matched(trade_id, sign, price, at, lot, piece, of(lot, piece), of(mine, piece))
            found.append(fifo.without_pnl(row) if unknown(flagged, lot.flagged) else row)
            if lot.total - lot.offset <= dust:
                del queue[number]
        known = [row.pnl_units for row in found if row.pnl_units is not None]
        return found, quantity - mine.offset, sum(known), len(known) == len(found)

    return close


closing_last_in = _closing_with(pick=lambda count: count - 1)

# ---- fills that are left out or taken for others -----------------------------------------------------------------

_apply_fill = LotEngine.apply_fill
_open = LotEngine._open
_matched = LotEngine._matched
_make_fill = fifo.make_fill


def _without_tiny_fills(engine: LotEngine, fill: Fill) -> FillResult:
    return FillResult((), 0, None, 0, False) if fill.quantity < DUST else _apply_fill(engine, fill)


def _without_unmatched_rows(engine: LotEngine, fill: Fill) -> FillResult:
    result = _apply_fill(engine, fill)
    return result._replace(allocations=tuple(row for row in result.allocations if row.buy_trade is not None))


def _without_the_rest_of_a_flip(engine: LotEngine, lot: Lot, sign: int) -> None:
    if not lot.offset:
        _open(engine, lot, sign)


def _with_the_whole_of_a_flip(engine: LotEngine, lot: Lot, sign: int) -> None:
    lot.offset = lot.fee_taken = 0
    _open(engine, lot, sign)


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

    return lambda patch: patch.setattr(fifo, "make_fill", make)


def _third_assets_for_nothing(
    name: str, sign: int, quantity: int, price: int, fee: int, kind: FeeIn, money: int, at: datetime
) -> Fill:
    return _make_fill(name, sign, quantity, price, 0 if kind is FeeIn.OTHER else fee, kind, money, at)


# ---- rows that say something else --------------------------------------------------------------------------------


def _in_cents(*arguments: Any) -> Allocation:
    """Each P&L rounded to cents."""
    row: Allocation = _matched(*arguments)
    assert row.pnl_units is not None
    return row._replace(pnl_units=row.pnl_units // 10**34 * 10**34)


def _gross(*arguments: Any) -> Allocation:
    """The sell's fee forgotten in net proceeds and P&L alike."""
    row: Allocation = _matched(*arguments)
    assert row.cost_units is not None
    return row._replace(net_units=row.proceeds_units, pnl_units=row.proceeds_units - row.cost_units)


def _cost_without_fee(*arguments: Any) -> Allocation:
    """The buy's fee forgotten in cost and P&L alike."""
    row: Allocation = _matched(*arguments)
    assert row.cost_units is not None
    assert row.buy_fee_units is not None
    cost = row.cost_units - row.buy_fee_units
    return row._replace(cost_units=cost, buy_fee_units=0, pnl_units=row.net_units - cost)


def _average_by_the_unit(
    engine: AverageEngine, trade: str, sign: int, price: int, at: Any, lot: Lot, piece: int, _: int, fee: int
) -> Allocation:
    """The cost of a unit first, to 18 decimals, then times the quantity."""
    unit = abs(engine._cost) // abs(engine._quantity)
    return _pooled(engine, trade, sign, price, at, lot, piece, fee, unit * piece)


def _average_without_signs(
    engine: AverageEngine, trade: str, sign: int, price: int, at: Any, lot: Lot, piece: int, _: int, fee: int
) -> Allocation:
    """A pool that fees or rebates brought below zero taken for one above."""
    held, pool = abs(engine._quantity), abs(engine._cost)
    return _pooled(engine, trade, sign, price, at, lot, piece, fee, pool - pool * (held - piece) // held)


def _pooled(
    engine: AverageEngine, trade: str, sign: int, price: int, at: Any, lot: Lot, piece: int, fee: int, share: int
) -> Allocation:
    engine._quantity += sign * piece
    engine._cost += sign * share
    value = piece * price
    if sign < 0:
        net = value - fee
        return Allocation(
            trade, lot.trade_id, piece, price, None, share, None, value, fee, net, net - share, lot.opened_at, at
        )
    cost = value + fee
    return Allocation(
        lot.trade_id, trade, piece, lot.price, price, cost, fee, share, 0, share, share - cost, lot.opened_at, at
    )


def _by_price_alone(engine: Any, lot: Lot, sign: int) -> None:
    """The dearest lot, its fee left out."""
    fee, lot.fee = lot.fee, 0
    _by_unit_cost(engine, lot, sign)
    lot.fee = fee
    engine._cost += lot.open_fee


_by_unit_cost = lots._ByUnitCost._open


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
    return _compute(*arguments, since=None if since is None else since + laws.MICROSECOND, **more)


FAULTS = [
    Fault(
        "shares of a fee floored one by one",
        laws.fees_add_up,
        _change(LotEngine, "_close", _closing_with(_share_floored_alone)),
    ),
    Fault(
        "a fee by the unit",
        laws.fees_add_up,
        _change(LotEngine, "_close", _closing_with(_share_by_the_unit)),
    ),
    Fault(
        "a fee in floating point",
        laws.fees_add_up,
        _change(LotEngine, "_close", _closing_with(_share_in_floating_point)),
    ),
    Fault(
        "last in, first out",
        laws.each_method_takes_its_own_lot,
        _change(LotEngine, "_close", closing_last_in),
    ),
    Fault(
        "a later lot",
        laws.each_method_takes_its_own_lot,
        _change(LotEngine, "_close", _closing_with(pick=lambda count: min(1, count - 1))),
    ),
    Fault(
        "what is left of a lot dropped as dust",
        laws.each_trade_is_allocated_exactly,
        _change(LotEngine, "_close", _closing_with(dust=DUST)),
    ),
    Fault(
        "tiny fills skipped",
        laws.each_trade_is_allocated_exactly,
        _change(LotEngine, "apply_fill", _without_tiny_fills),
    ),
    Fault(
        "unmatched sells left out",
        laws.each_trade_is_allocated_exactly,
        _change(LotEngine, "apply_fill", _without_unmatched_rows),
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
        _change(fifo, "make_fill", _third_assets_for_nothing),
    ),
    Fault(
        "P&L in cents",
        laws.profit_is_net_proceeds_less_cost,
        _change(LotEngine, "_matched", _in_cents),
    ),
    Fault(
        "the fee of a sell forgotten",
        laws.profit_is_net_proceeds_less_cost,
        _change(LotEngine, "_matched", _gross),
    ),
    Fault(
        "the fee of a sell forgotten in the total",
        laws.cash_and_lots_add_up,
        _change(LotEngine, "_matched", _gross),
    ),
    Fault(
        "the fee of a buy forgotten",
        laws.costs_add_up,
        _change(LotEngine, "_matched", _cost_without_fee),
    ),
    Fault(
        "what has no lot for free",
        laws.what_has_no_lot_is_unknown,
        _change(fifo, "_unmatched", _free_when_unmatched),
    ),
    Fault(
        "a profit as if the fee of its sell were nothing",
        laws.what_a_fee_is_worth_or_nobody_knows_the_profit,
        _change(LotEngine, "_close", _closing_with(unknown=lambda _, lot: lot)),
    ),
    Fault(
        "a profit as if the fee of its buy were nothing",
        laws.what_a_fee_is_worth_or_nobody_knows_the_profit,
        _change(LotEngine, "_close", _closing_with(unknown=lambda fill, _: fill)),
    ),
    Fault(
        "an average that forgets a fee without a value with its lot",
        laws.what_a_fee_is_worth_or_nobody_knows_the_profit,
        _change(AverageEngine, "_open", LotEngine._open),
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
        _change(AverageEngine, "_matched", _average_by_the_unit),
        Method.AVERAGE,
    ),
    Fault(
        "a pool without its sign",
        laws.a_closed_position_leaves_nothing,
        _change(AverageEngine, "_matched", _average_without_signs),
        Method.AVERAGE,
    ),
    Fault(
        "the dearest without its fee",
        laws.each_method_takes_its_own_lot,
        _change(lots._ByUnitCost, "_open", _by_price_alone),
        Method.HIFO,
    ),
    Fault(
        "choices ignored",
        laws.choices_are_kept,
        _change(SpecificEngine, "_next", lambda engine, _: (engine._kept.first(), engine._kept.first().total)),
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
        laws.streaming_equals_the_batch,
        _change(batch, "units_of_text", lambda text: int(float(text) * 10**18)),
    ),
    Fault(
        "trades of an instant as they came",
        laws.streaming_equals_the_batch,
        _change(batch, "_settled", lambda rows: rows),
    ),
    Fault(
        "buys before all sells",
        laws.nothing_closes_before_it_opened,
        _change(batch, "in_order", _buys_first),
    ),
    Fault(
        "first in by arrival",
        laws.the_order_of_arrival_changes_nothing,
        _change(books.SymbolBook, "_is_late", _never_late),
    ),
    Fault(
        "a taken back trade that counts",
        laws.what_was_taken_back_never_was,
        _change(batch, "_taken_back", lambda *_: frozenset()),
    ),
    Fault(
        "rows of the instant itself kept",
        laws.a_partial_recomputation_equals_one_from_scratch,
        _closing_rows(0, laws.MICROSECOND),
    ),
    Fault(
        "two versions valid at once",
        laws.a_partial_recomputation_equals_one_from_scratch,
        _closing_rows(1, timedelta(0)),
    ),
    Fault(
        "an instant computed from after itself",
        laws.a_partial_recomputation_equals_one_from_scratch,
        _change(batch, "compute", _since_exclusive),
    ),
    Fault(
        "rows that are not ended",
        laws.a_full_recomputation_repairs_what_is_stored,
        _change(allocations, "close", lambda *_: 0),
    ),
    Fault(
        "fills stored again after a restart",
        laws.what_the_daemon_stores_equals_a_batch,
        _change(allocator.Allocator, "stored_up_to", lambda *_: 0),
    ),
    Fault(
        "late trades that change no rows",
        laws.what_the_daemon_stores_equals_a_batch,
        _change(allocator.Allocator, "rewrite", lambda *_: None),
    ),
]
