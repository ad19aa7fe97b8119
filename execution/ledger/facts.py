"""Facts before they are in the ledger, their ids, and the head of the chain."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from config.quick import quickly_made
from execution.model import (
    CashFlowKind,
    OrderType,
    Side,
    Source,
)


@dataclass(frozen=True, slots=True)
class Head:
    """The last fact of the ledger; sequence 0 and the genesis hash when it is empty."""

    sequence: int
    hash: str


@quickly_made
@dataclass(frozen=True, slots=True)
class NewTrade:
    """A trade before it is in the ledger; the fields mean what they mean in `Trade`."""

    id: str
    account: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    executed_at: datetime
    fee: Decimal
    fee_asset: str
    cash_effect: Decimal
    venue: str
    source: Source
    triggered_by: str
    order_id: str | None = None
    venue_trade_id: str | None = None
    venue_sequence: int | None = None
    order_type: OrderType | None = None
    signal_context: Any = None
    corrects: str | None = None


@dataclass(frozen=True, slots=True)
class NewCashFlow:
    """A cash flow before it is in the ledger; the fields mean what they mean in `CashFlow`."""

    account: str
    kind: CashFlowKind
    amount: Decimal
    currency: str
    effective_at: datetime
    triggered_by: str
    idempotency_key: str
    note: str | None = None

    @property
    def id(self) -> str:
        """Derived from account and idempotency key: a retry can never make a second one."""
        return derived_id("flow", self.account, self.idempotency_key)


def derived_id(prefix: str, *parts: str) -> str:
    """An id that follows from what it names: the same parts give the same id, on any machine."""
    return f"{prefix}-{_short_digest(parts)}"


@lru_cache(maxsize=256)  # an order and its client order id follow from the same parts
def _short_digest(parts: tuple[str, ...]) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:20]


def trade_id(venue: str, account: str, symbol: str, venue_trade_id: str) -> str:
    """The id of the trade that a venue knows by `venue_trade_id`."""
    return derived_id("trade", venue, account, symbol, venue_trade_id)
