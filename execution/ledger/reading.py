"""Facts as they are stored: by sequence, in the order of trades, by id."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from heapq import merge
from typing import Any

from sqlalchemy import Connection

from execution import raw, tables
from execution.errors import LedgerError
from execution.ledger.facts import Head
from execution.model import (
    CashFlow,
    CashFlowKind,
    Fact,
    OrderType,
    Side,
    Source,
    Trade,
)

_select_trades = raw.Select(tables.trades)
_select_flows = raw.Select(tables.cash_flows)
_SIDES = {str(side): side for side in Side}
_SOURCES = {str(source): source for source in Source}
_TYPES: dict[str | None, OrderType | None] = {str(kind): kind for kind in OrderType}
_TYPES[None] = None
_IDS_AT_A_TIME = 5000


def head(connection: Connection, *, lock: bool = False) -> Head:
    """The last sequence and hash. `lock` makes PostgreSQL hold the row until the commit."""
    suffix = " FOR UPDATE" if lock and connection.dialect.name == "postgresql" else ""
    row = raw.execute(connection, f"SELECT sequence, hash FROM ledger_head WHERE id = 1{suffix}").fetchone()
    if row is None:
        raise LedgerError("the ledger has no head row: the database was not set up by `fillbook`")
    return Head(*row)


def _trade(row: Sequence[Any]) -> Trade:
    (
        sequence, id_, account, symbol, side, quantity, price, executed_at, recorded_at, fee, fee_asset, cash_effect,
        order_id, venue, venue_trade_id, venue_sequence, order_type, source, triggered_by, context, corrects, hash_,
    ) = row  # fmt: skip
    return Trade(
        id_, sequence, account, symbol, _SIDES[side], quantity, price, executed_at, recorded_at, fee, fee_asset,
        cash_effect, order_id, venue, venue_trade_id, venue_sequence, _TYPES[order_type], _SOURCES[source],
        triggered_by, context, corrects, hash_,
    )  # fmt: skip


def _flow(row: Sequence[Any]) -> CashFlow:
    sequence, id_, account, kind, amount, currency, effective_at, recorded_at, triggered_by, key, note, hash_ = row
    return CashFlow(
        id_, sequence, account, CashFlowKind(kind), amount, currency, effective_at, recorded_at, triggered_by, key,
        note, hash_,
    )  # fmt: skip


def facts_since(connection: Connection, sequence: int, limit: int = 1000) -> list[Fact]:
    """The next at most `limit` facts after `sequence`, in sequence order, without a hole."""
    rest = "WHERE sequence > ? ORDER BY sequence LIMIT ?"
    found_trades: list[Fact] = [_trade(row) for row in _select_trades.rows(connection, rest, (sequence, limit))]
    found_flows: list[Fact] = [_flow(row) for row in _select_flows.rows(connection, rest, (sequence, limit))]
    if not found_flows:
        return found_trades
    return list(merge(found_trades, found_flows, key=_sequence))[:limit]


def _sequence(fact: Fact) -> int:
    return fact.sequence


def trades_in_order(connection: Connection, account: str, symbol: str) -> Iterator[Trade]:
    """All trades of one symbol in one account, in the total order of trades (`Trade.order_key`)."""
    rest = "WHERE account = ? AND symbol = ? ORDER BY executed_at, sequence"
    instant: list[Trade] = []
    for row in _select_trades.rows(connection, rest, (account, symbol)):
        trade = _trade(row)
        if instant and trade.executed_at != instant[0].executed_at:
            yield from _settle(instant)
            instant = []
        instant.append(trade)
    yield from _settle(instant)


def _settle(instant: list[Trade]) -> list[Trade]:
    """Trades of one instant in their order: sorted here, so that it is the same on every database."""
    return sorted(instant, key=lambda trade: trade.order_key) if len(instant) > 1 else instant


def trades(
    connection: Connection,
    *,
    account: str | None = None,
    symbol: str | None = None,
    order_id: str | None = None,
    triggered_by: str | None = None,
    after_sequence: int = 0,
    limit: int | None = None,
    newest_first: bool = False,
    before_sequence: int | None = None,
) -> list[Trade]:
    """Trades by sequence, filtered; `after_sequence` and `before_sequence` are cursors for pages."""
    where, parameters = ["sequence > ?"], [after_sequence]
    filters = {"account": account, "symbol": symbol, "order_id": order_id, "triggered_by": triggered_by}
    for column, value in filters.items():
        if value is not None:
            where.append(f"{column} = ?")
            parameters.append(value)  # type: ignore[arg-type]  # driver values of mixed type
    if before_sequence is not None:
        where.append("sequence < ?")
        parameters.append(before_sequence)
    rest = f"WHERE {' AND '.join(where)} ORDER BY sequence {'DESC' if newest_first else 'ASC'}"
    if limit is not None:
        rest += " LIMIT ?"
        parameters.append(limit)
    return [_trade(row) for row in _select_trades.rows(connection, rest, parameters)]


def fills(connection: Connection, account: str, order_id: str) -> list[Trade]:
    """What the venue filled of one of our orders, by sequence: no corrections of it, and no imported trade whose
    own order id reads the same."""
    sources = f"'{Source.EXCHANGE}', '{Source.RECONCILED}'"
    rest = f"WHERE order_id = ? AND account = ? AND source IN ({sources}) ORDER BY sequence"
    return [_trade(row) for row in _select_trades.rows(connection, rest, (order_id, account))]


def cash_flows(connection: Connection, account: str | None = None) -> list[CashFlow]:
    """Cash flows by sequence, of one account or of all."""
    where, parameters = ("WHERE account = ? ", (account,)) if account is not None else ("", ())
    return [_flow(row) for row in _select_flows.rows(connection, f"{where}ORDER BY sequence", parameters)]


def flows_between(connection: Connection, after: int, up_to: int) -> list[CashFlow]:
    """Cash flows of all accounts by sequence, those later than `after` and up to `up_to`."""
    rest = "WHERE sequence > ? AND sequence <= ? ORDER BY sequence"
    return [_flow(row) for row in _select_flows.rows(connection, rest, (after, up_to))]


def find_trade(connection: Connection, trade_id: str) -> Trade | None:
    """A trade by its id."""
    for row in _select_trades.rows(connection, "WHERE id = ?", (trade_id,)):
        return _trade(row)
    return None


def last_executed(connection: Connection, venue: str, account: str, *, after_sequence: int = 0) -> datetime | None:
    """When the latest trade of an account at a venue was executed, of those stored after a sequence."""
    sql = "SELECT MAX(executed_at) FROM trades WHERE sequence > ? AND venue = ? AND account = ?"
    row = raw.execute(connection, sql, (after_sequence, venue, account)).fetchone()
    return None if row is None or row[0] is None else datetime.fromisoformat(row[0])


def find_trades(connection: Connection, ids: Sequence[str]) -> dict[str, Trade]:
    """Those of the trades that are there, by id."""
    found = {}
    for start in range(0, len(ids), _IDS_AT_A_TIME):
        part = ids[start : start + _IDS_AT_A_TIME]
        rest = f"WHERE id IN ({', '.join('?' for _ in part)})"
        for row in _select_trades.rows(connection, rest, part):
            trade = _trade(row)
            found[trade.id] = trade
    return found


def corrected_by(connection: Connection) -> dict[str, str]:
    """The trades that were taken back, each with the id of the entry that did it."""
    sql = "SELECT corrects, id FROM trades WHERE corrects IS NOT NULL"
    return {row[0]: row[1] for row in raw.execute(connection, sql).fetchall()}


def find_flow(connection: Connection, account: str, idempotency_key: str) -> CashFlow | None:
    """A cash flow by its idempotency key."""
    rest = "WHERE account = ? AND idempotency_key = ?"
    for row in _select_flows.rows(connection, rest, (account, idempotency_key)):
        return _flow(row)
    return None
