"""What makes facts immutable in the database itself: triggers, one place for both dialects.

UPDATE and DELETE of a fact row abort. REPLACE would slip past a delete trigger in a plain SQLite shell
(recursive triggers are off there), so a BEFORE INSERT trigger aborts on an existing key as well.
"""

import re
from collections.abc import Mapping
from functools import cache, lru_cache

from sqlalchemy import Connection, text

from execution import raw

_FACT_KEYS = {
    "trades": (
        "id = NEW.id",
        "sequence = NEW.sequence",
        "venue = NEW.venue AND account = NEW.account AND symbol = NEW.symbol AND venue_trade_id = NEW.venue_trade_id",
    ),
    "cash_flows": (
        "id = NEW.id",
        "sequence = NEW.sequence",
        "account = NEW.account AND idempotency_key = NEW.idempotency_key",
    ),
}


def _sqlite(table: str, keys: tuple[str, ...]) -> dict[str, str]:
    def refuse(what: str) -> str:
        return f"BEGIN SELECT RAISE(ABORT, '{table} are facts: {what}'); END"

    # One look-up for each key: a single EXISTS with OR costs three times as much on every insert.
    taken = " OR ".join(f"EXISTS (SELECT 1 FROM {table} WHERE {key})" for key in keys)
    return {
        f"{table}_refuse_update": f"BEFORE UPDATE ON {table} {refuse('correct one with a compensating entry')}",
        f"{table}_refuse_delete": f"BEFORE DELETE ON {table} {refuse('they are never deleted')}",
        f"{table}_refuse_replace": (f"BEFORE INSERT ON {table} WHEN {taken} {refuse('this key exists already')}"),
    }


@cache
def _all_triggers() -> Mapping[str, str]:
    triggers: dict[str, str] = {}
    for table, keys in _FACT_KEYS.items():
        triggers |= _sqlite(table, keys)
    triggers["trades_refuse_foreign_order"] = (
        "BEFORE INSERT ON trades WHEN NEW.source = 'exchange' AND NEW.order_id IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM orders WHERE id = NEW.order_id AND account = NEW.account)"
        " BEGIN SELECT RAISE(ABORT, 'a fill names an order of its account'); END"
    )
    triggers["orders_refuse_delete"] = (
        "BEFORE DELETE ON orders WHEN EXISTS (SELECT 1 FROM trades WHERE order_id = OLD.id AND account = OLD.account"
        " AND source = 'exchange') BEGIN SELECT RAISE(ABORT, 'an order with fills is never deleted'); END"
    )
    triggers["orders_refuse_rename"] = (
        "BEFORE UPDATE OF id, account ON orders BEGIN SELECT RAISE(ABORT, 'an order keeps its id and account'); END"
    )
    triggers["ledger_head_refuse_delete"] = (
        "BEFORE DELETE ON ledger_head BEGIN SELECT RAISE(ABORT, 'the head of the ledger is never deleted'); END"
    )
    triggers["ledger_head_refuse_rewind"] = (
        "BEFORE UPDATE ON ledger_head WHEN NEW.sequence <= OLD.sequence"
        " BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END"
    )
    triggers["ledger_head_refuse_replace"] = (
        "BEFORE INSERT ON ledger_head WHEN EXISTS (SELECT 1 FROM ledger_head)"
        " BEGIN SELECT RAISE(ABORT, 'the ledger has one head'); END"
    )
    return triggers


def create_guards(connection: Connection) -> None:
    """Create every trigger, on tables made from their description; migrations have frozen triggers of their own."""
    for name, body in _all_triggers().items():
        connection.execute(text(f"CREATE TRIGGER {name} {body}"))


def drop_guards(connection: Connection) -> None:
    """Drop every trigger."""
    for name in _all_triggers():
        connection.execute(text(f"DROP TRIGGER IF EXISTS {name}"))


def faults(connection: Connection) -> dict[str, str]:
    """The triggers that are not as they must be, each with what is wrong; empty when all guard the facts."""
    rows = raw.execute(connection, "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    found = {name: _normal(sql) for name, sql in rows}
    keyed = _has_order_key(connection)
    wrong = {}
    for name, body in _all_triggers().items():
        if keyed and name in _INSTEAD_OF_KEY:
            continue
        if name not in found:
            wrong[name] = "is missing"
        elif found[name] != _normal(f"CREATE TRIGGER {name} {body}"):
            wrong[name] = "is not as it was made"
    return wrong


def restore(connection: Connection) -> list[str]:
    """Make the triggers that `faults` names anew; their names."""
    wrong = sorted(faults(connection))
    triggers = _all_triggers()
    for name in wrong:
        connection.execute(text(f"DROP TRIGGER IF EXISTS {name}"))
        connection.execute(text(f"CREATE TRIGGER {name} {triggers[name]}"))
    return wrong


_INSTEAD_OF_KEY = frozenset({"trades_refuse_foreign_order", "orders_refuse_delete", "orders_refuse_rename"})
"""Triggers that took the place of a foreign key; older schemas still have the key."""


def _has_order_key(connection: Connection) -> bool:
    sql = "SELECT 1 FROM pragma_foreign_key_list('trades') WHERE \"table\" = 'orders'"
    return raw.execute(connection, sql).fetchone() is not None


def names() -> list[str]:
    """All triggers that guard facts."""
    return sorted(_all_triggers())


@lru_cache(maxsize=100)
def _normal(sql: str) -> str:
    """The text without what a renamed table or a dump may change: quotes around names, white space."""
    return re.sub(r"\s+", " ", sql.replace('"', "")).strip()
