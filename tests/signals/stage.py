"""A stage for the signals service: a real SQLite database in memory, an inline writer, a clock that is told."""

import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine, create_engine, insert
from sqlalchemy.pool import StaticPool

from config.instruments import default_instrument
from config.toml_errors import TomlDocument
from execution import tables as execution_tables
from execution.ledger import LedgerTail, NewCashFlow, NewTrade, add_account, add_instrument
from execution.model import (
    Account,
    Candle,
    CashFlowKind,
    FactsRecorded,
    OrderRequest,
    Reason,
    Responded,
    ResponseStatus,
    Source,
    Trade,
    trade_cash_effect,
)
from execution.writer import InlineReader, InlineWriter
from signals import tables
from signals.bot_file import BotFile
from signals.loading import check_bot
from signals.model import Recommendation
from signals.service import Output, SignalsService

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def bot(text: str, **overrides: object) -> BotFile:
    """A bot from the text of its file."""
    found, faults = check_bot(TomlDocument.parse(text, "bot.toml"), overrides)
    assert found is not None, [str(fault) for fault in faults]
    return found


SMA = 'name = "sma"\nclass = "sma-cross"\nsymbol = "BTC-USD"\nfast = 3\nslow = 7\nquantity = 1\n'
WEIGHTED = """
name = "weighted"
symbol = "BTC-USD"
threshold = 0.05
confirmation_minutes = 2
cooldown_minutes = 3
signals = [
  {function = "RSI", weight = 0.4},
  {function = "MACD", weight = 0.3},
  {function = "SMA", mapper = "cross", weight = 0.3},
]
"""


def candle(
    minute: int, close: Any, *, symbol: str = "BTC-USD", volume: Any = 5, spread: Any = 0, timeframe: str = "1m"
) -> Candle:
    """A candle that opens `minute` minutes after the start and closes at `close`."""
    price, half = Decimal(str(close)), Decimal(str(spread))
    return Candle(
        symbol, timeframe, START + minute * MINUTE, price, price + half, price - half, price, Decimal(str(volume))
    )


def walk(count: int, seed: int, *, symbol: str = "BTC-USD", step: float = 1.0, first: int = 0) -> list[Candle]:
    """A random walk of one-minute candles, with ties now and then."""
    dice = random.Random(seed)
    price = 100.0
    found = []
    for minute in range(first, first + count):
        if dice.random() > 0.15:
            price = max(5.0, price + dice.gauss(0, step))
        spread = round(abs(dice.gauss(0, step)), 2)
        found.append(candle(minute, round(price, 2), symbol=symbol, spread=min(spread, 1)))
    return found


class ToldClock:
    """A clock that stands until it is told."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def recorded_now(self) -> datetime:
        return self.time


class Stage:
    """Everything around a service; `restart` makes a new service over the same database."""

    def __init__(self, bots: Sequence[BotFile], *, cash: str = "10000", **options: Any) -> None:
        self.engine: Engine = create_engine("sqlite://", poolclass=StaticPool)
        execution_tables.metadata.create_all(self.engine)
        tables.metadata.create_all(self.engine)
        self.clock = ToldClock()
        self.writer = CountingWriter(self.engine, commit_each=True)
        self.reader = InlineReader(self.writer)
        self.tail = LedgerTail()
        self.bots = list(bots)
        self.options = options
        self._fills = 0
        with self.engine.begin() as connection:
            connection.execute(
                insert(execution_tables.ledger_head).values(id=1, sequence=0, hash=execution_tables.GENESIS_HASH)
            )
            add_account(connection, Account("main"), START)
        for symbol in ("BTC-USD", "ETH-USD"):
            self._instrument(symbol)
        self._append(NewCashFlow("main", CashFlowKind.DEPOSIT, Decimal(cash), "USD", START, "manual", "opening"))
        self.service = self.new_service()

    def _instrument(self, symbol: str) -> None:
        with self.engine.begin() as connection:
            add_instrument(connection, default_instrument(symbol))

    def _append(self, fact: Any) -> FactsRecorded:
        with self.engine.begin() as connection:
            self.tail.begin()
            append = self.tail.append_flow if isinstance(fact, NewCashFlow) else self.tail.append_trade
            recorded = append(connection, fact, START)
            self.tail.before_commit(connection)
        assert recorded is not None
        return FactsRecorded((recorded,))

    def new_service(self) -> SignalsService:
        return SignalsService(self.bots, self.writer, self.reader, self.clock, **self.options)

    async def restart(self) -> list[Output]:
        self.service = self.new_service()
        return await self.service.start()

    async def fill(self, request: OrderRequest, price: Decimal, at: datetime) -> None:
        """Fill a request whole, tell the service the fact, then the final answer."""
        self._fills += 1
        held = self.service.holdings.quantity(request.account, request.symbol)
        quantity = held if request.close else request.quantity
        if quantity is None:
            assert request.notional is not None
            quantity = (request.notional / price).quantize(Decimal("0.00000001"))
        recorded = self._append(
            NewTrade(
                id=f"trade-{self._fills}",
                account=request.account,
                symbol=request.symbol,
                side=request.side,
                quantity=quantity,
                price=price,
                executed_at=at,
                fee=Decimal(0),
                fee_asset="USD",
                cash_effect=trade_cash_effect(request.side, quantity, price),
                venue="paper",
                source=Source.EXCHANGE,
                triggered_by=request.triggered_by,
                venue_trade_id=str(self._fills),
                venue_sequence=self._fills,
            )
        )
        await self.service.on_facts(recorded)
        trade = recorded.facts[0]
        assert isinstance(trade, Trade)
        await self.service.on_response(
            Responded("main", request.request_id, ResponseStatus.FILLED, True, trades=(trade,))
        )

    async def refuse(self, request: OrderRequest) -> None:
        """Refuse a request."""
        await self.service.on_response(
            Responded("main", request.request_id, ResponseStatus.REFUSED, True, Reason("insufficient_cash"))
        )


class CountingWriter(InlineWriter):
    """An inline writer that counts its works, and fails when told to."""

    works = 0
    broken: Exception | None = None

    def submit(self, work: Any) -> Any:
        if self.broken is not None:
            raise self.broken
        self.works += 1
        return super().submit(work)


def advices(outputs: Iterable[Output]) -> list[Recommendation]:
    return [output for output in outputs if isinstance(output, Recommendation)]


def requests(outputs: Iterable[Output]) -> list[OrderRequest]:
    return [output for output in outputs if isinstance(output, OrderRequest)]


async def play(stage: Stage, candles: Sequence[Candle]) -> list[Output]:
    """Candles in order; each request is filled at the open of the next candle of its symbol."""
    outputs: list[Output] = []
    waiting: list[OrderRequest] = list(stage.service.open_requests())
    for one in candles:
        for request in [request for request in waiting if request.symbol == one.symbol]:
            waiting.remove(request)
            await stage.fill(request, one.open, one.time)
        new = await stage.service.on_candle(one)
        outputs += new
        waiting += requests(new)
    return outputs
