"""Where a number comes from: a trade, what it was matched with, the orders behind both.

Everything here is read from facts and stored allocations; nothing is computed but sums of what is shown.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from sqlalchemy import Connection

from config.exact import ZERO
from execution import ledger, orders, raw
from execution.model import Order, Side, Trade
from portfolio import allocations
from portfolio.allocations import StoredAllocation
from portfolio.errors import UnknownTrade
from portfolio.lots import Method

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Explanation:
    """A trade and what became of it.

    `closes`: the rows in which it closed lots (or found none), in their order; `closed_by`: those in which others
    closed what it opened. `trades` are the other trades that are named, `orders` the orders of all of them.
    """

    trade: Trade
    method: Method
    version: int | None
    closes: tuple[StoredAllocation, ...] = ()
    closed_by: tuple[StoredAllocation, ...] = ()
    trades: dict[str, Trade] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    taken_back_by: Trade | None = None
    takes_back: Trade | None = None

    @property
    def realized_pnl(self) -> Decimal | None:
        """What the trade realized; None when it closed nothing, or when a part is unknown."""
        if not self.closes or any(row.pnl is None for row in self.closes):
            return None
        return sum((row.pnl for row in self.closes if row.pnl is not None), ZERO)

    @property
    def known_pnl(self) -> Decimal:
        """The P&L of the parts of which it is known."""
        return sum((row.pnl for row in self.closes if row.pnl is not None), ZERO)

    @property
    def closed_quantity(self) -> Decimal:
        """How much of what the trade opened was closed since."""
        return sum((row.quantity for row in self.closed_by), ZERO)

    def total(self, column: str) -> Decimal | None:
        """The sum of a column over what the trade closed; None when a part is unknown."""
        values = [getattr(row, column) for row in self.closes]
        return None if None in values else sum(values, ZERO)

    def other(self, row: StoredAllocation) -> Trade | None:
        """The other trade of a row; None when there is none."""
        other = row.buy_trade if row.sell_trade == self.trade.id else row.sell_trade
        return None if other is None else self.trades[other]

    def order_of(self, trade: Trade) -> Order | None:
        """The order that a trade filled; None when the books have none."""
        return None if trade.order_id is None else self.orders.get(trade.order_id)


def find_trade(connection: Connection, name: str, *, account: str | None = None) -> Trade:
    """The trade with an id, the beginning of one, or a venue's id. Raises UnknownTrade, which says what there is."""
    found = ledger.find_trade(connection, name)
    if found is not None:
        return found
    candidates = _candidates(connection, name, account)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        some = ", ".join(f"{trade.id} ({trade.account} {trade.side} {trade.symbol})" for trade in candidates[:_SHOWN])
        more = "" if len(candidates) <= _SHOWN else ", ..."
        raise UnknownTrade(f"one trade, but {name!r} fits several: {some}{more}. Give more of its id, or --account")
    last = ledger.trades(connection, newest_first=True, limit=1)
    what = f"the last trade is {last[0].id}; `fillbook trades` lists them" if last else "there are no trades yet"
    raise UnknownTrade(f"a trade's id, the beginning of one, or its id at the venue, not {name!r}: {what}")


def _candidates(connection: Connection, name: str, account: str | None) -> list[Trade]:
    sql = (
        "SELECT id FROM trades WHERE (venue_trade_id = ? OR substr(id, 1, ?) = ? OR substr(id, 1, ?) = ?)"
        " ORDER BY (venue_trade_id = ?) DESC, sequence LIMIT 100"
    )
    # The "trade-" before the digits need not be typed.
    longer = f"trade-{name}"
    parameters = (name, len(name), name, len(longer), longer, name)
    ids = [row[0] for row in raw.execute(connection, sql, parameters).fetchall()]
    trades = ledger.find_trades(connection, ids)
    found = [trades[id_] for id_ in ids if account in (None, trades[id_].account)]
    exact = [trade for trade in found if trade.venue_trade_id == name]
    return exact or found


def explain(connection: Connection, trade: Trade, method: Method = Method.FIFO) -> Explanation:
    """What stands behind a trade, by the current version of a method."""
    rows = list(
        allocations.stored(connection, account=trade.account, symbol=trade.symbol, method=method, trades=[trade.id])
    )
    others = {name for row in rows for name in (row.sell_trade, row.buy_trade) if name not in (None, trade.id)}
    trades = ledger.find_trades(connection, sorted(name for name in others if name is not None))
    closes = [row for row in rows if _is_closed_by(row, trade, trades)]
    closed_by = [row for row in rows if row not in closes]
    pointer = allocations.pointers(connection, method).get((trade.account, trade.symbol))
    return Explanation(
        trade,
        method,
        None if pointer is None else pointer.version,
        tuple(closes),
        tuple(closed_by),
        trades,
        _orders(connection, [trade, *trades.values()]),
        _taken_back_by(connection, trade),
        None if trade.corrects is None else ledger.find_trade(connection, trade.corrects),
    )


def _is_closed_by(row: StoredAllocation, trade: Trade, trades: dict[str, Trade]) -> bool:
    other = row.buy_trade if trade.side is Side.SELL else row.sell_trade
    return other is None or trades[other].order_key < trade.order_key


def _orders(connection: Connection, trades: Iterable[Trade]) -> dict[str, Order]:
    found = {}
    for id_ in {trade.order_id for trade in trades if trade.order_id is not None}:
        order = orders.find(connection, id_)
        if order is not None:
            found[id_] = order
    return found


def _taken_back_by(connection: Connection, trade: Trade) -> Trade | None:
    row = raw.execute(connection, "SELECT id FROM trades WHERE corrects = ?", (trade.id,)).fetchone()
    return None if row is None else ledger.find_trade(connection, row[0])
