"""The buffered socket under the real library, with real brokers at the other end."""

import asyncio
import os
import select
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runtime import mqtt
from runtime.bus import BusUnavailable
from runtime.mqtt import MqttBus, Presence
from runtime.mqtt_socket import PIECE, BufferedSocket
from tests.integration.brokers import PATIENCE, RunningBroker


def socket_of(bus: MqttBus) -> BufferedSocket:
    """The socket of a connected bus."""
    assert bus._connection is not None
    sock = bus._connection._client.socket()
    assert isinstance(sock, BufferedSocket)
    return sock


async def receive(bus: MqttBus, count: int) -> list[bytes]:
    """The next `count` payloads, acknowledged.

    Without the copies that NATS sends when it hears of an acknowledgement after more than its ack_wait: they have
    DUP, which nothing has that comes for the first time.
    """
    found: list[bytes] = []
    messages: AsyncIterator[Any] = bus.messages()
    while len(found) < count:
        incoming = await anext(messages)
        incoming.ack()
        if not incoming.dup:
            found.append(incoming.payload)
    return found


@contextmanager
def paused(broker: RunningBroker) -> Iterator[None]:
    """A broker that reads nothing."""
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


async def test_ten_thousand_messages_in_both_directions_are_complete_and_in_order(
    any_calm_broker: RunningBroker,
) -> None:
    # Mosquitto sends 20 at a time and no more, and would make the test long.
    count = 10_000 if any_calm_broker.kind == "embedded" else 500
    sent = [f"{number}".encode() for number in range(count)]

    async def send(bus: MqttBus, topic: str) -> None:
        confirmations = [await bus.publish_soon(topic, payload) for payload in sent]
        await asyncio.gather(*confirmations)

    async with (
        any_calm_broker.bus("a", ["to-a"]) as a,
        any_calm_broker.bus("b", ["to-b"]) as b,
        asyncio.timeout(4 * PATIENCE),
    ):
        _, _, at_a, at_b = await asyncio.gather(
            send(a, "to-b"), send(b, "to-a"), receive(a, count), receive(b, count)
        )
    assert at_a == sent
    assert at_b == sent


async def test_a_broker_that_reads_slowly_loses_nothing(any_calm_broker: RunningBroker) -> None:
    sent = [bytes((number,)) * 150_000 for number in range(120)]
    async with (
        any_calm_broker.bus("receiver", ["t"]) as receiver,
        any_calm_broker.bus("sender") as sender,
    ):
        sock = socket_of(sender)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
        with paused(any_calm_broker):
            confirmations = [await sender.publish_soon("t", payload) for payload in sent]
            await asyncio.sleep(0.2)
            assert 0 < sock.unsent <= PIECE + 150_100
            assert sender._connection is not None
            assert sender._connection._client.want_write()  # the rest waits in the library
        async with asyncio.timeout(PATIENCE):
            received = await receive(receiver, len(sent))
            await asyncio.gather(*confirmations)
        assert received == sent
        assert sock.unsent == 0


async def test_a_killed_broker_fails_what_was_buffered_and_the_bus_returns(
    any_calm_broker: RunningBroker,
) -> None:
    losses: list[str] = []
    async with any_calm_broker.bus("sender") as sender:
        sender.on_disconnected(losses.append)
        os.kill(any_calm_broker.pid, signal.SIGSTOP)
        confirmations = [await sender.publish_soon("t", b"x" * 150_000) for _ in range(100)]
        await asyncio.sleep(0.05)
        assert socket_of(sender).unsent > 0
        await any_calm_broker.kill_and_return()
        async with asyncio.timeout(PATIENCE / 2):  # not by the timeout of each
            found = await asyncio.gather(*confirmations, return_exceptions=True)
        assert all(isinstance(error, BusUnavailable) for error in found)
        await sender.wait_connected(PATIENCE)
        await sender.publish("t", b"again")
        assert len(losses) == 1


async def test_a_failing_flush_is_a_lost_connection_once(any_calm_broker: RunningBroker) -> None:
    losses: list[str] = []
    async with any_calm_broker.bus("sender") as sender:
        sender.on_disconnected(losses.append)
        socket_of(sender).shutdown(socket.SHUT_WR)
        with pytest.raises(BusUnavailable):
            await sender.publish("t", b"x")
        await sender.wait_connected(PATIENCE)
        await sender.publish("t", b"x")
        assert len(losses) == 1


async def test_a_clean_stop_sends_all_before_its_goodbye(
    any_calm_broker: RunningBroker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt, "_GOODBYE", PATIENCE)  # how much a busy broker takes in two seconds is not the question
    presence = Presence("x/status", b"online", b"offline")
    # One subscription, because NATS keeps no order between two.
    async with any_calm_broker.bus("watcher", ["x/#"]) as watcher:
        async with any_calm_broker.bus("daemon", presence=[presence]) as daemon:
            assert await receive(watcher, 1) == [b"online"]
            socket_of(daemon).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
            last = [await daemon.publish_soon("x/t", b"x" * 100_000) for _ in range(20)]
        async with asyncio.timeout(PATIENCE):
            assert await receive(watcher, 21) == [b"x" * 100_000] * 20 + [b"offline"]
        await asyncio.gather(*last)
        with pytest.raises(TimeoutError):  # no last will: the DISCONNECT arrived
            await asyncio.wait_for(receive(watcher, 1), 0.1)


def wait_for_bytes(sock: BufferedSocket, count: int) -> None:
    """Until so many have come. The loop stands still meanwhile and reads none of them before."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
    readable, _, _ = select.select([sock], [], [], PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    assert readable


async def test_few_system_calls_for_many_packets(calm_broker: RunningBroker) -> None:
    """The reason for all this; also fails when the library does not use the buffered socket any more."""
    calls = {"fill": 0, "flush": 0, "recv": 0, "send": 0}
    count = 60  # the broker sends 64 before it waits for an acknowledgement

    def counted(sock: BufferedSocket, name: str) -> None:
        inner = getattr(sock, name)

        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return inner(*arguments)

        setattr(sock, name, call)

    async with calm_broker.bus("echo", ["t"]) as bus:
        sock = socket_of(bus)
        for name in calls:
            counted(sock, name)
        with paused(calm_broker):
            confirmations = [asyncio.create_task(bus.publish("t", b"x")) for _ in range(count)]
            while calls["send"] < count or sock.unsent:
                await asyncio.sleep(0)
        puback, publish = 4, 8  # bytes of each packet
        wait_for_bytes(sock, count * (puback + publish))
        await receive(bus, count)
        await asyncio.gather(*confirmations)
    assert calls["send"] >= 2 * count
    assert calls["recv"] >= 6 * count
    assert calls["fill"] < count / 4
    assert calls["flush"] < count / 4
