"""First in, first out: one pure streaming engine for one account and symbol, for live fills and batches.

Everything is a scaled Python integer (`portfolio.units`). A total that belongs to several parts (the fee of a trade)
is split by cumulative flooring, `F*b//S - F*a//S` for the part [a, b) of S: the parts add up to F exactly, in
whatever order and number they are taken.

What a trade is to the engine, whatever its fee was charged in, is in `portfolio.fills`; what it makes of one, in
`portfolio.matches`.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple, Protocol, Self

from execution.model import AccountMode, Trade
from portfolio.errors import FifoError
from portfolio.fills import FeeIn, Fill, fill_of
from portfolio.matches import FillResult, Matched, OpenLot, Row, result_of, unmatched_row, without_pnl
from portfolio.units import SCALE, money_of, quantity_of

ENGINE_VERSION = 3
"""Part of every checkpoint: a state of another version is recomputed, never read."""

_new = tuple.__new__  # makes a NamedTuple at half the cost of its own constructor


class Lot(NamedTuple):
    """The part [offset, quantity) of a fill that is still open; `fee_taken` of its fee went with what is not."""

    fill: Fill
    offset: int
    fee_taken: int

    @property
    def rest(self) -> int:
        """The quantity that is still open."""
        return self.fill.quantity - self.offset

    @property
    def open_value(self) -> int:
        """Remaining quantity x price, in money units."""
        return self.rest * self.fill.price

    @property
    def open_fee(self) -> int:
        """The remaining share of the fee, in money units."""
        return (self.fill.fee - self.fee_taken) * self.fill.grain


class OpenLots(Protocol):
    """What is open, however a method keeps it."""

    def append(self, fill: Fill, /) -> None:
        """One more, in whole: all that a method does when a fill opens a lot."""

    def __len__(self) -> int: ...


class LotEngine:
    """The lots of one account and symbol, closed by one method. O(open lots) of state.

    Fills must be applied in the total order of their trades (`Trade.order_key`). A sell in spot mode that
    exceeds the lots leaves an unmatched allocation; in margin mode it opens a short lot, cut at zero.
    This class is FIFO: a lot is the fill that opened it, and only of the first one a part can be gone. Other methods
    put the lot that is next in its place (`portfolio.lots`).
    """

    __slots__ = (
        "_cost",
        "_fee_taken",
        "_lots",
        "_margin",
        "_offset",
        "_quantity",
        "_queue",
        "_realized",
        "_sign",
        "_unmatched",
        "mode",
    )

    def __init__(self, mode: AccountMode) -> None:
        self.mode = mode
        self._margin = mode is AccountMode.MARGIN
        self._queue: deque[Fill] = deque()
        self._lots: OpenLots = self._queue
        self._offset = 0  # what is gone of the first in the queue
        self._fee_taken = 0  # of its fee
        self._sign = 1  # of the open lots: +1 long, -1 short
        self._quantity = 0
        self._cost = 0
        self._realized = 0
        self._unmatched = 0

    @property
    def quantity(self) -> Decimal:
        """The open quantity; negative when short."""
        return quantity_of(self._quantity)

    @property
    def cost_basis(self) -> Decimal:
        """The cost of the open lots with buy fees; for short lots minus the net proceeds received."""
        return money_of(self._cost)

    @property
    def realized_pnl(self) -> Decimal:
        """The sum of the P&L of all allocations whose P&L is known."""
        return money_of(self._realized)

    @property
    def unmatched_quantity(self) -> Decimal:
        """The total quantity sold without a lot; when not 0, the realized P&L is incomplete."""
        return quantity_of(self._unmatched)

    @property
    def units(self) -> tuple[int, int, int, int]:
        """Open and unmatched quantity (10^-18), cost basis and realized P&L (10^-36) as the integers they are."""
        return self._quantity, self._unmatched, self._cost, self._realized

    @property
    def edges(self) -> tuple[Fill, int, int, Fill] | None:
        """The fill of the oldest open lot, how much of it and of its fee is gone, and the fill of the newest one.

        None when nothing is open. Only first in, first out keeps them so.
        """
        queue = self._queue
        return (queue[0], self._offset, self._fee_taken, queue[-1]) if queue else None

    @property
    def lot_count(self) -> int:
        """The number of open lots."""
        return len(self._lots)

    def lots(self) -> Iterator[Lot]:
        """The open lots, oldest first."""
        offset, fee_taken = self._offset, self._fee_taken
        for fill in self._queue:
            yield Lot(fill, offset, fee_taken)
            offset = fee_taken = 0

    def open_lots(self, limit: int | None = None) -> tuple[OpenLot, ...]:
        """The open lots with their values, oldest first, at most `limit` of them."""
        sign = self._sign
        return tuple(
            OpenLot(
                lot.fill.trade_id,
                quantity_of(sign * lot.rest),
                money_of(sign * lot.open_value + lot.open_fee),
                lot.fill.at,
            )
            for lot in islice(self.lots(), limit)
        )

    def apply(self, trade: Trade, fee_in: FeeIn = FeeIn.QUOTE) -> FillResult:
        """Match one trade. Raises FifoError (changing nothing) on numbers that are not exact in 18 decimals."""
        return self.apply_fill(fill_of(trade, fee_in))

    def apply_fill(self, fill: Fill) -> FillResult:
        """Match one fill."""
        return result_of(self.match(fill))

    def match(self, fill: Fill) -> Matched:
        """Match one fill: `apply_fill` without the names."""
        _, sign, quantity, price, fee, grain, _, flagged = fill
        fee_units = fee * grain
        rows: tuple[Row, ...] = ()
        rest, realized = quantity, None
        if self._sign != sign and self._lots:
            rows, rest, known, is_whole = self._close(fill, fee_units)
            self._realized += known
            if is_whole:
                realized = known
        elif sign > 0:  # what `_open` does, for half of all fills and without the call
            self._lots.append(fill)
            self._sign = sign
            self._quantity += quantity
            self._cost += quantity * price + fee_units
            return rows, 0, realized, fee_units, flagged
        if not rest:
            return rows, 0, realized, fee_units, flagged
        if sign > 0 or self._margin:
            self._open(fill, rest, fee_units)
            return rows, 0, realized, fee_units, flagged
        self._unmatched += rest
        return (*rows, unmatched_row(fill, rest)), rest, None, fee_units, flagged

    def _open(self, fill: Fill, rest: int, fee_units: int) -> None:
        """Keep what is left of a fill as an open lot; `fee_units`: the fee of all of it, in money units."""
        _, sign, quantity, price, fee, grain, _, _ = fill
        if rest != quantity:
            if self._queue:
                raise ValueError("only the first lot can have lost a part")
            self._offset = quantity - rest
            self._fee_taken = fee * self._offset // quantity
            fee_units -= self._fee_taken * grain
        self._lots.append(fill)
        self._sign = sign
        if sign > 0:
            self._quantity += rest
            self._cost += rest * price + fee_units
        else:
            self._quantity -= rest
            self._cost -= rest * price - fee_units

    def _close(
        self, fill: Fill, fee_units: int, start: int = 0, end: int | None = None
    ) -> tuple[tuple[Row, ...], int, int, bool]:
        """Match the part [start, end) of a fill, or all of it, with the lots of the other side, oldest first: the
        rows, what is left of the part, the known P&L, and whether that is all of it.

        One loop over plain integers with all formulas in it, because a batch runs it a million times. Shares of a fee
        are rounded only where a lot or the fill is cut: the last part takes what is left.
        """
        trade_id, sign, quantity, price, fee, grain, at, flagged = fill
        queue = self._queue
        rows = []
        known = 0
        is_whole = True
        if end is None:
            end = quantity
        rest = end - start
        is_last = end == quantity
        taken = fee * start // quantity if start else 0  # of the fill's fee
        offset, lot_taken, cost_now = self._offset, self._fee_taken, self._cost
        while rest and queue:
            lot_id, _, total, lot_price, lot_fee, lot_grain, opened_at, lot_flagged = queue[0]
            piece = total - offset
            if piece <= rest:
                lot_share = (lot_fee - lot_taken) * lot_grain
                offset = lot_taken = 0
                queue.popleft()
            else:
                piece = rest
                offset += piece
                before, lot_taken = lot_taken, lot_fee * offset // total
                lot_share = (lot_taken - before) * lot_grain
            rest -= piece
            if rest or not is_last:
                before, taken = taken, fee * (end - rest) // quantity
                share = (taken - before) * grain
            else:
                share = (fee - taken) * grain if taken else fee_units
            lot_value, value = piece * lot_price, piece * price
            row: Row
            if sign < 0:
                cost = lot_value + lot_share
                net = value - share
                cost_now -= cost
                pnl = net - cost
                row = (
                    trade_id, lot_id, piece, price, lot_price, cost, lot_share, value, share, net, pnl, opened_at, at,
                    False,
                )  # fmt: skip
            else:
                cost = value + share
                net = lot_value - lot_share
                cost_now += net
                pnl = net - cost
                row = (
                    lot_id, trade_id, piece, lot_price, price, cost, share, lot_value, lot_share, net, pnl, opened_at,
                    at, True,
                )  # fmt: skip
            if flagged or lot_flagged:
                row = without_pnl(row)
                is_whole = False
            else:
                known += pnl
            rows.append(row)
        self._offset, self._fee_taken, self._cost = offset, lot_taken, cost_now
        self._quantity += sign * (end - start - rest)
        return tuple(rows), rest, known, is_whole

    @classmethod
    def resumed(
        cls, mode: AccountMode, sign: int, fills: Sequence[Fill], held: int, unmatched: int = 0, realized: int = 0
    ) -> Self:
        """The engine after trades that are not looked at again.

        `fills` are its lots, oldest first, of which the first may have lost a part; `held` is how much is open of
        them (above 0, short or not), `sign` that of the last lots there were. Raises FifoError when these fills
        cannot be what is held.
        """
        engine = cls(mode)
        engine._sign, engine._unmatched, engine._realized = sign, unmatched, realized
        gone = sum(fill.quantity for fill in fills) - held
        if gone and not (fills and 0 < gone < fills[0].quantity):
            raise FifoError("fills of which so much can be open")
        for fill in fills:
            engine._open(fill, fill.quantity - gone, fill.fee * fill.grain)
            gone = 0
        return engine

    def dump(self) -> dict[str, Any]:
        """The exact state as a JSON-able dict."""
        return {
            "version": ENGINE_VERSION,
            "mode": self.mode.value,
            "sign": self._sign,
            "realized": str(self._realized),
            "unmatched": str(self._unmatched),
            "lots": [
                [
                    fill.trade_id,
                    str(fill.price),
                    str(fill.fee),
                    fill.grain == 1,
                    str(fill.quantity),
                    str(offset),
                    fill.at.isoformat(),
                    fill.flagged,
                ]
                for fill, offset, _ in self.lots()
            ],
        }

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Self:
        """The engine that `dump` wrote. Raises FifoError when the state is of another form or version."""
        try:
            if state["version"] != ENGINE_VERSION:
                raise FifoError(f"a state of engine version {ENGINE_VERSION}, not {state['version']}")
            engine = cls(AccountMode(state["mode"]))
            engine._sign = int(state["sign"])
            engine._realized = int(state["realized"])
            engine._unmatched = int(state["unmatched"])
            for trade_id, price, fee, is_base_fee, total, offset, opened_at, flagged in state["lots"]:
                grain = 1 if is_base_fee else SCALE
                at = datetime.fromisoformat(opened_at)
                fill = Fill(trade_id, engine._sign, int(total), int(price), int(fee), grain, at, flagged)
                engine._open(fill, fill.quantity - int(offset), fill.fee * grain)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise FifoError("a state written by dump()") from error
        return engine
