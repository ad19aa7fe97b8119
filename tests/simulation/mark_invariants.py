"""I7 for what prices change: every mark is a price that was said, is not old, and the values add up."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from config.times import stored_time
from execution import raw
from portfolio.position import Portfolio, Position
from tests.simulation.people import CANDLE_SECONDS

if TYPE_CHECKING:
    from tests.simulation.world import World

LATE = timedelta(seconds=4)
"""How much later than it is stored a price may be said: prices go on to come while everything else rests."""
_LAST_CLOSE = "SELECT max(time) FROM candles WHERE symbol = ?"
_CLOSES = "SELECT close FROM candles WHERE symbol = ? AND time = ?"
_TRADES = "SELECT price FROM trades WHERE symbol = ? AND executed_at = ?"


def wrongly_valued(connection: Connection, portfolio: Portfolio, world: "World") -> Iterator[str]:
    """What is wrong in the values that the broker keeps of an account's positions and of the whole account."""
    account, kept = portfolio.account, world.broker.retained
    for position in portfolio.positions:
        said = _message(kept.get(world.topics.position(account, position.symbol)))
        yield from _wrong_mark(connection, said, position, world)
        yield from _wrong_value(said)
    whole = _message(kept.get(world.topics.portfolio(account)))
    parts = whole.get("positions", [])
    for part in parts:
        yield from _wrong_value(part)
    values = [part["market_value"] for part in parts]
    if parts and None not in values:
        value = sum(map(Decimal, values), Decimal(0))
        if Decimal(whole["market_value"]) != value:
            yield f"I7 {account} is said to be worth {whole['market_value']}, its positions {value}"
        if Decimal(whole["equity"]) != Decimal(whole["cash"]) + value:
            yield f"I7 {account}'s equity is said to be {whole['equity']}: {whole['cash']} and {value}"


def _wrong_mark(connection: Connection, said: dict[str, Any], position: Position, world: "World") -> Iterator[str]:
    symbol = position.symbol
    stored = raw.execute(connection, _LAST_CLOSE, (symbol,)).fetchone()[0]
    if not position.quantity or stored is None:
        return  # what is not held is not valued
    closed = datetime.fromisoformat(stored) + timedelta(seconds=CANDLE_SECONDS)
    if said.get("mark_time") is None:
        yield f"I7 {symbol} is said to have no price, the database has one of {closed}"
        return
    time, price = datetime.fromisoformat(said["mark_time"]), Decimal(said["mark_price"])
    if time < closed - LATE:
        yield f"I7 {symbol} is valued at a price of {time}, the database has one of {closed}"
    if price not in _prices(connection, symbol, time, world):
        yield f"I7 {symbol} is valued at {price} of {time}, which nobody said"


def _prices(connection: Connection, symbol: str, time: datetime, world: "World") -> set[Decimal]:
    """What the market or a trade said at an instant."""
    opened = time - timedelta(seconds=CANDLE_SECONDS)
    found = {world.market.said[symbol, time]} if (symbol, time) in world.market.said else set()
    for sql, instant in ((_CLOSES, opened), (_TRADES, time)):
        for (price,) in raw.execute(connection, sql, (symbol, stored_time(instant))).fetchall():
            found.add(Decimal(price))
    return found


def _wrong_value(said: dict[str, Any]) -> Iterator[str]:
    if said.get("market_value") is None:
        return
    quantity, value = Decimal(said["quantity"]), Decimal(said["market_value"])
    if quantity and value != quantity * Decimal(said["mark_price"]):
        yield f"I7 {quantity} {said['symbol']} at {said['mark_price']} are said to be worth {value}"
    if Decimal(said["unrealized_pnl"]) != value - Decimal(said["cost_basis"]):
        yield f"I7 {said['symbol']} is said to have gained {said['unrealized_pnl']}: {said}"


def _message(payload: bytes | None) -> dict[str, Any]:
    found: dict[str, Any] = {} if payload is None else json.loads(payload)
    return found
