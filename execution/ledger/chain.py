"""The chain: each fact's hash is that of its content and of its predecessor's hash."""

import hashlib
from collections.abc import Sequence
from typing import Any

from config.exact import plain
from config.times import stored_time
from execution import tables
from execution.model import (
    Fact,
    Trade,
)


class _Lengths(dict[int, str]):
    """A length as it stands before a field; known ones take half the time of formatting."""

    def __missing__(self, length: int) -> str:
        return f"{length}:"


_LENGTHS = _Lengths((length, f"{length}:") for length in range(100))


def _digest(previous: str, content: Sequence[str | None]) -> str:
    # Each field with its length, so that no text can be moved from one field to the next; "-" is no value.
    text = "".join(["-" if value is None else _LENGTHS[len(value)] + value for value in content])
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()


def _optional(value: Any) -> str | None:
    return None if value is None else str(value)


def content_hash(fact: Fact, previous: str) -> str:
    """SHA-256 over the predecessor's hash and every field of the fact, as they are stored."""
    if isinstance(fact, Trade):
        context = fact.signal_context
        return _digest(
            previous,
            [
                "trade",
                str(fact.sequence),
                fact.id,
                fact.account,
                fact.symbol,
                fact.side,
                plain(fact.quantity),
                plain(fact.price),
                stored_time(fact.executed_at),
                stored_time(fact.recorded_at),
                plain(fact.fee),
                fact.fee_asset,
                plain(fact.cash_effect),
                fact.order_id,
                fact.venue,
                fact.venue_trade_id,
                _optional(fact.venue_sequence),
                _optional(fact.order_type),
                fact.source,
                fact.triggered_by,
                None if context is None else tables.json_text(context),
                fact.corrects,
            ],
        )
    return _digest(
        previous,
        [
            "cash_flow",
            str(fact.sequence),
            fact.id,
            fact.account,
            fact.kind,
            plain(fact.amount),
            fact.currency,
            stored_time(fact.effective_at),
            stored_time(fact.recorded_at),
            fact.triggered_by,
            fact.idempotency_key,
            fact.note,
        ],
    )


def stored_hash(kind: str, row: Sequence[Any], previous: str) -> str:
    """`content_hash` of a stored row, straight from the driver's values in column order (the hash is the last);
    `kind` is "trade" or "cash_flow". What is stored in another form than we write it has another hash."""
    return _digest(previous, [kind, *[None if value is None else str(value) for value in row[:-1]]])
