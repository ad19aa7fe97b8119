"""The baseline: accounts, instruments, orders, trades, cash flows, candles, inbox, leases, bots, caches.

Frozen: the statements as they were when this revision was made, so that changing the tables in the code
never changes what this revision does. A test compares the newest schema with the tables.
"""

from alembic import op
from sqlalchemy import text

from runtime.errors import WouldLose

revision = "0001"
down_revision = None

STATEMENTS = (
    """\
CREATE TABLE accounts (
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    mode TEXT NOT NULL,
    currency TEXT NOT NULL,
    venue TEXT NOT NULL,
    created_at TEXT NOT NULL,
    CONSTRAINT pk_accounts PRIMARY KEY (name),
    CONSTRAINT ck_accounts_kind CHECK (kind IN ('paper', 'live', 'imported')),
    CONSTRAINT ck_accounts_mode CHECK (mode IN ('spot', 'margin'))
)
 STRICT""",
    """\
CREATE TABLE candles (
    symbol TEXT NOT NULL,
    timeframe TEXT NOT NULL,
    time TEXT NOT NULL,
    open TEXT NOT NULL,
    high TEXT NOT NULL,
    low TEXT NOT NULL,
    close TEXT NOT NULL,
    volume TEXT NOT NULL,
    CONSTRAINT pk_candles PRIMARY KEY (symbol, timeframe, time)
)
 WITHOUT ROWID,
 STRICT""",
    """\
CREATE TABLE dead_letters (
    id TEXT NOT NULL,
    received_at TEXT NOT NULL,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    size INTEGER NOT NULL,
    reason TEXT NOT NULL,
    retained INTEGER NOT NULL,
    CONSTRAINT pk_dead_letters PRIMARY KEY (id)
)
 STRICT""",
    """\
CREATE TABLE followers (
    name TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    CONSTRAINT pk_followers PRIMARY KEY (name)
)
 STRICT""",
    """\
CREATE TABLE inbox (
    account TEXT NOT NULL,
    request_id TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    kind TEXT NOT NULL,
    triggered_by TEXT NOT NULL,
    received_at TEXT NOT NULL,
    order_id TEXT,
    outcome TEXT,
    delivery TEXT,
    CONSTRAINT pk_inbox PRIMARY KEY (account, request_id)
)
 WITHOUT ROWID,
 STRICT""",
    """CREATE INDEX ix_inbox_delivery ON inbox (received_at) WHERE delivery IS NOT NULL""",
    """\
CREATE TABLE instruments (
    symbol TEXT NOT NULL,
    kind TEXT NOT NULL,
    currency TEXT NOT NULL,
    base_decimals INTEGER NOT NULL,
    quote_decimals INTEGER NOT NULL,
    quantity_increment TEXT NOT NULL,
    price_increment TEXT NOT NULL,
    minimum_notional TEXT NOT NULL,
    minimum_quantity TEXT NOT NULL,
    maximum_notional TEXT,
    dust TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    CONSTRAINT pk_instruments PRIMARY KEY (symbol),
    CONSTRAINT ck_instruments_kind CHECK (kind IN ('crypto', 'stock', 'fund', 'option', 'cash'))
)
 STRICT""",
    """\
CREATE TABLE leases (
    role TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    holder TEXT NOT NULL,
    acquired_at TEXT NOT NULL,
    CONSTRAINT pk_leases PRIMARY KEY (role)
)
 STRICT""",
    """\
CREATE TABLE ledger_head (
    id INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    hash TEXT NOT NULL,
    CONSTRAINT pk_ledger_head PRIMARY KEY (id),
    CONSTRAINT ck_ledger_head_single CHECK (id = 1)
)
 STRICT""",
    """\
CREATE TABLE cash_flows (
    sequence INTEGER NOT NULL,
    id TEXT NOT NULL,
    account TEXT NOT NULL,
    kind TEXT NOT NULL,
    amount TEXT NOT NULL,
    currency TEXT NOT NULL,
    effective_at TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    triggered_by TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    note TEXT,
    hash TEXT NOT NULL,
    CONSTRAINT pk_cash_flows PRIMARY KEY (sequence),
    CONSTRAINT ck_cash_flows_kind CHECK (kind IN ('deposit', 'withdrawal', 'income', 'fee')),
    CONSTRAINT ck_cash_flows_amount CHECK (amount GLOB '[0-9]*' AND amount NOT GLOB '*[^0-9.]*' AND amount NOT GLOB '*.*.*' AND amount NOT GLOB '*.' AND amount GLOB '*[1-9]*'),
    CONSTRAINT uq_cash_flows_account_idempotency_key UNIQUE (account, idempotency_key),
    CONSTRAINT uq_cash_flows_id UNIQUE (id),
    CONSTRAINT fk_cash_flows_account FOREIGN KEY(account) REFERENCES accounts (name)
)
 STRICT""",
    """\
CREATE TABLE halts (
    account TEXT NOT NULL,
    halted INTEGER NOT NULL,
    "by" TEXT NOT NULL,
    reason TEXT,
    at TEXT NOT NULL,
    CONSTRAINT pk_halts PRIMARY KEY (account),
    CONSTRAINT fk_halts_account FOREIGN KEY(account) REFERENCES accounts (name)
)
 STRICT""",
    """\
CREATE TABLE orders (
    id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    client_order_id TEXT NOT NULL,
    account TEXT NOT NULL,
    symbol TEXT NOT NULL,
    side TEXT NOT NULL,
    type TEXT NOT NULL,
    time_in_force TEXT NOT NULL,
    status TEXT NOT NULL,
    triggered_by TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    expires_at TEXT,
    quantity TEXT,
    notional TEXT,
    close INTEGER NOT NULL,
    limit_price TEXT,
    decided_at TEXT,
    signal_context TEXT,
    note TEXT,
    reason TEXT,
    CONSTRAINT pk_orders PRIMARY KEY (id),
    CONSTRAINT ck_orders_side CHECK (side IN ('BUY', 'SELL')),
    CONSTRAINT ck_orders_type CHECK (type IN ('market', 'limit')),
    CONSTRAINT ck_orders_time_in_force CHECK (time_in_force IN ('IOC', 'GTC')),
    CONSTRAINT ck_orders_status CHECK (status IN ('requested', 'pending', 'partially_filled', 'unknown', 'filled', 'cancelled', 'rejected', 'expired')),
    CONSTRAINT uq_orders_account_request_id UNIQUE (account, request_id),
    CONSTRAINT uq_orders_client_order_id UNIQUE (client_order_id),
    CONSTRAINT fk_orders_account FOREIGN KEY(account) REFERENCES accounts (name),
    CONSTRAINT fk_orders_symbol FOREIGN KEY(symbol) REFERENCES instruments (symbol)
)
 STRICT""",
    """CREATE INDEX ix_orders_open ON orders (account, status) WHERE status IN ('requested', 'pending', 'partially_filled', 'unknown')""",
    """\
CREATE TABLE trades (
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
    CONSTRAINT fk_trades_symbol FOREIGN KEY(symbol) REFERENCES instruments (symbol),
    CONSTRAINT fk_trades_order_id FOREIGN KEY(order_id) REFERENCES orders (id)
)
 STRICT""",
    """CREATE INDEX ix_trades_account_symbol ON trades (account, symbol, executed_at)""",
    """CREATE INDEX ix_trades_order_id ON trades (order_id)""",
    """\
CREATE TABLE bot_states (
    bot TEXT NOT NULL,
    status TEXT NOT NULL,
    operator_stopped INTEGER NOT NULL,
    state TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    CONSTRAINT pk_bot_states PRIMARY KEY (bot),
    CONSTRAINT ck_bot_states_status_known CHECK (status IN ('RUNNING', 'STOPPED', 'ERROR'))
)
 STRICT""",
    """\
CREATE TABLE signal_outbox (
    request_id TEXT NOT NULL,
    bot TEXT NOT NULL,
    account TEXT NOT NULL,
    symbol TEXT NOT NULL,
    body TEXT NOT NULL,
    decided_at TEXT NOT NULL,
    status TEXT NOT NULL,
    CONSTRAINT pk_signal_outbox PRIMARY KEY (request_id),
    CONSTRAINT ck_signal_outbox_status_known CHECK (status IN ('open', 'done'))
)
 STRICT""",
    """CREATE INDEX ix_signal_outbox_status_decided_at ON signal_outbox (status, decided_at)""",
    """\
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
 STRICT""",
    """CREATE TRIGGER trades_refuse_update BEFORE UPDATE ON trades BEGIN SELECT RAISE(ABORT, 'trades are facts: correct one with a compensating entry'); END""",
    """CREATE TRIGGER trades_refuse_delete BEFORE DELETE ON trades BEGIN SELECT RAISE(ABORT, 'trades are facts: they are never deleted'); END""",
    """CREATE TRIGGER trades_refuse_replace BEFORE INSERT ON trades WHEN EXISTS (SELECT 1 FROM trades WHERE id = NEW.id) OR EXISTS (SELECT 1 FROM trades WHERE sequence = NEW.sequence) OR EXISTS (SELECT 1 FROM trades WHERE venue = NEW.venue AND account = NEW.account AND symbol = NEW.symbol AND venue_trade_id = NEW.venue_trade_id) BEGIN SELECT RAISE(ABORT, 'trades are facts: this key exists already'); END""",
    """CREATE TRIGGER cash_flows_refuse_update BEFORE UPDATE ON cash_flows BEGIN SELECT RAISE(ABORT, 'cash_flows are facts: correct one with a compensating entry'); END""",
    """CREATE TRIGGER cash_flows_refuse_delete BEFORE DELETE ON cash_flows BEGIN SELECT RAISE(ABORT, 'cash_flows are facts: they are never deleted'); END""",
    """CREATE TRIGGER cash_flows_refuse_replace BEFORE INSERT ON cash_flows WHEN EXISTS (SELECT 1 FROM cash_flows WHERE id = NEW.id) OR EXISTS (SELECT 1 FROM cash_flows WHERE sequence = NEW.sequence) OR EXISTS (SELECT 1 FROM cash_flows WHERE account = NEW.account AND idempotency_key = NEW.idempotency_key) BEGIN SELECT RAISE(ABORT, 'cash_flows are facts: this key exists already'); END""",
    """CREATE TRIGGER ledger_head_refuse_delete BEFORE DELETE ON ledger_head BEGIN SELECT RAISE(ABORT, 'the head of the ledger is never deleted'); END""",
    """CREATE TRIGGER ledger_head_refuse_rewind BEFORE UPDATE ON ledger_head WHEN NEW.sequence <= OLD.sequence BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END""",
    """CREATE TRIGGER ledger_head_refuse_replace BEFORE INSERT ON ledger_head WHEN EXISTS (SELECT 1 FROM ledger_head) BEGIN SELECT RAISE(ABORT, 'the ledger has one head'); END""",
)


def upgrade() -> None:
    """Create every table, index and guard."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Drop everything. Refused when there is a fact: facts are kept."""
    connection = op.get_bind()
    facts = connection.execute(
        text("SELECT (SELECT count(*) FROM trades) + (SELECT count(*) FROM cash_flows)")
    ).scalar_one()
    if facts:
        raise WouldLose(f"below revision 0001 there is nothing, and the ledger holds {facts} facts")
    op.execute("DROP TABLE IF EXISTS paper_bankroll")  # what 0004 left in the place of its view
    for statement in reversed(STATEMENTS):
        words = statement.split()
        if words[1] == "TABLE":
            op.execute(f"DROP TABLE {words[2]}")
