"""Stored candles: what indicators are warmed from after a restart, and where a late order finds its fill."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from config.times import stored_time, timeframe_length
from execution import raw, tables
from execution.model import Candle

_insert = raw.Insert(tables.candles)
_select = raw.Select(tables.candles)


def store(connection: Connection, candles: Sequence[Candle]) -> None:
    """Insert candles; the caller has dropped the ones that are stored already."""
    if candles:
        _insert.rows(connection, candles)


def history(connection: Connection, symbol: str, timeframe: str, last: int | None = None) -> list[Candle]:
    """The stored candles of a symbol in time order; only the `last` ones if given."""
    if last is None:
        rest, parameters = "WHERE symbol = ? AND timeframe = ? ORDER BY time", (symbol, timeframe)
        return [Candle(*row) for row in _select.rows(connection, rest, parameters)]
    rest = "WHERE symbol = ? AND timeframe = ? ORDER BY time DESC LIMIT ?"
    return [Candle(*row) for row in _select.rows(connection, rest, (symbol, timeframe, last))][::-1]


def opening_at_or_after(connection: Connection, symbol: str, instant: datetime) -> list[Candle]:
    """The stored candles of a symbol, any timeframe, that open at or after an instant, in time order."""
    rest = "WHERE symbol = ? AND time >= ? ORDER BY time, timeframe"
    return [Candle(*row) for row in _select.rows(connection, rest, (symbol, stored_time(instant)))]


def latest(connection: Connection) -> dict[tuple[str, str], Candle]:
    """The last stored candle of each symbol and timeframe."""
    newest = {}
    # From pair to pair along the key: DISTINCT would read every candle.
    sql = (
        "SELECT symbol, timeframe FROM candles WHERE (symbol, timeframe) > (?, ?) ORDER BY symbol, timeframe LIMIT 1"
    )
    pair = raw.execute(connection, sql, ("", "")).fetchone()
    while pair is not None:
        symbol, timeframe = pair
        for candle in history(connection, symbol, timeframe, last=1):
            newest[symbol, timeframe] = candle
        pair = raw.execute(connection, sql, (symbol, timeframe)).fetchone()
    return newest


def last_closed(connection: Connection, symbol: str, instant: datetime) -> Candle | None:
    """The stored candle of a symbol that closed last by an instant; of two that closed together the shorter."""
    found: list[Candle] = []
    for (timeframe,) in raw.execute(
        connection, "SELECT DISTINCT timeframe FROM candles WHERE symbol = ?", (symbol,)
    ).fetchall():
        rest = "WHERE symbol = ? AND timeframe = ? AND time <= ? ORDER BY time DESC LIMIT 1"
        opened_by = stored_time(instant - timeframe_length(timeframe))
        found += [Candle(*row) for row in _select.rows(connection, rest, (symbol, timeframe, opened_by))]
    return max(found, key=lambda candle: (candle.close_time, candle.time), default=None)
