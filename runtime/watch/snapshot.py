"""The state as one JSON document and as plain text, for `fillbook watch --once`."""

from dataclasses import asdict, is_dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from rich.text import Text

from config.exact import plain
from config.times import time_text
from runtime.watch import panels
from runtime.watch.forms import moment_of
from runtime.watch.health import health_lines
from runtime.watch.model import Watch
from runtime.watch.rows import PortfolioRow
from runtime.watch.tables import Table

TRADES_SHOWN = 20


def snapshot(watch: Watch, now: datetime) -> dict[str, Any]:
    """Everything that the screen would show: decimals as plain strings, unknown null, times in Z."""
    accounts = watch.accounts
    return {
        "time": time_text(now),
        "base": watch.topics.root,
        "broker": watch.broker,
        "feed": watch.feed or None,
        "connection": _wire(watch.link),
        "daemon": _wire(watch.daemon),
        "services": _wire(watch.services),
        "accounts": [_account(watch, name) for name in accounts],
        "positions": _wire(watch.positions(accounts)),
        "bots": _wire(watch.bots(accounts)),
        "trades": _wire(watch.trades(accounts)),
        "markets": [_wire(watch.markets[symbol]) for symbol in sorted(watch.markets)],
        "alerts": _wire(watch.alerts),
        "ledger_sequence": watch.sequence,
        "dead_letters": None if watch.books is None else watch.books.dead_letters,
        "open_orders": None if watch.books is None else watch.books.open_orders,
        "messages": watch.messages,
        "not_understood": watch.not_understood,
        "left_out": watch.left_out,
    }


def _account(watch: Watch, name: str) -> dict[str, Any]:
    found = watch.portfolios.get(name)
    totals = _totals(found) if found is not None else None
    return {"account": name, "portfolio": totals, "halt": _wire(watch.halted(name))}


def _totals(portfolio: PortfolioRow) -> dict[str, Any]:
    """Without its positions, which have their own list, and with the name that it has everywhere."""
    totals: dict[str, Any] = _wire(portfolio)
    del totals["positions"]
    totals["return"] = totals.pop("return_ratio")
    return totals


def _wire(value: Any) -> Any:
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):
        return time_text(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _wire(item) for key, item in asdict(value).items()}
    if isinstance(value, dict):
        return {key: _wire(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_wire(item) for item in value]
    return value


def print_snapshot(watch: Watch, now: datetime) -> None:
    """The screen as text on stdout: to the width of a terminal, on a pipe as wide as it needs to be."""
    import sys

    from runtime.cli.output import console

    shown = console()
    width = shown.width if sys.stdout.isatty() else None
    for line in snapshot_lines(watch, now, width):
        shown.print(line, soft_wrap=True)


def snapshot_lines(watch: Watch, now: datetime, width: int | None) -> list[Text]:
    """The parts of the screen below each other."""
    accounts, moment = watch.accounts, moment_of(watch, now)
    lines = [
        panels.title_line(watch, accounts, moment, width),
        *panels.money_lines(watch, accounts, moment, width),
        Text(),
    ]
    for table, empty in (
        (panels.positions_table(watch, accounts, moment, width), "no open positions"),
        (panels.bots_table(watch, accounts, moment, width), "no bots"),
        (panels.trades_table(watch, accounts, moment, width, most=TRADES_SHOWN), "no trades yet"),
        (Table(Text("HEALTH", style="bold"), tuple(health_lines(watch, moment, width))), ""),
    ):
        lines += [table.heading, *(table.lines or (Text(empty),))]
        if table.total is not None and table.lines:
            lines.append(table.total)
        lines.append(Text())
    return lines[:-1]
