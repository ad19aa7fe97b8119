"""From the state to what is read: header, positions, bots, trades as tables, for a width, at a moment."""

from collections.abc import Sequence
from decimal import Decimal

from rich.text import Text

from config.exact import ZERO, divide
from runtime.cli.output import MISSING, age, money, number, price, signed
from runtime.watch.forms import BAR, Moment, mark_age, percent, score_bar
from runtime.watch.model import Watch
from runtime.watch.rows import AdviceRow, BotRow, PortfolioRow, PositionRow, StopsRow, TradeRow
from runtime.watch.tables import GAP, QUIET, Column, Table, lay_out

_ROOMY = 110

_TEMPERATURES = {"HOT": "bold red", "WARM": "yellow", "COOL": "cyan", "COLD": "blue", "FROZEN": QUIET}
_STATUSES = {"RUNNING": "green", "STOPPED": "yellow", "ERROR": "bold red"}
_SIDES = {"BUY": "green", "SELL": "magenta"}

# ---- header ---------------------------------------------------------------------------------------------


def title_line(watch: Watch, accounts: Sequence[str], moment: Moment, width: int | None = None) -> Text:
    """Where this is, whose it is, and whether it is alive."""
    names = accounts[0] if len(accounts) == 1 else f"all {len(accounts)} accounts"
    line = Text.assemble(("Fillbook ", "bold"), watch.topics.root, "  account ", (names, "bold"), "  ", no_wrap=True)
    line.append_text(connection_text(watch, moment))
    time = f"{moment.wall:%H:%M:%S} UTC"
    if width is not None and line.cell_len + len(time) + GAP <= width:
        line.append(" " * (width - line.cell_len - len(time))).append(time)
    return line


def connection_text(watch: Watch, moment: Moment) -> Text:
    """Connected, or since when not."""
    link = watch.link
    if not link.connected:
        since = "" if link.since is None else f", since {moment.text(link.since)}"
        if not link.ever:
            return Text(f"connecting to {watch.broker}{since}", style="bold yellow")
        return Text(f"connection lost{since}, trying again", style="bold red")
    if watch.daemon is not None and not watch.daemon.online:
        return Text(f"the daemon is offline, since {moment.text(watch.daemon.time)}", style="bold red")
    return Text(f"connected {watch.broker}", style="green")


def money_lines(watch: Watch, accounts: Sequence[str], moment: Moment, width: int | None = None) -> list[Text]:
    """One line for each account: equity, P&L, cash, and the halt if there is one. What does not fit is left out."""
    return [_fitted(_money_parts(watch, account, moment, named=len(accounts) > 1), width) for account in accounts]


def _fitted(parts: Sequence[Text], width: int | None) -> Text:
    line = Text(no_wrap=True)
    for part in filter(None, parts):
        gap = GAP if line else 0
        if width is None or not line or line.cell_len + gap + part.cell_len <= width:
            line.append(" " * gap).append_text(part)
    return line


def _money_parts(watch: Watch, account: str, moment: Moment, *, named: bool) -> list[Text]:
    parts = [Text(account, style="bold")] if named else []
    if watch.halted(account) is not None:
        parts.append(Text(" HALTED ", style="bold white on red"))
    found = watch.portfolios.get(account)
    if found is None:
        return [*parts, Text("no portfolio yet", style=QUIET)]
    parts.append(Text.assemble("equity ", (money(found.equity), "bold"), f" {found.currency}"))
    pnl = Text("P&L ").append_text(signed(found.total_pnl))
    if found.return_ratio is not None:
        pnl.append(" (").append_text(percent(found.return_ratio * 100)).append(")")
    parts.append(pnl)
    parts.append(_recent_pnl(watch, found, moment))
    return [*parts, Text(f"cash {money(found.cash)}"), Text(f"fees {money(found.fees)}")]


def _recent_pnl(watch: Watch, found: PortfolioRow, moment: Moment) -> Text:
    """The day's P&L where execution keeps the day's start, else since this screen was opened."""
    start = watch.day_start(found.account)
    if start is not None and found.equity is not None and start.day == moment.feed.date():
        return Text("day ").append_text(signed(found.equity - found.net_flows - start.pnl))
    begun = watch.since.get(found.account)
    if begun is None or found.total_pnl is None:
        return Text()
    return Text(f"since {begun.at:%H:%M} ").append_text(signed(found.total_pnl - begun.total_pnl))


# ---- positions ------------------------------------------------------------------------------------------

_POSITIONS = (
    Column("POSITIONS"),
    Column("account", drop=3),
    Column("quantity", numbers=True),
    Column("avg cost", numbers=True, drop=4),
    Column("mark", numbers=True),
    Column("age", drop=2),
    Column("value", numbers=True, drop=1),
    Column("unrealized", numbers=True),
    Column("%", numbers=True, drop=5),
    Column("realized", numbers=True, drop=6),
)


def positions_table(watch: Watch, accounts: Sequence[str], moment: Moment, width: int | None) -> Table:
    """The open positions and their totals (those of all symbols of the accounts, closed ones too)."""
    found = watch.positions(accounts)
    columns, skip = _without_account(_POSITIONS, accounts)
    cells = [_chosen(_position_cells(row, watch, moment), skip) for row in found]
    return lay_out(columns, cells, width=width, total=_chosen(_position_totals(watch, accounts), skip))


def _position_cells(row: PositionRow, watch: Watch, moment: Moment) -> list[Text]:
    return [
        Text(row.symbol, style="bold"),
        Text(row.account),
        Text(number(row.quantity, most=8)),
        Text(price(row.average_cost)),
        Text(price(row.mark_price)),
        mark_age(watch.heard_at(row.symbol), row.mark_time, moment.wall),
        Text(money(row.market_value)),
        signed(row.unrealized_pnl),
        percent(row.pnl_percent),
        signed(row.realized_pnl),
    ]


def _position_totals(watch: Watch, accounts: Sequence[str]) -> list[Text]:
    """Sums over accounts only when these have the same currency."""
    found = [watch.portfolios[name] for name in accounts if name in watch.portfolios]
    blank = Text()
    if not found or len({row.currency for row in found}) > 1:
        return [Text("total"), *[blank] * 5, *[Text(MISSING)] * 4]
    value = _sum([row.market_value for row in found])
    unrealized = _sum([row.unrealized_pnl for row in found])
    realized = _sum([row.realized_pnl for row in found])
    share = None
    if value is not None and unrealized is not None and value - unrealized:
        share = divide(unrealized * 100, abs(value - unrealized), 4)
    values = [Text(money(value)), signed(unrealized), percent(share), signed(realized)]
    for cell in values:
        cell.stylize("bold")
    return [Text("total", style="bold"), *[blank] * 5, *values]


def _sum(values: Sequence[Decimal | None]) -> Decimal | None:
    total = ZERO
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _without_account(columns: Sequence[Column], accounts: Sequence[str]) -> tuple[list[Column], int | None]:
    """With one account its name is in the title; the column's index when it is left out."""
    if len(accounts) > 1:
        return list(columns), None
    index = next(index for index, column in enumerate(columns) if column.title == "account")
    return [column for column in columns if column.title != "account"], index


def _chosen(cells: list[Text], skip: int | None) -> list[Text]:
    return cells if skip is None else [cell for index, cell in enumerate(cells) if index != skip]


# ---- bots -----------------------------------------------------------------------------------------------

_BOTS = (
    Column("BOTS"),
    Column("account", drop=8),
    Column("symbol", drop=2),
    Column("status"),
    Column("temp", drop=3),
    Column("sell | buy"),
    Column("score", numbers=True, drop=1),
    Column("side", drop=4),
    Column("at work", grow=True),
)


def bots_table(watch: Watch, accounts: Sequence[str], moment: Moment, width: int | None) -> Table:
    """The bots with what they think and what holds them up."""
    columns, skip = _without_account(_BOTS, accounts)
    half = BAR if width is not None and width < _ROOMY else 2 * BAR
    cells = [_chosen(_bot_cells(row, moment, half), skip) for row in watch.bots(accounts)]
    return lay_out(columns, cells, width=width)


def _bot_cells(row: BotRow, moment: Moment, half: int) -> list[Text]:
    advice = row.advice
    temperature = MISSING if advice is None else advice.temperature
    score = None if advice is None else advice.score
    side = MISSING if advice is None else advice.side
    return [
        Text(row.bot, style="bold"),
        Text(row.account),
        Text(row.symbol),
        Text(row.status.lower(), style=_STATUSES.get(row.status, "")),
        Text(temperature.lower(), style=_TEMPERATURES.get(temperature, "")),
        score_bar(score, half, None if advice is None else advice.threshold),
        Text(MISSING if score is None else f"{score:+.2f}"),
        Text(side.lower() if side == "HOLD" else side, style=_SIDES.get(side, QUIET)),
        at_work(row, moment),
    ]


_WAITS = {
    "stop": "a stop is at work",
    "answer": "waits for an answer",
    "backoff": "pause after a refusal",
    "next_candle": "waits for the next candle",
    "cash": "no cash",
    "position": "no position for it",
}


def at_work(row: BotRow, moment: Moment) -> Text:
    """What a bot waits for: confirmation, its cooldown, a candle, an operator; and where its stops stand."""
    if row.status == "ERROR" and row.last_error:
        return Text(row.last_error, style="red")
    if row.status != "RUNNING":
        return Text(f"{row.status.lower()} since {moment.text(row.since)}", style=QUIET)
    parts = [_waiting(row.advice), _stops_text(row.stops)]
    return Text("  ").join(part for part in parts if part)


def _waiting(advice: AdviceRow | None) -> Text:
    if advice is None:
        return Text("waits for a candle", style=QUIET)
    if advice.ready_to_trade:
        return Text("order sent", style="bold")
    feed = Moment(advice.decided_at, advice.decided_at)
    wait = advice.waiting_for
    if wait == "confirmation" and advice.confirmation_due is not None:
        return Text(f"confirms until {feed.text(advice.confirmation_due)}")
    if wait == "cooldown" and advice.cooldown_until is not None:
        left = (advice.cooldown_until - advice.decided_at).total_seconds()  # in the feed's time, the bots' own
        return Text(f"cooldown, {age(left)} left")
    if wait is not None:
        return Text(_WAITS.get(wait, wait.replace("_", " ")))
    if advice.confirmed_since is not None:
        return Text(f"confirmed {feed.text(advice.confirmed_since)}")
    return Text()


def _stops_text(stops: StopsRow | None) -> Text:
    if stops is None:
        return Text()
    if stops.triggered is not None:
        return Text(f"{stops.triggered.replace('_', ' ')} closes the position", style="bold yellow")
    levels = (("stop", stops.stop_loss), ("trail", stops.trailing_stop), ("target", stops.take_profit))
    return Text(" ".join(f"{name} {price(level)}" for name, level in levels if level is not None), style="cyan")


# ---- trades ---------------------------------------------------------------------------------------------

_TRADES = (
    Column("TRADES"),
    Column("account", drop=3),
    Column("side"),
    Column("quantity", numbers=True),
    Column("symbol"),
    Column("price", numbers=True),
    Column("realized", numbers=True, drop=1),
    Column("by", drop=2, grow=True),
)


def trades_table(
    watch: Watch, accounts: Sequence[str], moment: Moment, width: int | None, most: int | None = None
) -> Table:
    """The last trades, the newest first; at most `most`."""
    columns, skip = _without_account(_TRADES, accounts)
    found = watch.trades(accounts) if most is None else watch.trades(accounts, most)
    return lay_out(columns, [_chosen(_trade_cells(row, moment), skip) for row in found], width=width)


def _trade_cells(row: TradeRow, moment: Moment) -> list[Text]:
    return [
        Text(moment.text(row.executed_at), style=QUIET),
        Text(row.account),
        Text(row.side, style=_SIDES.get(row.side, "")),
        Text(number(row.quantity, most=8)),
        Text(row.symbol),
        Text(price(row.price)),
        Text("") if row.realized_pnl is None else signed(row.realized_pnl),
        Text(row.triggered_by),
    ]
