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
    return NewTrade(
        id=ledger.trade_id(account.venue, order.account, order.symbol, fill.venue_trade_id),
        account=order.account,
        symbol=order.symbol,
        side=order.side,
        quantity=fill.quantity,
        price=fill.price,
        executed_at=fill.executed_at,
        fee=fill.fee,
        fee_asset=fill.fee_asset,
        cash_effect=fees.cash_effect(
            order.side, fill.quantity, fill.price, fill.fee, fill.fee_asset, account.currency
        ),
        venue=account.venue,
        source=Source.EXCHANGE,
        triggered_by=order.triggered_by,
        order_id=order.id,
        venue_trade_id=fill.venue_trade_id,
        venue_sequence=fill.venue_sequence,
        order_type=None if order.triggered_by == EXTERNAL else order.type,
        signal_context=order.signal_context,
    )
