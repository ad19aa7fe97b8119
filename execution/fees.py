"""Fees charged in a third asset: a disposal of that asset at its mark.

A fee of 0.01 BNB on a BTC-USD trade is worth its mark: that value goes into the cash effect of the trade (the
buy costs more, the sell brings less), and a trade of its own sells the BNB for just as much. So cash is
unchanged by the fee, and the fee's asset gets less. A rebate (a negative fee) is the same with a purchase.
Without a mark the fee stays as charged; whoever computes P&L flags it.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection

from config.exact import ZERO
from execution import candles
from execution.ledger import NewTrade, derived_id
from execution.model import Side, trade_cash_effect

FEE_SUFFIX = ":fee"
"""What the venue_trade_id of a disposal ends with, after the id of the trade whose fee it was."""


def is_third_asset(fee: Decimal, fee_asset: str, symbol: str, currency: str) -> bool:
    """Whether a fee is neither in the account's currency nor in the base asset of the symbol."""
    return bool(fee) and fee_asset not in (currency, symbol.removesuffix(f"-{currency}"))


def disposal_symbol(fee_asset: str, currency: str) -> str:
    """The symbol that a fee's asset is traded under."""
    return f"{fee_asset}-{currency}"


def disposal_id(trade_id: str) -> str:
    """The id of the trade that pays the fee of a trade."""
    return derived_id("trade", trade_id, "fee")


def cash_effect(
    side: Side, quantity: Decimal, price: Decimal, fee: Decimal, fee_asset: str, currency: str
) -> Decimal:
    """The signed change of cash by a fill; a fee in another asset than the account's currency takes no cash."""
    return trade_cash_effect(side, quantity, price, fee if fee_asset == currency else ZERO)


def mark_at(connection: Connection, symbol: str, instant: datetime) -> Decimal | None:
    """The close of the last stored candle of a symbol, any timeframe, that had closed by `instant`."""
    candle = candles.last_closed(connection, symbol, instant)
    return None if candle is None else candle.close


def dispose(trade: NewTrade, currency: str, mark: Decimal) -> tuple[NewTrade, NewTrade]:
    """The trade with the value of its fee in its cash effect, and the trade that disposes of the fee's asset.

    `mark` is the price of the fee's asset in `currency` when the trade was executed.
    """
    value = trade.fee * mark
    side = Side.SELL if trade.fee > 0 else Side.BUY
    quantity = abs(trade.fee)
    disposal = NewTrade(
        id=disposal_id(trade.id),
        account=trade.account,
        symbol=disposal_symbol(trade.fee_asset, currency),
        side=side,
        quantity=quantity,
        price=mark,
        executed_at=trade.executed_at,
        fee=ZERO,
        fee_asset=currency,
        cash_effect=trade_cash_effect(side, quantity, mark),
        venue=trade.venue,
        source=trade.source,
        triggered_by=trade.triggered_by,
        order_id=trade.order_id,
        venue_trade_id=f"{trade.id}{FEE_SUFFIX}",
        venue_sequence=trade.venue_sequence,
        order_type=trade.order_type,
    )
    return replace(trade, cash_effect=trade.cash_effect - value), disposal


def settled(connection: Connection, trade: NewTrade, currency: str) -> tuple[NewTrade, NewTrade | None]:
    """What is recorded of a trade: itself, and the disposal of its fee if that is in a third asset with a mark."""
    if not is_third_asset(trade.fee, trade.fee_asset, trade.symbol, currency):
        return trade, None
    mark = mark_at(connection, disposal_symbol(trade.fee_asset, currency), trade.executed_at)
    return (trade, None) if mark is None else dispose(trade, currency, mark)
