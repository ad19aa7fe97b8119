"""Replay: candle files through the same services as the daemon, over the memory bus, under the feed's clock.

Everything runs inline in one thread, so that two runs are the same to the last bit: `state_hash` covers the
trades, orders, lots and cash, without ids and wall-clock times.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection

from config.exact import plain
from config.settings import Settings
from config.times import time_text, timeframe_length
from execution import orders
from execution.model import AlertRaised, Candle, Order, OrderRequest, Reason, Responded, ResponseStatus, Trade
from execution.service import Envelope
from execution.tables import json_text
from execution.writer import InlineReader, InlineWriter
from portfolio.books import FillOutcome
from portfolio.equity import EquityCurve
from portfolio.position import Portfolio
from runtime.clock import ReplayClock
from runtime.composition import build_core, first_account, opening_deposit, spare_the_collector
from runtime.database import ensure_account, memory_engine, open_database, seed_catalogue, sqlite_url, upgrade
from runtime.feeding import open_books_to
from runtime.memory_bus import MessageBus
from signals.bot_file import BotFile
from signals.feeds.feed import Feed
from signals.model import Recommendation

FLUSH_EVERY = 4096
"""Candles that share one transaction: nobody has to be answered before the end."""

Progress = Callable[[int], None]
"""Told the number of candles done, every FLUSH_EVERY of them."""


class Client(Protocol):
    """Somebody beside the bots who asks for orders, as a person would by hand."""

    def ask(self, now: datetime) -> OrderRequest | None:
        """A request after a candle that closed at `now`, or None."""
        ...

    def answered(self, response: Responded) -> None:
        """An answer to anybody's request."""
        ...


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay did. Money in the account's currency; `seconds` is the time of the candles alone.

    `portfolio` is that of `account`, `others` are those of the other accounts that bots trade for.
    """

    account: str
    candles: int
    recommendations: int
    orders: int
    refused: int
    fills: int
    portfolio: Portfolio
    trades: tuple[tuple[Trade, Decimal | None], ...] = field(repr=False)  # asyncio.run may make a repr of its result
    state_hash: str
    seconds: float
    warnings: tuple[str, ...] = ()
    others: tuple[Portfolio, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """The JSON of `fillbook replay --json`."""
        totals = _totals_wire(self.portfolio)
        return {
            "account": self.account,
            "candles": self.candles,
            "recommendations": self.recommendations,
            "orders": self.orders,
            "refused": self.refused,
            "fills": self.fills,
            **totals,
            "accounts": [{"account": one.account, **_totals_wire(one)} for one in (self.portfolio, *self.others)],
            "trades": [_trade_wire(trade, realized) for trade, realized in self.trades],
            "state_hash": self.state_hash,
            "seconds": round(self.seconds, 6),
            "candles_per_second": round(self.candles / self.seconds) if self.seconds else None,
            "warnings": list(self.warnings),
        }


def _totals_wire(portfolio: Portfolio) -> dict[str, Any]:
    found = portfolio.to_wire()
    wanted = ("cash", "market_value", "equity", "realized_pnl", "unrealized_pnl", "fees", "positions")
    return {key: found[key] for key in wanted}


def _trade_wire(trade: Trade, realized: Decimal | None) -> dict[str, Any]:
    return {
        "account": trade.account,
        "executed_at": time_text(trade.executed_at),
        "symbol": trade.symbol,
        "side": str(trade.side),
        "quantity": plain(trade.quantity),
        "price": plain(trade.price),
        "fee": plain(trade.fee),
        "triggered_by": trade.triggered_by,
        "realized_pnl": None if realized is None else plain(realized),
    }


class Replay:
    """One run: the services, their books, and a tally of what passed by on the bus."""

    def __init__(
        self,
        settings: Settings,
        bots: Sequence[BotFile],
        feed: Feed,
        *,
        cash: Decimal,
        database: Path | None = None,
        curve: EquityCurve | None = None,
        client: Client | None = None,
    ) -> None:
        self._settings = settings
        self._bots = bots
        self._feed = feed
        self._cash = cash
        self._curve = curve
        self._client = client
        self._engine = (
            memory_engine() if database is None else open_database(sqlite_url(database), synchronous="NORMAL")
        )
        if database is None:
            upgrade(self._engine)
        self._writer = InlineWriter(self._engine)
        self._clock = ReplayClock()
        self._bus = MessageBus()
        self._core = build_core(
            settings,
            writer=self._writer,
            reader=InlineReader(self._writer),
            clock=self._clock,
            bots=bots,
            publish=self._bus.publish,
            flush_every=FLUSH_EVERY,
            run_disabled=True,
            keep_candles=database is not None,  # books in memory have no restart to warm indicators for
        )
        self._core.outcomes = self._booked
        self._bus.subscribe(OrderRequest, self._on_request)
        self._bus.tap(Recommendation, self._on_recommendation)
        self._bus.tap(Responded, self._on_response)
        self._bus.tap(AlertRaised, self._on_alert)
        self._candles = self._recommendations = 0
        self._asking = ""
        self._refusals: dict[tuple[str, str], list[Reason]] = {}
        self._failed: list[str] = []
        self._trades: list[tuple[Trade, Decimal | None]] = []

    async def run(self, progress: Progress | None = None) -> ReplayResult:
        """Run the whole feed once. Raises CandleFileInvalid where a file is bad."""
        try:
            after = await self._writer.submit(self._prepare)
            candles = self._feed.candles(after)
            await self._core.start()
            await self._bus.drain()
            spare_the_collector()
            started = time.perf_counter()
            await self._play(candles, progress)
            seconds = time.perf_counter() - started
            return await self._result(seconds)
        finally:
            if self._core.signals is not None:
                self._core.signals.close()
            self._writer.stop()
            self._engine.dispose()

    async def _play(self, candles: Iterable[Candle], progress: Progress | None) -> None:
        core, bus, clock, curve, client = self._core, self._bus, self._clock, self._curve, self._client
        assert core.signals is not None
        lengths = {symbol: timeframe_length(self._feed.timeframe(symbol)) for symbol in self._feed.symbols}
        count = 0
        for candle in candles:
            closes_at = candle.time + lengths[candle.symbol]
            clock.advance(closes_at)
            await core.on_candle(candle)
            await bus.drain()
            if curve is not None:
                curve.on_candle(candle, closes_at)
            if client is not None:
                await self._let_ask(client, closes_at)
            count += 1
            if not count % FLUSH_EVERY:
                self._writer.flush()
                if progress is not None:
                    progress(count)
        for output in await core.signals.flush():
            bus.publish(output)
        await bus.drain()
        self._writer.flush()
        self._candles = count

    async def _let_ask(self, client: Client, now: datetime) -> None:
        request = client.ask(now)
        if request is not None:
            self._bus.publish(request)
            await self._bus.drain()

    def _prepare(self, connection: Connection) -> dict[str, datetime]:
        seed_catalogue(connection)
        after = open_books_to(connection, self._feed, self._clock)
        first = first_account(self._settings)
        opening = opening_deposit(self._settings, self._cash, self._clock)
        for name in dict.fromkeys([first.name, *self._accounts()]):
            mine = None if opening is None else replace(opening, account=name)
            ensure_account(connection, replace(first, name=name), mine, self._clock.recorded_now())
        return after

    def _accounts(self) -> list[str]:
        """The accounts that bots trade for; a replay opens each like the first one, with as much cash."""
        return sorted({bot.account for bot in self._bots})

    # ---- what passes by -------------------------------------------------------------------------------

    async def _on_request(self, request: OrderRequest) -> None:
        # A policy's request id names bot, candle and decision: the same id is always the same body.
        self._asking = request.triggered_by
        await self._core.handle(Envelope(request, body_hash=request.request_id))

    def _booked(self, found: Sequence[FillOutcome]) -> None:
        self._trades += [(outcome.trade, outcome.realized_pnl) for outcome in found]
        if self._curve is not None:
            for outcome in found:
                self._curve.on_fill(outcome)

    def _on_recommendation(self, _advice: Recommendation) -> None:
        self._recommendations += 1

    def _on_response(self, response: Responded) -> None:
        if self._client is not None:
            self._client.answered(response)
        if response.status is ResponseStatus.REFUSED:
            assert response.reason is not None
            self._refusals.setdefault((self._asking, response.reason.code), []).append(response.reason)

    def _on_alert(self, alert: AlertRaised) -> None:
        if alert.code == "bot_failed":
            self._failed.append(f"{alert.message} (its candle closed at {time_text(self._clock.now())})")

    # ---- the result -----------------------------------------------------------------------------------

    async def _result(self, seconds: float) -> ReplayResult:
        assert self._core.portfolio is not None
        usual, names = self._settings.account.name, self._accounts()
        account = usual if usual in names or not names else names[0]
        portfolio = self._core.portfolio.portfolio(account)
        others = tuple(self._core.portfolio.portfolio(name) for name in names if name != account)
        placed = await self._writer.submit(orders.orders)
        return ReplayResult(
            account=account,
            candles=self._candles,
            recommendations=self._recommendations,
            orders=len(placed),
            refused=sum(map(len, self._refusals.values())),
            fills=len(self._trades),
            portfolio=portfolio,
            trades=tuple(self._trades),
            state_hash=state_hash((portfolio, *others), [trade for trade, _ in self._trades], placed),
            seconds=seconds,
            warnings=tuple(self._warnings()),
            others=others,
        )

    def _warnings(self) -> Iterator[str]:
        yield from self._failed
        for (tag, _code), reasons in self._refusals.items():
            times = "once" if len(reasons) == 1 else f"{len(reasons)} times"
            yield f"{tag} was refused {times}: {reasons[0]}"
        timeframes = {symbol: self._feed.timeframe(symbol) for symbol in self._feed.symbols}
        yield from filter(None, (saw_no_candle(bot, timeframes) for bot in self._bots))


def saw_no_candle(bot: BotFile, timeframes: Mapping[str, str]) -> str | None:
    """Why a bot sees no candle of files with these timeframes (by symbol); None when it sees some."""
    timeframe = timeframes.get(bot.symbol)
    if timeframe is None:
        return f"bot {bot.name} saw no candle: no file of {bot.symbol} was given (--candles {bot.symbol}=FILE)"
    if bot.timeframe in (None, timeframe):
        return None
    return f"bot {bot.name} saw no candle: it wants {bot.timeframe}, the candles of {bot.symbol} are {timeframe}"


def state_hash(portfolios: Sequence[Portfolio], trades: Sequence[Trade], placed: Sequence[Order]) -> str:
    """SHA-256 of the books: trades, orders, open lots and totals; no ids, no recorded_at, no timings."""
    digest = hashlib.sha256()

    def add(*fields: str | None) -> None:
        digest.update(json_text(list(fields)).encode() + b"\n")

    for trade in trades:
        add(
            "trade",
            trade.account,
            trade.symbol,
            trade.side,
            plain(trade.quantity),
            plain(trade.price),
            plain(trade.fee),
            trade.fee_asset,
            time_text(trade.executed_at),
            trade.triggered_by,
        )
    for order in sorted(placed, key=lambda o: (o.created_at, o.request_id)):
        add("order", order.account, order.symbol, order.side, order.status, order.triggered_by, order.request_id)
    for portfolio in portfolios:
        for position in portfolio.positions:
            add("position", position.symbol, plain(position.quantity), plain(position.cost_basis))
            for lot in position.open_lots:
                add("lot", plain(lot.quantity), plain(lot.cost_basis), time_text(lot.acquired_at))
        add("cash", portfolio.account, plain(portfolio.cash), plain(portfolio.realized_pnl), plain(portfolio.fees))
    return digest.hexdigest()
