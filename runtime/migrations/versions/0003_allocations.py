"""Allocations by version, their pointers, log and snapshots; the review queue; selections of lots.

Frozen: the statements as they were when this revision was made. The old checkpoints are a cache that is
made anew under its new name.
"""

from alembic import op
from sqlalchemy import text

from runtime.errors import WouldLose

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    "DROP TABLE portfolio_checkpoints",
    "CREATE INDEX ix_trades_corrects ON trades (account, symbol) WHERE corrects IS NOT NULL",
    """\
CREATE TABLE fifo_inventory_snapshots (
    account TEXT NOT NULL,
    symbol TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    engine_version INTEGER NOT NULL,
    content TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    CONSTRAINT pk_fifo_inventory_snapshots PRIMARY KEY (account, symbol)
)
 WITHOUT ROWID,
 STRICT""",
    """\
CREATE TABLE fifo_allocations (
    id INTEGER NOT NULL,
    account TEXT NOT NULL,
    symbol TEXT NOT NULL,
    method TEXT NOT NULL,
    sell_trade TEXT NOT NULL,
    buy_trade TEXT,
    quantity TEXT NOT NULL,
    sell_price TEXT NOT NULL,
    buy_price TEXT,
    cost_basis TEXT,
    buy_fee TEXT,
    proceeds TEXT NOT NULL,
    sell_fee TEXT NOT NULL,
    net_proceeds TEXT NOT NULL,
    pnl TEXT,
    buy_at TEXT,
    sell_at TEXT NOT NULL,
    closed_at TEXT NOT NULL,
    from_version INTEGER NOT NULL,
    to_version INTEGER,
    batch_id TEXT NOT NULL,
    CONSTRAINT pk_fifo_allocations PRIMARY KEY (id),
    CONSTRAINT ck_fifo_allocations_versions CHECK (to_version IS NULL OR to_version >= from_version)
)
 STRICT""",
    """CREATE INDEX ix_fifo_allocations_scope ON fifo_allocations (account, symbol, method, closed_at)""",
    """CREATE INDEX ix_fifo_allocations_unmatched ON fifo_allocations (account, symbol) WHERE buy_trade IS NULL""",
    """\
CREATE TABLE fifo_computation_log (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    version INTEGER NOT NULL,
    account TEXT NOT NULL,
    symbol TEXT NOT NULL,
    method TEXT NOT NULL,
    batch_id TEXT NOT NULL,
    mode TEXT NOT NULL,
    reason TEXT NOT NULL,
    status TEXT NOT NULL,
    engine_version INTEGER NOT NULL,
    since TEXT,
    started_at TEXT NOT NULL,
    finished_at TEXT,
    duration_ms INTEGER,
    sequence INTEGER,
    buys INTEGER NOT NULL,
    sells INTEGER NOT NULL,
    allocations INTEGER NOT NULL,
    total_pnl TEXT,
    error TEXT,
    traceback TEXT,
    CONSTRAINT ck_fifo_computation_log_mode_known CHECK (mode IN ('full', 'symbol', 'incremental')),
    CONSTRAINT ck_fifo_computation_log_status_known CHECK (status IN ('running', 'completed', 'failed', 'partial')),
    CONSTRAINT ck_fifo_computation_log_method_known CHECK (method IN ('fifo', 'lifo', 'hifo', 'lofo', 'average', 'specific'))
)
 STRICT""",
    """CREATE INDEX ix_fifo_computation_log_version ON fifo_computation_log (version)""",
    """\
CREATE TABLE fifo_pointers (
    account TEXT NOT NULL,
    symbol TEXT NOT NULL,
    method TEXT NOT NULL,
    version INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    engine_version INTEGER NOT NULL,
    CONSTRAINT pk_fifo_pointers PRIMARY KEY (account, symbol, method)
)
 WITHOUT ROWID,
 STRICT""",
    """\
CREATE TABLE review_queue (
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    account TEXT NOT NULL,
    symbol TEXT NOT NULL,
    trade_id TEXT,
    quantity TEXT,
    detail TEXT NOT NULL,
    status TEXT NOT NULL,
    opened_at TEXT NOT NULL,
    resolved_at TEXT,
    resolved_by TEXT,
    resolution TEXT,
    CONSTRAINT pk_review_queue PRIMARY KEY (id),
    CONSTRAINT ck_review_queue_status_known CHECK (status IN ('open', 'resolved'))
)
 STRICT""",
    """CREATE INDEX ix_review_queue_status ON review_queue (status, opened_at)""",
    """\
CREATE TABLE lot_selections (
    closing_trade TEXT NOT NULL,
    position INTEGER NOT NULL,
    opening_trade TEXT NOT NULL,
    quantity TEXT NOT NULL,
    selected_by TEXT NOT NULL,
    selected_at TEXT NOT NULL,
    CONSTRAINT pk_lot_selections PRIMARY KEY (closing_trade, position)
)
 STRICT""",
)


def upgrade() -> None:
    """Create the tables; facts are not touched."""
    for statement in STATEMENTS:
        op.execute(statement)


CACHES = ("fifo_pointers", "fifo_computation_log", "fifo_allocations", "fifo_inventory_snapshots")

CHECKPOINTS = """\
CREATE TABLE portfolio_checkpoints (
    account TEXT NOT NULL,
    symbol TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    engine_version INTEGER NOT NULL,
    content TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    CONSTRAINT pk_portfolio_checkpoints PRIMARY KEY (account, symbol)
)
 WITHOUT ROWID,
 STRICT"""


def downgrade() -> None:
    """Drop the caches, which are computed anew. Refused when people resolved reviews or selected lots."""
    connection = op.get_bind()
    lost = {
        "resolved reviews": "SELECT count(*) FROM review_queue WHERE status = 'resolved'",
        "selections of lots": "SELECT count(*) FROM lot_selections",
    }
    for what, sql in lost.items():
        count = connection.execute(text(sql)).scalar_one()
        if count:
            raise WouldLose(f"below revision 0003 there is no place for {what}, and there are {count}")
    for table in ("lot_selections", "review_queue", *CACHES):
        op.execute(f"DROP TABLE {table}")
    # Where stored allocations had come to: they are gone.
    op.execute("DELETE FROM followers WHERE name = 'allocations'")
    op.execute("DROP INDEX ix_trades_corrects")
    op.execute(CHECKPOINTS)
