"""Whose a trade is that a live venue tells of: one of our orders, whatever we think of it, or nobody's here.

Inside the write transaction: an order is committed before it is sent, so a client order id that is not found here
was not ours. What nobody here ordered gets an order of its own, tagged "external", so that no trade is dropped.
"""

from sqlalchemy import Connection

from config.exact import plain
from config.instruments import Instrument, is_symbol
from config.times import time_text
from execution import orders
from execution.exchange import ExchangeTrade
from execution.importers.common import instrument_of
from execution.ledger import derived_id
from execution.model import (
    Account,
    AlertRaised,
    Order,
    OrderStatus,
    OrderType,
    Severity,
    TimeInForce,
)

EXTERNAL = "external"
"""What triggered an order that was placed at the venue by other means."""

FILLED_AFTER_CLOSE = "filled_after_close"
"""Why an order is open again: the venue filled it although it had been closed here."""


def own_order(connection: Connection, account: str, trade: ExchangeTrade) -> Order | None:
    """The order of ours that a trade belongs to, open or not."""
    if trade.client_order_id is None:
        return None
    order = orders.find_by_client_id(connection, trade.client_order_id)
    if order is None or (order.account, order.symbol, order.side) != (account, trade.symbol, trade.side):
        return None
    return order


def external_order(account: Account, trade: ExchangeTrade) -> Order:
    """An order for what was placed by other means: its id follows from the venue's. It is over for us from the
    start; all that is known of it is its fills."""
    parts = (account.venue, account.name, trade.venue_order_id)
    return Order(
        id=derived_id("order", EXTERNAL, *parts),
        request_id=derived_id(EXTERNAL, *parts),
        client_order_id=derived_id(EXTERNAL, *parts),
        account=account.name,
        symbol=trade.symbol,
        side=trade.side,
        type=OrderType.MARKET,
        time_in_force=TimeInForce.IOC,
        status=OrderStatus.FILLED,
        triggered_by=EXTERNAL,
        created_at=trade.executed_at,
        expires_at=None,
        note=f"order {trade.venue_order_id} of {account.venue}, placed there by other means",
    )


def unrecordable(account: Account, trade: ExchangeTrade, instrument: Instrument | None) -> str | None:
    """Why a trade cannot be recorded, for a person; None when it can."""
    if not is_symbol(trade.symbol):
        return f"its symbol {trade.symbol!r} is none"
    if not (trade.quantity.is_finite() and trade.price.is_finite() and trade.fee.is_finite()):
        return "a quantity, price or fee is not a number"
    if trade.quantity <= 0 or trade.price < 0:
        return f"{plain(trade.quantity)} at {plain(trade.price)} is no fill"
    currency = (instrument or instrument_of(trade.symbol, account.currency)).currency
    if currency != account.currency:
        return f"it was traded in {currency}, and there are no exchange rates to {account.currency} yet"
    return None


def in_words(account: Account, trade: ExchangeTrade) -> str:
    """A trade, for an alert."""
    what = f"{trade.side} {plain(trade.quantity)} {trade.symbol} @ {plain(trade.price)}"
    return f"trade {trade.venue_trade_id} of {account.venue} ({what}, {time_text(trade.executed_at)})"


def alert(code: str, severity: Severity, message: str, account: Account, trade: ExchangeTrade) -> AlertRaised:
    """An alert about a trade that a venue told."""
    about = {"symbol": trade.symbol, "venue_trade_id": trade.venue_trade_id, "venue_order_id": trade.venue_order_id}
    return AlertRaised(severity, code, message, account.name, about)
