"""Alerts that state a lasting fact: stored in its transaction, until the broker has them.

Of what is stored once and never looked for again (a review entry, an order of strangers) nobody would hear if the
process died between the commit and the publication. An alert keeps its id however often it is said.
"""

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import datetime
from itertools import islice

from sqlalchemy import Connection

from config.times import stored_time
from execution import raw
from execution.ledger import derived_id
from execution.model import AlertRaised, Severity

_STORE = (
    "INSERT INTO alert_outbox (id, raised_at, severity, code, message, account, about) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO NOTHING"
)
_READ = "SELECT id, raised_at, severity, code, message, account, about FROM alert_outbox ORDER BY raised_at, id"


def named(alert: AlertRaised, *parts: str) -> AlertRaised:
    """The alert with an id that follows from its code, its account and these parts."""
    return replace(alert, id=derived_id("alert", alert.code, alert.account or "", *parts))


def keep(connection: Connection, alert: AlertRaised, now: datetime) -> AlertRaised:
    """Store an alert with the fact that it states; returns it as one that is stored."""
    if alert.id is None:
        alert = named(alert, *(f"{key}={value}" for key, value in sorted(alert.about.items())))
    kept = replace(alert, at=alert.at or now, kept=True)
    about = json.dumps(dict(kept.about), ensure_ascii=False)
    row = (kept.id, stored_time(now), str(kept.severity), kept.code, kept.message, kept.account, about)
    raw.execute(connection, _STORE, row)
    return kept


def waiting(
    connection: Connection, limit: int, may_go: Callable[[AlertRaised], bool] = lambda _alert: True
) -> list[AlertRaised]:
    """The oldest alerts that the broker may not have, of those that `may_go`."""
    cursor = raw.execute(connection, _READ)
    found = (
        AlertRaised(
            Severity(severity), code, message, account, json.loads(about), id_, datetime.fromisoformat(at), kept=True
        )
        for id_, at, severity, code, message, account, about in cursor
    )
    try:
        return list(islice(filter(may_go, found), limit))
    finally:
        cursor.close()


def told(connection: Connection, ids: Iterable[str]) -> None:
    """The broker has these."""
    for each in ids:
        raw.execute(connection, "DELETE FROM alert_outbox WHERE id = ?", (each,))


HISTORY_CHANGED = "history_changed"
"""The code of an alert that takes in others of its account and symbol for as long as it waits. It may wait a while,
so that an import of many old trades is told of by a few."""

LASTING: Collection[str] = frozenset({"external_order", "filled_after_close", "overfilled"})
"""Codes of alerts about trades at a venue that are raised when a trade is recorded, and never again. The others are
raised anew whenever the venue tells the trade."""
