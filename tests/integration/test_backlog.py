"""What came about without a daemon is told by the next one: every fact, every alert that lasts."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Connection

from config.settings import Settings
from execution import alerts, candles
from execution.ledger import LedgerTail, NewCashFlow, NewTrade
from execution.model import CashFlowKind, Side, Source, trade_cash_effect
from portfolio.reviews import reviews
from runtime.offline_books import bring_up_to_date
from tests.integration.daemons import Ear, Server, candle, price_known, serving

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUIET = ("portfolio.republish_seconds=3600",)


def deposits(connection: Connection, count: int) -> None:
    """As an import makes them."""
    tail = LedgerTail()
    tail.begin()
    for number in range(count):
        at = NOW + timedelta(seconds=number)
        flow = NewCashFlow("main", CashFlowKind.DEPOSIT, Decimal(1), "USD", at, "import:test", f"old-{number}")
        assert tail.append_flow(connection, flow, NOW) is not None
    tail.before_commit(connection)


def sale(connection: Connection) -> None:
    """A sell of what nobody bought, as an import makes it."""
    tail = LedgerTail()
    tail.begin()
    cash = trade_cash_effect(Side.SELL, Decimal(1), Decimal(100), Decimal(0))
    trade = NewTrade(
        "t-sale", "main", "BTC-USD", Side.SELL, Decimal(1), Decimal(100), NOW, Decimal(0), "USD", cash, "import",
        Source.IMPORT, "import:test", venue_trade_id="1",
    )  # fmt: skip
    assert tail.append_trade(connection, trade, NOW) is not None
    tail.before_commit(connection)


async def born(server: Server) -> None:
    """New books, and a session of the ear that hears everything from now on."""
    await server.start()
    async with Ear(server.port) as ear:
        minute = (datetime.now(UTC) - timedelta(minutes=2)).replace(second=0, microsecond=0)
        await ear.say("market/BTC-USD/candle/1m", candle(minute.isoformat().replace("+00:00", "Z"), "50000"))
        await price_known(ear)
        await ear.until(lambda: server.books.read(candles.latest))  # stored, it is known at once in every life
    assert await server.stop() == 0


def announced(ear: Ear) -> Sequence[int]:
    return [heard.body["sequence"] for heard in ear.heard if heard.topic.endswith(("v1/main/cash", "v1/main/trade"))]


async def test_orders_are_answered_while_old_facts_are_announced_and_none_is_left_out_over_a_kill(
    tmp_path: Path,
) -> None:
    server = Server(tmp_path / "data", settings=QUIET)
    await born(server)
    server.books.write(lambda c: deposits(c, 2000))
    first = server.books.head - 1999
    await server.start()
    try:
        async with Ear(server.port) as ear:
            await ear.until(lambda: any(sequence > first + 100 for sequence in announced(ear)))
            await server.kill()
            await server.start()
            answer = await ear.ask({"request_id": "now", "symbol": "BTC-USD", "side": "BUY", "quantity": "0.01"})
            assert answer["status"] == "filled"
            wanted = set(range(first, server.books.head + 1))
            await ear.until(lambda: wanted <= set(announced(ear)), "every fact, none left out")
    finally:
        await server.kill()


async def test_a_sell_without_a_lot_that_came_in_without_a_daemon_is_an_alert_of_the_next_one(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", settings=QUIET)
    await born(server)
    server.books.write(sale)
    settings = Settings(data_dir=server.data_dir)
    raised = await asyncio.to_thread(bring_up_to_date, settings)
    assert [alert.code for alert in raised] == ["unmatched_sell"]
    async with serving(server.data_dir, port=server.port, settings=QUIET) as daemon, Ear(server.port) as ear:
        alert = await ear.on("main/alert", lambda heard: heard.body["code"] == "unmatched_sell")
        (review,) = daemon.books.read(reviews)
        assert alert.body["about"]["review"] == review.id
        await ear.until(lambda: not daemon.books.read(lambda c: alerts.waiting(c, 1)))
