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
    facts up to `sequence`. `opened`: the fact that opened each position which is open."""

    sequence: int = 0
    cash: dict[str, Decimal] = field(default_factory=dict)
    quantities: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    last_fills: dict[str, datetime] = field(default_factory=dict)
    deposited: dict[str, Decimal] = field(default_factory=dict)
    opened: dict[tuple[str, str], int] = field(default_factory=dict)


def quantity_effect(trade: Trade, base_asset: str) -> Decimal:
    """The signed change of the position by a fill: a fee in the base asset reduces what is received, or takes
    extra."""
    change = trade.quantity if trade.side is Side.BUY else -trade.quantity
    return change - trade.fee if trade.fee_asset == base_asset else change


def note_opening(
    opened: dict[tuple[str, str], int],
    key: tuple[str, str],
    sequence: int,
    before: Decimal,
    after: Decimal,
    step: Decimal,
) -> None:
    """Keep which fact opened the position `key`, as fact `sequence` takes it from `before` to `after`.

    A position that turns from long to short is a new one. Less than one `step` (the quantity increment, what
    fees may leave behind) is none: no order could close it.
    """
    if -step < after < step:
        opened.pop(key, None)
    elif key not in opened or (before > 0) is not (after > 0):
        opened[key] = sequence


_TRADES = (
    "SELECT sequence, account, symbol, side, quantity, cash_effect, fee, fee_asset, triggered_by, executed_at"
    " FROM trades WHERE sequence <= ? ORDER BY sequence"
)


def read_totals(connection: Connection) -> Totals:
    """Sum up the whole ledger. About 2 s for a million trades: texts are only turned into what is summed."""
    totals = Totals(sequence=ledger.head(connection).sequence)
    entries = {
        symbol: (entry.base_asset, entry.quantity_increment)
        for symbol, entry in ledger.instruments(connection).items()
    }
    cash, quantities, opened = totals.cash, totals.quantities, totals.opened
    last_fills: dict[str, str] = {}
    cursor = raw.execute(connection, _TRADES, (totals.sequence,))
    while rows := cursor.fetchmany(5000):
        for sequence, account, symbol, side, quantity, effect, fee, fee_asset, tag, executed_at in rows:
            key = (account, symbol)
            base_asset, step = entries[symbol]
            change = Decimal(quantity) if side == "BUY" else -Decimal(quantity)
            if fee_asset == base_asset:
                change -= Decimal(fee)
            before = quantities.get(key, ZERO)
            quantities[key] = after = before + change
            note_opening(opened, key, sequence, before, after, step)
            cash[account] = cash.get(account, ZERO) + Decimal(effect)
            if executed_at > last_fills.get(tag, ""):
                last_fills[tag] = executed_at
    totals.last_fills = {tag: datetime.fromisoformat(text) for tag, text in last_fills.items()}
    for flow in ledger.cash_flows(connection):
        if flow.sequence <= totals.sequence:
            cash[flow.account] = cash.get(flow.account, ZERO) + flow.cash_effect
            if flow.kind.is_external:
                totals.deposited[flow.account] = totals.deposited.get(flow.account, ZERO) + flow.cash_effect
    return totals
