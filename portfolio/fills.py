"""What the engine takes: one trade in scaled integers, its fee counted as what it was charged in.

A fee in the base asset changes the quantity that moved: a buy receives `quantity - fee`, a sell takes
`quantity + fee`. That effective quantity is what lots and allocations count. The base fee valued at the
fill's own price takes the place of the quote fee, so that the cost of a buy and the net proceeds of a sell
stay exactly quantity x price.

A fee in a third asset counts with the quote value that was recorded with the trade (its cash effect goes
beyond quantity x price by it; the asset itself left by a trade of its own). Without one the fill is flagged: what the
fee was worth is unknown, and so is the P&L of every allocation that has a part of the fill on either side. Its cost,
proceeds and shares of fees are what is known, that fee left out.
"""

from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import NamedTuple

from execution.model import Side, Trade
from portfolio.units import MONEY_DIGITS, SCALE, to_units

_new = tuple.__new__  # makes a NamedTuple at half the cost of its own constructor


class FeeIn(Enum):
    """What a trade's fee was charged in."""

    QUOTE = "quote"
    BASE = "base"
    OTHER = "other"


class Fill(NamedTuple):
    """One trade as the engine takes it: scaled integers over its effective quantity.

    `sign` is +1 for a buy, -1 for a sell; `grain` is money units per unit of `fee`. `flagged`: the fee could
    not be valued and was left out, so that no P&L of the fill is known.
    """

    trade_id: str
    sign: int
    quantity: int
    price: int
    fee: int
    grain: int
    at: datetime
    flagged: bool


def make_fill(
    trade_id: str, sign: int, quantity: int, price: int, fee: int, fee_in: FeeIn, cash: int, at: datetime
) -> Fill:
    """A fill from units of 10^-18; `cash`, in units of 10^-36, is the signed change of the account's cash."""
    if not fee or fee_in is FeeIn.QUOTE:
        return _new(Fill, (trade_id, sign, quantity, price, fee, SCALE, at, False))
    if fee_in is FeeIn.BASE:
        effective = quantity - sign * fee
        # A base fee that eats the whole fill leaves nothing to carry its cost: flagged, never guessed.
        if effective > 0:
            return Fill(trade_id, sign, effective, price, fee * price, 1, at, False)
        return Fill(trade_id, sign, quantity, price, 0, SCALE, at, True)
    value = -cash - sign * quantity * price
    return Fill(trade_id, sign, quantity, price, value, 1, at, not value)


def fill_of(trade: Trade, fee_in: FeeIn) -> Fill:
    """A trade as a fill. Raises FifoError on numbers that are not exact in 18 decimals."""
    fee = trade.fee
    cash = 0 if fee_in is FeeIn.QUOTE or not fee else _money_units(trade.cash_effect)
    return make_fill(
        trade.id,
        1 if trade.side is Side.BUY else -1,
        to_units(trade.quantity),
        to_units(trade.price),
        to_units(fee) if fee else 0,
        fee_in,
        cash,
        trade.executed_at,
    )


def _money_units(value: Decimal) -> int:
    """`value` in units of 10^-36; a product of a quantity and a price has at most 36 decimals."""
    return int(value.scaleb(MONEY_DIGITS))
