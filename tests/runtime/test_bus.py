"""The bus in memory behaves as the real one: sessions, retained messages, manual acknowledgement."""

import asyncio

import pytest

from runtime.bus import BusUnavailable, Connected, Incoming, MemoryBroker, MemoryBus
from tests.integration.brokers import PATIENCE


async def attached(broker: MemoryBroker, name: str, *subscriptions: str) -> MemoryBus:
    bus = MemoryBus(broker, name, subscriptions)
    await bus.start()
    return bus


async def take(bus: MemoryBus, count: int) -> list[Incoming]:
    messages = bus.messages()
    return [await asyncio.wait_for(anext(messages), PATIENCE) for _ in range(count)]


async def test_what_is_not_acknowledged_comes_again_with_dup_under_its_packet_id() -> None:
    broker = MemoryBroker()
    receiver, sender = await attached(broker, "receiver", "t/#"), await attached(broker, "sender")
    for payload in (b"1", b"2"):
        await sender.publish("t/x", payload)
    first, second = await take(receiver, 2)
    first.ack()
    first.ack()
    await receiver.drop()
    await sender.publish("t/y", b"3")
    await receiver.start()
    again, third = await take(receiver, 2)
    assert (again.payload, again.packet_id, again.dup) == (b"2", second.packet_id, True)
    assert third.payload == b"3"


async def test_retained_messages_come_with_the_flag_and_can_be_cleared() -> None:
    broker = MemoryBroker()
    sender = await attached(broker, "sender")
    await sender.publish("t", b"kept", retain=True)
    await sender.publish("u", b"kept", retain=True)
    await sender.publish("u", b"", retain=True)
    (incoming,) = await take(await attached(broker, "later", "#"), 1)
    assert (incoming.topic, incoming.retain) == ("t", True)
    assert broker.retained == {"t": b"kept"}


async def test_a_dropped_bus_cannot_publish_and_says_when_it_is_back() -> None:
    broker = MemoryBroker()
    bus = MemoryBus(broker, "x")
    states: list[object] = []
    bus.on_connected(lambda connected: states.append(connected.session_present))
    bus.on_disconnected(states.append)
    await bus.start()
    await bus.drop("cut")
    with pytest.raises(BusUnavailable):
        await bus.publish("t", b"")
    with pytest.raises(BusUnavailable):
        await (await bus.publish_soon("t", b""))
    await bus.start()
    assert states == [False, "cut", True]
    await (await bus.publish_soon("t", b""))


async def test_stopping_ends_the_iteration_after_what_waits() -> None:
    broker = MemoryBroker()
    bus = await attached(broker, "x", "t")
    await bus.publish("t", b"1")
    await bus.stop()
    assert [incoming.payload async for incoming in bus.messages()] == [b"1"]


async def test_a_cancelled_receive_loses_nothing() -> None:
    broker = MemoryBroker()
    bus = await attached(broker, "x", "t")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(bus.messages()), 0.01)
    await bus.publish("t", b"1")
    assert [incoming.payload for incoming in await take(bus, 1)] == [b"1"]


async def test_an_asynchronous_callback_is_awaited() -> None:
    broker = MemoryBroker()
    seen: list[str] = []

    async def connected(state: Connected) -> None:
        await asyncio.sleep(0)
        seen.append(state.session)

    bus = MemoryBus(broker, "x")
    bus.on_connected(connected)
    await bus.start()
    assert seen == ["x"]
