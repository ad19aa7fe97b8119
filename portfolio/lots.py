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
from portfolio.fifo import Allocation, Fill, FillResult, Lot, LotEngine, quantity_of, without_pnl


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

    def append(self, lot: Lot) -> None:
        self._lots[lot.trade_id] = lot

    def remove(self, lot: Lot) -> None:
        del self._lots[lot.trade_id]

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
    """Closes lots in an order of its own."""

    __slots__ = ("_kept",)

    def __init__(self, mode: AccountMode) -> None:
        super().__init__(mode)
        self._lots = self._kept = _LotsById()

    def _next(self, fill: Fill) -> tuple[Lot, int]:
        """The lot to close next (there is one), and how much of it may be taken at most."""
        raise NotImplementedError

    def _closed(self, lot: Lot) -> None:
        """Nothing is left of a lot."""
        self._kept.remove(lot)

    def _close(self, fill: Fill) -> tuple[list[Allocation], int, int, bool]:
        trade_id, sign, quantity, price, fee, grain, at, flagged = fill
        allocations: list[Allocation] = []
        realized = 0
        rest = quantity
        taken = 0
        is_whole = True
        while rest and self._kept:
            lot, most = self._next(fill)
            piece = min(rest, lot.total - lot.offset, most)
            lot_fee = lot.take(piece)
            rest -= piece
            before, taken = taken, fee * (quantity - rest) // quantity
            matched = self._matched(trade_id, sign, price, at, lot, piece, lot_fee, (taken - before) * grain)
            if flagged or lot.flagged:
                matched = without_pnl(matched)
                is_whole = False
            else:
                realized += matched[10]
            allocations.append(matched)
            if lot.offset == lot.total:
                self._closed(lot)
        return allocations, rest, realized, is_whole


class LifoEngine(_ChoosingEngine):
    """Last in, first out: the lot that was opened last is closed first."""

    __slots__ = ()

    def _next(self, fill: Fill) -> tuple[Lot, int]:
        lot = self._kept.last()
        return lot, lot.total


class _ByUnitCost(_ChoosingEngine):
    """Closes by the cost of a unit with its fee; of two equal ones the older first."""

    __slots__ = ("_heap", "_number")
    _direction = 1

    def __init__(self, mode: AccountMode) -> None:
        super().__init__(mode)
        self._heap: list[tuple[int, int, Lot]] = []
        self._number = 0

    def _open(self, lot: Lot, sign: int) -> None:
        super()._open(lot, sign)
        # Of the whole lot, so that it never changes while parts are closed; to 18 decimals of money.
        cost = (lot.price * lot.total + sign * lot.fee * lot.grain) * 10**18 // lot.total
        self._number += 1
        heapq.heappush(self._heap, (self._direction * cost, self._number, lot))

    def _next(self, fill: Fill) -> tuple[Lot, int]:
        lot = self._heap[0][2]
        return lot, lot.total

    def _closed(self, lot: Lot) -> None:
        super()._closed(lot)
        heapq.heappop(self._heap)


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

    def apply_fill(self, fill: Fill) -> FillResult:
        """Match one fill."""
        self._chosen = deque(self._selections.get(fill.trade_id, ()))
        if self._chosen:
            self._check(fill)
        return super().apply_fill(fill)

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
            if taken[trade_id] > lot.total - lot.offset:
                raise FifoError(f"{said}: at most what is left of {trade_id}")
        if sum(taken.values()) > fill.quantity:
            raise FifoError(f"{said}: at most what it closes, {plain(quantity_of(fill.quantity))}")

    def _next(self, fill: Fill) -> tuple[Lot, int]:
        if not self._chosen:
            lot = self._kept.first()
            return lot, lot.total
        trade_id, quantity = self._chosen.popleft()
        chosen = self._kept.get(trade_id)
        assert chosen is not None  # _check saw it
        return chosen, quantity


class AverageEngine(LotEngine):
    """Average cost: each closed unit costs the pool's average; which lots it came from is told first in,
    first out (for holding periods), but buy prices and fees are those of the pool and not shown.

    The pool's cost is split by flooring what stays, so a closed position leaves exactly 0 behind. A fee that could
    not be valued is a part of what every unit of the pool cost: from then on no P&L is known, whichever lot is named,
    until nothing is held.
    """

    __slots__ = ()

    def _open(self, lot: Lot, sign: int) -> None:
        # All lots of a pool are flagged, or none is: a lot is marked once, however many fees have no value.
        queue = self._queue
        if queue and queue[-1].flagged:
            lot.flagged = True
        elif lot.flagged:
            for held in queue:
                held.flagged = True
        super()._open(lot, sign)

    def _matched(
        self, trade_id: str, sign: int, price: int, at: Any, lot: Lot, piece: int, lot_fee: int, fill_fee: int
    ) -> Any:
        # Not abs(): rebates and fees above the proceeds give a pool the other sign.
        held, pool = abs(self._quantity), -sign * self._cost
        share = pool - pool * (held - piece) // held
        value = piece * price
        self._quantity += sign * piece
        self._cost += sign * share
        if sign < 0:
            net = value - fill_fee
            return Allocation(
                trade_id, lot.trade_id, piece, price, None, share, None, value, fill_fee, net, net - share,
                lot.opened_at, at,
            )  # fmt: skip
        cost = value + fill_fee
        # The pool holds net proceeds: of these sells neither price nor fee is shown apart.
        return Allocation(
            lot.trade_id, trade_id, piece, lot.price, price, cost, fill_fee, share, 0, share, share - cost,
            lot.opened_at, at, True,
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
