"""Books that hold facts of every kind, and rows in every table: at the newest revision, and at any older one."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Connection

from config.instruments import default_instrument
from config.loading import load_settings
from execution import candles, ledger, totals
from execution.fees import dispose
from execution.ledger import LedgerTail, NewCashFlow, NewTrade
from execution.model import (
    Account,
    AccountKind,
    AccountMode,
    Candle,
    CashFlowKind,
    OrderType,
    Side,
    Source,
    trade_cash_effect,
)
from runtime import database
from runtime.offline_books import store_missing
from tests.runtime import revisions

START = datetime(2026, 1, 1, 10, 0, tzinfo=UTC)
D = Decimal
BUY, SELL = Side.BUY, Side.SELL
MAIN = Account("main")
ACCOUNTS = (
    MAIN,
    Account("margin", mode=AccountMode.MARGIN),
    Account("live", kind=AccountKind.LIVE, venue="kraken"),
    Account("old", kind=AccountKind.IMPORTED, venue="import"),
)
FOREIGN_KEY_UNTIL = "0004"
"""Up to here an order id of a trade had to be one of ours."""

OTHER_ROWS = (
    "INSERT INTO orders VALUES ('o1', 'r1', 'c1', 'main', 'BTC-USD', 'BUY', 'market', 'IOC', 'filled', 'bot:sma',"
    " '2026-01-01T10:00:00.000000Z', '2026-01-01T10:00:01.000000Z', NULL, '2', NULL, 0, NULL, NULL, '{}', NULL,"
    " NULL)",
    "INSERT INTO orders VALUES ('o2', 'r2', 'c2', 'live', 'ETH-USD', 'SELL', 'limit', 'GTC', 'pending', 'manual:ann',"
    " '2026-01-01T10:00:00.000000Z', '2026-01-01T10:00:01.000000Z', NULL, '1', NULL, 0, '99.5', NULL, NULL, 'x',"
    " NULL)",
    "INSERT INTO inbox VALUES ('main', 'r1', 'abc', 'order', 'bot:sma', '2026-01-01T10:00:00.000000Z', 'o1',"
    " 'accepted', '{}')",
    "INSERT INTO dead_letters VALUES ('d1', '2026-01-01T10:00:00.000000Z', 'a/b', X'00FF', 2, 'not JSON', 0)",
    "INSERT INTO halts VALUES ('live', 1, 'ann', 'a look at it', '2026-01-01T10:00:00.000000Z')",
    "INSERT INTO bot_states VALUES ('sma', 'STOPPED', 1, '{}', '2026-01-01T10:00:00.000000Z')",
    "INSERT INTO signal_outbox VALUES ('r9', 'sma', 'main', 'BTC-USD', '{}', '2026-01-01T10:00:00.000000Z', 'open')",
    "INSERT INTO risk_marks VALUES ('main', '2026-01-01', '-1.5', '10000', '9900', '2026-01-01T10:00:00.000000Z')",
)
DECISIONS = (
    "INSERT INTO lot_selections VALUES ('t6', 1, 't2', '0.5', 'ann', '2026-01-01T11:00:00.000000Z')",
    "UPDATE review_queue SET status = 'resolved', resolved_at = '2026-01-01T12:00:00.000000Z', resolved_by = 'ann',"
    " resolution = 'a gift' WHERE id = (SELECT min(id) FROM review_queue)",
)

FORGET_DECISIONS = (
    "DELETE FROM lot_selections",
    "UPDATE review_queue SET status = 'open', resolved_at = NULL, resolved_by = NULL, resolution = NULL",
)
"""Without these, books do not go below 0003."""


def make(file: Path, *, foreign_orders: bool = True) -> None:
    """Books at the newest revision, their allocations stored. `foreign_orders`: imports keep order ids of theirs."""
    engine = database.open_database(database.sqlite_url(file), synchronous="OFF")
    with engine.connect() as connection, connection.begin():
        database.seed_catalogue(connection)
        for symbol in ("BNB-USD", "ETH-USD"):
            if symbol not in ledger.instruments(connection):
                ledger.add_instrument(connection, default_instrument(symbol))
        for account in ACCOUNTS:
            database.ensure_account(connection, account, None, START)
        for statement in OTHER_ROWS:
            connection.exec_driver_sql(statement)
        _record(connection, foreign_orders)
        totals.store_totals(connection, totals.read_totals(connection))
        price = D("123.45")
        candles.store(connection, [Candle("ETH-USD", "1h", START, price, price, price, price, D(1))])
    engine.dispose()
    store_allocations(file)
    run(file, DECISIONS)


def run(file: Path, statements: Iterable[str]) -> None:
    """Statements on a connection of its own."""
    with revisions.plain(file) as connection:
        for statement in statements:
            connection.execute(statement)


def store_allocations(file: Path) -> None:
    """What a command or a daemon does with facts whose allocations are not stored."""
    settings = load_settings(config_file=None, overrides=[], environ={}, cwd=file.parent).settings
    url = database.sqlite_url(file)
    writer, reader = database.open_database(url, synchronous="OFF"), database.reader_engine(url)
    asyncio.run(store_missing(settings, writer, reader))
    writer.dispose()
    reader.dispose()


def make_at(revision: str, file: Path, full: Path) -> None:
    """Books at an older revision, with all that `full` (at the newest) has and the older schema can hold."""
    revisions.make(file, revision)
    with revisions.plain(file) as connection:
        connection.execute("ATTACH ? AS full", (str(full),))
        tables = connection.execute(
            "SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY name"
        ).fetchall()
        known = {name for (name,) in connection.execute("SELECT name FROM full.sqlite_master")}
        # The trades come last: their guards look at the orders.
        names = sorted((name for (name,) in tables if name in known), key=lambda name: (name == "trades", name))
        for name in names:
            if name == "alembic_version" or name.startswith("sqlite_"):
                continue
            columns = ", ".join(f'"{row[1]}"' for row in connection.execute(f"PRAGMA main.table_info({name})"))
            connection.execute(f"INSERT INTO main.{name} ({columns}) SELECT {columns} FROM full.{name} ORDER BY 1")
        if revision < "0003":
            # These books have never stored allocations.
            connection.execute("DELETE FROM main.followers WHERE name = 'allocations'")


def _record(connection: Connection, foreign_orders: bool) -> None:
    tail = LedgerTail()
    for flow in _flows():
        tail.append_flow(connection, flow, flow.effective_at)
    for number, trade in enumerate(_trades(foreign_orders), 1):
        tail.append_trade(connection, trade, START + timedelta(hours=1, minutes=number))
    tail.before_commit(connection)


def _flows() -> Iterator[NewCashFlow]:
    kinds = ((CashFlowKind.DEPOSIT, "10000"), (CashFlowKind.WITHDRAWAL, "100.5"), (CashFlowKind.INCOME, "3.25"),
             (CashFlowKind.FEE, "0.000000000000000001"))  # fmt: skip
    for account in ACCOUNTS:
        for number, (kind, amount) in enumerate(kinds):
            at = START + timedelta(minutes=number)
            yield NewCashFlow(account.name, kind, D(amount), "USD", at, "manual:ann", f"{kind}-{number}", "a note")


def _trades(foreign_orders: bool) -> Iterator[NewTrade]:
    theirs = "THEIRS-1" if foreign_orders else None
    yield _trade(1, BUY, "2", "30000.5", order_id="o1", order_type=OrderType.MARKET, signal_context={"score": "0.5"})
    yield _trade(2, BUY, "1", "100", symbol="ETH-USD", fee="0.001", fee_asset="ETH")  # a fee in what was bought
    yield from dispose(_trade(3, BUY, "1", "100", symbol="ETH-USD", fee="0.01", fee_asset="BNB"), "USD", D(250))
    yield _trade(4, BUY, "1", "100", symbol="AAPL", fee="0.01", fee_asset="BNB")  # of unknown value
    yield _trade(5, SELL, "0.5", "110", symbol="AAPL")  # so this P&L is unknown
    yield _trade(6, SELL, "0.7", "120.123456789", symbol="ETH-USD", fee="0.12", triggered_by="stop:sma")
    wrong = _trade(7, SELL, "0.1", "90000", fee="1", source=Source.MANUAL)
    yield wrong
    yield replace(
        wrong, id="t8", side=BUY, fee=-wrong.fee, cash_effect=-wrong.cash_effect, venue_trade_id="8",
        venue_sequence=8, corrects=wrong.id,
    )  # fmt: skip
    yield _trade(9, BUY, "0.25", "29000", minute=-60, source=Source.RECONCILED, triggered_by="sync")  # late
    yield _trade(10, SELL, "3", "95", account="margin", symbol="ETH-USD")  # opens short
    yield _trade(11, BUY, "5", "90", account="margin", symbol="ETH-USD", fee="0.5")  # covers and flips
    yield _trade(12, SELL, "1", "91", account="margin", symbol="ETH-USD")
    yield _trade(13, BUY, "1", "31000", account="live", fee="31")
    yield _trade(14, BUY, "1", "10", account="old", source=Source.IMPORT, order_id=theirs, triggered_by="import:csv")
    yield _trade(
        15, SELL, "4", "12", account="old", source=Source.MIGRATION, triggered_by="import:csv"
    )  # no lot for 3
    yield _trade(16, SELL, "5", "13", symbol="BNB-USD")  # no lot at all


def _trade(
    number: int, side: Side, quantity: str, price: str, *, account: str = "main", symbol: str = "BTC-USD",
    fee: str = "0", fee_asset: str = "USD", minute: int | None = None,
    source: Source = Source.EXCHANGE, triggered_by: str = "manual:ann", order_id: str | None = None,
    order_type: OrderType | None = None, signal_context: dict[str, str] | None = None,
) -> NewTrade:  # fmt: skip
    charged = D(fee) if fee_asset == "USD" else D(0)
    return NewTrade(
        f"t{number}", account, symbol, side, D(quantity), D(price),
        START + timedelta(minutes=10 + number if minute is None else minute), D(fee), fee_asset,
        trade_cash_effect(side, D(quantity), D(price), charged), "paper", source, triggered_by, order_id=order_id,
        venue_trade_id=str(number), venue_sequence=number, order_type=order_type, signal_context=signal_context,
    )  # fmt: skip
