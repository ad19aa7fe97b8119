"""The daemon's life: clean ends, one at a time, what the broker is told, halts, other processes beside it."""

import asyncio
import json
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Connection

from execution.ledger import LedgerTail, NewCashFlow
from execution.model import CashFlowKind, OrderStatus
from tests.integration.brokers import MOSQUITTO, PATIENCE, free_port, running_broker
from tests.integration.daemons import (
    V1,
    Ear,
    Heard,
    Load,
    Server,
    advised,
    advised_until,
    candle,
    freeze,
    price_known,
    retains,
    serving,
    thaw,
)
from tests.integration.test_kills import BOT, COMMON, FEED, bot_files, requests

MANUAL = {"symbol": "BTC-USD", "side": "BUY", "notional": "50"}
SOON = PATIENCE / 2
"""Seconds in which a daemon ends on any machine: it waits at most 3 for what is under way and 2 for each goodbye."""


def at(seconds: float = 0) -> str:
    """The wall clock, moved."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


async def price(ear: Ear, text: str, symbol: str = "BTC-USD") -> None:
    """A last price, now."""
    await ear.say(f"market/{symbol}/price", {"price": text, "time": at()}, retain=True)


# ---- the end --------------------------------------------------------------------------------------------


async def test_sigterm_with_orders_in_flight_ends_cleanly_and_soon(tmp_path: Path) -> None:
    settings = (*FEED, *COMMON)
    async with serving(tmp_path / "data", settings=settings, bots=bot_files(tmp_path / "bots")) as server:
        async with Ear(server.port, publish_timeout=1) as ear:
            load = Load(ear, per_second=400)
            running = asyncio.create_task(load.run(requests(random.Random(1), lambda: True)))
            await ear.until(lambda: len(load.answers) > 30)
            began = time.monotonic()
            assert await server.stop() == 0
            assert time.monotonic() - began < SOON
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert server.books.problems() == []
        left = [order for order in server.books.orders if not order.status.is_final]
        assert all(order.decided_at is not None for order in left), "only bots' orders wait for their candle"
        assert "Traceback" not in server.log


async def test_sigterm_ends_the_daemon_although_its_broker_hangs(tmp_path: Path) -> None:
    async with running_broker(MOSQUITTO, tmp_path) as broker:
        settings = ["broker.embedded=false", *COMMON]
        async with serving(tmp_path / "data", port=broker.port, settings=settings) as server, Ear(broker.port) as ear:
            await price(ear, "50000")
            await price_known(ear)
            await ear.ask({**MANUAL, "request_id": "one"})
            freeze(broker.pid)
            try:
                server.books.write(lambda c: deposit(c, "5"))
                await asyncio.sleep(1.5)  # the deposit is announced into the void
                assert await server.stop(patience=SOON) == 0
            finally:
                thaw(broker.pid)
        assert server.books.problems() == []


# ---- one at a time --------------------------------------------------------------------------------------


async def test_a_second_daemon_on_the_same_books_refuses_and_names_the_first(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as first:
        assert first.process is not None
        second = Server(tmp_path / "data", settings=["execution.lease_wait_seconds=0"])
        await second.launch()
        assert second.process is not None
        line = await second.next_line()
        assert line["event"] == "failed"
        assert line["error"] == "RoleTaken"
        assert str(first.process.pid) in line["message"]
        assert await second.process.wait() != 0
        async with Ear(first.port) as ear:
            await price(ear, "50000")
            await price_known(ear)
            assert (await ear.ask({**MANUAL, "request_id": "first-still-works"}))["status"] == "filled"


async def test_a_taken_port_is_an_error_that_says_how_to_choose_another(tmp_path: Path) -> None:
    async with serving(tmp_path / "one") as first:
        second = Server(tmp_path / "two", port=first.port)
        await second.launch()
        assert second.process is not None
        line = await second.next_line()
        assert line["event"] == "failed"
        for hint in (str(first.port), "broker.port=", "FILLBOOK_BROKER__PORT", "fillbook.toml"):
            assert hint in line["message"]
        assert await second.process.wait() != 0


async def test_an_external_broker_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    port = free_port()
    server = Server(
        tmp_path / "data", port=port, settings=["broker.embedded=false", "broker.start_timeout_seconds=1"]
    )
    await server.launch()
    line = await server.next_line()
    assert line["event"] == "failed"
    assert str(port) in line["message"]
    assert server.process is not None
    assert await server.process.wait() != 0


# ---- halt -----------------------------------------------------------------------------------------------


async def test_a_halt_cancels_refuses_survives_a_restart_and_ends_with_resume(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server, Ear(server.port) as ear:
        await price(ear, "50000")
        await price_known(ear)
        limit = {"symbol": "BTC-USD", "side": "BUY", "quantity": "0.01", "limit_price": "40000", "expires_in": "3600"}
        await ear.say("main/request/trade", {**limit, "request_id": "rests"})
        await ear.on("main/response/rests", lambda h: h.body["status"] == "accepted")
        await ear.say("main/request/halt", b"")  # a halt without a body is a halt
        cancelled = await ear.answer("rests")
        assert cancelled["status"] == "cancelled"
        halt = await ear.on("main/halt", lambda h: h.body["halted"])
        assert halt.body["by"] == "manual"
        assert (await ear.ask({**MANUAL, "request_id": "no-1"}))["reason"]["code"] == "trading_halted"
        await server.kill()
        await server.start()
        assert (await ear.ask({**MANUAL, "request_id": "no-2"}))["reason"]["code"] == "trading_halted"
        await ear.say("main/request/resume", b"")  # what clears a retained message resumes nothing
        await ear.on("main/alert", lambda h: h.body["code"] == "not_json")
        assert (await ear.ask({**MANUAL, "request_id": "no-3"}))["reason"]["code"] == "trading_halted"
        await retains(server.port, lambda kept: kept["main/halt"]["halted"])
        assert (await ear.ask({"request_id": "go"}, "resume"))["status"] == "done"
        await price(ear, "50000")
        await price_known(ear)
        yes = await ear.ask({**MANUAL, "request_id": "yes"})
        assert yes["status"] == "filled", yes["reason"]
        await retains(server.port, lambda kept: not kept["main/halt"]["halted"])
        assert server.books.problems() == []


async def test_a_limit_order_rests_over_a_restart_and_fills_when_the_price_comes(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server, Ear(server.port) as ear:
        await price(ear, "50000")
        await price_known(ear)
        for name, limit in (("fills", "45000"), ("stays", "30000")):
            body = {
                "symbol": "BTC-USD",
                "side": "BUY",
                "quantity": "0.01",
                "limit_price": limit,
                "expires_in": "3600",
            }
            await ear.say("main/request/trade", {**body, "request_id": name})
            await ear.on(f"main/response/{name}", lambda h: h.body["status"] == "accepted")
        await server.kill()
        await server.start()
        await price(ear, "44000")
        filled = await ear.answer("fills")
        assert filled["trades"][0]["price"] == "45000"
        answer = await ear.ask({"request_id": "c", "order_id": "stays"}, "cancel")
        assert answer["status"] == "done"
        assert (await ear.answer("stays"))["status"] == "cancelled"
        assert {order.status for order in server.books.orders} == {OrderStatus.FILLED, OrderStatus.CANCELLED}
        assert server.books.problems() == []


# ---- other processes on the same books ------------------------------------------------------------------


def deposit(connection: Connection, amount: str, key: str = "beside") -> None:
    """A deposit as an import beside the daemon makes it."""
    tail = LedgerTail()
    tail.begin()
    now = datetime.now(UTC)
    flow = NewCashFlow("main", CashFlowKind.DEPOSIT, Decimal(amount), "USD", now, "import:test", key)
    assert tail.append_flow(connection, flow, now) is not None
    tail.before_commit(connection)


async def test_a_deposit_by_another_process_is_seen_announced_and_spendable(tmp_path: Path) -> None:
    settings = ["portfolio.republish_seconds=3600"]  # what is heard was said because of the deposit
    async with serving(tmp_path / "data", settings=settings) as server, Ear(server.port) as ear:
        await price(ear, "50000")
        await price_known(ear)
        assert (await ear.ask({**MANUAL, "notional": "20000", "request_id": "poor"}))["status"] == "refused"
        server.books.write(lambda c: deposit(c, "50000"))
        assert (await ear.ask({**MANUAL, "notional": "20000", "request_id": "rich"}))["status"] == "filled"
        flow = await ear.on("main/cash", lambda h: h.body["amount"] == "50000")
        assert flow.body["triggered_by"] == "import:test"
        server.books.write(lambda c: deposit(c, "7", "again"))
        head = server.books.head
        await ear.on("main/portfolio", lambda h: h.body["sequence"] == head and h.body["net_flows"] == "60007")
        await retains(server.port, lambda kept: kept["main/portfolio"]["net_flows"] == "60007")
        assert server.books.problems() == []


async def test_a_database_that_another_process_holds_stops_trading_not_the_daemon(tmp_path: Path) -> None:
    settings = [*FEED, *COMMON, "writer.busy_timeout_ms=100"]
    async with serving(tmp_path / "data", settings=settings, bots=bot_files(tmp_path / "bots")) as server:
        async with Ear(server.port) as ear:
            await ear.ask({**MANUAL, "request_id": "before"})
            other = sqlite3.connect(server.books.file, timeout=PATIENCE, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            answer = await ear.ask({**MANUAL, "request_id": "meanwhile"})
            assert answer["reason"]["code"] == "storage_unavailable"
            await ear.say("main/request/trade", b"nonsense")
            await ear.on("alert", lambda h: h.body["code"] == "storage_unavailable")
            await asyncio.sleep(2.5)  # timers, candles and bots meet the locked database as well
            assert server.running, server.log[-2000:]
            other.execute("ROLLBACK")
            other.close()
            assert (await ear.ask({"request_id": "go"}, "resume"))["status"] == "done"
            assert (await ear.ask({**MANUAL, "request_id": "after"}))["status"] == "filled"
            count = len(ear.all("main/trade"))
            await ear.until(lambda: len(ear.all("main/trade")) > count + 3, "bots trade again")
            await ear.on("main/alert", lambda h: h.body["code"] == "not_json")
        assert await server.stop() == 0
        assert server.books.problems() == []


# ---- what the broker is told ----------------------------------------------------------------------------


async def last_is(ear: Ear, topic: str, state: str) -> None:
    """Wait until the last status on a topic is this one."""
    await ear.until(lambda: (found := ear.all(topic)) and found[-1].body["state"] == state, f"{topic} {state}")


async def test_the_retained_status_is_online_and_offline_whatever_ends_the_daemon(tmp_path: Path) -> None:
    topics = ["status", *(f"service/{role}/status" for role in ("execution", "portfolio", "signals"))]
    settings = ["broker.embedded=false"]
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(running_broker(MOSQUITTO, tmp_path))
        ear = await stack.enter_async_context(Ear(broker.port))
        server = await stack.enter_async_context(serving(tmp_path / "data", port=broker.port, settings=settings))
        for ending in ("kill", "stop"):
            for state in ("online", "offline"):
                for topic in topics:
                    await last_is(ear, topic, state)
                if state == "online":
                    await getattr(server, ending)()
            ear.heard.clear()
            await server.start()


async def test_retained_state_comes_back_after_the_broker_forgot_everything(tmp_path: Path) -> None:
    async with running_broker(MOSQUITTO, tmp_path) as broker:
        settings = ["broker.embedded=false", "broker.reconnect_max_seconds=0.5"]
        async with serving(tmp_path / "data", port=broker.port, settings=settings) as server, Ear(broker.port) as ear:
            await price(ear, "50000")
            await price_known(ear)
            await ear.ask({**MANUAL, "request_id": "one"})
            await ear.ask({"request_id": "stop"}, "halt")
            await ear.on("main/portfolio", lambda h: h.body["sequence"] == 2)
            await broker.stop()
            for file in (tmp_path / "mosquitto").glob("mosquitto.db*"):
                file.unlink()
            ear.heard.clear()
            await broker.start()
            wanted = {"main/portfolio", "main/position/BTC-USD", "main/halt", "status", "service/portfolio/status"}
            await ear.until(lambda: wanted <= {h.topic.removeprefix(f"{V1}/") for h in ear.heard}, str(wanted))
            await retains(
                server.port, lambda kept: kept["main/portfolio"]["sequence"] == 2 and kept["main/halt"]["halted"]
            )
            await ear.ask({"request_id": "go"}, "resume")
            assert (await ear.ask({**MANUAL, "request_id": "two"}))["status"] == "filled"


# ---- the market from the bus ----------------------------------------------------------------------------


async def test_a_manual_trade_fills_at_the_last_price_from_the_bus(tmp_path: Path) -> None:
    settings = ["paper.half_spread_bps=0", "paper.slippage_bps=0", "paper.taker_fee_bps=0"]
    async with serving(tmp_path / "data", settings=settings) as server, Ear(server.port) as ear:
        await ear.say("market/BTC-USD/price", {"price": "40000", "time": at(-10)})
        await ear.say("market/BTC-USD/price", {"price": "39000", "time": at(-20)})  # older: ignored
        await ear.say("market/ETH-USD/candle/1m", candle(at(-90), "2000"))
        await price(ear, "1", "SPY")
        for symbol in ("SPY", "ETH-USD"):  # the last price, and the last candle, which travels apart
            await price_known(ear, symbol)
        first = await ear.ask({"symbol": "BTC-USD", "side": "BUY", "quantity": "0.1", "request_id": "a"})
        second = await ear.ask({"symbol": "ETH-USD", "side": "BUY", "quantity": "0.1", "request_id": "b"})
        assert first["trades"][0]["price"] == "40000"
        assert second["trades"][0]["price"] == "2000"
        assert server.books.problems() == []


def swinging(count: int = 300) -> Iterator[dict[str, str]]:
    """Candles of the last minutes that swing, so that a bot has something to do."""
    start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=count)
    for number in range(count):
        text = str(100 + (number % 8) * (1 if number // 8 % 2 else -1))
        yield candle((start + timedelta(minutes=number)).isoformat().replace("+00:00", "Z"), text)


def trades_of_bots(ear: Ear, count: int) -> list[Heard] | None:
    """The trades of bots, when there are so many."""
    found = [heard for heard in ear.all("main/trade") if heard.body["triggered_by"].startswith("bot:")]
    return found if len(found) >= count else None


SMA = """
name = "cross"
class = "sma-cross"
symbol = "SOL-USD"
fast = 2
slow = 4
quantity = 1
confirmation_minutes = 0
cooldown_minutes = 0
"""


async def test_a_request_is_not_worked_on_before_a_price_that_came_before_it(tmp_path: Path) -> None:
    """Mosquitto delivers in the order of publication; the embedded broker only within one subscription."""
    async with (
        running_broker(MOSQUITTO, tmp_path) as broker,
        serving(tmp_path / "data", port=broker.port, settings=["broker.embedded=false", *COMMON]),
        Ear(broker.port) as ear,
    ):
        for number, symbol in enumerate(("BTC-USD", "ETH-USD", "SOL-USD")):
            body = b'{"price":"100","time":"%s"}' % at().encode()
            for _ in range(50):
                await ear.bus.publish_soon(f"{V1}/market/{symbol}/price", body)
            answer = await ear.ask({"request_id": f"r{number}", "symbol": symbol, "side": "BUY", "notional": "50"})
            assert answer["status"] == "filled", answer


async def test_prices_and_candles_from_the_far_future_are_dead_letters_and_keep_nothing_out(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server, Ear(server.port) as ear:
        later = {"time": "2099-01-01T00:00:00Z"}
        await ear.say("market/BTC-USD/price", {"price": "1", **later})
        await ear.say(
            "market/BTC-USD/candle/1m", dict.fromkeys(("open", "high", "low", "close", "volume"), "1") | later
        )
        await ear.until(lambda: len(ear.all("alert")) >= 2 or None, "two alerts")
        await price(ear, "50000")
        await price_known(ear)
        answer = await ear.ask({"request_id": "r", "symbol": "BTC-USD", "side": "BUY", "notional": "50"})
        assert answer["status"] == "filled"
        assert answer["trades"][0]["price"].startswith("500")
        assert {letter.reason.code for letter in server.books.dead_letters()} == {"in_future"}


async def test_a_bot_trades_on_candles_from_the_bus(tmp_path: Path) -> None:
    (tmp_path / "cross.toml").write_text(SMA)
    async with serving(tmp_path / "data", bots=[tmp_path / "cross.toml"]) as server, Ear(server.port) as ear:
        trades = await advised_until(ear, "cross", "SOL-USD", swinging(), lambda: trades_of_bots(ear, 4))
        assert {h.body["triggered_by"] for h in trades} == {"bot:cross"}
        assert [h.body["side"] for h in trades[:4]] == ["BUY", "SELL", "BUY", "SELL"]
        assert server.books.problems() == []


# ---- roles over several processes -----------------------------------------------------------------------


async def frozen_while_halted(ear: Ear) -> None:
    """A halt and a resume reach the bots in another process than execution's. (Old candles freeze them as well.)"""
    for minute, (command, is_frozen) in enumerate((("halt", True), ("resume", False))):
        time = (datetime.now(UTC) + timedelta(minutes=minute)).replace(second=0, microsecond=0)
        await advised(ear, "cross", "SOL-USD", candle(time.isoformat().replace("+00:00", "Z"), "100"))
        assert (await ear.ask({"request_id": command, "note": "look"}, command))["status"] == "done"
        async with asyncio.timeout(PATIENCE):
            while True:  # the signals process hears of it a moment after us
                told = len(ear.all("bot/cross/recommendation"))
                await ear.say("bot/cross/set", b"evaluate")
                await ear.more("bot/cross/recommendation", told)
                if (ear.all("bot/cross/recommendation")[-1].body["temperature"] == "FROZEN") is is_frozen:
                    break


@pytest.mark.parametrize("market", ["bus", "synthetic feed"])
async def test_three_processes_with_a_role_each_trade_like_one(tmp_path: Path, market: str) -> None:
    """One database, one broker; the feed, if there is one, is with the signals."""
    async with running_broker(MOSQUITTO, tmp_path) as broker, AsyncExitStack() as stack:
        ear = await stack.enter_async_context(Ear(broker.port))
        common = ["broker.embedded=false", *COMMON]
        servers = {}
        for role in ("execution", "portfolio", "signals"):
            feed = FEED if role == "signals" and market != "bus" else ()
            bots = []
            if role == "signals":
                (tmp_path / "bot.toml").write_text(
                    SMA if market == "bus" else BOT.format(name="eager", symbol="BTC-USD")
                )
                bots = [tmp_path / "bot.toml"]
            servers[role] = await stack.enter_async_context(
                serving(tmp_path / "data", port=broker.port, settings=[*common, *feed], bots=bots, roles=[role])
            )
        if market == "bus":
            await price(ear, "50000")
            await price_known(ear)
            assert (await ear.ask({**MANUAL, "request_id": "by-hand"}))["status"] == "filled"
            await advised_until(ear, "cross", "SOL-USD", swinging(), lambda: trades_of_bots(ear, 4))
            await frozen_while_halted(ear)
        else:
            await ear.until(lambda: trades_of_bots(ear, 4), "trades of the bot")
        for server in servers.values():
            assert server.running, server.log
        await servers["signals"].stop()
        head = servers["execution"].books.head
        await ear.on("main/portfolio", lambda h: h.body["sequence"] >= head)
        for role in ("execution", "portfolio"):
            assert await servers[role].stop() == 0
        assert servers["execution"].books.problems() == []
        for server in servers.values():
            assert "Traceback" not in server.log, json.dumps(server.log[-1500:])
