"""Brokers that hang up in the wrong moment, or say nothing: the bus returns, and is stopped at once.

The library would wait for `connect_timeout`, which is set to an hour here.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from runtime.mqtt import MqttBus, MqttOptions, Presence
from runtime.mqtt_connection import Connection
from tests.integration.brokers import PATIENCE

CONNACK = b"\x20\x02\x00\x00"
ONLINE = Presence("t/status", b"online", b"offline")

Manner = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def hangs_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Before it answers."""


async def answers_and_hangs_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """In one breath."""
    writer.write(CONNACK)


async def says_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Reads on."""
    await reader.read()


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The connection, and nothing else."""
    writer.write(CONNACK)
    await reader.read()


class RudeBroker:
    """Treats the first connections as it is told, and all after them in the last manner."""

    def __init__(self, manners: Sequence[Manner]) -> None:
        self._manners = list(manners)
        self._news = asyncio.Event()
        self.connections = 0
        self.heard = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.heard += await reader.read(1000)  # the CONNECT
        self.connections += 1
        self._news.set()
        manner = self._manners.pop(0) if len(self._manners) > 1 else self._manners[0]
        await manner(reader, writer)
        writer.close()

    async def connected(self, times: int) -> None:
        """Wait until a client has tried so often."""
        async with asyncio.timeout(PATIENCE):
            while self.connections < times:
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def rude(
    *manners: Manner, presence: Sequence[Presence] = (), subscriptions: Sequence[str] = ()
) -> AsyncIterator[tuple[RudeBroker, MqttBus]]:
    """A broker and a bus that has begun to connect to it; the bus is stopped at the end."""
    broker = RudeBroker(manners)
    server = await asyncio.start_server(broker.serve, "127.0.0.1")
    host, port = server.sockets[0].getsockname()[:2]
    options = MqttOptions(
        host, port, "test-polite", connect_timeout=3600, backoff_initial=0.01, backoff_maximum=0.02, keepalive=3600
    )
    bus = MqttBus(options, subscriptions, presence=presence)
    await bus.start()
    try:
        yield broker, bus
    finally:
        async with asyncio.timeout(PATIENCE):
            await bus.stop()
        server.close()
        await server.wait_closed()


async def test_a_broker_that_hangs_up_before_it_answers_is_tried_again_soon() -> None:
    async with rude(hangs_up, hangs_up, answers) as (_, bus):
        await bus.wait_connected(PATIENCE)


async def test_a_connection_that_breaks_as_it_is_made_is_noticed_and_leaves_no_error_that_nobody_looks_at() -> None:
    """By a bus that has nothing to send, too."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with rude(answers_and_hangs_up, answers_and_hangs_up, answers) as (broker, bus):
        await broker.connected(3)
        await bus.wait_connected(PATIENCE)
    gc.collect()
    assert not complaints


@pytest.mark.parametrize("manner", [says_nothing, answers])
async def test_a_stop_does_not_wait_for_a_broker_that_says_nothing(manner: Manner) -> None:
    async with rude(manner, presence=[ONLINE]) as (broker, bus):
        await broker.connected(1)
        await asyncio.sleep(0.05)  # more or less: in whatever the bus is, it is stopped
        assert not bus.is_connected
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in left if "mqtt" in task.get_name()]


@pytest.mark.parametrize("turns", range(8))
async def test_a_stop_is_heard_also_in_the_moment_in_which_a_subscription_is_granted(turns: int) -> None:
    async with rude(answers, subscriptions=["t"]) as (_, bus):
        async with asyncio.timeout(PATIENCE):
            while bus._connection is None or not bus._connection._pending_subscribes:
                await asyncio.sleep(0)
        (granted,) = bus._connection._pending_subscribes.values()
        stopping = asyncio.create_task(bus.stop())
        for _ in range(turns):
            await asyncio.sleep(0)
        if not granted.done():
            granted.set_result((1,))
        async with asyncio.timeout(PATIENCE):
            await stopping


async def test_a_callback_that_fails_and_a_mistake_as_a_connection_is_made_do_not_end_the_bus(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[object] = []

    async def granted(_connection: Connection, patterns: Sequence[str]) -> list[str]:
        tries.append(patterns)
        if len(tries) == 1:
            raise KeyError("a mistake")
        return []

    def fail(_connected: object) -> None:
        raise KeyError("another mistake")

    monkeypatch.setattr(Connection, "subscribe_to", granted)
    async with rude(answers, subscriptions=["t"]) as (_, bus):
        bus.on_connected(fail)
        await bus.wait_connected(PATIENCE)
        assert bus.is_connected
    assert "a connection failed" in caplog.text
    assert "a connection callback failed" in caplog.text


async def test_an_answer_to_what_was_cancelled_meanwhile_is_no_error_to_tell(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connection = Connection(MqttOptions("127.0.0.1", 1, "late"), None, lambda _message: None)
    connection._on_subscribe(connection._client, None, 7, [])
    connection._on_unsubscribe(connection._client, None, 8, [])
    assert caplog.text == ""
