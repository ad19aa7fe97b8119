"""The live lines of `fillbook demo`: what the daemon says, as a person wants to read it."""

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

from rich.text import Text

from config.exact import ZERO
from execution.model import AlertRaised, CashFlow, OrderChanged, Responded, ResponseStatus, Severity, Side, Trade
from portfolio.position import Portfolio, PortfolioChanged
from runtime.app import Started
from runtime.bot_reload import BotChanged
from runtime.cli import output
from signals.model import BotState, BotStatus

_REFUSALS = (ResponseStatus.REFUSED, ResponseStatus.REJECTED, ResponseStatus.EXPIRED)
_STYLES = {Side.BUY: "green", Side.SELL: "magenta"}
_MOST_REQUESTS = 10_000
_MOST_LINES = 10_000
_GOODBYE_SECONDS = 2.0


class LiveView:
    """Prints one line for each thing that matters. A trade waits for the portfolio that includes it, so that
    its line can say what the trade led to."""

    def __init__(self, *, synthetic: bool, account: str, base_topic: str, symbol: str, hint: str = "") -> None:
        self._synthetic = synthetic
        self._account = account
        self._base_topic = base_topic
        self._symbol = symbol
        self._hint = hint
        self._console = output.console()
        self._lines: queue.Queue[Text | None] = queue.Queue(_MOST_LINES)
        self._writer = threading.Thread(target=self._write_lines, name="fillbook-live", daemon=True)
        self._writer.start()
        self._waiting: list[Trade] = []
        self._realized: dict[tuple[str, str], Decimal] = {}
        self._equity: Decimal | None = None
        self._trades = 0
        self._statuses: dict[str, BotStatus] = {}
        self._who: dict[str, str] = {}
        self._early: list[Text] | None = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            Started: self._on_started,
            Trade: self._on_trade,
            CashFlow: self._on_flow,
            PortfolioChanged: lambda changed: self._on_portfolio(changed.portfolio),
            BotState: self._on_bot,
            BotChanged: self._on_bot_changed,
            AlertRaised: self._on_alert,
            OrderChanged: self._on_order,
            Responded: self._on_response,
        }

    def observe(self, message: object) -> None:
        """Take whatever the daemon published."""
        handler = self._handlers.get(type(message))
        if handler is not None:
            handler(message)

    def goodbye(self) -> None:
        """The daemon has stopped."""
        for trade in self._waiting:
            self._say(self._trade_line(trade))
        count = "1 trade" if self._trades == 1 else f"{self._trades} trades"
        equity = "" if self._equity is None else f", equity {output.money(self._equity)}"
        self._print(Text(f"Stopped after {count}{equity}. The books stay; the next start continues them."))
        with suppress(queue.Full):
            self._lines.put_nowait(None)
            self._writer.join(_GOODBYE_SECONDS)

    # ---- what is said ---------------------------------------------------------------------------------

    def _on_started(self, started: Started) -> None:
        topic = f"{self._base_topic}/v1/{self._account}/request/trade"
        local = started.broker_host in ("127.0.0.1", "localhost", "0.0.0.0")  # noqa: S104 - compared, not bound
        where = "" if local else f" -h {started.broker_host}"
        where += "" if started.broker_port == 1883 else f" -p {started.broker_port}"
        body = f'{{"symbol":"{self._symbol}","side":"BUY","notional":"50"}}'
        feed = started.feed
        if self._synthetic:
            feed += " - invented, no market is behind them"
        bots = "1 bot" if started.bots == 1 else f"{started.bots} bots"
        lines = [
            ("Fillbook demo", f"{bots}, paper money, ready after {started.seconds:.1f} s"),
            ("candles", feed),
            ("books", started.database.removeprefix("sqlite:///")),
            ("broker", f"mqtt://{started.broker_host}:{started.broker_port}"),
            ("by hand", f"mosquitto_pub{where} -t {topic} -m '{body}'"),
            ("", f"./run fillbook trade {self._symbol} BUY --notional 50{self._hint}"),
            ("look", f"./run fillbook portfolio{self._hint}   (also: trades, orders, bots, status, verify)"),
            ("stop", "Ctrl-C"),
        ]
        for name, text in lines:
            style = "bold yellow" if name == "candles" and self._synthetic else ""
            self._print(Text.assemble((f"{name:<14}", "bold"), (text, style)))
        self._print(Text())
        early, self._early = self._early or [], None
        for line in early:
            self._print(line)

    def _on_trade(self, trade: Trade) -> None:
        self._waiting.append(trade)

    def _on_portfolio(self, portfolio: Portfolio) -> None:
        if portfolio.account == self._account:
            self._equity = portfolio.equity
        ready = [t for t in self._waiting if t.account == portfolio.account and t.sequence <= portfolio.sequence]
        self._waiting = [trade for trade in self._waiting if trade not in ready]
        last_sell = {trade.symbol: trade.id for trade in ready if trade.side is Side.SELL}
        for trade in ready:
            realized = None
            if last_sell.get(trade.symbol) == trade.id:
                realized = self._realized_since(portfolio, trade.symbol)
            self._say(self._trade_line(trade, portfolio, realized))
        for position in portfolio.positions:
            self._realized[portfolio.account, position.symbol] = position.realized_pnl

    def _realized_since(self, portfolio: Portfolio, symbol: str) -> Decimal | None:
        """What the symbol has realized since the last portfolio; None when that one was not seen, or when a part of
        what it realized is unknown: it could be this part."""
        now = next((p for p in portfolio.positions if p.symbol == symbol), None)
        before = self._realized.get((portfolio.account, symbol))
        return None if before is None or now is None or now.incomplete else now.realized_pnl - before

    def _trade_line(self, trade: Trade, portfolio: Portfolio | None = None, realized: Decimal | None = None) -> Text:
        self._trades += 1
        line = Text.assemble(
            (f"{trade.executed_at:%m-%d %H:%M:%S}  ", "dim"),
            (f"{trade.triggered_by:<18} ", "bold"),
            (f"{trade.side:<4} ", _STYLES[trade.side]),
            f"{output.number(trade.quantity):>12} {trade.symbol:<8} @ {output.price(trade.price):>10}",
            (f"  fee {output.money(trade.fee)}", "dim"),
        )
        if realized is not None:
            line.append("  P&L ").append(output.signed(realized))
        if portfolio is not None:
            held = next((p.quantity for p in portfolio.positions if p.symbol == trade.symbol), ZERO)
            line.append(f"  -> holds {output.number(held)}, equity {output.money(portfolio.equity)}")
        return line

    def _on_flow(self, flow: CashFlow) -> None:
        text = f"{flow.kind} {output.money(flow.amount)} {flow.currency}" + (f" ({flow.note})" if flow.note else "")
        self._say(
            Text.assemble((f"{flow.effective_at:%m-%d %H:%M:%S}  ", "dim"), (f"{flow.triggered_by:<18} "), text)
        )

    def _on_bot(self, state: BotState) -> None:
        if self._statuses.get(state.bot) is state.status:
            return
        self._statuses[state.bot] = state.status
        style = {BotStatus.RUNNING: "green", BotStatus.ERROR: "bold red"}.get(state.status, "yellow")
        line = Text.assemble(
            (f"{state.since:%m-%d %H:%M:%S}  ", "dim"),
            (f"bot:{state.bot:<14} ", "bold"),
            (str(state.status), style),
            f" on {state.symbol}",
        )
        if state.last_error:
            line.append(f": {state.last_error}")
        self._say(line)

    def _on_bot_changed(self, change: BotChanged) -> None:
        if change.what == "removed":
            self._statuses.pop(change.bot, None)
        style = "yellow" if change.what == "removed" else "cyan"
        self._say(
            Text.assemble((f"bot:{change.bot:<14} ", "bold"), (change.what, style), f" by its file {change.file}")
        )

    def _on_alert(self, alert: AlertRaised) -> None:
        style = "bold red" if alert.severity is Severity.HIGH else "yellow"
        self._say(Text(f"ALERT  {alert.code}: {alert.message}", style=style))

    def _on_order(self, changed: OrderChanged) -> None:
        order = changed.order
        if len(self._who) >= _MOST_REQUESTS:
            self._who.clear()
        self._who[order.request_id] = f"{order.triggered_by} {order.side} {order.symbol}"
        if order.status.is_final and order.reason is None:
            del self._who[order.request_id]

    def _on_response(self, response: Responded) -> None:
        if response.status in _REFUSALS:
            who = self._who.pop(response.request_id, f"request {response.request_id}")
            reason = "" if response.reason is None else f" ({response.reason})"
            self._say(Text(f"{who}: {response.status}{reason}", style="yellow"))

    # ---- printing -------------------------------------------------------------------------------------

    def _say(self, line: Text) -> None:
        """A line of the feed; the header comes first."""
        if self._early is not None:
            self._early.append(line)
        else:
            self._print(line)

    def _print(self, line: Text) -> None:
        with suppress(queue.Full):  # a terminal that stands still must not hold up trading
            self._lines.put_nowait(line)

    def _write_lines(self) -> None:
        """In its own thread: a pipe that nobody reads blocks its writer."""
        while (line := self._lines.get()) is not None:
            with suppress(BrokenPipeError, ValueError):  # nobody looks any more; the daemon goes on
                self._console.print(line, soft_wrap=True)
