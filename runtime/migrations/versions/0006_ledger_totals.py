"""Sums over the facts up to a sequence, so that a start after many trades reads only what came since.

Frozen: the statement as it was when this revision was made.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENT = """\
CREATE TABLE ledger_totals (
    id INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    hash TEXT NOT NULL,
    body TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    CONSTRAINT pk_ledger_totals PRIMARY KEY (id),
    CONSTRAINT ck_ledger_totals_single CHECK (id = 1)
)
 STRICT"""


def upgrade() -> None:
    """Create the table; nothing that exists is touched."""
    op.execute(STATEMENT)


def downgrade() -> None:
    """Drop the sums: they are made of the facts again."""
    op.execute("DROP TABLE ledger_totals")
