"""First in, first out: one pure streaming engine for one account and symbol, for live fills and batches.

Everything is a scaled Python integer: quantities, prices and quote fees in units of 10^-18, money in units
of 10^-36, so that price x quantity is exact. A total that belongs to several parts (the fee of a trade) is
split by cumulative flooring, `F*b//S - F*a//S` for the part [a, b) of S: the parts add up to F exactly, in
whatever order and number they are taken.

A fee in the base asset changes the quantity that moved: a buy receives `quantity - fee`, a sell takes
`quantity + fee`. That effective quantity is what lots and allocations count. The base fee valued at the
fill's own price takes the place of the quote fee, so that the cost of a buy and the net proceeds of a sell
stay exactly quantity x price.
"""

from collections import deque
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

from config.exact import ZERO
from execution.model import AccountMode, Side, Trade
from portfolio.errors import FifoError

ENGINE_VERSION = 1
"""Part of every checkpoint: a state of another version is recomputed, never read."""

QUANTITY_DIGITS = 18
MONEY_DIGITS = 36
_SCALE: int = 10**QUANTITY_DIGITS


class FeeIn(Enum):
    """What a trade's fee was charged in."""

    QUOTE = "quote"
    BASE = "base"
    OTHER = "other"


def to_units(value: Decimal) -> int:
    """`value` in units of 10^-18. Raises FifoError when it has more than 18 decimals or is not finite."""
    numerator: int
    try:
        numerator, denominator = value.as_integer_ratio()  # at half the cost of a checked scaleb
    except (ValueError, OverflowError) as error:
        raise FifoError(f"a finite number, not {value}") from error
    if denominator == 1:
        return numerator * _SCALE
    if _SCALE % denominator:
        raise FifoError(f"at most {QUANTITY_DIGITS} decimals, not {value}")
    return numerator * (_SCALE // denominator)


def quantity_of(units: int) -> Decimal:
    """Units of 10^-18 (quantities, prices) as a Decimal."""
    return Decimal(units).scaleb(-QUANTITY_DIGITS) if units else ZERO


def money_of(units: int) -> Decimal:
    """Units of 10^-36 (money) as a Decimal."""
    return Decimal(units).scaleb(-MONEY_DIGITS) if units else ZERO


class Allocation(NamedTuple):
    """A piece of a sell matched with a piece of a buy, or with nothing (`buy_trade` None, P&L unknown).

    Raw integers, because a fill makes one in a microsecond; the properties give Decimals. For a short lot
    the sell came first: `opened_at` is then the sell's time and `closed_at` the buy's.
    cost_basis = quantity x buy_price + buy_fee; net_proceeds = quantity x sell_price - sell_fee;
    pnl = net_proceeds - cost_basis.
    """

    sell_trade: str
    buy_trade: str | None
    quantity_units: int
    sell_price_units: int
    buy_price_units: int | None
    cost_units: int | None
    buy_fee_units: int | None
    proceeds_units: int
    sell_fee_units: int
    net_units: int
    pnl_units: int | None
    opened_at: datetime | None
    closed_at: datetime

    @property
    def quantity(self) -> Decimal:
        """The matched quantity, in base units."""
        return quantity_of(self.quantity_units)

    @property
    def sell_price(self) -> Decimal:
        """The price of the sell."""
        return quantity_of(self.sell_price_units)

    @property
    def buy_price(self) -> Decimal | None:
        """The price of the buy; None when unmatched."""
        return None if self.buy_price_units is None else quantity_of(self.buy_price_units)

    @property
    def cost_basis(self) -> Decimal | None:
        """What the piece cost, with its share of the buy fee; None when unmatched (unknown, not zero)."""
        return None if self.cost_units is None else money_of(self.cost_units)

    @property
    def buy_fee(self) -> Decimal | None:
        """The piece's share of the buy's fee; None when unmatched."""
        return None if self.buy_fee_units is None else money_of(self.buy_fee_units)

    @property
    def proceeds(self) -> Decimal:
        """Quantity x sell price."""
        return money_of(self.proceeds_units)

    @property
    def sell_fee(self) -> Decimal:
        """The piece's share of the sell's fee."""
        return money_of(self.sell_fee_units)

    @property
    def net_proceeds(self) -> Decimal:
        """Proceeds less the share of the sell fee."""
        return money_of(self.net_units)

    @property
    def pnl(self) -> Decimal | None:
        """Realized P&L of the piece; None when unmatched."""
        return None if self.pnl_units is None else money_of(self.pnl_units)


class OpenLot(NamedTuple):
    """What is left of an opening trade: negative quantity and cost basis for a short lot."""

    trade_id: str
    quantity: Decimal
    cost_basis: Decimal
    acquired_at: datetime


class FillResult(NamedTuple):
    """What one trade did. `realized_units` is None when nothing was closed or a part is unmatched."""

    allocations: tuple[Allocation, ...]
    unmatched_units: int
    realized_units: int | None
    fee_units: int
    fee_flagged: bool

    @property
    def unmatched_quantity(self) -> Decimal:
        """The part of a spot sell that no lot covers."""
        return quantity_of(self.unmatched_units)

    @property
    def realized_pnl(self) -> Decimal | None:
        """The P&L that this fill realized; None when it closed nothing, or when a part is unknown."""
        return None if self.realized_units is None else money_of(self.realized_units)

    @property
    def fee(self) -> Decimal:
        """The fee in quote currency (a base fee at the fill's price); 0 when it was in a third asset."""
        return money_of(self.fee_units)


class _Lot:
    """The part [offset, total) of a trade that is still open. `grain` is money units per fee unit."""

    __slots__ = ("fee", "fee_taken", "grain", "offset", "opened_at", "price", "total", "trade_id")

    def __init__(
        self, trade_id: str, price: int, fee: int, grain: int, total: int, offset: int, opened_at: datetime
    ) -> None:
        self.trade_id = trade_id
        self.price = price
        self.fee = fee
        self.grain = grain
        self.total = total
        self.offset = offset
        self.opened_at = opened_at
        self.fee_taken = fee * offset // total if fee else 0

    def take(self, quantity: int) -> int:
        """Advance by `quantity` and return that part's share of the fee, in money units."""
        self.offset += quantity
        if not self.fee:
            return 0
        taken = self.fee * self.offset // self.total
        share = taken - self.fee_taken
        self.fee_taken = taken
        return share * self.grain

    @property
    def open_value(self) -> int:
        """Remaining quantity x price, in money units."""
        return (self.total - self.offset) * self.price

    @property
    def open_fee(self) -> int:
        """The remaining share of the fee, in money units."""
        return (self.fee - self.fee_taken) * self.grain


_NOTHING: tuple[Allocation, ...] = ()
_new = tuple.__new__  # makes a NamedTuple at half the cost of its own constructor


class FifoEngine:
    """The lots of one account and symbol. O(open lots) of state, O(lots closed) of work per fill.

    Trades must be applied in their total order (`Trade.order_key`). A sell in spot mode that exceeds the
    lots leaves an unmatched allocation; in margin mode it opens a short lot, cut at zero.
    """

    __slots__ = ("_cost", "_lots", "_margin", "_quantity", "_realized", "_sign", "_unmatched", "mode")

    def __init__(self, mode: AccountMode) -> None:
        self.mode = mode
        self._margin = mode is AccountMode.MARGIN
        self._lots: deque[_Lot] = deque()
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
        """The sum of the P&L of all matched allocations."""
        return money_of(self._realized)

    @property
    def unmatched_quantity(self) -> Decimal:
        """The total quantity sold without a lot; when not 0, the realized P&L is incomplete."""
        return quantity_of(self._unmatched)

    @property
    def lot_count(self) -> int:
        """The number of open lots."""
        return len(self._lots)

    def open_lots(self, limit: int | None = None) -> tuple[OpenLot, ...]:
        """The open lots, oldest first, at most `limit` of them."""
        sign = self._sign
        lots = []
        for number, lot in enumerate(self._lots):
            if number == limit:
                break
            cost = lot.open_value + sign * lot.open_fee
            lots.append(
                OpenLot(
                    lot.trade_id,
                    quantity_of(sign * (lot.total - lot.offset)),
                    money_of(sign * cost),
                    lot.opened_at,
                )
            )
        return tuple(lots)

    def apply(self, trade: Trade, fee_in: FeeIn = FeeIn.QUOTE) -> FillResult:
        """Match one trade. Raises FifoError (changing nothing) on numbers that are not exact in 18 decimals."""
        sign = 1 if trade.side is Side.BUY else -1
        fill, flagged = _fill_of(trade, fee_in, sign)
        fee_units = fill.fee * fill.grain if fill.fee else 0
        if self._lots and self._sign != sign:
            allocations, realized = self._close(fill, sign)
            self._realized += realized or 0
        else:
            allocations, realized = [], None
        remainder = fill.total - fill.offset
        unmatched = 0
        if remainder:
            if sign > 0 or self._margin:
                self._open(fill, sign, remainder)
            else:
                unmatched = remainder
                realized = None
                self._unmatched += remainder
                allocations.append(_unmatched(fill, remainder))
        matched = tuple(allocations) if allocations else _NOTHING
        return _new(FillResult, (matched, unmatched, realized, fee_units, flagged))

    def _open(self, fill: _Lot, sign: int, remainder: int) -> None:
        """Keep what is left of a trade as an open lot."""
        self._sign = sign
        self._lots.append(fill)
        self._quantity += sign * remainder
        self._cost += sign * fill.open_value + fill.open_fee

    def _close(self, fill: _Lot, sign: int) -> tuple[list[Allocation], int | None]:
        """Match `fill` with the lots of the other side, oldest first; the pieces and their P&L."""
        lots = self._lots
        allocations = []
        realized = 0
        while lots and (wanted := fill.total - fill.offset):
            lot = lots[0]
            available = lot.total - lot.offset
            if available <= wanted:
                piece = available
                lots.popleft()
            else:
                piece = wanted
            lot_fee = lot.take(piece)
            fill_fee = fill.take(piece)
            if sign < 0:
                buy, buy_fee, sell, sell_fee = lot, lot_fee, fill, fill_fee
            else:
                buy, buy_fee, sell, sell_fee = fill, fill_fee, lot, lot_fee
            cost = piece * buy.price + buy_fee
            proceeds = piece * sell.price
            net = proceeds - sell_fee
            realized += net - cost
            self._quantity += sign * piece
            self._cost += net if sign > 0 else -cost
            allocations.append(
                _new(
                    Allocation,
                    (
                        sell.trade_id,
                        buy.trade_id,
                        piece,
                        sell.price,
                        buy.price,
                        cost,
                        buy_fee,
                        proceeds,
                        sell_fee,
                        net,
                        net - cost,
                        lot.opened_at,
                        fill.opened_at,
                    ),
                )
            )
        return allocations, realized

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
                    lot.trade_id,
                    str(lot.price),
                    str(lot.fee),
                    lot.grain == 1,
                    str(lot.total),
                    str(lot.offset),
                    lot.opened_at.isoformat(),
                ]
                for lot in self._lots
            ],
        }

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> "FifoEngine":
        """The engine that `dump` wrote. Raises FifoError when the state is of another form or version."""
        try:
            if state["version"] != ENGINE_VERSION:
                raise FifoError(f"a state of engine version {ENGINE_VERSION}, not {state['version']}")
            engine = cls(AccountMode(state["mode"]))
            engine._sign = int(state["sign"])
            engine._realized = int(state["realized"])
            engine._unmatched = int(state["unmatched"])
            for trade_id, price, fee, is_base_fee, total, offset, opened_at in state["lots"]:
                grain = 1 if is_base_fee else _SCALE
                lot = _Lot(
                    trade_id, int(price), int(fee), grain, int(total), int(offset), datetime.fromisoformat(opened_at)
                )
                engine._open(lot, engine._sign, lot.total - lot.offset)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise FifoError("a state written by dump()") from error
        return engine


def _fill_of(trade: Trade, fee_in: FeeIn, sign: int) -> tuple[_Lot, bool]:
    """The trade as a fresh lot over its effective quantity, and whether its fee had to be left out."""
    quantity = to_units(trade.quantity)
    price = to_units(trade.price)
    fee = to_units(trade.fee) if trade.fee else 0
    grain = _SCALE
    flagged = False
    if fee and fee_in is not FeeIn.QUOTE:
        effective = quantity - sign * fee
        # A base fee that eats the whole fill leaves nothing to carry its cost: flagged, never guessed.
        if fee_in is FeeIn.BASE and effective > 0:
            quantity, fee, grain = effective, fee * price, 1
        else:
            fee, flagged = 0, True
    return _Lot(trade.id, price, fee, grain, quantity, 0, trade.executed_at), flagged


def _unmatched(fill: _Lot, remainder: int) -> Allocation:
    """The rest of a spot sell for which there is no lot: proceeds known, cost and P&L unknown."""
    fee = fill.take(remainder)
    proceeds = remainder * fill.price
    net = proceeds - fee
    return Allocation(
        fill.trade_id,
        None,
        remainder,
        fill.price,
        None,
        None,
        None,
        proceeds,
        fee,
        net,
        None,
        None,
        fill.opened_at,
    )
