"""Every fact is announced in order, and a million of them keep nobody waiting."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from execution.model import AlertRaised, Fact, FactsRecorded, Severity
from execution.ports import Reader
from runtime.announcer import Announcer
from runtime.bus import BusUnavailable, MemoryBroker, MemoryBus
from runtime.clock import WallClock
from runtime.database import ThreadReader, reader_engine
from runtime.publisher import Publisher
from runtime.topics import Topics
from tests.execution.house import Books, flow
from tests.integration.brokers import PATIENCE

TOPICS = Topics("fillbook")
WINDOW = 4


class HeldBus(MemoryBus):
    """A bus whose broker confirms a message when the test says so."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker, "daemon", ())
        self.sent: list[tuple[str, asyncio.Future[None]]] = []
        self.came = asyncio.Event()

    async def publish_soon(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1
    ) -> "asyncio.Future[None]":
        """Sent, not confirmed."""
        await self.publish(topic, payload, retain=retain, qos=qos)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent.append((topic, future))
        self.came.set()
        return future

    async def until(self, count: int) -> None:
        """Wait until so many were sent."""
        async with asyncio.timeout(PATIENCE):
            while len(self.sent) < count:
                self.came.clear()
                await self.came.wait()

    def confirm(self) -> None:
        """The broker has all of them."""
        for _, future in self.sent:
            if not future.done():
                future.set_result(None)

    def lose(self) -> None:
        """The connection broke before the broker said that it has them."""
        for _, future in self.sent:
            if not future.done():
                future.set_exception(BusUnavailable("lost"))


class Stage:
    """A publisher and an announcer at work over a ledger of many facts."""

    def __init__(self, bus: MemoryBus, reader: Reader, facts: Sequence[Fact], limit: int = 100) -> None:
        self.facts = facts
        self.first, self.last = facts[0].sequence, facts[-1].sequence
        self.shown: list[int] = []
        self.publisher = Publisher(bus, TOPICS, WallClock(), limit=limit, backlog=WINDOW)
        self.announcer = Announcer(
            self.publisher, reader, self.first - 1, lambda fact: self.shown.append(fact.sequence)
        )

    async def until_all_confirmed(self) -> None:
        """Wait until the broker has every fact."""
        async with asyncio.timeout(PATIENCE):
            while self.announcer.confirmed < self.last:
                await self.publisher.changed()


@pytest.fixture
def ledger_of_forty(tmp_path: Path) -> Iterator[tuple[ThreadReader, list[Fact]]]:
    books = Books(tmp_path)
    facts: list[Fact] = [fact for fact in books.record(*(flow(f"d{n}", "1") for n in range(40))) if fact is not None]
    books.close()
    reader = ThreadReader(reader_engine(books.url))
    yield reader, facts
    reader.stop()


@asynccontextmanager
async def at_work(stage: Stage, bus: MemoryBus) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(stage.publisher.run()), asyncio.create_task(stage.announcer.run())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bus.stop()


def announced(broker: MemoryBroker) -> list[int]:
    """The sequences of the facts that were published, in order."""
    return [
        int(payload.partition(b'"sequence":')[2].partition(b",")[0])
        for topic, payload, _ in broker.published
        if topic.endswith("/cash")
    ]


async def test_a_backlog_leaves_the_ledger_a_few_at_a_time(ledger_of_forty: tuple[ThreadReader, list[Fact]]) -> None:
    bus = HeldBus(MemoryBroker())
    await bus.start()
    stage = Stage(bus, *ledger_of_forty)
    async with at_work(stage, bus):
        stage.announcer.expect(stage.last)
        await bus.until(WINDOW)
        stage.publisher.publish(AlertRaised(Severity.INFO, "news", "something happened", "main"))
        await bus.until(WINDOW + 1)
        assert bus.sent[-1][0].endswith("/alert"), "news do not wait until old facts are confirmed"
        assert announced(bus._broker) == [stage.first + n for n in range(WINDOW)]
        assert stage.announcer.confirmed == stage.first - 1


async def test_a_backlog_is_announced_in_order_and_its_progress_is_known(
    ledger_of_forty: tuple[ThreadReader, list[Fact]],
) -> None:
    broker = MemoryBroker()
    bus = MemoryBus(broker, "daemon", ())
    await bus.start()
    stage = Stage(bus, *ledger_of_forty)
    async with at_work(stage, bus):
        stage.announcer.expect(stage.last)
        await stage.until_all_confirmed()
    assert announced(broker) == [fact.sequence for fact in stage.facts]


async def test_what_is_recorded_meanwhile_waits_for_its_turn(
    ledger_of_forty: tuple[ThreadReader, list[Fact]],
) -> None:
    broker = MemoryBroker()
    bus = HeldBus(broker)
    await bus.start()
    stage = Stage(bus, *ledger_of_forty)
    async with at_work(stage, bus):
        stage.announcer.expect(stage.last - 1)
        await bus.until(WINDOW)
        await stage.announcer(FactsRecorded((stage.facts[-1],)))
        while stage.announcer.confirmed < stage.last:
            bus.confirm()
            await asyncio.sleep(0)
    assert announced(broker) == [fact.sequence for fact in stage.facts]


async def test_a_fact_goes_out_before_the_answer_that_was_said_after_it(
    ledger_of_forty: tuple[ThreadReader, list[Fact]],
) -> None:
    broker = MemoryBroker()
    bus = MemoryBus(broker, "daemon", ())
    await bus.start()
    stage = Stage(bus, *ledger_of_forty)
    await stage.announcer(FactsRecorded((stage.facts[0],)))
    stage.publisher.publish(AlertRaised(Severity.INFO, "news", "something happened", "main"))
    async with at_work(stage, bus):
        await stage.publisher.drain()
    assert [topic.rpartition("/")[2] for topic, _, _ in broker.published] == ["cash", "alert"]
    assert stage.shown == [stage.first]


async def test_facts_wait_in_the_ledger_while_the_broker_is_away(
    ledger_of_forty: tuple[ThreadReader, list[Fact]],
) -> None:
    broker = MemoryBroker()
    bus = MemoryBus(broker, "daemon", ())
    stage = Stage(bus, *ledger_of_forty, limit=20)
    async with at_work(stage, bus):
        for fact in stage.facts:
            await stage.announcer(FactsRecorded((fact,)))
        for number in range(20):
            stage.publisher.publish(AlertRaised(Severity.INFO, f"news-{number}", "something happened", "main"))
        assert stage.publisher.dropped == 0, "the queue is for everything else"
        await bus.start()
        stage.publisher.resume()
        await stage.until_all_confirmed()
    assert announced(broker) == [fact.sequence for fact in stage.facts]


async def test_facts_that_were_under_way_when_the_connection_broke_are_not_lost_behind_a_full_queue(
    ledger_of_forty: tuple[ThreadReader, list[Fact]],
) -> None:
    broker = MemoryBroker()
    bus = HeldBus(broker)
    await bus.start()
    stage = Stage(bus, *ledger_of_forty, limit=20)
    async with at_work(stage, bus):
        for fact in stage.facts[:8]:
            await stage.announcer(FactsRecorded((fact,)))
        await bus.until(8)
        await bus.drop()
        bus.lose()
        await asyncio.sleep(0)
        for number in range(20):
            stage.publisher.publish(AlertRaised(Severity.INFO, f"news-{number}", "something happened", "main"))
        assert stage.publisher.dropped == 8
        assert stage.announcer.confirmed == stage.first - 1
        await bus.start()
        stage.publisher.resume()
        stage.announcer.expect(stage.last)
        while stage.announcer.confirmed < stage.last:
            bus.confirm()
            await asyncio.sleep(0)
    assert set(announced(broker)) == {fact.sequence for fact in stage.facts}


async def test_what_was_not_confirmed_is_sent_again_in_the_same_order(
    ledger_of_forty: tuple[ThreadReader, list[Fact]],
) -> None:
    broker = MemoryBroker()
    bus = HeldBus(broker)
    await bus.start()
    stage = Stage(bus, *ledger_of_forty)
    async with at_work(stage, bus):
        for fact in stage.facts[:8]:
            await stage.announcer(FactsRecorded((fact,)))
        await bus.until(8)
        await bus.drop()
        bus.lose()
        await asyncio.sleep(0)
        broker.published.clear()
        await bus.start()
        stage.publisher.resume()
        await bus.until(16)
    assert announced(broker) == [fact.sequence for fact in stage.facts[:8]]
