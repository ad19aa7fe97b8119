"""Positions and portfolios as frozen values, and their one JSON form.

Formulas (FIFO): cost_basis = sum of the open lots with their buy fees; average_cost = cost_basis / quantity;
market_value = quantity x mark_price; unrealized = market_value - cost_basis; equity = cash + market_value;
total_pnl = realized + unrealized + income - standalone fees; return = total_pnl / net external flows.
Unknown is None (null on the wire), never 0.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from config.exact import plain
from config.times import time_text
from execution.model import Json
from portfolio.matches import OpenLot


def _text(value: Decimal | None) -> str | None:
    return None if value is None else plain(value)


def lot_wire(lot: OpenLot) -> dict[str, Json]:
    """An open lot; a short lot has no `buy_trade` yet and names its `sell_trade` instead."""
    is_short = lot.quantity < 0
    wire: dict[str, Json] = {
        "buy_trade": None if is_short else lot.trade_id,
        "quantity": plain(lot.quantity),
        "cost_basis": plain(lot.cost_basis),
        "acquired_at": time_text(lot.acquired_at),
    }
    if is_short:
        wire["sell_trade"] = lot.trade_id
    return wire


@dataclass(frozen=True, slots=True)
class Position:
    """What an account holds of one symbol. Quantity and cost basis are negative when short.

    `fees` are the trade fees in quote currency (a base fee at its fill's price). `incomplete` says that a
    part of the P&L is unknown: a sell without a lot, or a fee in a third asset. `open_lots` may be cut to
    the oldest ones for a message; `lot_count` is their full number. `is_dust`: less is held than the symbol's
    dust threshold; it counts like everything else.
    """

    symbol: str
    quantity: Decimal
    cost_basis: Decimal
    average_cost: Decimal | None
    mark_price: Decimal | None
    mark_time: datetime | None
    market_value: Decimal | None
    unrealized_pnl: Decimal | None
    pnl_percent: Decimal | None
    realized_pnl: Decimal
    fees: Decimal
    incomplete: bool
    open_lots: tuple[OpenLot, ...]
    lot_count: int
    unmatched_quantity: Decimal
    is_dust: bool = False

    def to_wire(self) -> dict[str, Json]:
        """The JSON form; decimals as plain strings."""
        return {
            "symbol": self.symbol,
            "quantity": plain(self.quantity),
            "cost_basis": plain(self.cost_basis),
            "average_cost": _text(self.average_cost),
            "mark_price": _text(self.mark_price),
            "mark_time": None if self.mark_time is None else time_text(self.mark_time),
            "market_value": _text(self.market_value),
            "unrealized_pnl": _text(self.unrealized_pnl),
            "pnl_percent": _text(self.pnl_percent),
            "realized_pnl": plain(self.realized_pnl),
            "fees": plain(self.fees),
            "incomplete": self.incomplete,
            "dust": self.is_dust,
            "unmatched_quantity": plain(self.unmatched_quantity),
            "lot_count": self.lot_count,
            "open_lots": [lot_wire(lot) for lot in self.open_lots],
        }


@dataclass(frozen=True, slots=True)
class Portfolio:
    """An account as a whole at a ledger sequence, in the account's currency.

    `fees` are trade fees and standalone fees together. `positions` holds every symbol that was ever traded,
    flat ones too, so that their realized P&L adds up to the total. `return_ratio` = (equity - net flows) / net flows,
    which is `total_pnl` over them unless a part of the P&L is unknown (`incomplete`); None when nothing is paid in.
    """

    account: str
    currency: str
    cash: Decimal
    net_flows: Decimal
    income: Decimal
    standalone_fees: Decimal
    market_value: Decimal | None
    equity: Decimal | None
    realized_pnl: Decimal
    unrealized_pnl: Decimal | None
    total_pnl: Decimal | None
    return_ratio: Decimal | None
    fees: Decimal
    incomplete: bool
    positions: tuple[Position, ...]
    sequence: int

    @property
    def open_positions(self) -> tuple[Position, ...]:
        """The positions that are not flat."""
        return tuple(position for position in self.positions if position.quantity)

    def to_wire(self) -> dict[str, Json]:
        """The JSON form; decimals as plain strings."""
        return {
            "account": self.account,
            "currency": self.currency,
            "cash": plain(self.cash),
            "net_flows": plain(self.net_flows),
            "income": plain(self.income),
            "market_value": _text(self.market_value),
            "equity": _text(self.equity),
            "realized_pnl": plain(self.realized_pnl),
            "unrealized_pnl": _text(self.unrealized_pnl),
            "total_pnl": _text(self.total_pnl),
            "return": _text(self.return_ratio),
            "fees": plain(self.fees),
            "incomplete": self.incomplete,
            "positions": [position.to_wire() for position in self.positions],
            "sequence": self.sequence,
        }


@dataclass(frozen=True, slots=True)
class PositionChanged:
    """A position is to be published; `sequence` is the ledger's at that moment."""

    account: str
    position: Position
    sequence: int

    def to_wire(self) -> dict[str, Json]:
        """The JSON form of the retained position message."""
        return {"account": self.account, **self.position.to_wire(), "sequence": self.sequence}


@dataclass(frozen=True, slots=True)
class PortfolioChanged:
    """A portfolio is to be published."""

    portfolio: Portfolio

    @property
    def account(self) -> str:
        """Whose portfolio."""
        return self.portfolio.account

    def to_wire(self) -> dict[str, Json]:
        """The JSON form of the retained portfolio message."""
        return self.portfolio.to_wire()
