"""The ledger: append facts, read them by sequence or in the order of trades.

Every fact (trade, cash flow) gets the next gap-free sequence and a hash of its content and of its
predecessor's hash, assigned inside the transaction that stores it; `ledger_head` holds the last of both.
The plain functions here read; `LedgerTail` appends.
"""

from execution.ledger.catalogue import account_created, accounts, add_account, add_instrument, instruments
from execution.ledger.chain import content_hash, stored_hash
from execution.ledger.facts import Head, NewCashFlow, NewTrade, derived_id, trade_id
from execution.ledger.reading import (
    cash_flows,
    corrected_by,
    facts_since,
    fills,
    find_flow,
    find_trade,
    find_trades,
    flows_between,
    head,
    last_executed,
    trades,
    trades_in_order,
)
from execution.ledger.tail import LedgerTail, same_trade

__all__ = [
    "Head",
    "LedgerTail",
    "NewCashFlow",
    "NewTrade",
    "account_created",
    "accounts",
    "add_account",
    "add_instrument",
    "cash_flows",
    "content_hash",
    "corrected_by",
    "derived_id",
    "facts_since",
    "fills",
    "find_flow",
    "find_trade",
    "find_trades",
    "flows_between",
    "head",
    "instruments",
    "last_executed",
    "same_trade",
    "stored_hash",
    "trade_id",
    "trades",
    "trades_in_order",
]
