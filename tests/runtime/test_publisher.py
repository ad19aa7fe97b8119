"""What must be said is said, however long the broker is away; what is stale by then is not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from execution.model import AlertRaised, Severity
from runtime.bus import MemoryBroker, MemoryBus
from runtime.clock import WallClock
from runtime.publisher import Publisher
from runtime.topics import Topics

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
