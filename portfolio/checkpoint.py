"""Checkpoints: the books at a ledger sequence, stored so that a start need not read the whole ledger.

A checkpoint is a cache. It is used only if every digest is right, the engine's version is ours and the
ledger still has, at its sequence, the fact that it ended with; otherwise everything is recomputed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection

from execution import ledger, raw
from execution.model import Account
from execution.tables import json_text
from portfolio.books import Books, CashBook, Scope, SymbolBook
from portfolio.errors import CheckpointDamaged, CheckpointOutdated, FifoError
from portfolio.fifo import ENGINE_VERSION
from portfolio.tables import fifo_inventory_snapshots as table

_HEAD: Scope = ("", "")
_select = raw.Select(table)
_insert = raw.Insert(table)


class _Row(NamedTuple):
    """A stored row, in the order of the table's columns."""

    account: str
    symbol: str
    sequence: int
    engine_version: int
    content: str
    sha256: str

    @property
    def scope(self) -> Scope:
        return self.account, self.symbol


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is to be written: the changed scopes' states at `sequence`, taken in one moment.

    `known` are the digests of the rows that stay; `whole` means that no stored row may stay.
    """

    sequence: int
    head_hash: str
    states: Mapping[Scope, Any]
    known: Mapping[Scope, str]
    whole: bool


@dataclass(frozen=True, slots=True)
class Loaded:
    """The books of a checkpoint and the digests of its rows."""

    books: Books
    digests: dict[Scope, str]


def take(books: Books, digests: Mapping[Scope, str] | None) -> Snapshot:
    """The state to store. `digests` are those of the stored rows; None: write everything anew."""
    if books.stale:
        raise FifoError("books without stale symbols can be stored, others are not computed yet")
    scopes = books.changed if digests is not None else set(books.symbols)
    accounts = books.changed_cash if digests is not None else set(books.cash)
    states: dict[Scope, Any] = {(account, ""): books.cash[account].dump() for account in accounts}
    for scope in scopes:
        states[scope] = books.symbols[scope].dump()
    return Snapshot(books.sequence, books.head_hash, states, digests or {}, digests is None)


def store(connection: Connection, snapshot: Snapshot) -> dict[Scope, str]:
    """Write a snapshot; the digests of all rows after it. Running it again changes nothing."""
    rows = [_row(scope, snapshot.sequence, json_text(state)) for scope, state in snapshot.states.items()]
    digests = {**snapshot.known, **{row.scope: row.sha256 for row in rows}}
    head = {"head_hash": snapshot.head_hash, "rows": len(digests), "digest": _digest_of(digests)}
    rows.append(_row(_HEAD, snapshot.sequence, json_text(head)))
    if snapshot.whole:
        raw.execute(connection, f"DELETE FROM {table.name}")
    else:
        for row in rows:
            raw.execute(connection, f"DELETE FROM {table.name} WHERE account = ? AND symbol = ?", row.scope)
    _insert.rows(connection, rows)
    return digests


def load(connection: Connection, accounts: dict[str, Account]) -> Loaded | None:
    """The stored checkpoint, None when there is none. Raises CheckpointDamaged with the reason."""
    found = {row.scope: row for row in (_Row(*columns) for columns in _select.rows(connection))}
    if not found:
        return None
    head_row = found.pop(_HEAD, None)
    if head_row is None:
        raise CheckpointDamaged("the checkpoint has no head row")
    head = _content(_HEAD, head_row)
    digests = {scope: row.sha256 for scope, row in found.items()}
    if head.get("digest") != _digest_of(digests):
        raise CheckpointDamaged("the rows are not the ones that the head row covers")
    _check_ledger(connection, head_row.sequence, head.get("head_hash"))
    books = Books(accounts, head_row.sequence, head["head_hash"])
    for (account, symbol), row in found.items():
        owner = accounts.get(account)
        if owner is None:
            raise CheckpointDamaged(f"row {account}/{symbol} belongs to no account")
        state = _content((account, symbol), row)
        try:
            if symbol:
                books.symbols[account, symbol] = SymbolBook.load(owner, symbol, state)
            else:
                books.cash[account] = CashBook.load(state)
        except FifoError as error:
            raise CheckpointDamaged(f"row {account}/{symbol}: {error}") from error
    return Loaded(books, digests)


def _check_ledger(connection: Connection, sequence: int, head_hash: object) -> None:
    """The ledger must still hold the fact that the checkpoint ended with."""
    if sequence == 0:
        return
    facts = ledger.facts_since(connection, sequence - 1, 1)
    if not facts or facts[0].sequence != sequence or facts[0].hash != head_hash:
        raise CheckpointDamaged(f"the ledger has another fact, or none, at sequence {sequence}")


def _sha256(scope: Scope, sequence: int, content: str) -> str:
    text = json.dumps([*scope, sequence, ENGINE_VERSION, content])
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_of(digests: Mapping[Scope, str]) -> str:
    text = json.dumps(sorted([*scope, digest] for scope, digest in digests.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _row(scope: Scope, sequence: int, content: str) -> _Row:
    return _Row(*scope, sequence, ENGINE_VERSION, content, _sha256(scope, sequence, content))


def _content(scope: Scope, row: _Row) -> Any:
    """The content of a row whose version and digest are right."""
    name = "/".join(scope) if scope != _HEAD else "head row"
    if row.engine_version != ENGINE_VERSION:
        raise CheckpointOutdated(f"{name}: engine version {row.engine_version}, not {ENGINE_VERSION}")
    if row.sha256 != _sha256(scope, row.sequence, row.content):
        raise CheckpointDamaged(f"{name}: the content does not have the stored SHA-256")
    return json.loads(row.content)
