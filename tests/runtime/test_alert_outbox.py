"""An alert that states a lasting fact reaches the broker, whatever dies between its commit and its publication."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from config.times import time_text
from execution import alerts
from execution.model import AlertRaised, Severity
from execution.ports import Writer
from runtime.alert_outbox import AlertOutbox
from runtime.bus import MemoryBroker, MemoryBus
from runtime.clock import WallClock
from runtime.database import ThreadReader, reader_engine
from runtime.publisher import Publisher
from runtime.topics import Topics
from tests.execution.house import START, Books
from tests.runtime.test_announcer import HeldBus

T = TypeVar("T")
TOPICS = Topics("fillbook")


def alert(number: int) -> AlertRaised:
    return AlertRaised(Severity.HIGH, "unmatched_sell", f"sold too much, {number}", "main", {"review": f"r{number}"})


class TellingWriter:
    """A writer that says when something was committed."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.committed = asyncio.Event()

    async def submit(self, work: Callable[[Connection], T]) -> T:
        """Commit it."""
        done = await self._writer.submit(work)
        self.committed.set()
        return done


class Life:
    """One life of a process: what it says goes to `bus`, what it is about to say stands in `books`."""

    def __init__(self, books: Books, reader: ThreadReader, bus: MemoryBus, limit: int = 100) -> None:
        self.books = books
        self.publisher = Publisher(bus, TOPICS, WallClock(), limit=limit)
        self.writer = TellingWriter(books.writer)
        self.outbox = AlertOutbox(self.publisher, reader, self.writer, pace_seconds=3600)

    @property
    def waiting(self) -> list[AlertRaised]:
        return self.books.ask(lambda c: alerts.waiting(c, 1000))

    async def until_none_waits(self) -> None:
        async with asyncio.timeout(10):
            while self.waiting:
                await self.writer.committed.wait()
                self.writer.committed.clear()


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[tuple[Books, ThreadReader]]:
    books = Books(tmp_path)
    reader = ThreadReader(reader_engine(books.url))
    yield books, reader
    reader.stop()
    books.close()


def keep(books: Books, *numbers: int) -> None:
    """A fact is committed with its alert."""
    books.do(lambda c: [alerts.keep(c, alert(number), START) for number in numbers])


@asynccontextmanager
async def living(life: Life, bus: MemoryBus) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(life.publisher.run()), asyncio.create_task(life.outbox.run())]
    life.outbox.wake()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bus.stop()


def said(broker: MemoryBroker) -> list[dict[str, object]]:
    return [json.loads(payload) for topic, payload, _ in broker.published if topic.endswith("/alert")]


async def test_it_is_stored_until_the_broker_has_it(stored: tuple[Books, ThreadReader]) -> None:
    broker = MemoryBroker()
    bus = HeldBus(broker)
    await bus.start()
    keep(stored[0], 1)
    life = Life(*stored, bus)
    async with living(life, bus):
        await bus.until(1)
        assert len(life.waiting) == 1
        bus.confirm()
        await life.until_none_waits()
    assert len(said(broker)) == 1


async def test_the_next_life_says_what_the_last_one_did_not_with_its_id_and_its_time(
    stored: tuple[Books, ThreadReader],
) -> None:
    broker = MemoryBroker()
    keep(stored[0], 1)
    bus = HeldBus(broker)
    await bus.start()
    life = Life(*stored, bus)
    async with living(life, bus):
        await bus.until(1)  # said, but the process dies before it knows that the broker has it
    again = MemoryBus(broker, "daemon", ())
    await again.start()
    life = Life(*stored, again)
    async with living(life, again):
        await life.until_none_waits()
    first, second = said(broker)
    assert first == second
    assert first["time"] == time_text(START)
    assert first["id"]
    assert first["about"] == {"review": "r1"}


async def test_what_the_connection_lost_is_said_again(stored: tuple[Books, ThreadReader]) -> None:
    broker = MemoryBroker()
    bus = HeldBus(broker)
    await bus.start()
    keep(stored[0], 1)
    life = Life(*stored, bus)
    async with living(life, bus):
        await bus.until(1)
        await bus.drop()
        bus.lose()
        await asyncio.sleep(0)
        assert len(life.waiting) == 1
        await bus.start()
        life.publisher.resume()
        await bus.until(2)
        bus.confirm()
        await life.until_none_waits()
    assert len({str(body["id"]) for body in said(broker)}) == 1


async def test_hundreds_of_alerts_push_nothing_out_of_the_queue(stored: tuple[Books, ThreadReader]) -> None:
    broker = MemoryBroker()
    bus = MemoryBus(broker, "daemon", ())
    await bus.start()
    keep(stored[0], *range(300))
    life = Life(*stored, bus, limit=60)
    async with living(life, bus):
        await life.until_none_waits()
    assert life.publisher.dropped == 0
    assert len(said(broker)) == 300


async def test_changed_history_is_said_at_once_and_what_follows_soon_waits_and_holds_up_nothing_else(
    stored: tuple[Books, ThreadReader],
) -> None:
    def changed(number: int, symbol: str) -> AlertRaised:
        about = {"symbol": symbol, "from": time_text(START), "version": str(number)}
        return AlertRaised(Severity.INFO, alerts.HISTORY_CHANGED, "history changed", "main", about)

    broker = MemoryBroker()
    bus = MemoryBus(broker, "daemon", ())
    await bus.start()
    books = stored[0]
    books.do(lambda c: alerts.keep(c, changed(1, "BTC-USD"), START))
    life = Life(*stored, bus)
    async with living(life, bus):
        await life.until_none_waits()
        books.do(lambda c: [alerts.keep(c, changed(n, "BTC-USD"), START) for n in range(2, 202)])
        books.do(lambda c: alerts.keep(c, changed(1, "ETH-USD"), START))
        keep(books, 1)
        life.outbox.wake()
        async with asyncio.timeout(10):
            while len(life.waiting) > 200:
                await life.writer.committed.wait()
                life.writer.committed.clear()
        assert {waiting.about["symbol"] for waiting in life.waiting} == {"BTC-USD"}
    assert len(said(broker)) == 3
    again = Life(*stored, bus)
    await bus.start()
    async with living(again, bus):  # a new process does not know when it was said last
        async with asyncio.timeout(10):
            while len(again.waiting) > 199:
                await again.writer.committed.wait()
                again.writer.committed.clear()


async def test_what_had_to_be_dropped_is_still_stored(stored: tuple[Books, ThreadReader]) -> None:
    broker = MemoryBroker()
    bus = MemoryBus(broker, "daemon", ())
    keep(stored[0], 1)
    life = Life(*stored, bus, limit=5)
    taken = asyncio.Event()
    real = life.publisher.put

    def put(outgoing: object) -> None:
        real(outgoing)  # type: ignore[arg-type]  # whatever it is
        taken.set()

    life.publisher.put = put  # type: ignore[method-assign]  # to see when it was taken
    async with living(life, bus):
        await taken.wait()
        for number in range(5):
            life.publisher.publish(alert(number + 10))
        assert life.publisher.dropped == 1
        await bus.start()
        life.publisher.resume()
        await life.publisher.drain()
        assert len(life.waiting) == 1
        life.outbox.wake()
        await life.until_none_waits()
    assert "sold too much, 1" in [body["message"] for body in said(broker)]


def test_two_alerts_about_different_things_have_different_ids_and_one_has_always_the_same(
    stored: tuple[Books, ThreadReader],
) -> None:
    books = stored[0]
    keep(books, 1, 2)
    keep(books, 1)
    first, second = books.ask(lambda c: alerts.waiting(c, 10))
    assert first.id != second.id
