"""What is recorded of a fill: one trade, whichever venue told it."""

from typing import TypeAlias

from execution import fees, ledger
from execution.adoption import EXTERNAL
from execution.exchange import ExchangeTrade
from execution.ledger import NewTrade
from execution.model import Account, Order, Source
from execution.venue import VenueFill

Fill: TypeAlias = VenueFill | ExchangeTrade


def new_trade(account: Account, order: Order, fill: Fill) -> NewTrade:
    """The trade that a fill of an order is. Of what was ordered elsewhere the type of the order is not known."""
    quantity, price, fee, asset = fill.quantity, fill.price, fill.fee, fill.fee_asset
    return NewTrade(
        ledger.trade_id(account.venue, order.account, order.symbol, fill.venue_trade_id), order.account, order.symbol,
        order.side, quantity, price, fill.executed_at, fee, asset,
        fees.cash_effect(order.side, quantity, price, fee, asset, account.currency),
        account.venue, Source.EXCHANGE, order.triggered_by, order.id, fill.venue_trade_id, fill.venue_sequence,
        None if order.triggered_by == EXTERNAL else order.type, order.signal_context,
    )  # fmt: skip
