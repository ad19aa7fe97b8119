"""The portfolio's own tables: caches that the ledger brings back, and a few decisions of people.

Allocations, snapshots, pointers and the log can be deleted at any time; `allocations compute` makes them
anew. The review queue and the selections of lots are what people said, and stay.
"""

from enum import StrEnum

from sqlalchemy import CheckConstraint, Column, Index, Integer, MetaData, Table, Text, text

from execution import tables as execution_tables
from execution.tables import ExactDecimal, Instant, one_of
from portfolio.lots import Method

metadata = MetaData(naming_convention=execution_tables.metadata.naming_convention)


class RunMode(StrEnum):
    """How a computation went over the trades: all of a scope, a scope from an instant on, or fill by fill."""

    FULL = "full"
    SYMBOL = "symbol"
    INCREMENTAL = "incremental"


class RunStatus(StrEnum):
    """How far a computation is. PARTIAL: it goes on with the next fills."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    PARTIAL = "partial"


class ReviewStatus(StrEnum):
    """Whether a person (or a recomputation) settled an entry of the review queue."""

    OPEN = "open"
    RESOLVED = "resolved"


fifo_inventory_snapshots = Table(
    "fifo_inventory_snapshots",
    metadata,
    # ("", ""): the head row; (account, ""): its cash; (account, symbol): its lots.
    Column("account", Text, primary_key=True),
    Column("symbol", Text, primary_key=True),
    Column("sequence", Integer, nullable=False),
    Column("engine_version", Integer, nullable=False),
    Column("content", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""The books at the ledger sequence of the head row, one row for each scope, as JSON text with its SHA-256.

A scope's row keeps the sequence at which it last changed; only changed scopes are written again. The head
row's content covers the digests of all others, so that a lost or foreign row is noticed.
"""

fifo_allocations = Table(
    "fifo_allocations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("sell_trade", Text, nullable=False),
    Column("buy_trade", Text),
    Column("quantity", ExactDecimal, nullable=False),
    Column("sell_price", ExactDecimal, nullable=False),
    Column("buy_price", ExactDecimal),
    Column("cost_basis", ExactDecimal),
    Column("buy_fee", ExactDecimal),
    Column("proceeds", ExactDecimal, nullable=False),
    Column("sell_fee", ExactDecimal, nullable=False),
    Column("net_proceeds", ExactDecimal, nullable=False),
    Column("pnl", ExactDecimal),
    Column("buy_at", Instant),
    Column("sell_at", Instant, nullable=False),
    Column("closed_at", Instant, nullable=False),
    Column("from_version", Integer, nullable=False),
    Column("to_version", Integer),
    Column("batch_id", Text, nullable=False),
    CheckConstraint("to_version IS NULL OR to_version >= from_version", name="versions"),
    # As above for trades: the last three are there for the views.
    Index(
        "ix_fifo_allocations_scope",
        "account",
        "symbol",
        "method",
        "closed_at",
        "sell_trade",
        "pnl",
        "to_version",
    ),
    Index(
        "ix_fifo_allocations_unmatched",
        "account",
        "symbol",
        sqlite_where=text("buy_trade IS NULL"),
        postgresql_where=text("buy_trade IS NULL"),
    ),
    Index(
        "ix_fifo_allocations_unknown",
        "account",
        "symbol",
        sqlite_where=text("pnl IS NULL"),
        postgresql_where=text("pnl IS NULL"),
    ),
    sqlite_strict=True,
)
"""Matched pairs, valid from `from_version` to `to_version` (both included; open while current).

`closed_at` is when the closing trade was executed: the sell's time, or the buy's for a short lot.
"""

fifo_computation_log = Table(
    "fifo_computation_log",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("account", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("batch_id", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("engine_version", Integer, nullable=False),
    Column("since", Instant),
    Column("started_at", Instant, nullable=False),
    Column("finished_at", Instant),
    Column("duration_ms", Integer),
    Column("sequence", Integer),
    Column("buys", Integer, nullable=False),
    Column("sells", Integer, nullable=False),
    Column("allocations", Integer, nullable=False),
    Column("total_pnl", ExactDecimal),
    Column("error", Text),
    Column("traceback", Text),
    CheckConstraint(one_of("mode", RunMode), name="mode_known"),
    CheckConstraint(one_of("status", RunStatus), name="status_known"),
    CheckConstraint(one_of("method", Method), name="method_known"),
    Index("ix_fifo_computation_log_version", "version"),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)
"""Every run. A version's number is the id of the run that began it: global, given by the database, never
given twice. Fills that extend a version share one row of mode `incremental` for each scope and version."""

fifo_pointers = Table(
    "fifo_pointers",
    metadata,
    Column("account", Text, primary_key=True),
    Column("symbol", Text, primary_key=True),
    Column("method", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("engine_version", Integer, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""Which version of a scope is current, and up to which ledger sequence its allocations are stored."""

review_queue = Table(
    "review_queue",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("trade_id", Text),
    Column("quantity", ExactDecimal),
    Column("detail", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("resolved_at", Instant),
    Column("resolved_by", Text),
    Column("resolution", Text),
    CheckConstraint(one_of("status", ReviewStatus), name="status_known"),
    Index("ix_review_queue_status", "status", "opened_at"),
    sqlite_strict=True,
)
"""What a person has to look at: sells without a lot, rows that could not be placed."""

lot_selections = Table(
    "lot_selections",
    metadata,
    Column("closing_trade", Text, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("opening_trade", Text, nullable=False),
    Column("quantity", ExactDecimal, nullable=False),
    Column("selected_by", Text, nullable=False),
    Column("selected_at", Instant, nullable=False),
    sqlite_strict=True,
)
"""Which lots a closing trade takes, for specific identification."""
