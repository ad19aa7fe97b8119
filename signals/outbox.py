"""Order requests on their way out: stored before they leave, repeated until they are answered."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, cast

from sqlalchemy import Connection, insert, select, update

from config.exact import plain
from config.times import parse_time, time_text
from execution.model import Json, OrderRequest, Side
from signals.tables import DONE, OPEN, signal_outbox

_TAG = "bot:"


def tag(bot: str) -> str:
    """The `triggered_by` of a bot's requests."""
    return _TAG + bot


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
    )


def store(connection: Connection, requests: Iterable[OrderRequest]) -> None:
    """Insert new requests as open."""
    rows = [
        {
            "request_id": request.request_id,
            "bot": request.triggered_by.removeprefix(_TAG),
            "account": request.account,
            "symbol": request.symbol,
            "body": to_json(request),
            "decided_at": request.decided_at,
            "status": OPEN,
        }
        for request in requests
    ]
    if rows:
        connection.execute(insert(signal_outbox), rows)


def mark_done(connection: Connection, request_ids: Iterable[str]) -> None:
    """Finally answered: never repeat these again."""
    ids = list(request_ids)
    if ids:
        connection.execute(update(signal_outbox).where(signal_outbox.c.request_id.in_(ids)).values(status=DONE))


def load_open(connection: Connection) -> list[OrderRequest]:
    """The requests without a final answer, oldest first."""
    query = (
        select(signal_outbox.c.body)
        .where(signal_outbox.c.status == OPEN)
        .order_by(signal_outbox.c.decided_at, signal_outbox.c.request_id)
    )
    return [from_json(body) for body in connection.execute(query).scalars()]
