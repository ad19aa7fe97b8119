"""Fees charged in a third asset: a disposal of that asset at its mark.

A fee of 0.01 BNB on a BTC-USD trade is worth its mark: that value goes into the cash effect of the trade (the
buy costs more, the sell brings less), and a trade of its own sells the BNB for just as much. So cash is
unchanged by the fee, and the fee's asset gets less. A rebate (a negative fee) is the same with a purchase.
The mark is that of positions, as of the fill: the last candle, and without one the last trade of the asset. It is
found when the fill is recorded, and stays. Without a mark the fee stays as charged; whoever computes P&L flags it.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection

from config.exact import ZERO
from config.times import stored_time
from execution import candles, raw
from execution.ledger import NewTrade, derived_id
from execution.model import Side, trade_cash_effect

FEE_SUFFIX = ":fee"
"""What the venue_trade_id of a disposal ends with, after the id of the trade whose fee it was."""


def is_third_asset(fee: Decimal, fee_asset: str, symbol: str, currency: str) -> bool:
    """Whether a fee is neither in the account's currency nor in the base asset of the symbol."""
    return bool(fee) and fee_asset not in (currency, symbol.removesuffix(f"-{currency}"))


def leaves_nothing(trade: NewTrade, currency: str) -> bool:
    """Whether a fee in the base asset takes all that a fill brought (a rebate: all that a sell gave): nothing is left
    that could carry its cost, and the P&L beside it is unknown."""
    base = trade.symbol.removesuffix(f"-{currency}")
    charged = trade.fee if trade.side is Side.BUY else -trade.fee
    return bool(trade.fee) and trade.fee_asset == base != currency and charged >= trade.quantity


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


class TradedAt(NamedTuple):
    """The price of a trade and when it was executed."""

    executed_at: datetime
    price: Decimal


def mark_at(
    connection: Connection, symbol: str, instant: datetime, unstored: TradedAt | None = None
) -> Decimal | None:
    """The close of the last stored candle of a symbol, any timeframe, that had closed by `instant`; without one the
    price of its last trade until then, of any account. `unstored`: the last one among trades that are about to be
    stored."""
    candle = candles.last_closed(connection, symbol, instant)
    if candle is not None:
        return candle.close
    last = _last_trade(connection, symbol, instant)
    if unstored is not None and (last is None or last.executed_at <= unstored.executed_at):
        last = unstored
    return None if last is None else last.price


_ACCOUNTS = "SELECT name FROM accounts"
# Sorted by the index; a trade that was taken back, and one for nothing, says nothing about the price.
_LAST_TRADE = (
    "SELECT t.executed_at, t.price, t.sequence FROM trades t"
    " WHERE t.account = ? AND t.symbol = ? AND t.executed_at <= ? AND t.corrects IS NULL AND t.price <> '0'"
    " AND NOT EXISTS (SELECT 1 FROM trades c WHERE c.corrects IS NOT NULL AND c.account = t.account"
    " AND c.symbol = t.symbol AND c.corrects = t.id) ORDER BY t.executed_at DESC, t.sequence DESC LIMIT 1"
)


def _last_trade(connection: Connection, symbol: str, instant: datetime) -> TradedAt | None:
    found = [
        (TradedAt(datetime.fromisoformat(row[0]), Decimal(row[1])), row[2])
        for (account,) in raw.execute(connection, _ACCOUNTS).fetchall()
        for row in raw.execute(connection, _LAST_TRADE, (account, symbol, stored_time(instant))).fetchall()
    ]
    return max(found, key=lambda each: (each[0].executed_at, each[1]), default=(None, 0))[0]


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


def settled(
    connection: Connection, trade: NewTrade, currency: str, unstored: TradedAt | None = None
) -> tuple[NewTrade, NewTrade | None]:
    """What is recorded of a trade: itself, and the disposal of its fee if that is in a third asset with a mark.

    `unstored`: as in `mark_at`.
    """
    if not is_third_asset(trade.fee, trade.fee_asset, trade.symbol, currency):
        return trade, None
    mark = mark_at(connection, disposal_symbol(trade.fee_asset, currency), trade.executed_at, unstored)
    return (trade, None) if mark is None else dispose(trade, currency, mark)
