"""The SQL views, and indexes that hold what they sum up.

Frozen: the statements as they were made, the views in views_0007.py. A later revision that changes a table drops the
views first and makes them anew.
"""

from alembic import op

from runtime.migrations.views_0007 import create_views, drop_views

revision = "0004"
down_revision = "0003"

INDEXES = (
    "DROP INDEX ix_trades_account_symbol",
    "CREATE INDEX ix_trades_account_symbol ON trades (account, symbol, executed_at, side, quantity, cash_effect, fee, fee_asset)",
    "DROP INDEX ix_fifo_allocations_scope",
    "CREATE INDEX ix_fifo_allocations_scope ON fifo_allocations (account, symbol, method, closed_at, sell_trade, pnl, to_version)",
)

INDEXES_BEFORE = (
    "DROP INDEX ix_trades_account_symbol",
    "CREATE INDEX ix_trades_account_symbol ON trades (account, symbol, executed_at)",
    "DROP INDEX ix_fifo_allocations_scope",
    "CREATE INDEX ix_fifo_allocations_scope ON fifo_allocations (account, symbol, method, closed_at)",
)

BANKROLL_TABLE = """\
CREATE TABLE paper_bankroll (
    account TEXT NOT NULL,
    balance TEXT NOT NULL,
    total_trades INTEGER NOT NULL,
    winning_trades INTEGER NOT NULL,
    total_pnl TEXT NOT NULL,
    roi REAL,
    updated_at TEXT NOT NULL,
    CONSTRAINT pk_paper_bankroll PRIMARY KEY (account)
)
 STRICT"""

BANKROLL_COLUMNS = "account, balance, total_trades, winning_trades, total_pnl, roi, updated_at"


def upgrade() -> None:
    """Make the views; a table that a downgrade left under the name of one goes, as it can be calculated."""
    op.execute("DROP TABLE IF EXISTS paper_bankroll")
    for statement in INDEXES:
        op.execute(statement)
    create_views(op.get_bind())


def downgrade() -> None:
    """Leave a table in the place of the view of the bankroll, as it is calculated at this moment."""
    op.execute(f"CREATE TEMP TABLE calculated AS SELECT {BANKROLL_COLUMNS} FROM paper_bankroll")
    drop_views(op.get_bind())
    op.execute(BANKROLL_TABLE)
    op.execute(f"INSERT INTO paper_bankroll SELECT {BANKROLL_COLUMNS} FROM calculated")
    op.execute("DROP TABLE calculated")
    for statement in INDEXES_BEFORE:
        op.execute(statement)
