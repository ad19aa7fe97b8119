"""Says that history changed: a trade came that belongs before others, or one was taken back. What was computed from
that instant on is no longer what the trades give.

The alert is stored with the new version, until the broker has it. While it waits, what changes the same account and
symbol again becomes part of it: a subscriber learns of a whole import of old trades by a few, each with the earliest
instant since the one before.
"""

import json
from datetime import datetime

from sqlalchemy import Connection

from config.times import parse_time, stored_time, time_text
from execution import alerts, raw
from execution.model import AlertRaised, Severity
from portfolio import batch
from portfolio.allocations import ScopeKey


def changed_from(connection: Connection, key: ScopeKey, stored: int, up_to: int) -> datetime | None:
    """The earliest instant at which the trades after ledger sequence `stored`, up to `up_to`, change what is computed
    from those before; None: they only go on from there."""
    new = _instant(connection, "MIN(executed_at)", key, stored, up_to)
    last = _instant(connection, "MAX(executed_at)", key, 0, stored)
    if new is None or last is None:
        return None
    if new < last or (new == last and _is_before(connection, key, stored, up_to, new)):
        return new
    return _taken_back_from(connection, key, stored, up_to)


def _instant(connection: Connection, which: str, key: ScopeKey, after: int, up_to: int) -> datetime | None:
    sql = f"SELECT {which} FROM trades WHERE account = ? AND symbol = ? AND sequence > ? AND sequence <= ?"
    (found,) = raw.execute(connection, sql, (key.account, key.symbol, after, up_to)).fetchone()
    return None if found is None else datetime.fromisoformat(found)


def _taken_back_from(connection: Connection, key: ScopeKey, stored: int, up_to: int) -> datetime | None:
    """The earliest of the trades before that were taken back."""
    sql = (
        "SELECT MIN(wrong.executed_at) FROM trades AS entry JOIN trades AS wrong ON wrong.id = entry.corrects"
        " WHERE entry.account = ? AND entry.symbol = ? AND entry.corrects IS NOT NULL"
        " AND entry.sequence > ? AND entry.sequence <= ? AND wrong.sequence <= ?"
    )
    (found,) = raw.execute(connection, sql, (key.account, key.symbol, stored, up_to, stored)).fetchone()
    return None if found is None else datetime.fromisoformat(found)


def _is_before(connection: Connection, key: ScopeKey, stored: int, up_to: int, instant: datetime) -> bool:
    """Whether a new trade of this instant comes before a stored one of it."""
    seen_new = False
    for row in batch.in_order(connection, key.account, key.symbol, up_to, instant):
        if row[batch.EXECUTED_AT] != stored_time(instant):
            return False
        if row[0] > stored:
            seen_new = True
        elif seen_new:
            return True
    return False


def keep(connection: Connection, key: ScopeKey, since: datetime, version: int, now: datetime) -> None:
    """Store the alert, in the transaction of the new version, in the place of one that still waits."""
    for waiting_id, waiting_since in _waiting(connection, key):
        since = min(since, waiting_since)
        # Also when it is being sent at this moment: it has an id of its own, and this one says more.
        alerts.told(connection, [waiting_id])
    alerts.keep(connection, _alert(key, since, version), now)


def _waiting(connection: Connection, key: ScopeKey) -> list[tuple[str, datetime]]:
    sql = "SELECT id, about FROM alert_outbox WHERE code = ? AND account = ?"
    rows = raw.execute(connection, sql, (alerts.HISTORY_CHANGED, key.account)).fetchall()
    found = ((id_, json.loads(about)) for id_, about in rows)
    return [(id_, parse_time(about["from"])) for id_, about in found if about["symbol"] == key.symbol]


def _alert(key: ScopeKey, since: datetime, version: int) -> AlertRaised:
    at = time_text(since)
    message = (
        f"{key.account}: history changed from {at} on in {key.symbol}: a trade came late or was taken back; what was"
        f" computed from there on is replaced (version {version})"
    )
    about = {"symbol": key.symbol, "from": at, "version": str(version)}
    return AlertRaised(Severity.INFO, alerts.HISTORY_CHANGED, message, key.account, about)
