"""The marks that the database knows: the last stored candle of each symbol, else its last trade."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection

from execution import candles, raw
from portfolio.books import Scope
from portfolio.valuation import Marks, TradePrice

# Sorted by the index; a trade that was taken back says nothing about the price.
_LAST_TRADE = (
    "SELECT t.executed_at, t.sequence, t.price FROM trades t"
    " WHERE t.account = ? AND t.symbol = ? AND t.corrects IS NULL AND NOT EXISTS ("
    "SELECT 1 FROM trades c WHERE c.corrects IS NOT NULL AND c.account = t.account AND c.symbol = t.symbol"
    " AND c.corrects = t.id) ORDER BY t.executed_at DESC, t.sequence DESC LIMIT 1"
)


def last_trades(connection: Connection, scopes: Iterable[Scope]) -> dict[str, TradePrice]:
    """The last trade of each symbol over these (account, symbol) pairs, those that were taken back left out."""
    found: dict[str, TradePrice] = {}
    for account, symbol in scopes:
        row = raw.execute(connection, _LAST_TRADE, (account, symbol)).fetchone()
        if row is None:
            continue
        last = TradePrice(datetime.fromisoformat(row[0]), row[1], Decimal(row[2]))
        if symbol not in found or found[symbol][:2] < last[:2]:
            found[symbol] = last
    return found


def stored(connection: Connection, scopes: Iterable[Scope]) -> Marks:
    """All marks that are stored; `scopes` are the (account, symbol) pairs that were ever traded."""
    marks = Marks()
    for candle in candles.latest(connection).values():
        marks.on_candle(candle)
    for symbol, last in last_trades(connection, scopes).items():
        marks.set_traded(symbol, last)
    return marks
