"""The health of everything, in lines: halts and errors, who is there, the books, alerts, markets."""

from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.text import Text

from runtime.cli.output import MISSING, price
from runtime.watch.forms import Moment, mark_age
from runtime.watch.model import Market, Watch
from runtime.watch.rows import StatusRow
from runtime.watch.tables import GAP, QUIET, Column, lay_out

_MOST_WRAPPED = 4
_CONSOLE = Console(file=StringIO(), width=80)  # only asked for how to break lines


def health_lines(watch: Watch, moment: Moment, width: int | None = None) -> list[Text]:
    """What is wrong first, then who is there, the books, the alerts, the markets; long texts in several lines."""
    pairs = [
        *_halt_pairs(watch, moment),
        *_bot_pairs(watch),
        ("daemon", _daemon_text(watch, moment)),
        ("broker", _broker_text(watch, moment)),
        ("books", _books_text(watch)),
        *_message_pairs(watch),
        *_alert_pairs(watch, moment),
        *(("market", line) for line in _market_lines(watch, moment)),
        ("feed", Text(watch.feed or MISSING)),
    ]
    left = max(len(name) for name, _ in pairs) + GAP
    lines = []
    for name, text in pairs:
        for index, part in enumerate(_wrapped(text, None if width is None else max(10, width - left))):
            title = name if index == 0 else ""
            lines.append(Text.assemble((title.ljust(left), QUIET), part, no_wrap=True))
    return lines


def _wrapped(text: Text, width: int | None) -> Sequence[Text]:
    if width is None or text.cell_len <= width:
        return [text]
    free = text.copy()
    free.no_wrap = False
    return free.wrap(_CONSOLE, width)[:_MOST_WRAPPED]


def _bot_pairs(watch: Watch) -> list[tuple[str, Text]]:
    """Errors in full: in the table they are cut."""
    found = []
    for row in watch.bots(watch.accounts):
        if row.status == "ERROR":
            found.append(("ERROR", Text(f"{row.bot}: {row.last_error or 'no reason given'}", style="red")))
        if row.file_error:
            text = f"{row.bot} runs on as before, its file has a fault: {row.file_error}"
            found.append(("bot file", Text(text, style="yellow")))
    return found


def _halt_pairs(watch: Watch, moment: Moment) -> list[tuple[str, Text]]:
    found = []
    for account in watch.accounts:
        halt = watch.halted(account)
        if halt is not None:
            why = "" if halt.reason is None else f": {halt.reason}"
            text = f"{account} by {halt.by} at {moment.text(halt.at)}{why}"
            found.append(("HALTED", Text(text, style="bold red")))
    return found


def _status_text(name: str, status: StatusRow) -> Text:
    return Text(name, style="green") if status.online else Text(f"{name} offline", style="bold red")


def _daemon_text(watch: Watch, moment: Moment) -> Text:
    text = Text("not heard of", style="yellow")
    if watch.daemon is not None:
        state = "online" if watch.daemon.online else "offline"
        style = "" if watch.daemon.online else "bold red"
        text = Text(f"{state} since {moment.text(watch.daemon.time)}", style=style)
    for name in sorted(watch.services):
        text.append("  ").append_text(_status_text(name, watch.services[name]))
    return text


def _broker_text(watch: Watch, moment: Moment) -> Text:
    text = Text(watch.broker).append(" ")
    if watch.link.connected:
        text.append(f"connected since {moment.text(watch.link.since)}")
    else:
        text.append(f"not connected: {watch.link.reason or 'no answer yet'}", style="bold red")
    return text


def _message_pairs(watch: Watch) -> list[tuple[str, Text]]:
    """What could not be taken; nothing when there was no such message."""
    counts = ((watch.not_understood, "not understood"), (watch.left_out, "left out: too many different ones"))
    text = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    return [("messages", Text(text, style="yellow"))] if text else []


def _books_text(watch: Watch) -> Text:
    text = Text(f"sequence {MISSING if watch.sequence is None else format(watch.sequence, ',')}")
    if watch.books is not None:
        dead = watch.books.dead_letters
        text.append(f"  open orders {watch.books.open_orders:,}")
        text.append(f"  dead letters {dead:,}", style="yellow" if dead else "")
    if watch.books_problem is not None:
        text.append(f"  not readable: {watch.books_problem}", style="yellow")
    return text


def _alert_pairs(watch: Watch, moment: Moment) -> list[tuple[str, Text]]:
    found = []
    for alert in reversed(watch.alerts):
        about = "" if alert.account is None else f" {alert.account}"
        text = f"{moment.text(alert.time)}{about} {alert.code}: {alert.message}"
        found.append(("alert", Text(text, style="bold red" if alert.severity.lower() == "high" else "yellow")))
    return found[:5]


_MARKETS = (Column("symbol"), Column("price", numbers=True), Column("age"), Column("candle"))


def _market_lines(watch: Watch, moment: Moment) -> Sequence[Text]:
    cells = [_market_cells(watch.markets[symbol], moment) for symbol in sorted(watch.markets)]
    return lay_out(_MARKETS, cells, width=None).lines


def _market_cells(market: Market, moment: Moment) -> list[Text]:
    candle = ""
    if market.candle_time is not None:
        candle = f"{market.timeframe} {moment.text(market.candle_time)}"
    return [
        Text(market.symbol),
        Text(price(market.price)),
        mark_age(market.heard_at, market.time, moment.wall),
        Text(candle, style=QUIET),
    ]
