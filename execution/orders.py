"""Orders, the inbox of requests, halts and dead letters: rows in, rows out."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from config.quick import quickly_made
from config.times import stored_time
from execution import raw, tables
from execution.ledger import derived_id
from execution.model import Halt, HaltChanged, Order, OrderStatus, OrderType, Reason, Side, TimeInForce

_insert_order = raw.Insert(tables.orders)
_select_orders = raw.Select(tables.orders)
_insert_inbox = raw.Insert(tables.inbox)
_select_inbox = raw.Select(tables.inbox)
_insert_letter = raw.Insert(tables.dead_letters)
_select_letters = raw.Select(tables.dead_letters)


def order_id(account: str, request_id: str) -> str:
    """The id of the order that a request makes."""
    return derived_id("order", account, request_id)


def client_order_id(account: str, request_id: str) -> str:
    """The id under which the venue knows the order: derived, so that a retry sends the same one."""
    return derived_id("fb", account, request_id)


def reason_row(reason: Reason | None) -> dict[str, str | None] | None:
    """A reason as stored and as sent: {code, field, value, expected}."""
    if reason is None:
        return None
    return {"code": reason.code, "field": reason.field, "value": reason.value, "expected": reason.expected}


def reason_of(row: Any) -> Reason | None:
    """The inverse of `reason_row`."""
    return None if row is None else Reason(row["code"], row.get("field"), row.get("value"), row.get("expected"))


# ---- orders -------------------------------------------------------------------------------------------


def insert(connection: Connection, order: Order) -> None:
    """Store a new order."""
    _insert_order.row(
        connection,
        [
            order.id, order.request_id, order.client_order_id, order.account, order.symbol, order.side.value,
            order.type.value, order.time_in_force.value, order.status.value, order.triggered_by, order.created_at,
            order.created_at, order.expires_at, order.quantity, order.notional, order.close, order.limit_price,
            order.decided_at, order.signal_context, order.note, reason_row(order.reason),
        ],
    )  # fmt: skip


def update_status(connection: Connection, order: Order, updated_at: datetime) -> None:
    """Store an order's new status and reason (all else of an order never changes)."""
    reason = None if order.reason is None else tables.json_text(reason_row(order.reason) or {})
    raw.execute(
        connection,
        "UPDATE orders SET status = ?, reason = ?, updated_at = ? WHERE id = ?",
        (order.status.value, reason, stored_time(updated_at), order.id),
    )


def _order(row: Sequence[Any]) -> Order:
    (
        id_, request_id, client_id, account, symbol, side, type_, time_in_force, status, triggered_by, created_at, _,
        expires_at, quantity, notional, close, limit_price, decided_at, context, note, reason,
    ) = row  # fmt: skip
    return Order(
        id=id_,
        request_id=request_id,
        client_order_id=client_id,
        account=account,
        symbol=symbol,
        side=Side(side),
        type=OrderType(type_),
        time_in_force=TimeInForce(time_in_force),
        status=OrderStatus(status),
        triggered_by=triggered_by,
        created_at=created_at,
        expires_at=expires_at,
        quantity=quantity,
        notional=notional,
        close=close,
        limit_price=limit_price,
        decided_at=decided_at,
        signal_context=context,
        note=note,
        reason=reason_of(reason),
    )


def find(connection: Connection, id_: str) -> Order | None:
    """An order by id."""
    for row in _select_orders.rows(connection, "WHERE id = ?", (id_,)):
        return _order(row)
    return None


def find_by_client_id(connection: Connection, client_id: str) -> Order | None:
    """The order that a venue knows by a client order id."""
    for row in _select_orders.rows(connection, "WHERE client_order_id = ?", (client_id,)):
        return _order(row)
    return None


def unwanted(connection: Connection) -> set[str]:
    """The open orders that somebody asked to cancel; looks through the whole inbox."""
    sql = (
        "SELECT order_id FROM inbox WHERE kind = 'CancelRequest' AND order_id IN"
        f" (SELECT id FROM orders WHERE {tables.OPEN_ORDERS})"
    )
    return {row[0] for row in raw.execute(connection, sql).fetchall()}


def closed_because(connection: Connection, account: str, code: str, limit: int = 100) -> list[Order]:
    """The newest orders of an account that were closed for a reason."""
    rest = f"WHERE account = ? AND reason LIKE ? AND NOT {tables.OPEN_ORDERS} ORDER BY created_at DESC, id LIMIT ?"
    parameters = (account, f'%"code":"{code}"%', limit)
    return [_order(row) for row in _select_orders.rows(connection, rest, parameters)]


def open_orders(connection: Connection) -> Iterator[Order]:
    """Orders that are not final, oldest first; those of one candle by request, as bots ask in their names' order."""
    for row in _select_orders.rows(connection, f"WHERE {tables.OPEN_ORDERS} ORDER BY created_at, request_id"):
        yield _order(row)


def orders(
    connection: Connection,
    *,
    account: str | None = None,
    symbol: str | None = None,
    status: str | None = None,
    limit: int | None = None,
    before: tuple[datetime, str] | None = None,
) -> list[Order]:
    """Orders, newest first, filtered; `before` = (created_at, id) is the cursor for pages."""
    where: list[str] = []
    parameters: list[Any] = []
    for column, value in {"account": account, "symbol": symbol, "status": status}.items():
        if value is not None:
            where.append(f"{column} = ?")
            parameters.append(value)
    if before is not None:
        where.append("(created_at, id) < (?, ?)")
        parameters += [stored_time(before[0]), before[1]]
    rest = f"{'WHERE ' + ' AND '.join(where) if where else ''} ORDER BY created_at DESC, id DESC"
    if limit is not None:
        rest += " LIMIT ?"
        parameters.append(limit)
    return [_order(row) for row in _select_orders.rows(connection, rest, parameters)]


def accepted_after(connection: Connection, instant: datetime) -> list[tuple[str, datetime]]:
    """Account and time of every order accepted after an instant, in time order. Looks through all orders."""
    rows = raw.execute(
        connection,
        "SELECT account, created_at FROM orders WHERE created_at > ? ORDER BY created_at",
        (stored_time(instant),),
    ).fetchall()
    return [(account, datetime.fromisoformat(at)) for account, at in rows]


# ---- inbox --------------------------------------------------------------------------------------------


@quickly_made
@dataclass(frozen=True, slots=True)
class InboxRow:
    """What is remembered of a request: the same id and body give the same answer, for ever."""

    account: str
    request_id: str
    body_hash: str
    kind: str
    triggered_by: str
    received_at: datetime
    order_id: str | None
    outcome: Any
    delivery: str | None = None


def remember(connection: Connection, row: InboxRow) -> None:
    """Store a request with its outcome."""
    _insert_inbox.row(
        connection,
        [
            row.account, row.request_id, row.body_hash, row.kind, row.triggered_by, row.received_at, row.order_id,
            row.outcome, row.delivery,
        ],
    )  # fmt: skip


def recall(connection: Connection, account: str, request_id: str) -> InboxRow | None:
    """What is remembered of a request id."""
    key = (account, request_id)
    if raw.execute(connection, "SELECT 1 FROM inbox WHERE account = ? AND request_id = ?", key).fetchone() is None:
        return None  # almost always
    for row in _select_inbox.rows(connection, "WHERE account = ? AND request_id = ?", (account, request_id)):
        return InboxRow(*row)
    return None


@quickly_made
@dataclass(frozen=True, slots=True)
class Delivery:
    """A broker's delivery of a request that its sender gave no id: what can be told of it again.

    `body` is a digest of topic and payload. Some brokers number their redeliveries anew after a crash; then
    `session` differs and only the body is left to tell (see runtime/mqtt.py for what was measured).
    """

    session: str
    packet_id: int
    body: str

    @property
    def key(self) -> str:
        """As stored in the inbox."""
        return f"{self.body}:{self.packet_id}:{self.session}"


_RECENT = 10_000
"""Deliveries among which an earlier copy is looked for: a broker repeats after seconds, new messages go first."""


def delivered(connection: Connection, delivery: Delivery, window: int, taken: Collection[str]) -> str | None:
    """The request id that an earlier copy of this delivery was given, if it was committed.

    In another session only its last `window` deliveries can come again, since a broker sends no more than
    that without an acknowledgement; those in `taken` have come again already.
    """
    rows = raw.execute(
        connection,
        "WITH recent AS (SELECT request_id, delivery, received_at FROM inbox WHERE delivery IS NOT NULL"
        " ORDER BY received_at DESC LIMIT ?) SELECT request_id, delivery, received_at FROM recent"
        " WHERE substr(delivery, 1, ?) = ? ORDER BY received_at DESC",
        (_RECENT, len(delivery.body) + 1, f"{delivery.body}:"),
    ).fetchall()
    same_body: list[tuple[str, str, str]] = []
    for request_id, key, received_at in rows:
        if key == delivery.key:
            return str(request_id)
        session = key.split(":", 2)[2]
        if session != delivery.session and request_id not in taken:
            same_body.append((request_id, session, received_at))
    for request_id, session, received_at in reversed(same_body):  # the oldest: redeliveries keep their order
        if _deliveries_after(connection, session, received_at, window) < window:
            return request_id
    return None


def _deliveries_after(connection: Connection, session: str, received_at: str, window: int) -> int:
    """How many deliveries of a session came after an instant; counted up to `window`."""
    row = raw.execute(
        connection,
        "SELECT COUNT(*) FROM (SELECT 1 FROM inbox WHERE delivery IS NOT NULL AND received_at > ?"
        " AND substr(delivery, ?) = ? LIMIT ?)",
        (received_at, -len(session) - 1, f":{session}", window),
    ).fetchone()
    assert row is not None
    return int(row[0])


# ---- halts --------------------------------------------------------------------------------------------


def halts(connection: Connection) -> dict[str, Halt]:
    """Halted accounts."""
    sql = 'SELECT account, "by", reason, at FROM halts WHERE halted = 1'
    return {
        account: Halt(by, reason, datetime.fromisoformat(at))
        for account, by, reason, at in raw.execute(connection, sql).fetchall()
    }


def halt_changes(connection: Connection) -> list[HaltChanged]:
    """The last halt or resume of each account that ever had one."""
    sql = 'SELECT account, halted, "by", reason, at FROM halts ORDER BY account'
    return [
        HaltChanged(account, bool(halted), by, reason, datetime.fromisoformat(at))
        for account, halted, by, reason, at in raw.execute(connection, sql).fetchall()
    ]


def store_halt(connection: Connection, account: str, halted: bool, by: str, reason: str | None, at: datetime) -> None:
    """Store that trading of an account is halted or not."""
    raw.execute(
        connection,
        'INSERT INTO halts (account, halted, "by", reason, at) VALUES (?, ?, ?, ?, ?)'
        ' ON CONFLICT (account) DO UPDATE SET halted = excluded.halted, "by" = excluded."by",'
        " reason = excluded.reason, at = excluded.at",
        (account, int(halted), by, reason, stored_time(at)),
    )


# ---- dead letters -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be taken: its start, its full size, and why."""

    id: str
    received_at: datetime
    topic: str
    payload: bytes
    size: int
    reason: Reason
    retained: bool


def bury(connection: Connection, letter: DeadLetter) -> None:
    """Store a dead letter; the same one again (a redelivery) is one row."""
    if raw.execute(connection, "SELECT 1 FROM dead_letters WHERE id = ?", (letter.id,)).fetchone():
        return
    row = [
        letter.id, letter.received_at, letter.topic, letter.payload, letter.size, reason_row(letter.reason),
        letter.retained,
    ]  # fmt: skip
    _insert_letter.rows(connection, [row])


def dead_letters(connection: Connection, limit: int = 100) -> list[DeadLetter]:
    """The newest dead letters."""
    rest = "ORDER BY received_at DESC, id LIMIT ?"
    return [
        DeadLetter(row[0], row[1], row[2], row[3], row[4], reason_of(row[5]) or Reason("unknown"), row[6])
        for row in _select_letters.rows(connection, rest, (limit,))
    ]
