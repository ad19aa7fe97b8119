"""The SQL views: what is calculated, never stored, for whoever asks the database itself.

`sqlite3 fillbook.db 'select * from paper_bankroll'` gives what the application says: money is exact text, added
by the decimal functions that SQLite's shell has built in (other connections: execution/sqlite_decimals.py).
The shell has no division, so the return on investment alone is a REAL.

What holds in the facts and makes the sums short (E: the effective quantity of a fill, with its base fee):
- a buy costs -cash_effect with all its fees, a sell brings cash_effect; so the open lots of a symbol cost
  sum(pnl of its allocations) - sum(cash_effect), negative when short, and of allocations without a known P&L (no buy,
  or a fee that could not be valued) + sum(net_proceeds - what is known of the cost);
- the open quantity is sum(E of buys) - sum(E of sells) + what was sold without a lot;
- a trade that was taken back and the entry that did it (`corrects`) cancel in each of these sums.

The helpers at the top are all that is SQLite's own; a second dialect replaces them, not the views.
"""

from sqlalchemy import Connection

from execution import raw

# ---- the dialect ------------------------------------------------------------------------------------------


def _plain(value: str) -> str:
    """Text without trailing zeros and without "-0", from whichever form the functions give. NULL becomes "0"."""
    # The sum with 0.0 always has a point, so that no zero before it is taken for a trailing one.
    return f"coalesce(nullif(rtrim(rtrim(decimal_add({value}, '0.0'), '0'), '.'), '-0'), '0')"


def _known(value: str, known: str) -> str:
    """`_plain` where something is known, else NULL."""
    return f"CASE WHEN {known} THEN {_plain(value)} END"


def _sum(value: str) -> str:
    return f"decimal_sum({value})"


def _total(value: str) -> str:
    """A sum that is 0 over nothing."""
    return f"coalesce(decimal_sum({value}), '0')"


def _add(*values: str) -> str:
    total = values[0]
    for value in values[1:]:
        total = f"decimal_add({total}, {value})"
    return total


def _sub(left: str, right: str) -> str:
    return f"decimal_sub({left}, {right})"


def _mul(left: str, right: str) -> str:
    return f"decimal_mul({left}, {right})"


def _negative(column: str) -> str:
    """Minus a column that is never negative itself."""
    return f"'-' || {column}"


def _is_zero(value: str) -> str:
    # By the text: the shell's decimal_cmp counts trailing zeros.
    return f"{value} NOT GLOB '*[1-9]*'"


def _is_positive(value: str) -> str:
    return f"({value} GLOB '*[1-9]*' AND {value} NOT GLOB '-*')"


def ratio(numerator: str, denominator: str) -> str:
    """A ratio as REAL with 6 digits. The application asks the database for it too, so that both round alike."""
    # + 0.0 turns -0.0 into 0.0.
    return f"round(CAST({numerator} AS REAL) / CAST({denominator} AS REAL), 6) + 0.0"


_CLOSED_SECOND = (
    "unixepoch(c.time) + 100000000000 + CAST(c.timeframe AS INTEGER) * CASE substr(c.timeframe, -1)"
    " WHEN 's' THEN 1 WHEN 'm' THEN 60 WHEN 'h' THEN 3600 WHEN 'd' THEN 86400 ELSE 604800 END"
)
"""When a candle closed ("15m" is 15 times 60), in seconds of a clock that is positive for every year."""


def _time_of_second(text: str) -> str:
    """The stored form of the instant that `_CLOSED_SECOND` gave."""
    return f"strftime('%Y-%m-%dT%H:%M:%S.000000Z', CAST({text} AS INTEGER) - 100000000000, 'unixepoch')"


# ---- parts ------------------------------------------------------------------------------------------------

_IS_BASE_FEE = (
    "CASE WHEN t.fee_asset || '-' || a.currency = t.symbol THEN 1"
    " WHEN t.symbol GLOB '*-' || a.currency THEN 0 ELSE t.fee_asset = t.symbol END"
)
"""Whether a fee was charged in what was traded: the symbol less "-<currency>"."""

_LESS_FEE = f"CASE t.side WHEN 'BUY' THEN {_sub('t.quantity', 't.fee')} ELSE {_add('t.quantity', 't.fee')} END"
"""What a fill with a base fee moved; of a buy that the fee eats whole nothing is left: such a fee does not count."""

_SIGNED_QUANTITY = f"CASE t.side WHEN 'BUY' THEN t.quantity ELSE {_negative('t.quantity')} END"

_BASE_FEE = (
    f"CASE WHEN t.fee_asset = a.currency THEN NULL WHEN {_IS_BASE_FEE} AND {_is_positive(_LESS_FEE)} THEN t.fee END"
)
"""A base fee, for sums; NULL for every other one."""

_EFFECTIVE = (
    "CASE WHEN t.fee_asset = a.currency OR t.fee = '0' THEN t.quantity"
    f" WHEN {_IS_BASE_FEE} AND {_is_positive(_LESS_FEE)} THEN {_LESS_FEE} ELSE t.quantity END"
)
"""The quantity that a fill moved."""

_OTHER_FEE = _sub(_sub("'0'", "t.cash_effect"), _mul(_SIGNED_QUANTITY, "t.price"))
"""What the recorded cash effect holds for a fee in a third asset."""

_FEE_VALUE = (
    "CASE WHEN t.fee = '0' THEN NULL WHEN t.fee_asset = a.currency THEN t.fee"
    f" WHEN {_IS_BASE_FEE} THEN CASE WHEN {_is_positive(_LESS_FEE)} THEN {_mul('t.fee', 't.price')} END"
    f" ELSE {_OTHER_FEE} END"
)
"""A fee in the account's currency, for sums; what has no value counts as nothing."""

_UNVALUED = f"WHEN {_IS_BASE_FEE} THEN NOT {_is_positive(_LESS_FEE)} ELSE {_is_zero(_OTHER_FEE)} END"
"""How a CASE over fees that are not in the account's currency ends: whether a fee could not be valued."""

_SIGN = "CASE WHEN t.corrects IS NULL THEN 1 ELSE -1 END"
_FLAGGED = f"CASE WHEN t.fee = '0' OR t.fee_asset = a.currency THEN 0 {_UNVALUED} * {_SIGN}"
"""1 for a fee that could not be valued, -1 for the entry that takes it back."""

_NOT_TAKEN_BACK = (
    "t.corrects IS NULL AND NOT EXISTS (SELECT 1 FROM trades c WHERE c.corrects IS NOT NULL"
    " AND c.account = t.account AND c.symbol = t.symbol AND c.corrects = t.id)"
)

_CURRENT = "f.method = 'fifo' AND f.to_version IS NULL"

_CLOSED_BY_SELL = """CASE WHEN g.buy_trade IS NULL THEN 1 WHEN g.sell_at <> g.buy_at THEN g.sell_at = g.closed_at
            ELSE (SELECT t.id FROM trades t WHERE t.id IN (g.sell_trade, g.buy_trade)
                  ORDER BY t.venue_sequence IS NULL, t.venue_sequence, t.side LIMIT 1) = g.buy_trade END"""
"""Whether the sell closed a lot or had opened it short; at one instant the order of trades decides (a BUY first)."""

_SELL_CLOSES = f"""CASE WHEN a.mode = 'spot' THEN 1 ELSE (
            SELECT {_CLOSED_BY_SELL} FROM fifo_allocations g WHERE g.id = f.id) END"""
"""`_CLOSED_BY_SELL` of a row; in a spot account, where it is certain, without a look at the row."""

# ---- views ------------------------------------------------------------------------------------------------

_MARKS = f"""
WITH RECURSIVE kinds(symbol, timeframe) AS (
    SELECT i.symbol, (SELECT min(c.timeframe) FROM candles c WHERE c.symbol = i.symbol) FROM instruments i
    UNION ALL
    SELECT k.symbol, (SELECT min(c.timeframe) FROM candles c WHERE c.symbol = k.symbol AND c.timeframe > k.timeframe)
    FROM kinds k WHERE k.timeframe IS NOT NULL
),
closes AS MATERIALIZED (
    SELECT k.symbol, max((
        SELECT printf('%020d', {_CLOSED_SECOND}) || c.timeframe || '|' || c.close FROM candles c
        WHERE c.symbol = k.symbol AND c.timeframe = k.timeframe ORDER BY c.time DESC LIMIT 1
    )) AS found
    FROM kinds k WHERE k.timeframe IS NOT NULL GROUP BY k.symbol
),
traded AS MATERIALIZED (
    SELECT i.symbol, max((
        SELECT t.executed_at || printf('%020d', t.sequence) FROM trades t
        WHERE t.account = a.name AND t.symbol = i.symbol AND {_NOT_TAKEN_BACK}
        ORDER BY t.executed_at DESC, t.sequence DESC LIMIT 1
    )) AS found
    FROM instruments i CROSS JOIN accounts a
    WHERE i.symbol NOT IN (SELECT symbol FROM closes)
    GROUP BY i.symbol
)
SELECT symbol, {_plain("substr(found, instr(found, '|') + 1)")} AS price,
    {_time_of_second("substr(found, 1, 20)")} AS time, 'candle' AS source
FROM closes
UNION ALL
SELECT t.symbol, {_plain("t.price")}, t.executed_at, 'trade'
FROM traded CROSS JOIN trades t ON t.sequence = CAST(substr(traded.found, -20) AS INTEGER)"""
"""The last known price of each instrument: its newest candle's close, else its last trade's price."""

_SCOPE_TRADES = f"""
SELECT a.name AS account, t.symbol, {_sum("t.cash_effect")} AS cash,
    {_sub(_sum(_SIGNED_QUANTITY), _total(_BASE_FEE))} AS moved, max(t.sequence) AS sequence
FROM accounts a CROSS JOIN trades t ON t.account = a.name
GROUP BY a.name, t.symbol"""
"""Sums over the trades of a symbol, all from one index."""

_SCOPE_FEES = f"""
SELECT a.name AS account, t.symbol, {_total(_FEE_VALUE)} AS fees, sum({_FLAGGED}) AS flagged
FROM accounts a CROSS JOIN trades t ON t.account = a.name
GROUP BY a.name, t.symbol"""
"""Fees in the account's currency, and how many could not be valued."""


def _packed(columns: str) -> str:
    """The sums over a scope's sells as one JSON text: a subquery gives one value, and must run only once.

    Sells are grouped by `closed_at` first: that is the order of the index, so that a million rows need no sorting.
    """
    return f"""(
        SELECT json_array(coalesce(sum(s.closing), 0),
            coalesce(sum(s.closing AND s.known AND {_is_positive("s.won")}), 0), {_total("s.pnl")})
        FROM (
            SELECT {_sum("f.pnl")} AS pnl, count(*) = count(f.pnl) AS known, {columns}
            FROM fifo_allocations f
            WHERE f.account = p.account AND f.symbol = p.symbol AND {_CURRENT}
            GROUP BY f.closed_at, f.sell_trade
        ) s)"""


_SPOT_SELLS = _packed(f"1 AS closing, {_sum('f.pnl')} AS won")
_MARGIN_SELLS = _packed(f"max({_SELL_CLOSES}) AS closing, {_sum(f'CASE WHEN {_SELL_CLOSES} THEN f.pnl END')} AS won")

_SCOPE_ALLOCATIONS = f"""
WITH packed AS MATERIALIZED (
    SELECT p.account, p.symbol, CASE a.mode WHEN 'spot' THEN {_SPOT_SELLS} ELSE {_MARGIN_SELLS} END AS sums
    FROM fifo_pointers p CROSS JOIN accounts a ON a.name = p.account
    WHERE p.method = 'fifo'
),
lost AS MATERIALIZED (
    SELECT f.account, f.symbol, {_total("CASE WHEN f.buy_trade IS NULL THEN f.quantity END")} AS unmatched,
        {_sub(_sum("f.net_proceeds"), _total("f.cost_basis"))} AS net
    FROM fifo_allocations f WHERE f.pnl IS NULL AND {_CURRENT} GROUP BY f.account, f.symbol
)
SELECT p.account, p.symbol, json_extract(p.sums, '$[0]') AS closing_sells,
    json_extract(p.sums, '$[1]') AS winning_sells, json_extract(p.sums, '$[2]') AS pnl,
    {_plain("l.unmatched")} AS unmatched_quantity, coalesce(l.net, '0') AS unknown_net_proceeds
FROM packed p LEFT JOIN lost l ON l.account = p.account AND l.symbol = p.symbol"""
"""Sums over the current allocations of a symbol."""

_FLOW = f"CASE WHEN w.kind IN ('deposit', 'income') THEN w.amount ELSE {_negative('w.amount')} END"

_PAPER_BANKROLL = f"""
WITH flows AS MATERIALIZED (
    SELECT w.account, {_sum(_FLOW)} AS cash, max(w.sequence) AS sequence,
        {_total(f"CASE WHEN w.kind IN ('deposit', 'withdrawal') THEN {_FLOW} END")} AS paid_in
    FROM cash_flows w GROUP BY w.account
),
held AS MATERIALIZED (
    SELECT s.account, s.symbol, s.cash, s.sequence, x.closing_sells, x.winning_sells, x.pnl,
        {_add("s.moved", "coalesce(x.unmatched_quantity, '0')")} AS quantity,
        coalesce(x.unmatched_quantity, '0') <> '0' AS incomplete
    FROM v_scope_trades s LEFT JOIN v_scope_allocations x ON x.account = s.account AND x.symbol = s.symbol
),
unvalued AS MATERIALIZED (
    SELECT a.name AS account, t.symbol, sum({_SIGN}) AS flagged
    FROM accounts a CROSS JOIN trades t ON t.account = a.name
    WHERE t.fee_asset <> a.currency AND t.fee <> '0' AND CASE {_UNVALUED}
    GROUP BY a.name, t.symbol
),
traded AS MATERIALIZED (
    SELECT h.account, {_sum("h.cash")} AS cash, max(h.sequence) AS sequence, sum(h.closing_sells) AS closing_sells,
        sum(h.winning_sells) AS winning_sells, {_total("h.pnl")} AS pnl,
        {_total(f"CASE WHEN {_is_zero('h.quantity')} THEN NULL ELSE {_mul('h.quantity', 'm.price')} END")} AS value,
        max(h.incomplete OR coalesce(u.flagged, 0) > 0) AS incomplete
    FROM held h LEFT JOIN v_marks m ON m.symbol = h.symbol
    LEFT JOIN unvalued u ON u.account = h.account AND u.symbol = h.symbol GROUP BY h.account
),
sums AS MATERIALIZED (
    SELECT a.name AS account, a.created_at, coalesce(t.closing_sells, 0) AS total_trades,
        coalesce(t.winning_sells, 0) AS winning_trades, coalesce(t.pnl, '0') AS total_pnl,
        {_add("coalesce(w.cash, '0')", "coalesce(t.cash, '0')")} AS balance, coalesce(t.value, '0') AS value,
        coalesce(w.paid_in, '0') AS paid_in, max(coalesce(w.sequence, 0), coalesce(t.sequence, 0)) AS sequence,
        coalesce(t.incomplete, 0) AS incomplete
    FROM accounts a LEFT JOIN flows w ON w.account = a.name LEFT JOIN traded t ON t.account = a.name
    WHERE a.kind = 'paper'
)
SELECT s.account, {_plain("s.balance")} AS balance, s.total_trades, s.winning_trades,
    {_plain("s.total_pnl")} AS total_pnl,
    CASE WHEN {_is_positive("s.paid_in")}
        THEN {ratio(_sub(_add("s.balance", "s.value"), "s.paid_in"), "s.paid_in")} END AS roi,
    coalesce((SELECT t.recorded_at FROM trades t WHERE t.sequence = s.sequence),
        (SELECT w.recorded_at FROM cash_flows w WHERE w.sequence = s.sequence), s.created_at) AS updated_at,
    s.incomplete
FROM sums s ORDER BY s.account"""

_POSITIONS = f"""
WITH held AS MATERIALIZED (
    SELECT s.account, s.symbol, coalesce(x.pnl, '0') AS realized_pnl, v.fees,
        {_add("s.moved", "coalesce(x.unmatched_quantity, '0')")} AS quantity,
        {_sub(_add("coalesce(x.pnl, '0')", "coalesce(x.unknown_net_proceeds, '0')"), "s.cash")} AS cost_basis,
        v.flagged > 0 OR coalesce(x.unmatched_quantity, '0') <> '0' AS incomplete
    FROM v_scope_trades s CROSS JOIN v_scope_fees v ON v.account = s.account AND v.symbol = s.symbol
    LEFT JOIN v_scope_allocations x ON x.account = s.account AND x.symbol = s.symbol
),
valued AS MATERIALIZED (
    SELECT h.*, m.price AS mark_price, m.time AS mark_time,
        CASE WHEN {_is_zero("h.quantity")} THEN '0' ELSE {_mul("h.quantity", "m.price")} END AS market_value
    FROM held h LEFT JOIN v_marks m ON m.symbol = h.symbol
)
SELECT v.account, v.symbol, {_plain("v.quantity")} AS quantity, {_plain("v.cost_basis")} AS cost_basis,
    v.mark_price, v.mark_time, {_known("v.market_value", "v.market_value IS NOT NULL")} AS market_value,
    {_known(_sub("v.market_value", "v.cost_basis"), "v.market_value IS NOT NULL")} AS unrealized_pnl,
    {_plain("v.realized_pnl")} AS realized_pnl, {_plain("v.fees")} AS fees, v.incomplete,
    NOT {_is_zero("v.quantity")} AND {_sub("ltrim(v.quantity, '-')", "i.dust")} GLOB '-*[1-9]*' AS dust
FROM valued v JOIN instruments i ON i.symbol = v.symbol ORDER BY v.account, v.symbol"""

_TAX_LOTS = f"""
WITH used AS MATERIALIZED (
    SELECT f.buy_trade AS trade, {_sum("f.quantity")} AS quantity, {_sum("f.cost_basis")} AS amount,
        {_total(f"CASE WHEN a.mode = 'spot' OR {_SELL_CLOSES} THEN NULL ELSE f.quantity END")} AS closing
    FROM fifo_allocations f CROSS JOIN accounts a ON a.name = f.account
    WHERE {_CURRENT} AND f.buy_trade IS NOT NULL GROUP BY f.buy_trade
    UNION ALL
    SELECT f.sell_trade, {_sum("f.quantity")}, {_sum("f.net_proceeds")},
        {_total(f"CASE WHEN {_SELL_CLOSES} THEN f.quantity END")}
    FROM accounts a CROSS JOIN fifo_allocations f ON f.account = a.name
    WHERE a.mode = 'margin' AND {_CURRENT} AND f.buy_trade IS NOT NULL GROUP BY f.sell_trade
),
lots AS MATERIALIZED (
    SELECT t.account, t.symbol, t.id AS trade, t.executed_at, t.sequence, t.side,
        {_sub(_EFFECTIVE, "coalesce(u.closing, '0')")} AS original,
        {_sub(_EFFECTIVE, "coalesce(u.quantity, '0')")} AS remaining,
        CASE t.side WHEN 'BUY' THEN {_sub(_sub("'0'", "t.cash_effect"), "coalesce(u.amount, '0')")}
            ELSE {_sub("coalesce(u.amount, '0')", "t.cash_effect")} END AS cost_basis
    FROM accounts a CROSS JOIN trades t ON t.account = a.name LEFT JOIN used u ON u.trade = t.id
    WHERE (t.side = 'BUY' OR a.mode = 'margin') AND {_NOT_TAKEN_BACK}
)
SELECT l.account, l.symbol, l.trade, l.executed_at AS acquired_at,
    CASE l.side WHEN 'BUY' THEN '' ELSE '-' END || {_plain("l.original")} AS original_quantity,
    CASE l.side WHEN 'BUY' THEN '' ELSE '-' END || {_plain("l.remaining")} AS quantity,
    {_plain("l.cost_basis")} AS cost_basis
FROM lots l WHERE NOT {_is_zero("l.remaining")} ORDER BY l.account, l.symbol, l.executed_at, l.sequence"""

_TRANSACTIONS = f"""
SELECT t.executed_at AS time, t.sequence, t.account, lower(t.side) AS kind, t.symbol, t.quantity, t.price, t.fee,
    t.fee_asset, t.cash_effect, t.triggered_by, t.id, t.order_id, t.corrects, NULL AS note, t.recorded_at
FROM trades t
UNION ALL
SELECT w.effective_at, w.sequence, w.account, w.kind, NULL, NULL, NULL, NULL, NULL, {_FLOW}, w.triggered_by, w.id,
    NULL, NULL, w.note, w.recorded_at
FROM cash_flows w
ORDER BY 1, 2"""

_BOUGHT = f"""CASE WHEN t.corrects IS NULL THEN CASE t.side WHEN 'BUY' THEN {_EFFECTIVE} END
            WHEN t.side = 'SELL' THEN {_negative(f"({_EFFECTIVE})")} END"""
_SOLD = f"""CASE WHEN t.corrects IS NULL THEN CASE t.side WHEN 'SELL' THEN {_EFFECTIVE} END
            WHEN t.side = 'BUY' THEN {_negative(f"({_EFFECTIVE})")} END"""

# Spot: every sell is allocated, and no more than was bought. Margin: the two sides are matched as far as they go.
_ALLOCATION_HEALTH = f"""
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
        {_total(_BOUGHT)} AS bought, {_total(_SOLD)} AS sold
    FROM scopes a CROSS JOIN trades t ON t.account = a.account AND t.symbol = a.symbol AND t.sequence <= a.sequence
    GROUP BY a.account, a.symbol, a.method
),
pieces AS MATERIALIZED (
    SELECT f.account, f.symbol, f.method, count(*) AS allocations,
        {_total("CASE WHEN f.buy_trade IS NULL THEN NULL ELSE f.quantity END")} AS matched,
        {_total("CASE WHEN f.buy_trade IS NULL THEN f.quantity END")} AS unmatched, {_total("f.pnl")} AS pnl,
        {_total("CASE WHEN f.pnl IS NULL THEN NULL ELSE f.net_proceeds END")} AS net_proceeds,
        {_total("CASE WHEN f.pnl IS NULL THEN NULL ELSE f.cost_basis END")} AS cost_basis
    FROM fifo_allocations f WHERE f.to_version IS NULL GROUP BY f.account, f.symbol, f.method
),
sums AS MATERIALIZED (
    SELECT s.*, coalesce(t.buys, 0) AS buys, coalesce(t.sells, 0) AS sells, coalesce(t.bought, '0') AS bought,
        coalesce(t.sold, '0') AS sold, coalesce(f.allocations, 0) AS allocations,
        coalesce(f.matched, '0') AS matched, coalesce(f.unmatched, '0') AS unmatched, coalesce(f.pnl, '0') AS pnl,
        coalesce({_sub(_sub("f.net_proceeds", "f.cost_basis"), "f.pnl")}, '0') AS pnl_gap
    FROM scopes s
    LEFT JOIN facts t ON t.account = s.account AND t.symbol = s.symbol AND t.method = s.method
    LEFT JOIN pieces f ON f.account = s.account AND f.symbol = s.symbol AND f.method = s.method
),
gaps AS MATERIALIZED (
    SELECT s.*, {_sub("s.bought", "s.matched")} AS left_bought, {_sub("s.sold", "s.matched")} AS left_sold,
        {_sub("s.sold", _add("s.matched", "s.unmatched"))} AS unallocated
    FROM sums s
)
SELECT g.account, g.symbol, g.method, g.version, g.sequence, g.buys, g.sells, g.allocations,
    {_plain("g.sold")} AS sold_quantity, {_plain("g.matched")} AS allocated_quantity,
    {_plain("g.unmatched")} AS unmatched_quantity, {_plain("g.pnl")} AS pnl,
    {_is_zero("g.pnl_gap")} AND g.left_bought NOT GLOB '-*[1-9]*' AND CASE g.mode
        WHEN 'spot' THEN {_is_zero("g.unallocated")}
        ELSE {_is_zero("g.unmatched")} AND g.left_sold NOT GLOB '-*[1-9]*'
            AND ({_is_zero("g.left_bought")} OR {_is_zero("g.left_sold")}) END AS ok
FROM gaps g ORDER BY g.account, g.symbol, g.method"""

_UNMATCHED_SELLS = f"""
SELECT f.account, f.symbol, f.sell_trade, f.sell_at, {_plain("f.quantity")} AS quantity,
    {_plain("f.sell_price")} AS sell_price, {_plain("f.proceeds")} AS proceeds, {_plain("f.sell_fee")} AS sell_fee,
    {_plain("f.net_proceeds")} AS net_proceeds, f.from_version AS version
FROM fifo_allocations f WHERE f.buy_trade IS NULL AND {_CURRENT} ORDER BY f.account, f.symbol, f.sell_at, f.id"""

_PNL_BY_SYMBOL = f"""
WITH pieces AS MATERIALIZED (
    SELECT f.account, f.symbol, {_total("f.quantity")} AS quantity, {_total("f.proceeds")} AS proceeds,
        {_total("f.cost_basis")} AS cost_basis, {_total("nullif(f.sell_fee, '0')")} AS fees
    FROM fifo_allocations f WHERE f.pnl IS NOT NULL AND {_CURRENT} GROUP BY f.account, f.symbol
)
SELECT x.account, x.symbol, x.closing_sells AS sells, {_plain("f.quantity")} AS quantity,
    {_plain("f.proceeds")} AS proceeds, {_plain("f.cost_basis")} AS cost_basis, {_plain("f.fees")} AS fees,
    {_plain("x.pnl")} AS pnl, {_plain("x.unmatched_quantity")} AS unmatched_quantity,
    v.flagged > 0 OR x.unmatched_quantity <> '0' AS incomplete
FROM v_scope_allocations x
CROSS JOIN v_scope_fees v ON v.account = x.account AND v.symbol = x.symbol
LEFT JOIN pieces f ON f.account = x.account AND f.symbol = x.symbol
ORDER BY x.account, x.symbol"""

VIEWS = {
    "v_marks": _MARKS,
    "v_scope_trades": _SCOPE_TRADES,
    "v_scope_fees": _SCOPE_FEES,
    "v_scope_allocations": _SCOPE_ALLOCATIONS,
    "paper_bankroll": _PAPER_BANKROLL,
    "positions": _POSITIONS,
    "tax_lots": _TAX_LOTS,
    "transactions": _TRANSACTIONS,
    "v_allocation_health": _ALLOCATION_HEALTH,
    "v_unmatched_sells": _UNMATCHED_SELLS,
    "v_pnl_by_symbol": _PNL_BY_SYMBOL,
}
"""Name -> SELECT, those that others read from first. What each column means is in docs/views.md."""


def create_views(connection: Connection) -> None:
    """Make all views; there is none yet."""
    for name, select in VIEWS.items():
        raw.execute(connection, f"CREATE VIEW {name} AS{select}")


def drop_views(connection: Connection) -> None:
    """Drop those that are there: before tables are changed, which fails while a view reads them."""
    for name in reversed(VIEWS):
        raw.execute(connection, f"DROP VIEW IF EXISTS {name}")
