"""Alerts that state a lasting fact wait here until the broker has them.

Frozen: the statement as it was when this revision was made.
"""

from alembic import op

revision = "0009"
down_revision = "0008"

STATEMENT = """\
CREATE TABLE alert_outbox (
    id TEXT NOT NULL,
    raised_at TEXT NOT NULL,
    severity TEXT NOT NULL,
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    account TEXT,
    about TEXT NOT NULL,
    CONSTRAINT pk_alert_outbox PRIMARY KEY (id)
)
 STRICT"""


def upgrade() -> None:
    """Create the table; nothing that exists is touched."""
    op.execute(STATEMENT)


def downgrade() -> None:
    """Drop it: what the alerts are about stands elsewhere."""
    op.execute("DROP TABLE alert_outbox")
