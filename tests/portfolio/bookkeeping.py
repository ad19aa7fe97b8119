"""Words for tests: trades by the line, a ledger in memory, a ledger in a real SQLite database."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, event, insert

from execution import guards, ledger, sqlite_decimals, tables
from execution.model import (
    Account,
    AccountMode,
    CashFlow,
    CashFlowKind,
    Fact,
    FactsRecorded,
    Side,
    Source,
    Trade,
    trade_cash_effect,
)
from execution.ports import Reader, Writer
from execution.writer import InlineReader, InlineWriter
from portfolio import tables as portfolio_tables
from portfolio import views
from portfolio.books import FillOutcome
from portfolio.service import PortfolioService

FactT = TypeVar("FactT", Trade, CashFlow)
START = datetime(2026, 1, 1, 10, 0, tzinfo=UTC)
SPOT = Account("main")
MARGIN = Account("margin", mode=AccountMode.MARGIN)
ACCOUNTS = {account.name: account for account in (SPOT, MARGIN)}


def at(minutes: float) -> datetime:
    """Minutes after 10:00."""
    return START + timedelta(minutes=minutes)


class _StoppedClock:
    """A clock that stands at the start."""

    def now(self) -> datetime:
        return START

    def recorded_now(self) -> datetime:
        return START


CLOCK = _StoppedClock()


class Line:
    """Facts in memory, in sequence order, with their hash chain."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def _next(self) -> tuple[int, str]:
        return len(self.facts) + 1, self.facts[-1].hash if self.facts else tables.GENESIS_HASH

    def trade(
        self,
        side: Side,
        quantity: str,
        price: str,
        *,
        minute: float | None = None,
        fee: str = "0",
        fee_asset: str = "USD",
        account: str = "main",
        symbol: str = "BTC-USD",
        triggered_by: str = "manual",
    ) -> Trade:
        """The next trade; `minute` defaults to one minute per fact."""
        sequence, previous = self._next()
        fee_in_cash = Decimal(fee) if fee_asset == "USD" else Decimal(0)
        executed_at = at(sequence if minute is None else minute)
        values: dict[str, Any] = {
            "id": f"t{sequence}",
            "sequence": sequence,
            "account": account,
            "symbol": symbol,
            "side": side,
            "quantity": Decimal(quantity),
            "price": Decimal(price),
            "executed_at": executed_at,
            "recorded_at": executed_at,
            "fee": Decimal(fee),
            "fee_asset": fee_asset,
            "cash_effect": trade_cash_effect(side, Decimal(quantity), Decimal(price), fee_in_cash),
            "order_id": None,
            "venue": "paper",
            "venue_trade_id": str(sequence),
            "venue_sequence": sequence,
            "order_type": None,
            "source": Source.EXCHANGE,
            "triggered_by": triggered_by,
            "signal_context": None,
            "corrects": None,
        }
        return self._add(Trade(**values, hash=ledger.content_hash(Trade(**values, hash=""), previous)))

    def take_back(self, trade: Trade) -> Trade:
        """The compensating entry of a trade."""
        sequence, previous = self._next()
        entry = replace(
            trade,
            id=f"t{sequence}",
            sequence=sequence,
            side=Side.SELL if trade.side is Side.BUY else Side.BUY,
            fee=-trade.fee,
            cash_effect=-trade.cash_effect,
            venue_trade_id=str(sequence),
            venue_sequence=sequence,
            source=Source.MANUAL,
            corrects=trade.id,
            hash="",
        )
        return self._add(replace(entry, hash=ledger.content_hash(entry, previous)))

    def buy(self, quantity: str, price: str, **more: Any) -> Trade:
        """The next trade, a buy."""
        return self.trade(Side.BUY, quantity, price, **more)

    def sell(self, quantity: str, price: str, **more: Any) -> Trade:
        """The next trade, a sell."""
        return self.trade(Side.SELL, quantity, price, **more)

    def flow(self, kind: CashFlowKind, amount: str, account: str = "main") -> CashFlow:
        """The next cash flow."""
        sequence, previous = self._next()
        values: dict[str, Any] = {
            "id": f"f{sequence}",
            "sequence": sequence,
            "account": account,
            "kind": kind,
            "amount": Decimal(amount),
            "currency": "USD",
            "effective_at": at(sequence),
            "recorded_at": at(sequence),
            "triggered_by": "manual",
            "idempotency_key": str(sequence),
            "note": None,
        }
        return self._add(CashFlow(**values, hash=ledger.content_hash(CashFlow(**values, hash=""), previous)))

    def deposit(self, amount: str, account: str = "main") -> CashFlow:
        """The next cash flow, a deposit."""
        return self.flow(CashFlowKind.DEPOSIT, amount, account)

    def _add(self, fact: FactT) -> FactT:
        self.facts.append(fact)
        return fact


class Database:
    """A fresh SQLite database with the tables, guards and accounts, and its writer and reader."""

    def __init__(self, url: str = "sqlite://") -> None:
        self.engine = create_engine(url)
        event.listen(self.engine, "connect", lambda connection, _record: sqlite_decimals.register(connection))
        with self.engine.begin() as connection:
            tables.metadata.create_all(connection)
            portfolio_tables.metadata.create_all(connection)
            guards.create_guards(connection)
            views.create_views(connection)
            connection.execute(insert(tables.ledger_head).values(id=1, sequence=0, hash=tables.GENESIS_HASH))
            for account in ACCOUNTS.values():
                ledger.add_account(connection, account, START)
        self.writer = InlineWriter(self.engine, commit_each=True)
        self.reader = InlineReader(self.writer)

    def append(self, facts: Sequence[Fact]) -> None:
        """Store facts as they are (their sequences and hashes come from a `Line`)."""

        def work(connection: Connection) -> None:
            for fact in facts:
                table = tables.trades if isinstance(fact, Trade) else tables.cash_flows
                connection.execute(insert(table).values({c.name: getattr(fact, c.name) for c in table.columns}))
            connection.exec_driver_sql(
                "UPDATE ledger_head SET sequence = ?, hash = ?", (facts[-1].sequence, facts[-1].hash)
            )

        self.writer.submit(work)

    def run(self, sql: str) -> None:
        """Change the database behind everybody's back, guards dropped."""

        def work(connection: Connection) -> None:
            guards.drop_guards(connection)
            connection.exec_driver_sql(sql)
            guards.create_guards(connection)

        self.writer.submit(work)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A read on the writer's connection."""
        results: list[Connection] = []
        self.writer.submit(results.append)
        yield results[0]
        results[0].rollback()

    def close(self) -> None:
        """Close the connection."""
        self.writer.stop()
        self.engine.dispose()


def allow(_connection: Connection) -> None:
    """The fence of a role that is ours."""


def service_of(
    database: Database,
    *,
    writer: Writer | None = None,
    reader: Reader | None = None,
    checkpoint_facts: int | None = 1000,
    fence: Callable[[Connection], None] = allow,
) -> PortfolioService:
    """A service over a database, with a clock that stands."""
    return PortfolioService(
        writer or database.writer,
        reader or database.reader,
        CLOCK,
        checkpoint_facts=checkpoint_facts,
        fence=fence,
    )


async def started(database: Database) -> PortfolioService:
    """A service that has started."""
    service = service_of(database)
    await service.start()
    return service


async def deliver(service: PortfolioService, database: Database, facts: Sequence[Fact]) -> list[FillOutcome]:
    """Facts come into the ledger, and the service learns of them."""
    database.append(facts)
    return await service.on_facts(FactsRecorded(tuple(facts)))
