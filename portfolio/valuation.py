"""Values: the last price of each symbol, and positions and portfolios at those prices."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from config.exact import ZERO, divide
from config.times import timeframe_length
from execution.model import Candle, Price, Trade
from portfolio.books import Books, CashBook, SymbolBook
from portfolio.position import Portfolio, Position
from portfolio.units import money_of

RATIO_PLACES = 8
"""Decimals of percentages and returns, which are for display only."""


class Mark(NamedTuple):
    """The last known price of a symbol and the instant at which it held."""

    price: Decimal
    time: datetime


class TradePrice(NamedTuple):
    """The price of a trade, ordered by when it was executed and then recorded."""

    executed_at: datetime
    sequence: int
    price: Decimal


class Marks:
    """The last price of each symbol. A later one is never replaced by an older one.

    Where neither a price nor a candle is known, the price of the symbol's last trade has to do.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[datetime, Decimal]] = {}
        self._traded: dict[str, TradePrice] = {}
        self._lengths: dict[str, timedelta] = {}

    def get(self, symbol: str) -> Mark | None:
        """The last price of a symbol, if there is one."""
        last = self._last.get(symbol)
        if last is not None:
            return Mark(last[1], last[0])
        traded = self._traded.get(symbol)
        return None if traded is None else Mark(traded.price, traded.executed_at)

    def on_trade(self, trade: Trade) -> bool:
        """Take a trade's price, for want of another; whether it is the symbol's mark now."""
        symbol = trade.symbol
        found = TradePrice(trade.executed_at, trade.sequence, trade.price)
        known = self._traded.get(symbol)
        if trade.corrects is not None or (known is not None and found[:2] < known[:2]):
            return False
        self._traded[symbol] = found
        return symbol not in self._last

    def set_traded(self, symbol: str, found: TradePrice | None) -> None:
        """The last trade of a symbol as the ledger has it; None: it has none (that counts)."""
        if found is None:
            self._traded.pop(symbol, None)
        else:
            self._traded[symbol] = found

    def on_price(self, price: Price) -> bool:
        """Take a price; whether it is the last one now."""
        symbol, value, time = price
        last = self._last.get(symbol)
        if last is not None and time < last[0]:
            return False
        self._last[symbol] = (time, value)
        return True

    def on_candle(self, candle: Candle) -> bool:
        """Take the close of a candle, which held at the candle's end; whether it is the last price now."""
        symbol, timeframe, opened, _, _, _, close, _ = candle
        length = self._lengths.get(timeframe)
        if length is None:
            length = self._lengths[timeframe] = timeframe_length(timeframe)
        time = opened + length
        last = self._last.get(symbol)
        if last is not None and time < last[0]:
            return False
        self._last[symbol] = (time, close)
        return True


def position_of(
    symbol: str, book: SymbolBook, mark: Mark | None, lots: int | None = None, dust: Decimal = ZERO
) -> Position:
    """A position at a mark; at most `lots` of its open lots are listed (None: all). Less than `dust` is dust."""
    engine = book.engine
    quantity, cost = engine.quantity, engine.cost_basis
    value: Decimal | None = None
    if not quantity:
        value = ZERO
    elif mark is not None:
        value = quantity * mark.price
    unrealized = None if value is None else value - cost
    return Position(
        symbol=symbol,
        quantity=quantity,
        cost_basis=cost,
        average_cost=divide(cost, quantity) if quantity else None,
        mark_price=None if mark is None else mark.price,
        mark_time=None if mark is None else mark.time,
        market_value=value,
        unrealized_pnl=unrealized,
        pnl_percent=None if unrealized is None or not cost else divide(unrealized * 100, abs(cost), RATIO_PLACES),
        realized_pnl=engine.realized_pnl,
        fees=money_of(book.fee_units),
        incomplete=book.incomplete,
        open_lots=engine.open_lots(lots),
        lot_count=engine.lot_count,
        unmatched_quantity=engine.unmatched_quantity,
        is_dust=0 < abs(quantity) < dust,
    )


def portfolio_of(
    account: str, currency: str, cash: CashBook, positions: tuple[Position, ...], sequence: int
) -> Portfolio:
    """The totals of an account over its positions. A sum that needs an unknown value is unknown."""
    value = _sum(positions, lambda position: position.market_value)
    unrealized = _sum(positions, lambda position: position.unrealized_pnl)
    realized = sum((position.realized_pnl for position in positions), ZERO)
    total = None if unrealized is None else realized + unrealized + cash.income - cash.standalone_fees
    equity = None if value is None else cash.cash + value
    base = cash.net_flows
    return Portfolio(
        account=account,
        currency=currency,
        cash=cash.cash,
        net_flows=base,
        income=cash.income,
        standalone_fees=cash.standalone_fees,
        market_value=value,
        equity=equity,
        realized_pnl=realized,
        unrealized_pnl=unrealized,
        total_pnl=total,
        return_ratio=None if equity is None or base <= 0 else divide(equity - base, base, RATIO_PLACES),
        fees=sum((position.fees for position in positions), cash.standalone_fees),
        incomplete=any(position.incomplete for position in positions),
        positions=positions,
        sequence=sequence,
    )


def _sum(positions: tuple[Position, ...], value_of: Callable[[Position], Decimal | None]) -> Decimal | None:
    total = ZERO
    for position in positions:
        value = value_of(position)
        if value is None:
            return None
        total += value
    return total


def value_account(books: Books, marks: Marks, account: str, lots: int | None = None) -> Portfolio:
    """An account's portfolio at the marks; at most `lots` open lots are listed over all its positions.

    An account without facts is empty. Raises KeyError when the account does not exist.
    """
    currency = books.accounts[account].currency
    positions = []
    left = lots
    for symbol in books.symbols_of(account):
        position = position_of(symbol, books.symbols[account, symbol], marks.get(symbol), left, books.dust_of(symbol))
        if left is not None:
            left -= len(position.open_lots)
        positions.append(position)
    cash = books.cash.get(account) or CashBook()
    return portfolio_of(account, currency, cash, tuple(positions), books.sequence)
