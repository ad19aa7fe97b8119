"""What the engine makes of a fill: the pieces that it closed, as bare rows and with names."""

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, TypeAlias

from portfolio.fills import Fill
from portfolio.units import money_of, quantity_of

_new = tuple.__new__  # makes a NamedTuple at half the cost of its own constructor


Row: TypeAlias = tuple[
    str,
    str | None,
    int,
    int,
    int | None,
    int | None,
    int | None,
    int,
    int,
    int,
    int | None,
    datetime | None,
    datetime,
    bool,
]
"""The bare values of an `Allocation`: what the engine makes, and all that a batch needs."""


class Allocation(NamedTuple):
    """A piece of a sell matched with a piece of a buy, or with nothing (`buy_trade` None, cost and P&L unknown).

    Raw integers, because a fill makes them in a microsecond; the properties give Decimals. For a short lot
    the sell came first (`closed_by_buy`): `opened_at` is then the sell's time and `closed_at` the buy's.
    cost_basis = quantity x buy_price + buy_fee; net_proceeds = quantity x sell_price - sell_fee;
    pnl = net_proceeds - cost_basis, or None when a fee of one of the two trades could not be valued.
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
    closed_by_buy: bool = False

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
        """Realized P&L of the piece; None when it is unknown: unmatched, or beside a fee that has no value."""
        return None if self.pnl_units is None else money_of(self.pnl_units)


class OpenLot(NamedTuple):
    """What is left of an opening trade: negative quantity and cost basis for a short lot."""

    trade_id: str
    quantity: Decimal
    cost_basis: Decimal
    acquired_at: datetime


class FillResult(NamedTuple):
    """What one trade did. `realized_units` is None when nothing was closed or the P&L of a part is unknown."""

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


Matched: TypeAlias = tuple[tuple[Row, ...], int, int | None, int, bool]
"""The bare values of a `FillResult`."""


def result_of(matched: Matched) -> FillResult:
    """What the engine made, with names."""
    rows, unmatched, realized, fee, flagged = matched
    allocations = tuple([_new(Allocation, row) for row in rows]) if rows else ()
    return _new(FillResult, (allocations, unmatched, realized, fee, flagged))


def without_pnl(row: Row) -> Row:
    """A row with a fee on one side whose value is unknown."""
    return (*row[:10], None, *row[11:])


def unmatched_row(fill: Fill, rest: int) -> Row:
    """The rest of a spot sell for which there is no lot: proceeds known, cost and P&L unknown."""
    fee = (fill.fee - fill.fee * (fill.quantity - rest) // fill.quantity) * fill.grain
    proceeds = rest * fill.price
    return (
        fill.trade_id, None, rest, fill.price, None, None, None, proceeds, fee, proceeds - fee, None, None, fill.at,
        False,
    )  # fmt: skip
