"""`paper_bankroll` says when a part of the P&L is unknown: one column more, the last.

Frozen: the statement as it was when this revision was made.
"""

from alembic import op

from runtime.migrations.views_0007 import VIEWS

revision = "0008"
down_revision = "0007"

VIEW = """\
CREATE VIEW paper_bankroll AS
WITH flows AS MATERIALIZED (
    SELECT w.account, decimal_sum(CASE WHEN w.kind IN ('deposit', 'income') THEN w.amount ELSE '-' || w.amount END) AS cash, max(w.sequence) AS sequence,
        coalesce(decimal_sum(CASE WHEN w.kind IN ('deposit', 'withdrawal') THEN CASE WHEN w.kind IN ('deposit', 'income') THEN w.amount ELSE '-' || w.amount END END), '0') AS paid_in
    FROM cash_flows w GROUP BY w.account
),
held AS MATERIALIZED (
    SELECT s.account, s.symbol, s.cash, s.sequence, x.closing_sells, x.winning_sells, x.pnl,
        decimal_add(s.moved, coalesce(x.unmatched_quantity, '0')) AS quantity,
        coalesce(x.unmatched_quantity, '0') <> '0' AS incomplete
    FROM v_scope_trades s LEFT JOIN v_scope_allocations x ON x.account = s.account AND x.symbol = s.symbol
),
unvalued AS MATERIALIZED (
    SELECT a.name AS account, t.symbol, sum(CASE WHEN t.corrects IS NULL THEN 1 ELSE -1 END) AS flagged
    FROM accounts a CROSS JOIN trades t ON t.account = a.name
    WHERE t.fee_asset <> a.currency AND t.fee <> '0' AND CASE WHEN CASE WHEN t.fee_asset || '-' || a.currency = t.symbol THEN 1 WHEN t.symbol GLOB '*-' || a.currency THEN 0 ELSE t.fee_asset = t.symbol END THEN NOT (CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END GLOB '*[1-9]*' AND CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END NOT GLOB '-*') ELSE decimal_sub(decimal_sub('0', t.cash_effect), decimal_mul(CASE t.side WHEN 'BUY' THEN t.quantity ELSE '-' || t.quantity END, t.price)) NOT GLOB '*[1-9]*' END
    GROUP BY a.name, t.symbol
),
traded AS MATERIALIZED (
    SELECT h.account, decimal_sum(h.cash) AS cash, max(h.sequence) AS sequence, sum(h.closing_sells) AS closing_sells,
        sum(h.winning_sells) AS winning_sells, coalesce(decimal_sum(h.pnl), '0') AS pnl,
        coalesce(decimal_sum(CASE WHEN h.quantity NOT GLOB '*[1-9]*' THEN NULL ELSE decimal_mul(h.quantity, m.price) END), '0') AS value,
        max(h.incomplete OR coalesce(u.flagged, 0) > 0) AS incomplete
    FROM held h LEFT JOIN v_marks m ON m.symbol = h.symbol
    LEFT JOIN unvalued u ON u.account = h.account AND u.symbol = h.symbol GROUP BY h.account
),
sums AS MATERIALIZED (
    SELECT a.name AS account, a.created_at, coalesce(t.closing_sells, 0) AS total_trades,
        coalesce(t.winning_sells, 0) AS winning_trades, coalesce(t.pnl, '0') AS total_pnl,
        decimal_add(coalesce(w.cash, '0'), coalesce(t.cash, '0')) AS balance, coalesce(t.value, '0') AS value,
        coalesce(w.paid_in, '0') AS paid_in, max(coalesce(w.sequence, 0), coalesce(t.sequence, 0)) AS sequence,
        coalesce(t.incomplete, 0) AS incomplete
    FROM accounts a LEFT JOIN flows w ON w.account = a.name LEFT JOIN traded t ON t.account = a.name
    WHERE a.kind = 'paper'
)
SELECT s.account, coalesce(nullif(rtrim(rtrim(decimal_add(s.balance, '0.0'), '0'), '.'), '-0'), '0') AS balance, s.total_trades, s.winning_trades,
    coalesce(nullif(rtrim(rtrim(decimal_add(s.total_pnl, '0.0'), '0'), '.'), '-0'), '0') AS total_pnl,
    CASE WHEN (s.paid_in GLOB '*[1-9]*' AND s.paid_in NOT GLOB '-*')
        THEN round(CAST(decimal_sub(decimal_add(s.balance, s.value), s.paid_in) AS REAL) / CAST(s.paid_in AS REAL), 6) + 0.0 END AS roi,
    coalesce((SELECT t.recorded_at FROM trades t WHERE t.sequence = s.sequence),
        (SELECT w.recorded_at FROM cash_flows w WHERE w.sequence = s.sequence), s.created_at) AS updated_at,
    s.incomplete
FROM sums s ORDER BY s.account"""


def upgrade() -> None:
    """Make the view anew."""
    _replace(VIEW)


def downgrade() -> None:
    """Make the view as it was."""
    _replace(VIEWS["paper_bankroll"])


def _replace(view: str) -> None:
    op.execute("DROP VIEW IF EXISTS paper_bankroll")
    op.get_bind().exec_driver_sql(view)
