"""Appending facts inside a write transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from config.exact import plain
from config.times import stored_time
from execution import raw, tables
from execution.errors import ConflictingFact
from execution.ledger.chain import content_hash, stored_hash
from execution.ledger.facts import Head, NewCashFlow, NewTrade
from execution.ledger.reading import find_flow, find_trade, head
from execution.model import (
    CashFlow,
    Trade,
)

_insert_trade = raw.Insert(tables.trades)
_insert_flow = raw.Insert(tables.cash_flows)


class LedgerTail:
    """Appends facts inside a write transaction; takes part in it (see `TransactionParticipant`).

    The head row is read when the first fact of a transaction is appended and written once before the
    commit. A process that only appends now and then uses one per transaction.
    """

    def __init__(self) -> None:
        self._head: Head | None = None
        self._stored: Head | None = None

    def begin(self) -> None:
        """A transaction starts: another process may have appended since."""
        self._head = self._stored = None

    def before_commit(self, connection: Connection) -> None:
        """Write the head, if facts were appended."""
        head = self._head
        if head is None or head is self._stored:
            return
        raw.execute(
            connection, "UPDATE ledger_head SET sequence = ?, hash = ? WHERE id = 1", (head.sequence, head.hash)
        )
        self._stored = head

    def committed(self) -> None:
        """The head is durable."""

    def rolled_back(self) -> None:
        """Nothing was appended."""
        self._head = self._stored = None

    def _next(self, connection: Connection) -> Head:
        if self._head is None:
            # PostgreSQL: two writers queue here; SQLite's BEGIN IMMEDIATE has queued them already.
            self._head = self._stored = head(connection, lock=True)
        return self._head

    def append_trade(
        self, connection: Connection, new: NewTrade, recorded_at: datetime, *, surely_new: bool = False
    ) -> Trade | None:
        """Store a trade; None when the same trade is there already.

        `surely_new` saves the look-up where the caller knows; the database would still refuse a second one.
        Raises ConflictingFact when its id is there with other content.
        """
        existing = None if surely_new else find_trade(connection, new.id)
        if existing is not None:
            if not same_trade(existing, new):
                raise ConflictingFact(
                    f"trade {new.venue_trade_id or new.id} of {new.venue} arrived again with other content"
                    f" (recorded as {existing.id}, sequence {existing.sequence})"
                )
            return None
        before = self._next(connection)
        sequence = before.sequence + 1
        row = _driver_row(new, sequence, stored_time(recorded_at))
        row[-1] = hash_ = stored_hash("trade", row, before.hash)
        _insert_trade.driver_row(connection, row)
        self._head = Head(sequence, hash_)
        return _trade(new, sequence, recorded_at, hash_)

    def append_new(self, connection: Connection, trades: Sequence[NewTrade], recorded_at: datetime) -> None:
        """Store trades, in this order, that the caller knows to be new (the database refuses a second one): many
        at a time cost a third of one by one."""
        if not trades:
            return
        sequence, last = (before := self._next(connection)).sequence, before.hash
        recorded = stored_time(recorded_at)
        rows = []
        for new in trades:
            sequence += 1
            row = _driver_row(new, sequence, recorded)
            row[-1] = last = stored_hash("trade", row, last)
            rows.append(row)
        _insert_trade.driver_rows(connection, rows)
        self._head = Head(sequence, last)

    def append_flow(self, connection: Connection, new: NewCashFlow, recorded_at: datetime) -> CashFlow | None:
        """Store a cash flow; None when the same one is there already. Raises ConflictingFact."""
        existing = find_flow(connection, new.account, new.idempotency_key)
        if existing is not None:
            if (existing.kind, existing.amount, existing.currency) != (new.kind, new.amount, new.currency):
                raise ConflictingFact(
                    f"cash flow {new.idempotency_key} of {new.account} arrived again with other content"
                )
            return None
        before = self._next(connection)
        values: dict[str, Any] = {
            "id": new.id,
            "sequence": before.sequence + 1,
            "account": new.account,
            "kind": new.kind,
            "amount": new.amount,
            "currency": new.currency,
            "effective_at": new.effective_at,
            "recorded_at": recorded_at,
            "triggered_by": new.triggered_by,
            "idempotency_key": new.idempotency_key,
            "note": new.note,
        }
        flow = CashFlow(**values, hash=content_hash(CashFlow(**values, hash=""), before.hash))
        _insert_flow.rows(connection, [[getattr(flow, column.name) for column in tables.cash_flows.columns]])
        self._head = Head(flow.sequence, flow.hash)
        return flow


def _trade(new: NewTrade, sequence: int, recorded_at: datetime, hash_: str) -> Trade:
    """The fact that a trade has become."""
    return Trade(
        new.id, sequence, new.account, new.symbol, new.side, new.quantity, new.price, new.executed_at, recorded_at,
        new.fee, new.fee_asset, new.cash_effect, new.order_id, new.venue, new.venue_trade_id, new.venue_sequence,
        new.order_type, new.source, new.triggered_by, new.signal_context, new.corrects, hash_,
    )  # fmt: skip


def _driver_row(new: NewTrade, sequence: int, recorded_at: str) -> list[Any]:
    """A row of `trades` as the driver's values; its hash, the last, is still missing."""
    context = new.signal_context
    return [
        sequence,
        new.id,
        new.account,
        new.symbol,
        new.side.value,
        plain(new.quantity),
        plain(new.price),
        stored_time(new.executed_at),
        recorded_at,
        plain(new.fee),
        new.fee_asset,
        plain(new.cash_effect),
        new.order_id,
        new.venue,
        new.venue_trade_id,
        new.venue_sequence,
        None if new.order_type is None else new.order_type.value,
        new.source.value,
        new.triggered_by,
        None if context is None else tables.json_text(context),
        new.corrects,
        None,
    ]


def same_trade(trade: Trade | NewTrade, new: NewTrade) -> bool:
    """Whether a trade that arrives under an id that is there already has the same content."""
    return (trade.side, trade.quantity, trade.price, trade.fee, trade.fee_asset, trade.executed_at) == (
        new.side,
        new.quantity,
        new.price,
        new.fee,
        new.fee_asset,
        new.executed_at,
    )
