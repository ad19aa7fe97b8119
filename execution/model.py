"""The words of execution: requests, orders, trades, cash flows, candles, and what is said about them.

Times are aware UTC datetimes, money and quantities are exact Decimals. Facts (`Trade`, `CashFlow`) are
never changed once they have a sequence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from config.exact import ZERO
from config.quick import quickly_made
from config.times import timeframe_length

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class Side(StrEnum):
    """The direction of an order or trade."""

    BUY = "BUY"
    SELL = "SELL"

    @property
    def sign(self) -> int:
        """+1 for BUY, -1 for SELL."""
        return 1 if self is Side.BUY else -1


class OrderType(StrEnum):
    """How the price of an order is set."""

    MARKET = "market"
    LIMIT = "limit"


class TimeInForce(StrEnum):
    """How long an order may rest: market orders are IOC, limit orders GTC unless they say otherwise."""

    IOC = "IOC"
    GTC = "GTC"


class OrderStatus(StrEnum):
    """requested -> pending -> (partially_filled | unknown) -> filled | cancelled | rejected | expired."""

    REQUESTED = "requested"
    PENDING = "pending"
    PARTIALLY_FILLED = "partially_filled"
    UNKNOWN = "unknown"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    EXPIRED = "expired"

    def __init__(self, value: str) -> None:
        # Whether nothing more can happen to the order; looked up nine times for a fill.
        self.is_final = value in ("filled", "cancelled", "rejected", "expired")


class Source(StrEnum):
    """How a trade came into the ledger."""

    EXCHANGE = "exchange"
    MANUAL = "manual"
    IMPORT = "import"
    RECONCILED = "reconciled"
    MIGRATION = "migration"


class AccountKind(StrEnum):
    """Where an account's orders go."""

    PAPER = "paper"
    LIVE = "live"
    IMPORTED = "imported"


class AccountMode(StrEnum):
    """spot: only what is held can be sold; margin: a sell without lots opens a short lot."""

    SPOT = "spot"
    MARGIN = "margin"


class CashFlowKind(StrEnum):
    """External flows are the owner's money; internal ones are earned or charged."""

    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"
    INCOME = "income"
    FEE = "fee"

    @property
    def sign(self) -> int:
        """+1 when the flow adds to cash."""
        return 1 if self in (CashFlowKind.DEPOSIT, CashFlowKind.INCOME) else -1

    @property
    def is_external(self) -> bool:
        """Whether the owner moved the money (so that it is no profit and no loss)."""
        return self in (CashFlowKind.DEPOSIT, CashFlowKind.WITHDRAWAL)


@dataclass(frozen=True, slots=True)
class Account:
    """Where things are held: one currency, one venue behind it."""

    name: str
    kind: AccountKind = AccountKind.PAPER
    mode: AccountMode = AccountMode.SPOT
    currency: str = "USD"
    venue: str = "paper"


class Candle(NamedTuple):
    """One closed bar; `time` is its OPEN. A tuple, because replay makes 100,000 of them a second."""

    symbol: str
    timeframe: str
    time: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal

    @property
    def close_time(self) -> datetime:
        """The instant at which the bar is complete."""
        return self.time + timeframe_length(self.timeframe)


class Price(NamedTuple):
    """A last price of a symbol and when it was seen."""

    symbol: str
    price: Decimal
    time: datetime


@quickly_made
@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An accepted wish. Exactly one of `quantity` (base), `notional` (quote) and `close` is set.

    `request_id` is the sender's idempotency key. `decided_at` is set by policies: the paper venue then
    fills at the open of the first candle that opens at or after it, and expiry does not run meanwhile.
    `waits_for_candle`: it was decided on a candle's close, so that `decided_at` may be as long ago as the feed's
    candles are; without it a `decided_at` long ago is a request that comes too late. The topic says so.
    `triggered_by` was derived from the topic or the route, never taken from the payload on trust.
    """

    request_id: str
    account: str
    symbol: str
    side: Side
    triggered_by: str
    quantity: Decimal | None = None
    notional: Decimal | None = None
    close: bool = False
    limit_price: Decimal | None = None
    time_in_force: TimeInForce | None = None
    expires_in: Decimal | None = None
    decided_at: datetime | None = None
    signal_context: Mapping[str, Json] | None = None
    note: str | None = None
    waits_for_candle: bool = False


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Cancel one open order, named by its order id or by the request that made it."""

    request_id: str
    account: str
    order_id: str
    triggered_by: str


@dataclass(frozen=True, slots=True)
class CashRequest:
    """A deposit or withdrawal; `amount` > 0 in the account's currency."""

    request_id: str
    account: str
    kind: CashFlowKind
    amount: Decimal
    triggered_by: str
    effective_at: datetime | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class HaltRequest:
    """Halt (`halted` true: cancel open orders, refuse new ones) or resume trading of an account."""

    request_id: str
    account: str
    halted: bool
    triggered_by: str
    note: str | None = None


Request: TypeAlias = OrderRequest | CancelRequest | CashRequest | HaltRequest


@quickly_made
@dataclass(frozen=True, slots=True)
class Order:
    """The intent with a status. `quantity` is None for a notional order until it is sized at its fill.

    `client_order_id` is derived from account and request_id and stored before the order is sent.
    """

    id: str
    request_id: str
    client_order_id: str
    account: str
    symbol: str
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    status: OrderStatus
    triggered_by: str
    created_at: datetime
    expires_at: datetime | None
    quantity: Decimal | None = None
    notional: Decimal | None = None
    close: bool = False
    limit_price: Decimal | None = None
    decided_at: datetime | None = None
    signal_context: Mapping[str, Json] | None = None
    note: str | None = None
    reason: "Reason | None" = None

    def with_status(self, status: OrderStatus, reason: "Reason | None" = None) -> "Order":
        """The order with another status; written out, because dataclasses.replace takes three times as long."""
        return Order(
            self.id, self.request_id, self.client_order_id, self.account, self.symbol, self.side, self.type,
            self.time_in_force, status, self.triggered_by, self.created_at, self.expires_at, self.quantity,
            self.notional, self.close, self.limit_price, self.decided_at, self.signal_context, self.note, reason,
        )  # fmt: skip


@quickly_made
@dataclass(frozen=True, slots=True)
class Trade:
    """The immutable record of ONE fill.

    `cash_effect` is the signed change of the account's cash (fee included when the fee is in the
    account's currency). `sequence` is the gap-free position in the ledger, `hash` covers the content
    and the predecessor's hash.
    """

    id: str
    sequence: int
    account: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    executed_at: datetime
    recorded_at: datetime
    fee: Decimal
    fee_asset: str
    cash_effect: Decimal
    order_id: str | None
    venue: str
    venue_trade_id: str | None
    venue_sequence: int | None
    order_type: OrderType | None
    source: Source
    triggered_by: str
    signal_context: Mapping[str, Json] | None
    corrects: str | None
    hash: str

    @property
    def order_key(self) -> tuple[datetime, bool, int, bool, bytes, str]:
        """The total order of trades (spec 2), the same on every database.

        (executed_at, has no venue sequence, venue sequence, BUY before SELL, order_id in byte order
        with missing first, id)
        """
        return (
            self.executed_at,
            self.venue_sequence is None,
            self.venue_sequence or 0,
            self.side is Side.SELL,
            b"" if self.order_id is None else b"\x01" + self.order_id.encode(),
            self.id,
        )


@dataclass(frozen=True, slots=True)
class CashFlow:
    """Money in or out of an account: `amount` > 0, its direction is the kind's sign."""

    id: str
    sequence: int
    account: str
    kind: CashFlowKind
    amount: Decimal
    currency: str
    effective_at: datetime
    recorded_at: datetime
    triggered_by: str
    idempotency_key: str
    note: str | None
    hash: str

    @property
    def cash_effect(self) -> Decimal:
        """The signed change of the account's cash."""
        return self.amount * self.kind.sign


Fact: TypeAlias = Trade | CashFlow


@quickly_made
@dataclass(frozen=True, slots=True)
class Reason:
    """Why something was refused: a stable code, the field at fault, its value, what was expected."""

    code: str
    field: str | None = None
    value: str | None = None
    expected: str | None = None

    def __str__(self) -> str:
        parts = [self.code.replace("_", " ")]
        if self.field is not None:
            parts.append(f"{self.field}={self.value}" if self.value is not None else self.field)
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        return ": ".join(parts)


class ResponseStatus(StrEnum):
    """What a response says; the order's states plus accepted and refused, and done for non-orders."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    PARTIALLY_FILLED = "partially_filled"
    UNKNOWN = "unknown"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    EXPIRED = "expired"
    DONE = "done"


# ---- events: past tense, what the services hand to the runtime --------------------------------------


@quickly_made
@dataclass(frozen=True, slots=True)
class Responded:
    """The answer to a request; a repeated request gets the final one again."""

    account: str
    request_id: str
    status: ResponseStatus
    final: bool
    reason: Reason | None = None
    order_id: str | None = None
    trades: tuple[Trade, ...] = ()
    sequence: int | None = None
    result: Mapping[str, Json] | None = None
    """What came of a request that is no order, as JSON."""


@dataclass(frozen=True, slots=True)
class FactsRecorded:
    """Facts that a commit added, in sequence order without a hole."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class OrderChanged:
    """An order got a new status."""

    order: Order


@dataclass(frozen=True, slots=True)
class HaltChanged:
    """Trading of an account was halted or resumed.

    `order` is the order in which such changes were stored by this process: two at once may be said the other way
    round, and the last one stored is the one that holds.
    """

    account: str
    halted: bool
    by: str
    reason: str | None
    at: datetime
    order: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class VenueChanged:
    """A live venue does not answer for an account any more, or does again; `since` when. `reason`: how its last call
    failed."""

    account: str
    venue: str
    answers: bool
    since: datetime
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Halt:
    """Who halted trading of an account, when and why."""

    by: str
    reason: str | None
    at: datetime


class Severity(StrEnum):
    """How urgent an alert is."""

    INFO = "info"
    WARNING = "warning"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class AlertRaised:
    """Something that a person should know. `account` None means the whole system. `id`: the same whenever it is said
    again; `at`: when it was raised; `kept`: it is stored until the broker has it, see `execution.alerts`."""

    severity: Severity
    code: str
    message: str
    account: str | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    id: str | None = None
    at: datetime | None = None
    kept: bool = False


Event: TypeAlias = Responded | FactsRecorded | OrderChanged | HaltChanged | VenueChanged | AlertRaised


def trade_cash_effect(side: Side, quantity: Decimal, price: Decimal, fee_in_cash: Decimal = ZERO) -> Decimal:
    """The signed change of cash by a fill: -(quantity x price) for a buy, + for a sell, less the fee."""
    return -side.sign * quantity * price - fee_in_cash
