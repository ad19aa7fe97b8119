"""The views as revision 0007 left them, for the revisions that make them or make way for a table below them.

Frozen: a change of the views (portfolio/views.py) is a new revision, which drops and makes those that it changes.
Revisions 0004 to 0006 once made views of an earlier wording; 0007 replaced them, whoever made them.
"""

from sqlalchemy import Connection

VIEWS = {
    "v_marks": """\
CREATE VIEW v_marks AS
WITH RECURSIVE kinds(symbol, timeframe) AS (
    SELECT i.symbol, (SELECT min(c.timeframe) FROM candles c WHERE c.symbol = i.symbol) FROM instruments i
    UNION ALL
    SELECT k.symbol, (SELECT min(c.timeframe) FROM candles c WHERE c.symbol = k.symbol AND c.timeframe > k.timeframe)
    FROM kinds k WHERE k.timeframe IS NOT NULL
),
closes AS MATERIALIZED (
    SELECT k.symbol, max((
        SELECT printf('%020d', unixepoch(c.time) + 100000000000 + CAST(c.timeframe AS INTEGER) * CASE substr(c.timeframe, -1) WHEN 's' THEN 1 WHEN 'm' THEN 60 WHEN 'h' THEN 3600 WHEN 'd' THEN 86400 ELSE 604800 END) || c.timeframe || '|' || c.close FROM candles c
        WHERE c.symbol = k.symbol AND c.timeframe = k.timeframe ORDER BY c.time DESC LIMIT 1
    )) AS found
    FROM kinds k WHERE k.timeframe IS NOT NULL GROUP BY k.symbol
),
traded AS MATERIALIZED (
    SELECT i.symbol, max((
        SELECT t.executed_at || printf('%020d', t.sequence) FROM trades t
        WHERE t.account = a.name AND t.symbol = i.symbol AND t.corrects IS NULL AND NOT EXISTS (SELECT 1 FROM trades c WHERE c.corrects IS NOT NULL AND c.account = t.account AND c.symbol = t.symbol AND c.corrects = t.id)
        ORDER BY t.executed_at DESC, t.sequence DESC LIMIT 1
    )) AS found
    FROM instruments i CROSS JOIN accounts a
    WHERE i.symbol NOT IN (SELECT symbol FROM closes)
    GROUP BY i.symbol
)
SELECT symbol, coalesce(nullif(rtrim(rtrim(decimal_add(substr(found, instr(found, '|') + 1), '0.0'), '0'), '.'), '-0'), '0') AS price,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', CAST(substr(found, 1, 20) AS INTEGER) - 100000000000, 'unixepoch') AS time, 'candle' AS source
FROM closes
UNION ALL
SELECT t.symbol, coalesce(nullif(rtrim(rtrim(decimal_add(t.price, '0.0'), '0'), '.'), '-0'), '0'), t.executed_at, 'trade'
FROM traded CROSS JOIN trades t ON t.sequence = CAST(substr(traded.found, -20) AS INTEGER)""",
    "v_scope_trades": """\
CREATE VIEW v_scope_trades AS
SELECT a.name AS account, t.symbol, decimal_sum(t.cash_effect) AS cash,
    decimal_sub(decimal_sum(CASE t.side WHEN 'BUY' THEN t.quantity ELSE '-' || t.quantity END), coalesce(decimal_sum(CASE WHEN t.fee_asset = a.currency THEN NULL WHEN CASE WHEN t.fee_asset || '-' || a.currency = t.symbol THEN 1 WHEN t.symbol GLOB '*-' || a.currency THEN 0 ELSE t.fee_asset = t.symbol END AND (CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END GLOB '*[1-9]*' AND CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END NOT GLOB '-*') THEN t.fee END), '0')) AS moved, max(t.sequence) AS sequence
FROM accounts a CROSS JOIN trades t ON t.account = a.name
GROUP BY a.name, t.symbol""",
    "v_scope_fees": """\
CREATE VIEW v_scope_fees AS
SELECT a.name AS account, t.symbol, coalesce(decimal_sum(CASE WHEN t.fee = '0' THEN NULL WHEN t.fee_asset = a.currency THEN t.fee WHEN CASE WHEN t.fee_asset || '-' || a.currency = t.symbol THEN 1 WHEN t.symbol GLOB '*-' || a.currency THEN 0 ELSE t.fee_asset = t.symbol END THEN CASE WHEN (CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END GLOB '*[1-9]*' AND CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END NOT GLOB '-*') THEN decimal_mul(t.fee, t.price) END ELSE decimal_sub(decimal_sub('0', t.cash_effect), decimal_mul(CASE t.side WHEN 'BUY' THEN t.quantity ELSE '-' || t.quantity END, t.price)) END), '0') AS fees, sum(CASE WHEN t.fee = '0' OR t.fee_asset = a.currency THEN 0 WHEN CASE WHEN t.fee_asset || '-' || a.currency = t.symbol THEN 1 WHEN t.symbol GLOB '*-' || a.currency THEN 0 ELSE t.fee_asset = t.symbol END THEN NOT (CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END GLOB '*[1-9]*' AND CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END NOT GLOB '-*') ELSE decimal_sub(decimal_sub('0', t.cash_effect), decimal_mul(CASE t.side WHEN 'BUY' THEN t.quantity ELSE '-' || t.quantity END, t.price)) NOT GLOB '*[1-9]*' END * CASE WHEN t.corrects IS NULL THEN 1 ELSE -1 END) AS flagged
FROM accounts a CROSS JOIN trades t ON t.account = a.name
GROUP BY a.name, t.symbol""",
    "v_scope_allocations": """\
CREATE VIEW v_scope_allocations AS
WITH packed AS MATERIALIZED (
    SELECT p.account, p.symbol, CASE a.mode WHEN 'spot' THEN (
        SELECT json_array(coalesce(sum(s.closing), 0),
            coalesce(sum(s.closing AND s.known AND (s.won GLOB '*[1-9]*' AND s.won NOT GLOB '-*')), 0), coalesce(decimal_sum(s.pnl), '0'))
        FROM (
            SELECT decimal_sum(f.pnl) AS pnl, count(*) = count(f.pnl) AS known, 1 AS closing, decimal_sum(f.pnl) AS won
            FROM fifo_allocations f
            WHERE f.account = p.account AND f.symbol = p.symbol AND f.method = 'fifo' AND f.to_version IS NULL
            GROUP BY f.closed_at, f.sell_trade
        ) s) ELSE (
        SELECT json_array(coalesce(sum(s.closing), 0),
            coalesce(sum(s.closing AND s.known AND (s.won GLOB '*[1-9]*' AND s.won NOT GLOB '-*')), 0), coalesce(decimal_sum(s.pnl), '0'))
        FROM (
            SELECT decimal_sum(f.pnl) AS pnl, count(*) = count(f.pnl) AS known, max(CASE WHEN a.mode = 'spot' THEN 1 ELSE (
            SELECT CASE WHEN g.buy_trade IS NULL THEN 1 WHEN g.sell_at <> g.buy_at THEN g.sell_at = g.closed_at
            ELSE (SELECT t.id FROM trades t WHERE t.id IN (g.sell_trade, g.buy_trade)
                  ORDER BY t.venue_sequence IS NULL, t.venue_sequence, t.side LIMIT 1) = g.buy_trade END FROM fifo_allocations g WHERE g.id = f.id) END) AS closing, decimal_sum(CASE WHEN CASE WHEN a.mode = 'spot' THEN 1 ELSE (
            SELECT CASE WHEN g.buy_trade IS NULL THEN 1 WHEN g.sell_at <> g.buy_at THEN g.sell_at = g.closed_at
            ELSE (SELECT t.id FROM trades t WHERE t.id IN (g.sell_trade, g.buy_trade)
                  ORDER BY t.venue_sequence IS NULL, t.venue_sequence, t.side LIMIT 1) = g.buy_trade END FROM fifo_allocations g WHERE g.id = f.id) END THEN f.pnl END) AS won
            FROM fifo_allocations f
            WHERE f.account = p.account AND f.symbol = p.symbol AND f.method = 'fifo' AND f.to_version IS NULL
            GROUP BY f.closed_at, f.sell_trade
        ) s) END AS sums
    FROM fifo_pointers p CROSS JOIN accounts a ON a.name = p.account
    WHERE p.method = 'fifo'
),
lost AS MATERIALIZED (
    SELECT f.account, f.symbol, coalesce(decimal_sum(CASE WHEN f.buy_trade IS NULL THEN f.quantity END), '0') AS unmatched,
        decimal_sub(decimal_sum(f.net_proceeds), coalesce(decimal_sum(f.cost_basis), '0')) AS net
    FROM fifo_allocations f WHERE f.pnl IS NULL AND f.method = 'fifo' AND f.to_version IS NULL GROUP BY f.account, f.symbol
)
SELECT p.account, p.symbol, json_extract(p.sums, '$[0]') AS closing_sells,
    json_extract(p.sums, '$[1]') AS winning_sells, json_extract(p.sums, '$[2]') AS pnl,
    coalesce(nullif(rtrim(rtrim(decimal_add(l.unmatched, '0.0'), '0'), '.'), '-0'), '0') AS unmatched_quantity, coalesce(l.net, '0') AS unknown_net_proceeds
FROM packed p LEFT JOIN lost l ON l.account = p.account AND l.symbol = p.symbol""",
    "paper_bankroll": """\
CREATE VIEW paper_bankroll AS
WITH flows AS MATERIALIZED (
    SELECT w.account, decimal_sum(CASE WHEN w.kind IN ('deposit', 'income') THEN w.amount ELSE '-' || w.amount END) AS cash, max(w.sequence) AS sequence,
        coalesce(decimal_sum(CASE WHEN w.kind IN ('deposit', 'withdrawal') THEN CASE WHEN w.kind IN ('deposit', 'income') THEN w.amount ELSE '-' || w.amount END END), '0') AS paid_in
    FROM cash_flows w GROUP BY w.account
),
held AS MATERIALIZED (
    SELECT s.account, s.symbol, s.cash, s.sequence, x.closing_sells, x.winning_sells, x.pnl,
        decimal_add(s.moved, coalesce(x.unmatched_quantity, '0')) AS quantity
    FROM v_scope_trades s LEFT JOIN v_scope_allocations x ON x.account = s.account AND x.symbol = s.symbol
),
traded AS MATERIALIZED (
    SELECT h.account, decimal_sum(h.cash) AS cash, max(h.sequence) AS sequence, sum(h.closing_sells) AS closing_sells,
        sum(h.winning_sells) AS winning_sells, coalesce(decimal_sum(h.pnl), '0') AS pnl,
        coalesce(decimal_sum(CASE WHEN h.quantity NOT GLOB '*[1-9]*' THEN NULL ELSE decimal_mul(h.quantity, m.price) END), '0') AS value
    FROM held h LEFT JOIN v_marks m ON m.symbol = h.symbol GROUP BY h.account
),
sums AS MATERIALIZED (
    SELECT a.name AS account, a.created_at, coalesce(t.closing_sells, 0) AS total_trades,
        coalesce(t.winning_sells, 0) AS winning_trades, coalesce(t.pnl, '0') AS total_pnl,
        decimal_add(coalesce(w.cash, '0'), coalesce(t.cash, '0')) AS balance, coalesce(t.value, '0') AS value,
        coalesce(w.paid_in, '0') AS paid_in, max(coalesce(w.sequence, 0), coalesce(t.sequence, 0)) AS sequence
    FROM accounts a LEFT JOIN flows w ON w.account = a.name LEFT JOIN traded t ON t.account = a.name
    WHERE a.kind = 'paper'
)
SELECT s.account, coalesce(nullif(rtrim(rtrim(decimal_add(s.balance, '0.0'), '0'), '.'), '-0'), '0') AS balance, s.total_trades, s.winning_trades,
    coalesce(nullif(rtrim(rtrim(decimal_add(s.total_pnl, '0.0'), '0'), '.'), '-0'), '0') AS total_pnl,
    CASE WHEN (s.paid_in GLOB '*[1-9]*' AND s.paid_in NOT GLOB '-*')
        THEN round(CAST(decimal_sub(decimal_add(s.balance, s.value), s.paid_in) AS REAL) / CAST(s.paid_in AS REAL), 6) + 0.0 END AS roi,
    coalesce((SELECT t.recorded_at FROM trades t WHERE t.sequence = s.sequence),
        (SELECT w.recorded_at FROM cash_flows w WHERE w.sequence = s.sequence), s.created_at) AS updated_at
FROM sums s ORDER BY s.account""",
    "positions": """\
CREATE VIEW positions AS
WITH held AS MATERIALIZED (
    SELECT s.account, s.symbol, coalesce(x.pnl, '0') AS realized_pnl, v.fees,
        decimal_add(s.moved, coalesce(x.unmatched_quantity, '0')) AS quantity,
        decimal_sub(decimal_add(coalesce(x.pnl, '0'), coalesce(x.unknown_net_proceeds, '0')), s.cash) AS cost_basis,
        v.flagged > 0 OR coalesce(x.unmatched_quantity, '0') <> '0' AS incomplete
    FROM v_scope_trades s CROSS JOIN v_scope_fees v ON v.account = s.account AND v.symbol = s.symbol
    LEFT JOIN v_scope_allocations x ON x.account = s.account AND x.symbol = s.symbol
),
valued AS MATERIALIZED (
    SELECT h.*, m.price AS mark_price, m.time AS mark_time,
        CASE WHEN h.quantity NOT GLOB '*[1-9]*' THEN '0' ELSE decimal_mul(h.quantity, m.price) END AS market_value
    FROM held h LEFT JOIN v_marks m ON m.symbol = h.symbol
)
SELECT v.account, v.symbol, coalesce(nullif(rtrim(rtrim(decimal_add(v.quantity, '0.0'), '0'), '.'), '-0'), '0') AS quantity, coalesce(nullif(rtrim(rtrim(decimal_add(v.cost_basis, '0.0'), '0'), '.'), '-0'), '0') AS cost_basis,
    v.mark_price, v.mark_time, CASE WHEN v.market_value IS NOT NULL THEN coalesce(nullif(rtrim(rtrim(decimal_add(v.market_value, '0.0'), '0'), '.'), '-0'), '0') END AS market_value,
    CASE WHEN v.market_value IS NOT NULL THEN coalesce(nullif(rtrim(rtrim(decimal_add(decimal_sub(v.market_value, v.cost_basis), '0.0'), '0'), '.'), '-0'), '0') END AS unrealized_pnl,
    coalesce(nullif(rtrim(rtrim(decimal_add(v.realized_pnl, '0.0'), '0'), '.'), '-0'), '0') AS realized_pnl, coalesce(nullif(rtrim(rtrim(decimal_add(v.fees, '0.0'), '0'), '.'), '-0'), '0') AS fees, v.incomplete,
    NOT v.quantity NOT GLOB '*[1-9]*' AND decimal_sub(ltrim(v.quantity, '-'), i.dust) GLOB '-*[1-9]*' AS dust
FROM valued v JOIN instruments i ON i.symbol = v.symbol ORDER BY v.account, v.symbol""",
    "tax_lots": """\
CREATE VIEW tax_lots AS
WITH used AS MATERIALIZED (
    SELECT f.buy_trade AS trade, decimal_sum(f.quantity) AS quantity, decimal_sum(f.cost_basis) AS amount,
        coalesce(decimal_sum(CASE WHEN a.mode = 'spot' OR CASE WHEN a.mode = 'spot' THEN 1 ELSE (
            SELECT CASE WHEN g.buy_trade IS NULL THEN 1 WHEN g.sell_at <> g.buy_at THEN g.sell_at = g.closed_at
            ELSE (SELECT t.id FROM trades t WHERE t.id IN (g.sell_trade, g.buy_trade)
                  ORDER BY t.venue_sequence IS NULL, t.venue_sequence, t.side LIMIT 1) = g.buy_trade END FROM fifo_allocations g WHERE g.id = f.id) END THEN NULL ELSE f.quantity END), '0') AS closing
    FROM fifo_allocations f CROSS JOIN accounts a ON a.name = f.account
    WHERE f.method = 'fifo' AND f.to_version IS NULL AND f.buy_trade IS NOT NULL GROUP BY f.buy_trade
    UNION ALL
    SELECT f.sell_trade, decimal_sum(f.quantity), decimal_sum(f.net_proceeds),
        coalesce(decimal_sum(CASE WHEN CASE WHEN a.mode = 'spot' THEN 1 ELSE (
            SELECT CASE WHEN g.buy_trade IS NULL THEN 1 WHEN g.sell_at <> g.buy_at THEN g.sell_at = g.closed_at
            ELSE (SELECT t.id FROM trades t WHERE t.id IN (g.sell_trade, g.buy_trade)
                  ORDER BY t.venue_sequence IS NULL, t.venue_sequence, t.side LIMIT 1) = g.buy_trade END FROM fifo_allocations g WHERE g.id = f.id) END THEN f.quantity END), '0')
    FROM accounts a CROSS JOIN fifo_allocations f ON f.account = a.name
    WHERE a.mode = 'margin' AND f.method = 'fifo' AND f.to_version IS NULL AND f.buy_trade IS NOT NULL GROUP BY f.sell_trade
),
lots AS MATERIALIZED (
    SELECT t.account, t.symbol, t.id AS trade, t.executed_at, t.sequence, t.side,
        decimal_sub(CASE WHEN t.fee_asset = a.currency OR t.fee = '0' THEN t.quantity WHEN CASE WHEN t.fee_asset || '-' || a.currency = t.symbol THEN 1 WHEN t.symbol GLOB '*-' || a.currency THEN 0 ELSE t.fee_asset = t.symbol END AND (CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END GLOB '*[1-9]*' AND CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END NOT GLOB '-*') THEN CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END ELSE t.quantity END, coalesce(u.closing, '0')) AS original,
        decimal_sub(CASE WHEN t.fee_asset = a.currency OR t.fee = '0' THEN t.quantity WHEN CASE WHEN t.fee_asset || '-' || a.currency = t.symbol THEN 1 WHEN t.symbol GLOB '*-' || a.currency THEN 0 ELSE t.fee_asset = t.symbol END AND (CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END GLOB '*[1-9]*' AND CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END NOT GLOB '-*') THEN CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END ELSE t.quantity END, coalesce(u.quantity, '0')) AS remaining,
        CASE t.side WHEN 'BUY' THEN decimal_sub(decimal_sub('0', t.cash_effect), coalesce(u.amount, '0'))
            ELSE decimal_sub(coalesce(u.amount, '0'), t.cash_effect) END AS cost_basis
    FROM accounts a CROSS JOIN trades t ON t.account = a.name LEFT JOIN used u ON u.trade = t.id
    WHERE (t.side = 'BUY' OR a.mode = 'margin') AND t.corrects IS NULL AND NOT EXISTS (SELECT 1 FROM trades c WHERE c.corrects IS NOT NULL AND c.account = t.account AND c.symbol = t.symbol AND c.corrects = t.id)
)
SELECT l.account, l.symbol, l.trade, l.executed_at AS acquired_at,
    CASE l.side WHEN 'BUY' THEN '' ELSE '-' END || coalesce(nullif(rtrim(rtrim(decimal_add(l.original, '0.0'), '0'), '.'), '-0'), '0') AS original_quantity,
    CASE l.side WHEN 'BUY' THEN '' ELSE '-' END || coalesce(nullif(rtrim(rtrim(decimal_add(l.remaining, '0.0'), '0'), '.'), '-0'), '0') AS quantity,
    coalesce(nullif(rtrim(rtrim(decimal_add(l.cost_basis, '0.0'), '0'), '.'), '-0'), '0') AS cost_basis
FROM lots l WHERE NOT l.remaining NOT GLOB '*[1-9]*' ORDER BY l.account, l.symbol, l.executed_at, l.sequence""",
    "transactions": """\
CREATE VIEW transactions AS
SELECT t.executed_at AS time, t.sequence, t.account, lower(t.side) AS kind, t.symbol, t.quantity, t.price, t.fee,
    t.fee_asset, t.cash_effect, t.triggered_by, t.id, t.order_id, t.corrects, NULL AS note, t.recorded_at
FROM trades t
UNION ALL
SELECT w.effective_at, w.sequence, w.account, w.kind, NULL, NULL, NULL, NULL, NULL, CASE WHEN w.kind IN ('deposit', 'income') THEN w.amount ELSE '-' || w.amount END, w.triggered_by, w.id,
    NULL, NULL, w.note, w.recorded_at
FROM cash_flows w
ORDER BY 1, 2""",
    "v_allocation_health": """\
CREATE VIEW v_allocation_health AS
WITH scopes AS MATERIALIZED (
    SELECT p.account, p.symbol, p.method, p.version, a.mode, a.currency,
        CASE p.method WHEN 'fifo' THEN max(p.sequence, coalesce((
            SELECT w.sequence FROM followers w WHERE w.name = 'allocations'), 0)) ELSE p.sequence END AS sequence
    FROM fifo_pointers p CROSS JOIN accounts a ON a.name = p.account
),
facts AS MATERIALIZED (
    SELECT a.account, a.symbol, a.method,
        sum(CASE WHEN t.corrects IS NULL THEN t.side = 'BUY' ELSE -(t.side = 'SELL') END) AS buys,
        sum(CASE WHEN t.corrects IS NULL THEN t.side = 'SELL' ELSE -(t.side = 'BUY') END) AS sells,
        coalesce(decimal_sum(CASE WHEN t.corrects IS NULL THEN CASE t.side WHEN 'BUY' THEN CASE WHEN t.fee_asset = a.currency OR t.fee = '0' THEN t.quantity WHEN CASE WHEN t.fee_asset || '-' || a.currency = t.symbol THEN 1 WHEN t.symbol GLOB '*-' || a.currency THEN 0 ELSE t.fee_asset = t.symbol END AND (CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END GLOB '*[1-9]*' AND CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END NOT GLOB '-*') THEN CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END ELSE t.quantity END END
            WHEN t.side = 'SELL' THEN '-' || (CASE WHEN t.fee_asset = a.currency OR t.fee = '0' THEN t.quantity WHEN CASE WHEN t.fee_asset || '-' || a.currency = t.symbol THEN 1 WHEN t.symbol GLOB '*-' || a.currency THEN 0 ELSE t.fee_asset = t.symbol END AND (CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END GLOB '*[1-9]*' AND CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END NOT GLOB '-*') THEN CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END ELSE t.quantity END) END), '0') AS bought, coalesce(decimal_sum(CASE WHEN t.corrects IS NULL THEN CASE t.side WHEN 'SELL' THEN CASE WHEN t.fee_asset = a.currency OR t.fee = '0' THEN t.quantity WHEN CASE WHEN t.fee_asset || '-' || a.currency = t.symbol THEN 1 WHEN t.symbol GLOB '*-' || a.currency THEN 0 ELSE t.fee_asset = t.symbol END AND (CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END GLOB '*[1-9]*' AND CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END NOT GLOB '-*') THEN CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END ELSE t.quantity END END
            WHEN t.side = 'BUY' THEN '-' || (CASE WHEN t.fee_asset = a.currency OR t.fee = '0' THEN t.quantity WHEN CASE WHEN t.fee_asset || '-' || a.currency = t.symbol THEN 1 WHEN t.symbol GLOB '*-' || a.currency THEN 0 ELSE t.fee_asset = t.symbol END AND (CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END GLOB '*[1-9]*' AND CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END NOT GLOB '-*') THEN CASE t.side WHEN 'BUY' THEN decimal_sub(t.quantity, t.fee) ELSE decimal_add(t.quantity, t.fee) END ELSE t.quantity END) END), '0') AS sold
    FROM scopes a CROSS JOIN trades t ON t.account = a.account AND t.symbol = a.symbol AND t.sequence <= a.sequence
    GROUP BY a.account, a.symbol, a.method
),
pieces AS MATERIALIZED (
    SELECT f.account, f.symbol, f.method, count(*) AS allocations,
        coalesce(decimal_sum(CASE WHEN f.buy_trade IS NULL THEN NULL ELSE f.quantity END), '0') AS matched,
        coalesce(decimal_sum(CASE WHEN f.buy_trade IS NULL THEN f.quantity END), '0') AS unmatched, coalesce(decimal_sum(f.pnl), '0') AS pnl,
        coalesce(decimal_sum(CASE WHEN f.pnl IS NULL THEN NULL ELSE f.net_proceeds END), '0') AS net_proceeds,
        coalesce(decimal_sum(CASE WHEN f.pnl IS NULL THEN NULL ELSE f.cost_basis END), '0') AS cost_basis
    FROM fifo_allocations f WHERE f.to_version IS NULL GROUP BY f.account, f.symbol, f.method
),
sums AS MATERIALIZED (
    SELECT s.*, coalesce(t.buys, 0) AS buys, coalesce(t.sells, 0) AS sells, coalesce(t.bought, '0') AS bought,
        coalesce(t.sold, '0') AS sold, coalesce(f.allocations, 0) AS allocations,
        coalesce(f.matched, '0') AS matched, coalesce(f.unmatched, '0') AS unmatched, coalesce(f.pnl, '0') AS pnl,
        coalesce(decimal_sub(decimal_sub(f.net_proceeds, f.cost_basis), f.pnl), '0') AS pnl_gap
    FROM scopes s
    LEFT JOIN facts t ON t.account = s.account AND t.symbol = s.symbol AND t.method = s.method
    LEFT JOIN pieces f ON f.account = s.account AND f.symbol = s.symbol AND f.method = s.method
),
gaps AS MATERIALIZED (
    SELECT s.*, decimal_sub(s.bought, s.matched) AS left_bought, decimal_sub(s.sold, s.matched) AS left_sold,
        decimal_sub(s.sold, decimal_add(s.matched, s.unmatched)) AS unallocated
    FROM sums s
)
SELECT g.account, g.symbol, g.method, g.version, g.sequence, g.buys, g.sells, g.allocations,
    coalesce(nullif(rtrim(rtrim(decimal_add(g.sold, '0.0'), '0'), '.'), '-0'), '0') AS sold_quantity, coalesce(nullif(rtrim(rtrim(decimal_add(g.matched, '0.0'), '0'), '.'), '-0'), '0') AS allocated_quantity,
    coalesce(nullif(rtrim(rtrim(decimal_add(g.unmatched, '0.0'), '0'), '.'), '-0'), '0') AS unmatched_quantity, coalesce(nullif(rtrim(rtrim(decimal_add(g.pnl, '0.0'), '0'), '.'), '-0'), '0') AS pnl,
    g.pnl_gap NOT GLOB '*[1-9]*' AND g.left_bought NOT GLOB '-*[1-9]*' AND CASE g.mode
        WHEN 'spot' THEN g.unallocated NOT GLOB '*[1-9]*'
        ELSE g.unmatched NOT GLOB '*[1-9]*' AND g.left_sold NOT GLOB '-*[1-9]*'
            AND (g.left_bought NOT GLOB '*[1-9]*' OR g.left_sold NOT GLOB '*[1-9]*') END AS ok
FROM gaps g ORDER BY g.account, g.symbol, g.method""",
    "v_unmatched_sells": """\
CREATE VIEW v_unmatched_sells AS
SELECT f.account, f.symbol, f.sell_trade, f.sell_at, coalesce(nullif(rtrim(rtrim(decimal_add(f.quantity, '0.0'), '0'), '.'), '-0'), '0') AS quantity,
    coalesce(nullif(rtrim(rtrim(decimal_add(f.sell_price, '0.0'), '0'), '.'), '-0'), '0') AS sell_price, coalesce(nullif(rtrim(rtrim(decimal_add(f.proceeds, '0.0'), '0'), '.'), '-0'), '0') AS proceeds, coalesce(nullif(rtrim(rtrim(decimal_add(f.sell_fee, '0.0'), '0'), '.'), '-0'), '0') AS sell_fee,
    coalesce(nullif(rtrim(rtrim(decimal_add(f.net_proceeds, '0.0'), '0'), '.'), '-0'), '0') AS net_proceeds, f.from_version AS version
FROM fifo_allocations f WHERE f.buy_trade IS NULL AND f.method = 'fifo' AND f.to_version IS NULL ORDER BY f.account, f.symbol, f.sell_at, f.id""",
    "v_pnl_by_symbol": """\
CREATE VIEW v_pnl_by_symbol AS
WITH pieces AS MATERIALIZED (
    SELECT f.account, f.symbol, coalesce(decimal_sum(f.quantity), '0') AS quantity, coalesce(decimal_sum(f.proceeds), '0') AS proceeds,
        coalesce(decimal_sum(f.cost_basis), '0') AS cost_basis, coalesce(decimal_sum(nullif(f.sell_fee, '0')), '0') AS fees
    FROM fifo_allocations f WHERE f.pnl IS NOT NULL AND f.method = 'fifo' AND f.to_version IS NULL GROUP BY f.account, f.symbol
)
SELECT x.account, x.symbol, x.closing_sells AS sells, coalesce(nullif(rtrim(rtrim(decimal_add(f.quantity, '0.0'), '0'), '.'), '-0'), '0') AS quantity,
    coalesce(nullif(rtrim(rtrim(decimal_add(f.proceeds, '0.0'), '0'), '.'), '-0'), '0') AS proceeds, coalesce(nullif(rtrim(rtrim(decimal_add(f.cost_basis, '0.0'), '0'), '.'), '-0'), '0') AS cost_basis, coalesce(nullif(rtrim(rtrim(decimal_add(f.fees, '0.0'), '0'), '.'), '-0'), '0') AS fees,
    coalesce(nullif(rtrim(rtrim(decimal_add(x.pnl, '0.0'), '0'), '.'), '-0'), '0') AS pnl, coalesce(nullif(rtrim(rtrim(decimal_add(x.unmatched_quantity, '0.0'), '0'), '.'), '-0'), '0') AS unmatched_quantity,
    v.flagged > 0 OR x.unmatched_quantity <> '0' AS incomplete
FROM v_scope_allocations x
CROSS JOIN v_scope_fees v ON v.account = x.account AND v.symbol = x.symbol
LEFT JOIN pieces f ON f.account = x.account AND f.symbol = x.symbol
ORDER BY x.account, x.symbol""",
}
"""Name -> statement, those that others read from first."""


def create_views(connection: Connection) -> None:
    """Make all views; there is none yet."""
    for statement in VIEWS.values():
        connection.exec_driver_sql(statement)


def drop_views(connection: Connection) -> None:
    """Drop those that are there: before tables are changed, which fails while a view reads them."""
    for name in reversed(VIEWS):
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
