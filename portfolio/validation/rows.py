"""The rows and trades of a scope as the driver gives them, and their numbers as whole units."""

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection

from execution import raw
from execution.model import Trade
from portfolio import batch
from portfolio.allocations import CONTENT
from portfolio.units import MONEY_DIGITS, QUANTITY_DIGITS, text_of_units
from portfolio.validation.scopes import Scope


class Row(NamedTuple):
    """A stored row as the driver gives it; `CONTENT` from `sell_trade` on."""

    id: int
    sell_trade: str
    buy_trade: str | None
    quantity: str
    sell_price: str
    buy_price: str | None
    cost_basis: str | None
    buy_fee: str | None
    proceeds: str
    sell_fee: str
    net_proceeds: str
    pnl: str | None
    buy_at: str | None
    sell_at: str
    closed_at: str


class TradeRow(NamedTuple):
    """A trade as the driver gives it: `batch.COLUMNS`."""

    sequence: int
    id: str
    side: str
    quantity: str
    price: str
    fee: str
    fee_asset: str
    cash_effect: str
    executed_at: str
    triggered_by: str
    corrects: str | None
    venue_sequence: int | None
    order_id: str | None

    @property
    def is_sell(self) -> bool:
        """Whether it sells; else it buys."""
        return self.side == "SELL"


def rows_of(connection: Connection, scope: Scope) -> Iterator[Row]:
    """The rows of a scope at its version, in the order in which they were matched."""
    sql = (
        f"SELECT id, {CONTENT} FROM fifo_allocations WHERE account = ? AND symbol = ? AND method = ?"
        " AND from_version <= ? AND (to_version IS NULL OR to_version >= ?) ORDER BY closed_at, id"
    )
    cursor = raw.execute(connection, sql, (*map(str, scope.key), scope.version, scope.version))
    while rows := cursor.fetchmany(batch.CHUNK):
        yield from map(Row._make, rows)


def trades_of(connection: Connection, scope: Scope) -> Iterator[TradeRow]:
    """The trades that a scope knows, in total order."""
    key = scope.key
    return map(TradeRow._make, batch.in_order(connection, key.account, key.symbol, scope.sequence))


def taken_back(connection: Connection, scope: Scope) -> frozenset[str]:
    """The trades that corrections took back."""
    sql = "SELECT corrects FROM trades WHERE corrects IS NOT NULL AND account = ? AND symbol = ? AND sequence <= ?"
    rows = raw.execute(connection, sql, (scope.key.account, scope.key.symbol, scope.sequence)).fetchall()
    return frozenset(row[0] for row in rows)


_POWERS: tuple[int, ...] = tuple(10**digits for digits in range(MONEY_DIGITS + 1))


def _units(text: str, digits: int) -> int:
    """A stored number in units of 10^-digits. Raises ValueError when it is none."""
    whole, _, part = text.partition(".")
    missing = digits - len(part)
    if missing < 0:
        raise ValueError(f"{text} has more than {digits} decimals")
    return int(whole + part) * _POWERS[missing]


def money(text: str) -> int:
    """A stored sum of money in the units of the engine. Raises ValueError when it is none."""
    return _units(text, MONEY_DIGITS)


def amount(text: str) -> int:
    """A stored quantity or price in the units of the engine. Raises ValueError when it is none."""
    return _units(text, QUANTITY_DIGITS)


def name_of(trade: Trade | TradeRow) -> str:
    """How problems name a trade."""
    return f"{trade.side} {trade.id}"


def shown(units: int) -> str:
    """A quantity of the engine for people."""
    return text_of_units(units, QUANTITY_DIGITS)
