"""The state behind the screen: takes bus messages and what was read from the books, and can be asked for rows.

Pure: no bus, no terminal, no clock (callers say when a message arrived). Everything it keeps is bounded, however
many messages come; what it cannot understand is counted and passed over.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar

from config.exact import ZERO
from runtime.topics import Match, RouteName, Topics
from runtime.watch import rows
from runtime.watch.rows import (
    AdviceRow,
    AlertRow,
    BotRow,
    HaltRow,
    PortfolioRow,
    PositionRow,
    StatusRow,
    TradeRow,
)

V = TypeVar("V")

MOST_TRADES = 200
MOST_ALERTS = 50
MOST_FACTS = 1000
MOST_KEYS = 2000
"""Bots, accounts, symbols: more than this many of a kind are not kept; the count of what was left out is shown."""

ROUTES = (
    RouteName.STATUS,
    RouteName.SERVICE_STATUS,
    RouteName.CANDLE,
    RouteName.PRICE,
    RouteName.RECOMMENDATION,
    RouteName.BOT_STATE,
    RouteName.TRADE,
    RouteName.CASH_FLOW,
    RouteName.PORTFOLIO,
    RouteName.HALT,
    RouteName.ALERT,
    RouteName.SYSTEM_ALERT,
)
"""What the screen listens to. Positions come with their portfolio: then the parts add up to its totals."""


@dataclass(frozen=True, slots=True)
class Market:
    """What was last heard of a symbol. `heard_at` None: only a retained message so far, of unknown age."""

    symbol: str
    price: Decimal
    time: datetime
    timeframe: str | None = None
    candle_time: datetime | None = None
    heard_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """The connection to the broker, and since when it is as it is."""

    connected: bool = False
    since: datetime | None = None
    reason: str | None = None
    ever: bool = False


@dataclass(frozen=True, slots=True)
class DayStart:
    """What execution compares an account's daily loss with, when there is such a limit: equity less deposits."""

    account: str
    day: date
    pnl: Decimal


@dataclass(frozen=True, slots=True)
class BooksSeen:
    """What only the database knows, as last read."""

    sequence: int
    dead_letters: int
    open_orders: int
    trades: tuple[TradeRow, ...]
    halts: tuple[HaltRow, ...]
    days: tuple[DayStart, ...] = ()


@dataclass(frozen=True, slots=True)
class Since:
    """The total P&L of an account when the screen first saw it, or at the last midnight (UTC) it saw."""

    at: datetime
    total_pnl: Decimal


class Watch:
    """Everything on the screen. `revision` grows with each change, so that a screen knows when to paint."""

    def __init__(self, topics: Topics, *, default_account: str, broker: str = "", feed: str = "") -> None:
        self.topics = topics
        self.default_account = default_account
        self.broker = broker
        self.feed = feed
        self.link = Link()
        self.daemon: StatusRow | None = None
        self.services: dict[str, StatusRow] = {}
        self.portfolios: dict[str, PortfolioRow] = {}
        self.markets: dict[str, Market] = {}
        self.halts: dict[str, HaltRow] = {}
        self.alerts: list[AlertRow] = []
        self.books: BooksSeen | None = None
        self.books_problem: str | None = None
        self.since: dict[str, Since] = {}
        self.messages = 0
        self.not_understood = 0
        self.left_out = 0
        self.revision = 0
        self._sequence = 0
        self._bots: dict[str, BotRow] = {}
        self._advice: dict[str, AdviceRow] = {}
        self._trades: dict[str, TradeRow] = {}
        self._facts: dict[int, TradeRow | None] = {}
        """The last facts heard by sequence, None for those that are no trade: they explain a change of P&L."""
        self._readers: dict[RouteName, Callable[[Match, Any, bool, datetime], None]] = {
            RouteName.STATUS: self._take_status,
            RouteName.SERVICE_STATUS: self._take_service,
            RouteName.CANDLE: self._take_candle,
            RouteName.PRICE: self._take_price,
            RouteName.RECOMMENDATION: self._take_advice,
            RouteName.BOT_STATE: self._take_bot,
            RouteName.TRADE: self._take_trade,
            RouteName.CASH_FLOW: self._take_flow,
            RouteName.PORTFOLIO: self._take_portfolio,
            RouteName.HALT: self._take_halt,
            RouteName.ALERT: self._take_alert,
            RouteName.SYSTEM_ALERT: self._take_alert,
        }

    # ---- what comes in ----------------------------------------------------------------------------------

    def take(self, topic: str, payload: bytes, *, retained: bool, at: datetime) -> None:
        """One message of the bus, which arrived `at`. What cannot be understood is counted, never raised."""
        self.messages += 1
        self.revision += 1
        match = self.topics.parse(topic)
        reader = None if match is None else self._readers.get(match.route)
        if match is None or reader is None:
            self.not_understood += 1
            return
        if not payload:
            self._forget(match)
            return
        try:
            reader(match, json.loads(payload), retained, at)
        except (ValueError, RecursionError):
            self.not_understood += 1

    def take_books(self, found: BooksSeen | str) -> None:
        """What was read from the database, or why it could not be; then what was read before stays."""
        self.revision += 1
        if isinstance(found, str):
            self.books_problem = rows.clean(found)
            return
        self.books, self.books_problem = found, None
        self._sequence = max(self._sequence, found.sequence)
        for trade in found.trades:
            self._keep_trade(trade)
        for halt in found.halts:
            self._keep_halt(halt)

    def connected(self, at: datetime) -> None:
        """The broker is there (again). It sends all that it retains, so that old values are soon replaced."""
        self.revision += 1
        self.link = Link(connected=True, since=at, ever=True)

    def disconnected(self, reason: str, at: datetime) -> None:
        """The broker is gone."""
        self.revision += 1
        self.link = Link(connected=False, since=at, reason=rows.clean(reason), ever=self.link.ever)

    # ---- one reader for each route ----------------------------------------------------------------------

    def _take_status(self, _match: Match, body: Any, _retained: bool, at: datetime) -> None:
        self.daemon = _dated(rows.status_row(body), at)

    def _take_service(self, match: Match, body: Any, _retained: bool, at: datetime) -> None:
        self._put(self.services, match.service or "", _dated(rows.status_row(body), at))

    def _take_price(self, match: Match, body: Any, retained: bool, at: datetime) -> None:
        price, time = rows.price_time(body)
        self._heard(match.symbol or "", price, time, None if retained else at)

    def _take_candle(self, match: Match, body: Any, retained: bool, at: datetime) -> None:
        close, time = rows.candle_time(body)
        self._heard(match.symbol or "", close, time, None if retained else at)
        known = self.markets.get(match.symbol or "")
        if known is not None:
            self.markets[known.symbol] = replace(known, timeframe=match.timeframe, candle_time=time)

    def _heard(self, symbol: str, price: Decimal, time: datetime, heard_at: datetime | None) -> None:
        known = self.markets.get(symbol)
        if known is None:
            self._put(self.markets, symbol, Market(symbol, price, time, heard_at=heard_at))
        elif time >= known.time:
            self.markets[symbol] = replace(known, price=price, time=time, heard_at=heard_at or known.heard_at)
        else:  # an older one says nothing of the price, but that somebody speaks
            self.markets[symbol] = replace(known, heard_at=heard_at or known.heard_at)

    def _take_bot(self, match: Match, body: Any, _retained: bool, _at: datetime) -> None:
        row = replace(rows.bot_row(body), bot=match.bot or "")
        self._put(self._bots, row.bot, row)
        if row.advice is not None:
            self._newer_advice(row.bot, row.advice)

    def _take_advice(self, match: Match, body: Any, _retained: bool, _at: datetime) -> None:
        self._newer_advice(match.bot or "", rows.advice_row(body))

    def _newer_advice(self, bot: str, advice: AdviceRow) -> None:
        """States repeat the last advice that they know; an older one never replaces a newer one."""
        known = self._advice.get(bot)
        if known is None or advice.decided_at >= known.decided_at:
            self._put(self._advice, bot, advice)

    def _take_trade(self, match: Match, body: Any, _retained: bool, _at: datetime) -> None:
        trade = replace(rows.trade_row(body), account=match.account or "")
        if trade.id in self._trades:
            return
        self._note_fact(trade.sequence, trade)
        self._keep_trade(trade)

    def _take_flow(self, _match: Match, body: Any, _retained: bool, _at: datetime) -> None:
        self._note_fact(rows.sequence_of(body), None)

    def _note_fact(self, sequence: int, trade: TradeRow | None) -> None:
        self._sequence = max(self._sequence, sequence)
        self._facts[sequence] = trade
        if len(self._facts) > 2 * MOST_FACTS:
            self._facts = {number: self._facts[number] for number in sorted(self._facts)[-MOST_FACTS:]}

    def _keep_trade(self, trade: TradeRow) -> None:
        if trade.id in self._trades:
            return
        self._trades[trade.id] = trade
        if len(self._trades) > 2 * MOST_TRADES:
            newest = sorted(self._trades.values(), key=_by_sequence)[-MOST_TRADES:]
            self._trades = {kept.id: kept for kept in newest}

    def _take_portfolio(self, match: Match, body: Any, _retained: bool, at: datetime) -> None:
        row = rows.portfolio_row(body, match.account or "")
        known = self.portfolios.get(row.account)
        if known is not None and row.sequence < known.sequence:
            return  # a retained one that was overtaken
        if known is not None:
            self._explain(known, row)
        self._put(self.portfolios, row.account, row)
        self._sequence = max(self._sequence, row.sequence)
        self._begin_day(row, at)

    def _explain(self, before: PortfolioRow, now: PortfolioRow) -> None:
        """What a trade realized: the difference of two portfolios, when it is the symbol's only one between them, and
        nothing that the symbol realized is unknown (it could be a part of this).

        Sequences have no gaps, so it is known whether every fact between the two was heard.
        """
        between = range(before.sequence + 1, now.sequence + 1)
        if len(between) > MOST_FACTS or not all(number in self._facts for number in between):
            return
        trades: dict[str, list[TradeRow]] = {}
        for number in between:
            trade = self._facts[number]
            if trade is not None and trade.account == now.account:
                trades.setdefault(trade.symbol, []).append(trade)
        realized = {position.symbol: position.realized_pnl for position in before.positions}
        for position in now.positions:
            alone = trades.get(position.symbol, [])
            change = position.realized_pnl - realized.get(position.symbol, ZERO)
            if len(alone) == 1 and change and not position.incomplete and alone[0].id in self._trades:
                self._trades[alone[0].id] = rows.with_realized(alone[0], change)

    def _begin_day(self, row: PortfolioRow, at: datetime) -> None:
        known = self.since.get(row.account)
        if row.total_pnl is not None and (known is None or at.date() != known.at.date()):
            self.since[row.account] = Since(at, row.total_pnl)

    def _take_halt(self, match: Match, body: Any, _retained: bool, _at: datetime) -> None:
        self._keep_halt(replace(rows.halt_row(body), account=match.account or ""))

    def _keep_halt(self, row: HaltRow) -> None:
        known = self.halts.get(row.account)
        if known is None or row.at >= known.at:
            self._put(self.halts, row.account, row)

    def _take_alert(self, _match: Match, body: Any, _retained: bool, _at: datetime) -> None:
        self.alerts.append(rows.alert_row(body))
        del self.alerts[:-MOST_ALERTS]

    # ---- bounded ----------------------------------------------------------------------------------------

    def _put(self, kept: dict[Any, V], key: Any, row: V) -> None:
        if key in kept or len(kept) < MOST_KEYS:
            kept[key] = row
        else:
            self.left_out += 1

    def _forget(self, match: Match) -> None:
        """A retained message was cleared: what it spoke of is no more."""
        if match.route is RouteName.BOT_STATE:
            self._bots.pop(match.bot or "", None)
            self._advice.pop(match.bot or "", None)
        elif match.route is RouteName.PRICE:
            self.markets.pop(match.symbol or "", None)
        elif match.route is RouteName.PORTFOLIO:
            self.portfolios.pop(match.account or "", None)

    # ---- what can be shown ------------------------------------------------------------------------------

    @property
    def accounts(self) -> list[str]:
        """Every account that was heard of, the default one first; never empty."""
        others = {*self.portfolios, *self.halts, *(bot.account for bot in self._bots.values())}
        return [self.default_account, *sorted(others - {self.default_account})]

    @property
    def sequence(self) -> int | None:
        """The highest ledger sequence that was heard of."""
        return self._sequence or None

    @property
    def is_stale(self) -> bool:
        """Whether what is shown may be old: nobody renews it."""
        return not self.link.connected or (self.daemon is not None and not self.daemon.online)

    def halted(self, account: str) -> HaltRow | None:
        """The halt of an account, if it is halted."""
        found = self.halts.get(account)
        return found if found is not None and found.halted else None

    def positions(self, accounts: Iterable[str]) -> list[PositionRow]:
        """The open positions, by account and symbol."""
        found = [self.portfolios[name] for name in accounts if name in self.portfolios]
        rows_of = (position for portfolio in found for position in portfolio.positions if position.quantity)
        return sorted(rows_of, key=lambda row: (row.account, row.symbol))

    def bots(self, accounts: Iterable[str]) -> list[BotRow]:
        """The bots with their newest advice, by name."""
        wanted = set(accounts)
        found = [row for row in self._bots.values() if row.account in wanted]
        return [replace(row, advice=self._advice.get(row.bot)) for row in sorted(found, key=lambda row: row.bot)]

    def trades(self, accounts: Iterable[str], most: int = MOST_TRADES) -> list[TradeRow]:
        """The last trades, the newest first."""
        wanted = set(accounts)
        found = [row for row in self._trades.values() if row.account in wanted]
        return sorted(found, key=_by_sequence, reverse=True)[:most]

    def day_start(self, account: str) -> DayStart | None:
        """The start of the account's day, as last read from the database."""
        days = () if self.books is None else self.books.days
        return next((found for found in days if found.account == account), None)

    def heard_at(self, symbol: str) -> datetime | None:
        """When something was last heard of a symbol's market."""
        market = self.markets.get(symbol)
        return None if market is None else market.heard_at


def _by_sequence(trade: TradeRow) -> int:
    return trade.sequence


def _dated(status: StatusRow, at: datetime) -> StatusRow:
    """A last will knows no time: that of its arrival is the nearest to be had."""
    return status if status.time is not None else replace(status, time=at)
