"""The other methods of matching, beside FIFO: which lot a closing trade takes, or what it costs.

All of them are `LotEngine`s: same fills, same exact arithmetic, same allocations; they run over whole
histories, as parallel versions for comparison. FIFO is the method of record.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Self

from config.exact import plain
from execution.model import AccountMode
from portfolio.errors import FifoError
from portfolio.fifo import Lot, LotEngine
from portfolio.fills import Fill
from portfolio.matches import Matched, Row
from portfolio.units import quantity_of


class Method(StrEnum):
    """How sells are matched with buys (in a short position: buys with the sells that opened it)."""

    FIFO = "fifo"
    LIFO = "lifo"
    HIFO = "hifo"
    LOFO = "lofo"
    AVERAGE = "average"
    SPECIFIC = "specific"


class Selection(NamedTuple):
    """A choice for specific identification: a closing trade takes so many units (10^-18) of an opening one."""

    opening_trade: str
    quantity_units: int


Selections = Mapping[str, Sequence[Selection]]
"""Closing trade id -> what it takes, in order. What is left of it afterwards is matched first in, first out."""


class _LotsById:
    """Open lots that can leave in any order, each at the same cost."""

    def __init__(self) -> None:
        self._lots: OrderedDict[str, Lot] = OrderedDict()

    def append(self, fill: Fill) -> None:
        self._lots[fill.trade_id] = Lot(fill, 0, 0)

    def change(self, lot: Lot) -> None:
        """A part of it is gone; it keeps its place."""
        self._lots[lot.fill.trade_id] = lot

    def remove(self, lot: Lot) -> None:
        del self._lots[lot.fill.trade_id]

    def get(self, trade_id: str) -> Lot | None:
        return self._lots.get(trade_id)

    def first(self) -> Lot:
        return next(iter(self._lots.values()))

    def last(self) -> Lot:
        return next(reversed(self._lots.values()))

    def __len__(self) -> int:
        return len(self._lots)

    def __iter__(self) -> Iterator[Lot]:
        return iter(self._lots.values())


class _ChoosingEngine(LotEngine):
    """Closes lots in an order of its own: the one that is next is made the only one in the queue."""

    __slots__ = ("_kept",)

    def __init__(self, mode: AccountMode) -> None:
        super().__init__(mode)
        self._lots = self._kept = _LotsById()

    def lots(self) -> Iterator[Lot]:
        """The open lots, oldest first."""
        return iter(self._kept)

    def _next(self, fill: Fill) -> tuple[Lot, int]:
        """The lot to close next (there is one), and how much of it may be taken at most."""
        raise NotImplementedError

    def _open(self, fill: Fill, rest: int, fee_units: int) -> None:
        super()._open(fill, rest, fee_units)
        if self._offset:
            self._kept.change(Lot(fill, self._offset, self._fee_taken))
            self._offset = self._fee_taken = 0

    def _close(
        self, fill: Fill, fee_units: int, start: int = 0, end: int | None = None
    ) -> tuple[tuple[Row, ...], int, int, bool]:
        if end is None:
            end = fill.quantity
        rows: list[Row] = []
        realized = 0
        is_whole = True
        while start < end and self._kept:
            lot, most = self._next(fill)
            part = start + min(end - start, lot.rest, most)
            row, known, is_known = self._close_with(lot, fill, fee_units, start, part)
            start = part
            rows += row
            realized += known
            is_whole = is_whole and is_known
        return tuple(rows), end - start, realized, is_whole

    def _close_with(
        self, lot: Lot, fill: Fill, fee_units: int, start: int, end: int
    ) -> tuple[tuple[Row, ...], int, bool]:
        """Match a part of a fill with this lot, which is at least as large."""
        held, self._offset, self._fee_taken = lot
        self._queue.append(held)
        row, _, known, is_known = super()._close(fill, fee_units, start, end)
        if self._queue:
            self._queue.clear()
            self._kept.change(Lot(held, self._offset, self._fee_taken))
            self._offset = self._fee_taken = 0
        else:
            self._kept.remove(lot)
        return row, known, is_known


class LifoEngine(_ChoosingEngine):
    """Last in, first out: the lot that was opened last is closed first."""

    __slots__ = ()

    def _next(self, fill: Fill) -> tuple[Lot, int]:
        lot = self._kept.last()
        return lot, lot.rest


class _LotsByUnitCost(_LotsById):
    """The same, ranked by the cost of a unit, the lowest first or, with `direction` -1, the highest; of two equal
    ones the older."""

    def __init__(self, direction: int) -> None:
        super().__init__()
        self._direction = direction
        self._heap: list[tuple[int, int, str]] = []
        self._number = 0

    def append(self, fill: Fill) -> None:
        super().append(fill)
        # Of the whole fill, so that it never changes while parts are closed; to 18 decimals of money.
        total = fill.price * fill.quantity + fill.sign * fill.fee * fill.grain
        self._number += 1
        heapq.heappush(self._heap, (self._direction * (total * 10**18 // fill.quantity), self._number, fill.trade_id))

    def foremost(self) -> Lot:
        return self._lots[self._heap[0][2]]

    def remove(self, lot: Lot) -> None:
        """Nothing is left of the foremost one."""
        super().remove(lot)
        heapq.heappop(self._heap)


class _ByUnitCost(_ChoosingEngine):
    """Closes by the cost of a unit with its fee."""

    __slots__ = ("_ranked",)
    _direction = 1

    def __init__(self, mode: AccountMode) -> None:
        super().__init__(mode)
        self._lots = self._kept = self._ranked = _LotsByUnitCost(self._direction)

    def _next(self, fill: Fill) -> tuple[Lot, int]:
        lot = self._ranked.foremost()
        return lot, lot.rest


class HifoEngine(_ByUnitCost):
    """Highest in, first out: the dearest unit is closed first."""

    __slots__ = ()
    _direction = -1


class LofoEngine(_ByUnitCost):
    """Lowest in, first out: the cheapest unit is closed first."""

    __slots__ = ()


class SpecificEngine(_ChoosingEngine):
    """Specific identification: closing trades take what was chosen for them, the rest first in, first out.

    Raises FifoError, changing nothing, when a choice names a lot that is not open, more of it than is left, or
    more than the trade closes.
    """

    __slots__ = ("_chosen", "_selections")

    def __init__(self, mode: AccountMode, selections: Selections) -> None:
        super().__init__(mode)
        self._selections = selections
        self._chosen: deque[Selection] = deque()

    def match(self, fill: Fill) -> Matched:
        """Match one fill."""
        self._chosen = deque(self._selections.get(fill.trade_id, ()))
        if self._chosen:
            self._check(fill)
        return super().match(fill)

    def _check(self, fill: Fill) -> None:
        """Raise FifoError when the choice for a fill cannot be kept."""
        said = f"selection for {fill.trade_id}"
        taken: dict[str, int] = {}
        for trade_id, quantity in self._chosen:
            lot = None if self._sign == fill.sign else self._kept.get(trade_id)
            if lot is None:
                raise FifoError(f"{said}: an open lot, not {trade_id}")
            if quantity <= 0:
                raise FifoError(f"{said}: more than 0 of {trade_id}")
            taken[trade_id] = taken.get(trade_id, 0) + quantity
            if taken[trade_id] > lot.rest:
                raise FifoError(f"{said}: at most what is left of {trade_id}")
        if sum(taken.values()) > fill.quantity:
            raise FifoError(f"{said}: at most what it closes, {plain(quantity_of(fill.quantity))}")

    def _next(self, fill: Fill) -> tuple[Lot, int]:
        if not self._chosen:
            lot = self._kept.first()
            return lot, lot.rest
        trade_id, quantity = self._chosen.popleft()
        chosen = self._kept.get(trade_id)
        assert chosen is not None  # _check saw it
        return chosen, quantity


class _Pool(deque[Fill]):
    """The lots of a pool: all of them are flagged, or none is. So a lot is marked once, however many fees have no
    value."""

    def append(self, fill: Fill) -> None:
        if self and self[-1].flagged:
            fill = fill._replace(flagged=True)
        elif self and fill.flagged:
            flagged = [held._replace(flagged=True) for held in self]
            self.clear()
            self.extend(flagged)
        super().append(fill)


class AverageEngine(LotEngine):
    """Average cost: each closed unit costs the pool's average; which lots it came from is told first in,
    first out (for holding periods), but buy prices and fees are those of the pool and not shown.

    The pool's cost is split by flooring what stays, so a closed position leaves exactly 0 behind. A fee that could
    not be valued is a part of what every unit of the pool cost: from then on no P&L is known, whichever lot is named,
    until nothing is held.
    """

    __slots__ = ()

    def __init__(self, mode: AccountMode) -> None:
        super().__init__(mode)
        self._lots = self._queue = _Pool()

    def match(self, fill: Fill) -> Matched:
        """Match one fill: the lots of first in, first out, at the cost of the pool."""
        held, cost = self._quantity, self._cost
        matched = super().match(fill)
        rows, unmatched, realized, fee_units, flagged = matched
        if not rows:
            return matched
        # Not abs() of the cost: rebates and fees above the proceeds give a pool the other sign.
        held, pool = abs(held), -fill.sign * cost
        pooled = []
        known = 0
        for row in rows:
            if row[1] is None:
                pooled.append(row)
                continue
            share = self._share(pool, held, row[2])
            held -= row[2]
            pool -= share
            priced = self._priced(row, share)
            known += (priced[10] or 0) - (row[10] or 0)
            pooled.append(priced)
        self._realized += known
        return tuple(pooled), unmatched, None if realized is None else realized + known, fee_units, flagged

    @staticmethod
    def _share(pool: int, held: int, piece: int) -> int:
        """What a piece takes of the pool, of which so much is held."""
        return pool - pool * (held - piece) // held

    def _priced(self, row: Row, share: int) -> Row:
        """A row of first in, first out at a share of the pool's cost, of which the books get rid."""
        (
            sell, buy, piece, sell_price, buy_price, cost, buy_fee, value, fee, net, pnl, opened_at, closed_at,
            closed_by_buy,
        ) = row  # fmt: skip
        assert cost is not None  # it has a buy
        if closed_by_buy:
            # The pool holds net proceeds: of these sells neither price nor fee is shown apart.
            self._cost += share - net
            value, fee, net = share, 0, share
        else:
            self._cost += cost - share
            buy_price, cost, buy_fee = None, share, None
        profit = None if pnl is None else net - cost
        return (
            sell, buy, piece, sell_price, buy_price, cost, buy_fee, value, fee, net, profit, opened_at, closed_at,
            closed_by_buy,
        )  # fmt: skip

    def dump(self) -> dict[str, Any]:
        """The exact state as a JSON-able dict: the pool's cost is not that of its lots."""
        return super().dump() | {"cost": str(self._cost)}

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Self:
        """The engine that `dump` wrote. Raises FifoError when the state is of another form or version."""
        engine = super().load(state)
        try:
            engine._cost = int(state["cost"])
        except (KeyError, TypeError, ValueError) as error:
            raise FifoError("a state written by dump()") from error
        return engine


_ENGINES: dict[Method, Callable[[AccountMode], LotEngine]] = {
    Method.FIFO: LotEngine,
    Method.LIFO: LifoEngine,
    Method.HIFO: HifoEngine,
    Method.LOFO: LofoEngine,
    Method.AVERAGE: AverageEngine,
}


def engine_for(method: Method, mode: AccountMode, selections: Selections | None = None) -> LotEngine:
    """A fresh engine of a method; `selections` are used by specific identification only."""
    if method is Method.SPECIFIC:
        return SpecificEngine(mode, selections or {})
    return _ENGINES[method](mode)
