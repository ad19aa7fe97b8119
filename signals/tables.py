"""The tables of signals: what must survive a restart. The candles belong to execution.

`bot_states`: an operator's word and the state that stored candles cannot rebuild. `signal_outbox`: order
requests, written before they leave and repeated until they are answered.
"""

from sqlalchemy import CheckConstraint, Column, Index, MetaData, Table, Text

from execution.tables import Flag, Instant, JsonText, one_of
from execution.tables import metadata as execution_metadata
from signals.model import BotStatus

metadata = MetaData(naming_convention=execution_metadata.naming_convention)

OPEN = "open"
DONE = "done"

bot_states = Table(
    "bot_states",
    metadata,
    Column("bot", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("operator_stopped", Flag, nullable=False),
    Column("state", JsonText, nullable=False),
    Column("updated_at", Instant, nullable=False),
    CheckConstraint(one_of("status", BotStatus), name="status_known"),
    sqlite_strict=True,
)

signal_outbox = Table(
    "signal_outbox",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("bot", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("body", JsonText, nullable=False),
    Column("decided_at", Instant, nullable=False),
    Column("status", Text, nullable=False),
    CheckConstraint(f"status IN ('{OPEN}', '{DONE}')", name="status_known"),
    Index("ix_signal_outbox_status_decided_at", "status", "decided_at"),
    sqlite_strict=True,
)
