"""What limits on losses compare with: the day's start and the highest equity of each account.

Frozen: the statement as it was when this revision was made.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENT = """\
CREATE TABLE risk_marks (
    account TEXT NOT NULL,
    day TEXT NOT NULL,
    day_start_pnl TEXT NOT NULL,
    peak_equity TEXT NOT NULL,
    deposited TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    CONSTRAINT pk_risk_marks PRIMARY KEY (account),
    CONSTRAINT ck_risk_marks_day_start_pnl CHECK (day_start_pnl GLOB '*[0-9]' AND day_start_pnl NOT GLOB '*[^0-9.-]*' AND day_start_pnl NOT GLOB '*.*.*' AND day_start_pnl NOT GLOB '?*-*' AND day_start_pnl NOT GLOB '.*' AND day_start_pnl NOT GLOB '-.*'),
    CONSTRAINT ck_risk_marks_peak_equity CHECK (peak_equity GLOB '*[0-9]' AND peak_equity NOT GLOB '*[^0-9.-]*' AND peak_equity NOT GLOB '*.*.*' AND peak_equity NOT GLOB '?*-*' AND peak_equity NOT GLOB '.*' AND peak_equity NOT GLOB '-.*'),
    CONSTRAINT ck_risk_marks_deposited CHECK (deposited GLOB '*[0-9]' AND deposited NOT GLOB '*[^0-9.-]*' AND deposited NOT GLOB '*.*.*' AND deposited NOT GLOB '?*-*' AND deposited NOT GLOB '.*' AND deposited NOT GLOB '-.*'),
    CONSTRAINT fk_risk_marks_account FOREIGN KEY(account) REFERENCES accounts (name)
)
 STRICT"""


def upgrade() -> None:
    """Create the table; nothing that exists is touched."""
    op.execute(STATEMENT)


def downgrade() -> None:
    """Drop the marks: the daemon begins new ones."""
    op.execute("DROP TABLE risk_marks")
