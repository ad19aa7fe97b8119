"""The tables of execution: facts (never changed), orders, inbox, candles, leases.

Money and quantities: TEXT on SQLite, NUMERIC on PostgreSQL, through `ExactDecimal`. Times: TEXT of fixed
width, so that text order is time order on every database. What the tables alone cannot say (immutability,
the form of decimal text) is in `guards.py`.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from config.exact import plain
from config.instruments import InstrumentKind
from config.times import stored_time
from execution.model import (
    AccountKind,
    AccountMode,
    CashFlowKind,
    OrderStatus,
    OrderType,
    Side,
    Source,
    TimeInForce,
)

OPEN_ORDERS = "status IN ('requested', 'pending', 'partially_filled', 'unknown')"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class ExactDecimal(TypeDecorator[Decimal]):
    """A Decimal without loss: its plain text on SQLite, NUMERIC on PostgreSQL."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(Numeric(asdecimal=True))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return plain(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class Instant(TypeDecorator[datetime]):
    """An aware UTC datetime as text of fixed width (`stored_time`)."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        return None if value is None else stored_time(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


class JsonText(TypeDecorator[Any]):
    """A JSON document as canonical text (sorted keys, no spaces)."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class Flag(TypeDecorator[bool]):
    """A boolean as 0 or 1 (STRICT tables have no BOOLEAN)."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: bool | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> bool | None:
        return None if value is None else bool(value)


class JsonDocument(dict[str, Any]):
    """A JSON object that remembers its canonical text: an order's context is stored and hashed three times.

    Never changed after it was made.
    """

    __slots__ = ("_text",)

    @property
    def text(self) -> str:
        """The canonical text."""
        try:
            return self._text
        except AttributeError:
            self._text: str = _canonical(self)
            return self._text


def json_text(value: Mapping[str, Any] | list[Any]) -> str:
    """Canonical JSON: what is hashed and stored."""
    return value.text if isinstance(value, JsonDocument) else _canonical(value)


_encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _canonical(value: Mapping[str, Any] | list[Any]) -> str:
    return _encoder.encode(value)


def one_of(column: str, values: Iterable[StrEnum]) -> str:
    """The text of a CHECK that a column holds a member of a string enum."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def _decimal(column: str, *, positive: bool = False, signed: bool = False) -> CheckConstraint:
    """SQLite only: the column holds the plain text of a decimal (PostgreSQL's NUMERIC checks itself)."""
    # Plain GLOBs and no function calls: these run for each fact, and made up a sixth of a fill.
    if signed:
        rule = (
            f"{column} GLOB '*[0-9]' AND {column} NOT GLOB '*[^0-9.-]*' AND {column} NOT GLOB '*.*.*'"
            f" AND {column} NOT GLOB '?*-*' AND {column} NOT GLOB '.*' AND {column} NOT GLOB '-.*'"
        )
    else:
        rule = (
            f"{column} GLOB '[0-9]*' AND {column} NOT GLOB '*[^0-9.]*' AND {column} NOT GLOB '*.*.*'"
            f" AND {column} NOT GLOB '*.'"
        )
    if positive:
        rule += f" AND {column} GLOB '*[1-9]*'"
    # ddl_if also keeps the constraint out of other dialects' CREATE TABLE.
    return CheckConstraint(rule, name=column).ddl_if(dialect="sqlite")


def _text_enum(column: str, values: Iterable[StrEnum]) -> CheckConstraint:
    return CheckConstraint(one_of(column, values), name=column)


accounts = Table(
    "accounts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("venue", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    _text_enum("kind", AccountKind),
    _text_enum("mode", AccountMode),
    sqlite_strict=True,
)

instruments = Table(
    "instruments",
    metadata,
    Column("symbol", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("base_decimals", Integer, nullable=False),
    Column("quote_decimals", Integer, nullable=False),
    Column("quantity_increment", ExactDecimal, nullable=False),
    Column("price_increment", ExactDecimal, nullable=False),
    Column("minimum_notional", ExactDecimal, nullable=False),
    Column("minimum_quantity", ExactDecimal, nullable=False),
    Column("maximum_notional", ExactDecimal),
    Column("dust", ExactDecimal, nullable=False),
    Column("enabled", Flag, nullable=False),
    _text_enum("kind", InstrumentKind),
    sqlite_strict=True,
)

orders = Table(
    "orders",
    metadata,
    Column("id", Text, primary_key=True),
    Column("request_id", Text, nullable=False),
    Column("client_order_id", Text, nullable=False, unique=True),
    Column("account", Text, ForeignKey("accounts.name"), nullable=False),
    Column("symbol", Text, ForeignKey("instruments.symbol"), nullable=False),
    Column("side", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("time_in_force", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("triggered_by", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("quantity", ExactDecimal),
    Column("notional", ExactDecimal),
    Column("close", Flag, nullable=False),
    Column("limit_price", ExactDecimal),
    Column("decided_at", Instant),
    Column("signal_context", JsonText),
    Column("note", Text),
    Column("reason", JsonText),
    _text_enum("side", Side),
    _text_enum("type", OrderType),
    _text_enum("time_in_force", TimeInForce),
    _text_enum("status", OrderStatus),
    UniqueConstraint("account", "request_id"),
    Index(
        "ix_orders_open",
        "account",
        "status",
        sqlite_where=text(OPEN_ORDERS),
        postgresql_where=text(OPEN_ORDERS),
    ),
    sqlite_strict=True,
)

trades = Table(
    "trades",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("account", Text, ForeignKey("accounts.name"), nullable=False),
    Column("symbol", Text, ForeignKey("instruments.symbol"), nullable=False),
    Column("side", Text, nullable=False),
    Column("quantity", ExactDecimal, nullable=False),
    Column("price", ExactDecimal, nullable=False),
    Column("executed_at", Instant, nullable=False),
    Column("recorded_at", Instant, nullable=False),
    Column("fee", ExactDecimal, nullable=False),
    Column("fee_asset", Text, nullable=False),
    Column("cash_effect", ExactDecimal, nullable=False),
    Column("order_id", Text),  # of our order, or as an imported file has it
    Column("venue", Text, nullable=False),
    Column("venue_trade_id", Text),
    Column("venue_sequence", Integer),
    Column("order_type", Text),
    Column("source", Text, nullable=False),
    Column("triggered_by", Text, nullable=False),
    Column("signal_context", JsonText),
    Column("corrects", Text),
    Column("hash", Text, nullable=False),
    _text_enum("side", Side),
    _text_enum("source", Source),
    _decimal("quantity", positive=True),
    _decimal("price"),
    _decimal("fee", signed=True),
    _decimal("cash_effect", signed=True),
    UniqueConstraint("venue", "account", "symbol", "venue_trade_id"),
    # Beyond the order of a symbol's trades it holds what the views sum up, so that they need not read the rows.
    Index(
        "ix_trades_account_symbol",
        "account",
        "symbol",
        "executed_at",
        "side",
        "quantity",
        "cash_effect",
        "fee",
        "fee_asset",
    ),
    Index("ix_trades_order_id", "order_id"),
    Index(
        "ix_trades_corrects",
        "account",
        "symbol",
        sqlite_where=text("corrects IS NOT NULL"),
        postgresql_where=text("corrects IS NOT NULL"),
    ),
    sqlite_strict=True,
)

cash_flows = Table(
    "cash_flows",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("account", Text, ForeignKey("accounts.name"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", ExactDecimal, nullable=False),
    Column("currency", Text, nullable=False),
    Column("effective_at", Instant, nullable=False),
    Column("recorded_at", Instant, nullable=False),
    Column("triggered_by", Text, nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("note", Text),
    Column("hash", Text, nullable=False),
    _text_enum("kind", CashFlowKind),
    _decimal("amount", positive=True),
    UniqueConstraint("account", "idempotency_key"),
    sqlite_strict=True,
)

ledger_head = Table(
    "ledger_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sequence", Integer, nullable=False),
    Column("hash", Text, nullable=False),
    CheckConstraint("id = 1", name="single"),
    sqlite_strict=True,
)

candles = Table(
    "candles",
    metadata,
    Column("symbol", Text, primary_key=True),
    Column("timeframe", Text, primary_key=True),
    Column("time", Instant, primary_key=True),
    Column("open", ExactDecimal, nullable=False),
    Column("high", ExactDecimal, nullable=False),
    Column("low", ExactDecimal, nullable=False),
    Column("close", ExactDecimal, nullable=False),
    Column("volume", ExactDecimal, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

inbox = Table(
    "inbox",
    metadata,
    Column("account", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("body_hash", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("triggered_by", Text, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("order_id", Text),
    Column("outcome", JsonText),
    Column("delivery", Text),
    Index(
        "ix_inbox_delivery",
        "received_at",
        sqlite_where=text("delivery IS NOT NULL"),
        postgresql_where=text("delivery IS NOT NULL"),
    ),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", Text, primary_key=True),
    Column("received_at", Instant, nullable=False),
    Column("topic", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),
    Column("reason", JsonText, nullable=False),
    Column("retained", Flag, nullable=False),
    sqlite_strict=True,
)

halts = Table(
    "halts",
    metadata,
    Column("account", Text, ForeignKey("accounts.name"), primary_key=True),
    Column("halted", Flag, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text),
    Column("at", Instant, nullable=False),
    sqlite_strict=True,
)

risk_marks = Table(
    "risk_marks",
    metadata,
    Column("account", Text, ForeignKey("accounts.name"), primary_key=True),
    Column("day", Text, nullable=False),
    Column("day_start_pnl", ExactDecimal, nullable=False),
    Column("peak_equity", ExactDecimal, nullable=False),
    Column("deposited", ExactDecimal, nullable=False),
    Column("updated_at", Instant, nullable=False),
    _decimal("day_start_pnl", signed=True),
    _decimal("peak_equity", signed=True),
    _decimal("deposited", signed=True),
    sqlite_strict=True,
)
"""What limits on losses compare with, see `marks.py`."""

leases = Table(
    "leases",
    metadata,
    Column("role", Text, primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("holder", Text, nullable=False),
    Column("acquired_at", Instant, nullable=False),
    sqlite_strict=True,
)

followers = Table(
    "followers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sequence", Integer, nullable=False),
    sqlite_strict=True,
)
"""How far something that follows the ledger has come, such as the announcer of trades on the bus."""

ledger_totals = Table(
    "ledger_totals",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sequence", Integer, nullable=False),
    Column("hash", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    CheckConstraint("id = 1", name="single"),
    sqlite_strict=True,
)
"""Sums over the facts up to a sequence: a cache for quick starts, see `execution.totals`."""

alert_outbox = Table(
    "alert_outbox",
    metadata,
    Column("id", Text, primary_key=True),
    Column("raised_at", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("account", Text),
    Column("about", Text, nullable=False),
    sqlite_strict=True,
)
"""Alerts that the broker may not have yet, see `execution.alerts`."""

GENESIS_HASH = "0" * 64
