"""Sums over all facts: cash, quantities, last fills. What a process knows at its start, in one pass."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection

from config.exact import ZERO
from execution import ledger, raw
from execution.model import Side, Trade


@dataclass(slots=True)
class Totals:
    """Cash by account, signed base quantity by (account, symbol), and the latest execution by tag, over all
    facts up to `sequence`."""

    sequence: int = 0
    cash: dict[str, Decimal] = field(default_factory=dict)
    quantities: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    last_fills: dict[str, datetime] = field(default_factory=dict)


def quantity_effect(trade: Trade, base_asset: str) -> Decimal:
    """The signed change of the position by a fill: a fee in the base asset reduces what is received, or takes
    extra."""
    change = trade.quantity if trade.side is Side.BUY else -trade.quantity
    return change - trade.fee if trade.fee_asset == base_asset else change


_TRADES = (
    "SELECT account, symbol, side, quantity, cash_effect, fee, fee_asset, triggered_by, executed_at"
    " FROM trades WHERE sequence <= ?"
)


def read_totals(connection: Connection) -> Totals:
    """Sum up the whole ledger. About 2 s for a million trades: texts are only turned into what is summed."""
    totals = Totals(sequence=ledger.head(connection).sequence)
    base_assets = {symbol: entry.base_asset for symbol, entry in ledger.instruments(connection).items()}
    cash, quantities = totals.cash, totals.quantities
    last_fills: dict[str, str] = {}
    cursor = raw.execute(connection, _TRADES, (totals.sequence,))
    while rows := cursor.fetchmany(5000):
        for account, symbol, side, quantity, effect, fee, fee_asset, tag, executed_at in rows:
            key = (account, symbol)
            change = Decimal(quantity) if side == "BUY" else -Decimal(quantity)
            if fee_asset == base_assets[symbol]:
                change -= Decimal(fee)
            quantities[key] = quantities.get(key, ZERO) + change
            cash[account] = cash.get(account, ZERO) + Decimal(effect)
            if executed_at > last_fills.get(tag, ""):
                last_fills[tag] = executed_at
    totals.last_fills = {tag: datetime.fromisoformat(text) for tag, text in last_fills.items()}
    for flow in ledger.cash_flows(connection):
        if flow.sequence <= totals.sequence:
            cash[flow.account] = cash.get(flow.account, ZERO) + flow.cash_effect
    return totals
