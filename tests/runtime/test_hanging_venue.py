"""One venue whose calls never return stops nobody else: not the paper account, not an account at another venue."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from execution.live import LiveTimes
from execution.model import Order
from runtime.bus import MemoryBroker, MemoryBus
from runtime.core import Core
from runtime.follower import LedgerFollower
from runtime.intake import Intake
from runtime.jsondoc import Limits
from runtime.publisher import Publisher
from runtime.topics import Command, RouteName, Topics
from tests.execution.exchanges import LiveHouse, ScriptedExchange, open_live_account
from tests.execution.house import Books, make_template
from tests.integration.brokers import PATIENCE

TOPICS = Topics("fillbook")
AT_ONCE = 4
"""Requests that are worked on at once, and that the broker sends unacknowledged."""


@pytest.fixture(scope="module", autouse=True)
def _template(tmp_path_factory: pytest.TempPathFactory) -> None:
    make_template(tmp_path_factory.mktemp("template"))


class Scene:
    """Execution with a live venue behind a bus."""

    def __init__(self, folder: Path) -> None:
        self.books = Books(folder)
        open_live_account(self.books)
        self.exchange = ScriptedExchange()
        self.house = LiveHouse(self.books, self.exchange, times=LiveTimes(timeout=PATIENCE, poll=0.01))
        self.broker = MemoryBroker()
        commands = [TOPICS.request(name, command) for name in ("main", "live") for command in Command]
        self.bus = MemoryBus(self.broker, "daemon", commands)
        self.person = MemoryBus(self.broker, "ada", [TOPICS.filter(RouteName.RESPONSE)])
        self.publisher = Publisher(self.bus, TOPICS, self.house.clock, limit=100)
        follower = LedgerFollower(self.house.reader)
        core = Core(self.publisher.publish, follower, self.house.service, None, None)
        core.reconcilers = (self.house.reconciler,)
        self.intake = Intake(
            core,
            self.house.reader,
            self.bus,
            TOPICS,
            self.publisher,
            self.house.clock,
            limits=Limits(10_000, 10),
            kept_bytes=1000,
            max_in_flight=AT_ONCE,
            window=AT_ONCE,
            boot_id="boot",
            future=timedelta(seconds=5),
        )
        self.answers: dict[str, dict[str, Any]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Everything runs."""
        await self.house.open()
        await self.bus.start()
        await self.person.start()
        self.tasks = [asyncio.create_task(work) for work in (self.intake.run(), self.publisher.run(), self._hear())]

    async def close(self) -> None:
        """Nothing runs any more."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.house.close()
        self.books.close()

    async def _hear(self) -> None:
        async for incoming in self.person.messages():
            body = json.loads(incoming.payload)
            self.answers[body["request_id"]] = body
            incoming.ack()

    async def ask(self, account: str, command: Command, request_id: str, **body: str) -> None:
        """Somebody asks for something."""
        payload = json.dumps({"request_id": request_id, **body}).encode()
        await self.person.publish(TOPICS.request(account, command), payload)

    async def buy(self, account: str, request_id: str) -> None:
        """Somebody wants to buy."""
        await self.ask(account, Command.TRADE, request_id, symbol="BTC-USD", side="BUY", quantity="1")

    async def answer(self, request_id: str) -> dict[str, Any]:
        """What was answered."""
        async with asyncio.timeout(PATIENCE):
            while request_id not in self.answers:
                await asyncio.sleep(0.005)
        return self.answers[request_id]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    await scene.open()
    yield scene
    await scene.close()


async def test_the_paper_account_trades_and_cancels_are_taken_while_a_venue_hangs(scene: Scene) -> None:
    scene.exchange.hangs = True
    for number in range(3 * AT_ONCE):
        await scene.buy("live", f"live-{number}")
    await scene.buy("main", "paper")
    assert (await scene.answer("paper"))["status"] == "filled"
    await scene.ask("live", Command.CANCEL, "cancel", order_id="live-0")
    assert (await scene.answer("cancel"))["status"] == "done"
    await scene.ask("live", Command.HALT, "halt")
    assert (await scene.answer("halt"))["status"] == "done"
    assert len(scene.exchange.sent) == 3 * AT_ONCE
    assert not any(request_id.startswith("live-") for request_id in scene.answers)


async def test_cancels_on_their_way_are_answered_before_the_requests_are_done(scene: Scene) -> None:
    """Whoever halts an account and then stops the daemon wants nothing to be left at the venue."""
    await scene.buy("live", "slow")
    while not scene.exchange.orders:
        await asyncio.sleep(0)
    released, cancel = asyncio.Event(), scene.exchange.cancel

    async def wait(order: Order) -> None:
        await released.wait()
        await cancel(order)

    scene.exchange.cancel = wait  # type: ignore[method-assign]  # a slow venue
    await scene.ask("live", Command.HALT, "halt")
    assert (await scene.answer("halt"))["status"] == "done"
    draining = asyncio.create_task(scene.intake.drain())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not draining.done()
    released.set()
    async with asyncio.timeout(PATIENCE):
        await draining
    assert len(scene.exchange.cancelled) == 1


async def test_orders_on_their_way_are_answered_before_the_requests_are_done(scene: Scene) -> None:
    released = asyncio.Event()

    async def wait(_order: object) -> None:
        await released.wait()

    scene.exchange.before_reply = wait
    await scene.buy("live", "slow")
    while not scene.exchange.sent:
        await asyncio.sleep(0)
    draining = asyncio.create_task(scene.intake.drain())
    await scene.buy("main", "paper")
    await scene.answer("paper")
    assert not draining.done()
    released.set()
    await draining
    assert (await scene.answer("slow"))["status"] == "accepted"
