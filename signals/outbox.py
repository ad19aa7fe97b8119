"""Order requests on their way out: stored before they leave, repeated until they are answered."""

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, cast

from sqlalchemy import Connection

from config.exact import plain
from config.times import parse_time, time_text
from execution import raw
from execution.model import Json, OrderRequest, Side
from signals.tables import DONE, OPEN, signal_outbox

_insert = raw.Insert(signal_outbox)


def tag(bot: str) -> str:
    """The `triggered_by` of the requests that follow a bot's advice."""
    return f"bot:{bot}"


def stop_tag(bot: str) -> str:
    """The `triggered_by` of the requests of a bot's protective stops."""
    return f"stop:{bot}"


def bot_of(request: OrderRequest) -> str:
    """The bot behind a policy's request."""
    return request.triggered_by.partition(":")[2]


def to_json(request: OrderRequest) -> dict[str, Json]:
    """A policy's request as JSON; decimals as strings. Policies set no limit price and no expiry."""
    assert request.decided_at is not None
    return {
        "request_id": request.request_id,
        "account": request.account,
        "symbol": request.symbol,
        "side": str(request.side),
        "triggered_by": request.triggered_by,
        "quantity": None if request.quantity is None else plain(request.quantity),
        "notional": None if request.notional is None else plain(request.notional),
        "close": request.close,
        "decided_at": time_text(request.decided_at),
        "signal_context": None if request.signal_context is None else dict(request.signal_context),
    }


def from_json(body: Mapping[str, Any]) -> OrderRequest:
    """The very request that `to_json` was given: a repetition must have the same body."""
    return OrderRequest(
        request_id=body["request_id"],
        account=body["account"],
        symbol=body["symbol"],
        side=Side(body["side"]),
        triggered_by=body["triggered_by"],
        quantity=None if body["quantity"] is None else Decimal(body["quantity"]),
        notional=None if body["notional"] is None else Decimal(body["notional"]),
        close=body["close"],
        decided_at=parse_time(body["decided_at"]),
        signal_context=cast("Mapping[str, Json] | None", body["signal_context"]),
        waits_for_candle=True,
    )


def store(connection: Connection, requests: Iterable[OrderRequest]) -> None:
    """Insert new requests as open."""
    rows = [
        (
            request.request_id,
            bot_of(request),
            request.account,
            request.symbol,
            to_json(request),
            request.decided_at,
            OPEN,
        )
        for request in requests
    ]
    if rows:
        _insert.rows(connection, rows)


def mark_done(connection: Connection, request_ids: Iterable[str]) -> None:
    """Finally answered: never repeat these again."""
    for request_id in request_ids:
        raw.execute(connection, "UPDATE signal_outbox SET status = ? WHERE request_id = ?", (DONE, request_id))


def load_open(connection: Connection) -> list[OrderRequest]:
    """The requests without a final answer, oldest first."""
    sql = "SELECT body FROM signal_outbox WHERE status = ? ORDER BY decided_at, request_id"
    return [from_json(json.loads(body)) for (body,) in raw.execute(connection, sql, (OPEN,)).fetchall()]


def find(connection: Connection, request_id: str) -> OrderRequest | None:
    """The request that a policy here made under this id, answered or not."""
    row = raw.execute(connection, "SELECT body FROM signal_outbox WHERE request_id = ?", (request_id,)).fetchone()
    return None if row is None else from_json(json.loads(row[0]))
