"""Sums over all facts: cash, quantities, last fills. What a process knows at its start, in one pass."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection

from config.exact import ZERO, plain
from config.instruments import base_asset
from config.times import stored_time
from execution import ledger, raw
from execution.model import Side, Trade


@dataclass(slots=True)
class Totals:
    """Cash by account, signed base quantity by (account, symbol), and the latest execution by tag, over all
    facts up to `sequence`. `opened`: the fact that opened each position which is open."""

    sequence: int = 0
    cash: dict[str, Decimal] = field(default_factory=dict)
    quantities: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    last_fills: dict[str, datetime] = field(default_factory=dict)
    deposited: dict[str, Decimal] = field(default_factory=dict)
    opened: dict[tuple[str, str], int] = field(default_factory=dict)


def quantity_effect(trade: Trade, base_asset: str) -> Decimal:
    """The signed change of the position by a fill: a fee in the base asset reduces what is received, or takes
    extra."""
    change = trade.quantity if trade.side is Side.BUY else -trade.quantity
    return change - trade.fee if trade.fee_asset == base_asset else change


def note_opening(
    opened: dict[tuple[str, str], int],
    key: tuple[str, str],
    sequence: int,
    before: Decimal,
    after: Decimal,
    step: Decimal,
) -> None:
    """Keep which fact opened the position `key`, as fact `sequence` takes it from `before` to `after`.

    A position that turns from long to short is a new one. Less than one `step` (the quantity increment, what
    fees may leave behind) is none: no order could close it.
    """
    if -step < after < step:
        opened.pop(key, None)
    elif key not in opened or (before > 0) is not (after > 0):
        opened[key] = sequence


# ---- summing up ---------------------------------------------------------------------------------------

_TRADES = (
    "SELECT sequence, account, symbol, side, quantity, cash_effect, fee, fee_asset, triggered_by, executed_at"
    " FROM trades WHERE sequence > ? AND sequence <= ? ORDER BY sequence"
)


def read_totals(connection: Connection) -> Totals:
    """The sums over the whole ledger: the stored ones, if they can be used, and what came after them."""
    totals = stored_totals(connection) or Totals()
    _add_facts(connection, totals)
    return totals


def sum_up(connection: Connection) -> Totals:
    """The sums over the whole ledger from nothing but its facts. About 3 s for a million trades."""
    totals = Totals()
    _add_facts(connection, totals)
    return totals


def _add_facts(connection: Connection, totals: Totals) -> None:
    """Take the sums to the ledger's head. Texts are only turned into what is summed."""
    first, totals.sequence = totals.sequence, ledger.head(connection).sequence
    entries = _entries(connection)
    cash, quantities, opened, last_fills = totals.cash, totals.quantities, totals.opened, totals.last_fills
    cursor = raw.execute(connection, _TRADES, (first, totals.sequence))
    newest: dict[str, str] = {}
    while rows := cursor.fetchmany(5000):
        for sequence, account, symbol, side, quantity, effect, fee, fee_asset, tag, executed_at in rows:
            key = (account, symbol)
            asset, step = entries[symbol]
            change = Decimal(quantity) if side == "BUY" else -Decimal(quantity)
            if fee_asset == asset:
                change -= Decimal(fee)
            before = quantities.get(key, ZERO)
            quantities[key] = after = before + change
            note_opening(opened, key, sequence, before, after, step)
            cash[account] = cash.get(account, ZERO) + Decimal(effect)
            if executed_at > newest.get(tag, ""):
                newest[tag] = executed_at
    for tag, text in newest.items():
        at = datetime.fromisoformat(text)
        last_fills[tag] = max(at, last_fills.get(tag, at))
    for flow in ledger.flows_between(connection, first, totals.sequence):
        cash[flow.account] = cash.get(flow.account, ZERO) + flow.cash_effect
        if flow.kind.is_external:
            totals.deposited[flow.account] = totals.deposited.get(flow.account, ZERO) + flow.cash_effect


def _entries(connection: Connection) -> dict[str, tuple[str, Decimal]]:
    """Base asset and quantity increment of each symbol: what sums depend on beside the facts."""
    rows = raw.execute(connection, "SELECT symbol, currency, quantity_increment FROM instruments").fetchall()
    return {symbol: (base_asset(symbol, currency), Decimal(step)) for symbol, currency, step in rows}


# ---- storing ------------------------------------------------------------------------------------------
# A cache, so that a start after a million trades costs what came since: it may be deleted at any time. It is used
# only if its digest is right, the fact it ends with is still that fact, and the catalogue says what it said.


def store_totals(connection: Connection, totals: Totals) -> None:
    """Keep sums that `read_totals` gave."""
    body = _body(connection, totals)
    last = _fact_hash(connection, totals.sequence)
    raw.execute(
        connection,
        "INSERT INTO ledger_totals (id, sequence, hash, body, sha256) VALUES (1, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET sequence = excluded.sequence, hash = excluded.hash, body = excluded.body,"
        " sha256 = excluded.sha256",
        (totals.sequence, last, body, _digest(totals.sequence, last, body)),
    )


def stored_totals(connection: Connection) -> Totals | None:
    """The stored sums; None when there are none that can be used."""
    row = raw.execute(connection, "SELECT sequence, hash, body, sha256 FROM ledger_totals WHERE id = 1").fetchone()
    if row is None:
        return None
    sequence, last, body, digest = row
    if digest != _digest(sequence, last, body) or not last or last != _fact_hash(connection, sequence):
        return None
    found = json.loads(body)
    entries = _entries(connection)
    if any(_entry(entries, symbol) != entry for symbol, entry in found["entries"].items()):
        return None
    return Totals(
        sequence,
        {account: Decimal(text) for account, text in found["cash"].items()},
        {(account, symbol): Decimal(text) for account, symbol, text in found["quantities"]},
        {tag: datetime.fromisoformat(text) for tag, text in found["last_fills"].items()},
        {account: Decimal(text) for account, text in found["deposited"].items()},
        {(account, symbol): opened for account, symbol, opened in found["opened"]},
    )


def _body(connection: Connection, totals: Totals) -> str:
    entries = _entries(connection)
    body = {
        "entries": {symbol: _entry(entries, symbol) for symbol in sorted({key[1] for key in totals.quantities})},
        "cash": {account: plain(amount) for account, amount in sorted(totals.cash.items())},
        "quantities": [[*key, plain(quantity)] for key, quantity in sorted(totals.quantities.items())],
        "last_fills": {tag: stored_time(at) for tag, at in sorted(totals.last_fills.items())},
        "deposited": {account: plain(amount) for account, amount in sorted(totals.deposited.items())},
        "opened": [[*key, sequence] for key, sequence in sorted(totals.opened.items())],
    }
    return json.dumps(body, separators=(",", ":"))


def _entry(entries: dict[str, tuple[str, Decimal]], symbol: str) -> list[str] | None:
    entry = entries.get(symbol)
    return None if entry is None else [entry[0], plain(entry[1])]


def _fact_hash(connection: Connection, sequence: int) -> str:
    """The hash of a fact; empty when there is none of that sequence."""
    sql = "SELECT hash FROM trades WHERE sequence = ? UNION ALL SELECT hash FROM cash_flows WHERE sequence = ?"
    row = raw.execute(connection, sql, (sequence, sequence)).fetchone()
    return "" if row is None else str(row[0])


def _digest(sequence: int, last: str, body: str) -> str:
    return hashlib.sha256(f"{sequence}\n{last}\n{body}".encode()).hexdigest()
