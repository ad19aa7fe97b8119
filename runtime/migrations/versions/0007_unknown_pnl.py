"""The P&L of an allocation beside a fee that could not be valued is unknown: views that leave it out.

The rows themselves are computed anew by the next process that stores allocations, because the engine that made them
was of an older version. The index finds the few rows without a P&L among all others.
"""

from alembic import op

from runtime.migrations.views_0007 import create_views, drop_views

revision = "0007"
down_revision = "0006"

INDEX = "CREATE INDEX ix_fifo_allocations_unknown ON fifo_allocations (account, symbol) WHERE pnl IS NULL"


def upgrade() -> None:
    """Make the index, and the views anew."""
    op.execute(INDEX)
    drop_views(op.get_bind())
    create_views(op.get_bind())


def downgrade() -> None:
    """Drop the index. The views stay: they are right of rows of any engine."""
    op.execute("DROP INDEX ix_fifo_allocations_unknown")
