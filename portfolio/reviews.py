"""The review queue: sells without a lot, until a person or a later fact settles them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from config.exact import plain
from config.times import stored_time, time_text
from execution import alerts, raw
from execution.ledger import derived_id
from execution.model import AlertRaised, Json, Severity
from portfolio import tables
from portfolio.errors import UnknownReview
from portfolio.tables import ReviewStatus

UNMATCHED_SELL = "unmatched_sell"
RECOMPUTATION = "recomputation"
"""Who resolves an entry whose sell found its lots after all."""


@dataclass(frozen=True, slots=True)
class Review:
    """An entry of the queue. `quantity` is the part of the sell that no lot covers."""

    id: str
    kind: str
    account: str
    symbol: str
    trade_id: str | None
    quantity: Decimal | None
    detail: str
    status: ReviewStatus
    opened_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: str | None

    def to_wire(self) -> dict[str, Json]:
        """The JSON form."""
        return {
            "id": self.id,
            "kind": self.kind,
            "account": self.account,
            "symbol": self.symbol,
            "trade_id": self.trade_id,
            "quantity": None if self.quantity is None else plain(self.quantity),
            "detail": self.detail,
            "status": str(self.status),
            "opened_at": time_text(self.opened_at),
            "resolved_at": None if self.resolved_at is None else time_text(self.resolved_at),
            "resolved_by": self.resolved_by,
            "resolution": self.resolution,
        }


_select = raw.Select(tables.review_queue)


def reviews(connection: Connection, status: ReviewStatus | None = None) -> list[Review]:
    """The queue, oldest first."""
    rest, parameters = ("", ()) if status is None else ("WHERE status = ? ", (str(status),))
    rows = _select.rows(connection, f"{rest}ORDER BY opened_at, id", parameters)
    return [_review(row) for row in rows]


def _review(row: list[Any]) -> Review:
    row[7] = ReviewStatus(row[7])
    return Review(*row)


def resolve(connection: Connection, review_id: str, by: str, how: str, now: datetime) -> Review:
    """Settle an open entry. Raises UnknownReview when there is no such open entry."""
    sql = (
        "UPDATE review_queue SET status = ?, resolved_at = ?, resolved_by = ?, resolution = ?"
        " WHERE id = ? AND status = ?"
    )
    values = (str(ReviewStatus.RESOLVED), stored_time(now), by, how, review_id, str(ReviewStatus.OPEN))
    if not raw.execute(connection, sql, values).rowcount:
        raise UnknownReview(f"an open entry of the review queue, not {review_id!r}")
    return next(review for review in reviews(connection, ReviewStatus.RESOLVED) if review.id == review_id)


def sync(connection: Connection, scopes: Iterable[tuple[str, str]], now: datetime) -> list[Review]:
    """Bring the queue up to date with the current FIFO rows of scopes; returns the entries that are new.

    An entry whose sell is matched by now is resolved; one that a person resolved stays so.
    """
    opened = []
    for account, symbol in sorted(set(scopes)):
        unmatched = _unmatched(connection, account, symbol)
        for review in _of_scope(connection, account, symbol):
            if review.status is ReviewStatus.OPEN and review.trade_id not in unmatched:
                resolve(connection, review.id, RECOMPUTATION, "the sell is matched in full by now", now)
        known = {review.trade_id for review in _of_scope(connection, account, symbol)}
        for trade_id, quantity in unmatched.items():
            if trade_id not in known:
                opened.append(_open(connection, account, symbol, trade_id, quantity, now))
    return opened


def _unmatched(connection: Connection, account: str, symbol: str) -> dict[str, Decimal]:
    sql = (
        "SELECT sell_trade, quantity FROM fifo_allocations WHERE account = ? AND symbol = ? AND buy_trade IS NULL"
        " AND method = 'fifo' AND to_version IS NULL ORDER BY id"
    )
    rows = raw.execute(connection, sql, (account, symbol)).fetchall()
    return {trade_id: Decimal(quantity) for trade_id, quantity in rows}


def _of_scope(connection: Connection, account: str, symbol: str) -> list[Review]:
    rest = "WHERE account = ? AND symbol = ? AND kind = ? ORDER BY id"
    rows = _select.rows(connection, rest, (account, symbol, UNMATCHED_SELL))
    return [_review(row) for row in rows]


def _open(
    connection: Connection, account: str, symbol: str, trade_id: str, quantity: Decimal, now: datetime
) -> Review:
    detail = (
        f"sold {plain(quantity)} {symbol} more than there was: what was paid for it is unknown. Record the missing"
        " buy (it is matched by itself), or resolve this entry with an explanation"
    )
    review = Review(
        derived_id("review", account, symbol, trade_id),
        UNMATCHED_SELL,
        account,
        symbol,
        trade_id,
        quantity,
        detail,
        ReviewStatus.OPEN,
        now,
        None,
        None,
        None,
    )
    values = [getattr(review, column.name) for column in tables.review_queue.columns]
    _insert.rows(connection, [[str(value) if isinstance(value, ReviewStatus) else value for value in values]])
    alerts.keep(connection, unmatched_alert(review), now)
    return review


def unmatched_alert(review: Review) -> AlertRaised:
    """A sell without a lot: somebody has to look. It is stored with the entry until the broker has it."""
    about = {"symbol": review.symbol, "review": review.id}
    if review.trade_id is not None:
        about["trade"] = review.trade_id
    message = f"{review.account}: {review.detail} (`fillbook review list`)"
    alert = AlertRaised(Severity.HIGH, review.kind, message, review.account, about, at=review.opened_at, kept=True)
    return alerts.named(alert, review.id)


_insert = raw.Insert(tables.review_queue)
