"""What must be said is said, however long the broker is away; what is stale by then is not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from execution.model import AlertRaised, Fact, FactsRecorded, Severity
from runtime.bus import MemoryBroker, MemoryBus
from runtime.clock import WallClock
from runtime.database import ThreadReader, reader_engine
from runtime.publisher import Announcer, Publisher
from runtime.topics import Topics
from tests.execution.house import Books, flow

TOPICS = Topics("fillbook")


@asynccontextmanager
async def publishing(broker: MemoryBroker, limit: int) -> AsyncIterator[tuple[Publisher, MemoryBus]]:
    """A publisher at work on a bus in memory."""
    bus = MemoryBus(broker, "daemon", ())
    publisher = Publisher(bus, TOPICS, WallClock(), limit=limit)
    sending = asyncio.create_task(publisher.run())
    try:
        yield publisher, bus
    finally:
        sending.cancel()
        await bus.stop()


def alert(number: int) -> AlertRaised:
    return AlertRaised(Severity.INFO, f"code-{number}", "something happened", "main")


async def test_alerts_wait_for_the_broker_and_come_in_order() -> None:
    broker = MemoryBroker()
    async with publishing(broker, 100) as (publisher, bus):
        for number in range(3):
            publisher.publish(alert(number))
        assert broker.published == []
        await bus.start()
        publisher.resume()
        await publisher.drain()
        assert [b"code-%d" % n in payload for n, (_, payload, _) in enumerate(broker.published)] == [True] * 3


async def test_facts_beyond_the_queue_wait_in_the_ledger_and_are_all_announced_once(tmp_path: Path) -> None:
    books = Books(tmp_path)
    facts: list[Fact] = [fact for fact in books.record(*(flow(f"d{n}", "1") for n in range(40))) if fact is not None]
    books.close()
    last = facts[-1].sequence
    reader = ThreadReader(reader_engine(books.url))
    broker = MemoryBroker()
    seen: list[int] = []
    async with publishing(broker, 20) as (publisher, bus):
        announcer = Announcer(publisher, reader, facts[0].sequence - 1, lambda fact: seen.append(fact.sequence))
        for fact in facts:
            await announcer(FactsRecorded((fact,)))
        assert announcer.sequence < last, "half of the queue is for everything else"
        assert publisher.dropped == 0
        await bus.start()
        publisher.resume()
        while announcer.sequence < last:
            await publisher.drain()
            await announcer.catch_up()
        await publisher.drain()
        assert seen == [fact.sequence for fact in facts]
        assert len([topic for topic, _, _ in broker.published if topic.endswith("/cash")]) == len(facts)
    reader.stop()
