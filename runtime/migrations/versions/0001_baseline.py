"""The baseline: accounts, instruments, orders, trades, cash flows, candles, inbox, leases, caches."""

from alembic import op

from execution import tables as execution_tables
from execution.guards import create_guards
from portfolio import tables as portfolio_tables
from signals import tables as signals_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table, then what guards the facts."""
    connection = op.get_bind()
    for metadata in (execution_tables.metadata, signals_tables.metadata, portfolio_tables.metadata):
        metadata.create_all(connection)
    create_guards(connection)
