"""`trades.order_id` without a foreign key: an imported trade keeps the order id that its source gave it.

SQLite can only drop a key by making the table anew. The rows are copied as they are, byte for byte; indexes and
triggers come back as they were. Two guards take the place of the key: a fill of a venue names an order of ours,
and an order with fills is not deleted.
"""

from alembic import op
from sqlalchemy import text

from runtime.errors import WouldLose
from runtime.migrations.views_0007 import create_views, drop_views

revision = "0005"
down_revision = "0004"

ORDER_KEY = ",\n    CONSTRAINT fk_trades_order_id FOREIGN KEY(order_id) REFERENCES orders (id)"

TRADES = """\
CREATE TABLE trades_rebuilt (
    sequence INTEGER NOT NULL,
    id TEXT NOT NULL,
    account TEXT NOT NULL,
    symbol TEXT NOT NULL,
    side TEXT NOT NULL,
    quantity TEXT NOT NULL,
    price TEXT NOT NULL,
    executed_at TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    fee TEXT NOT NULL,
    fee_asset TEXT NOT NULL,
    cash_effect TEXT NOT NULL,
    order_id TEXT,
    venue TEXT NOT NULL,
    venue_trade_id TEXT,
    venue_sequence INTEGER,
    order_type TEXT,
    source TEXT NOT NULL,
    triggered_by TEXT NOT NULL,
    signal_context TEXT,
    corrects TEXT,
    hash TEXT NOT NULL,
    CONSTRAINT pk_trades PRIMARY KEY (sequence),
    CONSTRAINT ck_trades_side CHECK (side IN ('BUY', 'SELL')),
    CONSTRAINT ck_trades_source CHECK (source IN ('exchange', 'manual', 'import', 'reconciled', 'migration')),
    CONSTRAINT ck_trades_quantity CHECK (quantity GLOB '[0-9]*' AND quantity NOT GLOB '*[^0-9.]*' AND quantity NOT GLOB '*.*.*' AND quantity NOT GLOB '*.' AND quantity GLOB '*[1-9]*'),
    CONSTRAINT ck_trades_price CHECK (price GLOB '[0-9]*' AND price NOT GLOB '*[^0-9.]*' AND price NOT GLOB '*.*.*' AND price NOT GLOB '*.'),
    CONSTRAINT ck_trades_fee CHECK (fee GLOB '*[0-9]' AND fee NOT GLOB '*[^0-9.-]*' AND fee NOT GLOB '*.*.*' AND fee NOT GLOB '?*-*' AND fee NOT GLOB '.*' AND fee NOT GLOB '-.*'),
    CONSTRAINT ck_trades_cash_effect CHECK (cash_effect GLOB '*[0-9]' AND cash_effect NOT GLOB '*[^0-9.-]*' AND cash_effect NOT GLOB '*.*.*' AND cash_effect NOT GLOB '?*-*' AND cash_effect NOT GLOB '.*' AND cash_effect NOT GLOB '-.*'),
    CONSTRAINT uq_trades_venue_account_symbol_venue_trade_id UNIQUE (venue, account, symbol, venue_trade_id),
    CONSTRAINT uq_trades_id UNIQUE (id),
    CONSTRAINT fk_trades_account FOREIGN KEY(account) REFERENCES accounts (name),
    CONSTRAINT fk_trades_symbol FOREIGN KEY(symbol) REFERENCES instruments (symbol){order_key}
)
 STRICT"""

GUARDS = {
    "trades_refuse_foreign_order": "CREATE TRIGGER trades_refuse_foreign_order BEFORE INSERT ON trades WHEN NEW.source = 'exchange' AND NEW.order_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM orders WHERE id = NEW.order_id AND account = NEW.account) BEGIN SELECT RAISE(ABORT, 'a fill names an order of its account'); END",
    "orders_refuse_delete": "CREATE TRIGGER orders_refuse_delete BEFORE DELETE ON orders WHEN EXISTS (SELECT 1 FROM trades WHERE order_id = OLD.id AND account = OLD.account AND source = 'exchange') BEGIN SELECT RAISE(ABORT, 'an order with fills is never deleted'); END",
    "orders_refuse_rename": "CREATE TRIGGER orders_refuse_rename BEFORE UPDATE OF id, account ON orders BEGIN SELECT RAISE(ABORT, 'an order keeps its id and account'); END",
}


def upgrade() -> None:
    """Make the table anew without the key."""
    _rebuild("")
    for statement in GUARDS.values():
        op.execute(statement)


def downgrade() -> None:
    """Make the table anew with the key. Raises WouldLose when order ids of imported trades would be lost."""
    connection = op.get_bind()
    sql = "SELECT COUNT(*) FROM trades WHERE order_id IS NOT NULL AND order_id NOT IN (SELECT id FROM orders)"
    foreign = connection.execute(text(sql)).scalar_one()
    if foreign:
        raise WouldLose(
            f"{foreign:,} imported trades have order ids of their source, which revision 0004 cannot keep: going back"
            " would lose facts"
        )
    for name in GUARDS:
        op.execute(f"DROP TRIGGER IF EXISTS {name}")
    _rebuild(ORDER_KEY)


def _rebuild(order_key: str) -> None:
    connection = op.get_bind()
    drop_views(connection)
    sql = (
        "SELECT sql FROM sqlite_master WHERE tbl_name = 'trades' AND type IN ('index', 'trigger') AND sql IS NOT NULL"
    )
    beside = [row[0] for row in connection.execute(text(sql))]
    op.execute(TRADES.replace("{order_key}", order_key))
    op.execute("INSERT INTO trades_rebuilt SELECT * FROM trades ORDER BY sequence")
    op.execute("DROP TABLE trades")
    op.execute("ALTER TABLE trades_rebuilt RENAME TO trades")
    for statement in beside:
        connection.exec_driver_sql(statement)
    create_views(connection)
