"""The MQTT bus on real brokers: every case on the embedded one and on Mosquitto."""

import asyncio
import inspect
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from weakref import WeakKeyDictionary

import aiomqtt
import paho.mqtt.client as paho
import pytest

from runtime.bus import BusUnavailable, Connected, Incoming
from runtime.mqtt import MqttBus, MqttOptions, Presence
from tests.integration.brokers import PATIENCE, RunningBroker, free_port

PRESENCE = Presence("fillbook/v1/status", b"online", b"offline")

_acknowledged: "WeakKeyDictionary[MqttBus, set[tuple[str, int | None, bytes]]]" = WeakKeyDictionary()


async def take(bus: MqttBus, count: int, *, ack: bool = True, within: float = PATIENCE) -> list[Incoming]:
    """The next `count` messages.

    Without copies of what was acknowledged by `take`, in this call or before: NATS sends them when it hears of that
    after more than its ack_wait.
    """
    found: list[Incoming] = []
    acknowledged = _acknowledged.setdefault(bus, set())
    messages: AsyncIterator[Incoming] = bus.messages()
    async with asyncio.timeout(within):
        while len(found) < count:
            incoming = await anext(messages)
            if ack:
                incoming.ack()
                name = (incoming.topic, incoming.packet_id, incoming.payload)
                if incoming.dup and name in acknowledged:
                    continue
                acknowledged.add(name)
            found.append(incoming)
    return found


async def confirmed(bus: MqttBus, payload: bytes) -> None:
    """What a caller does: the same payload until it is confirmed."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await bus.publish("t", payload)
            except BusUnavailable:
                await asyncio.sleep(0.01)


async def refused(bus: MqttBus, why: str) -> None:
    """Wait until the broker has said why it does not want this client; the first attempts may fail otherwise."""
    await bus.start()
    async with asyncio.timeout(PATIENCE):
        while why not in (bus.last_error or ""):
            await asyncio.sleep(0.01)
    with pytest.raises(BusUnavailable, match=why):
        await bus.wait_connected(0.01)
    await bus.stop()


async def hurried(bus: MqttBus) -> None:
    """Have a bus that lost its connection try again until it has another one."""
    async with asyncio.timeout(PATIENCE):
        while not bus.is_connected:
            bus.hurry()
            await asyncio.sleep(0.01)


async def test_what_is_published_arrives_in_order(any_calm_broker: RunningBroker) -> None:
    async with any_calm_broker.bus("receiver", ["t/#"]) as receiver, any_calm_broker.bus("sender") as sender:
        sent = [f"{number}".encode() for number in range(500)]
        confirmations = [await sender.publish_soon("t/BRK.B/x", payload) for payload in sent]
        received = await take(receiver, len(sent))
        await asyncio.gather(*confirmations)
    assert [incoming.payload for incoming in received] == sent
    assert {incoming.topic for incoming in received} == {"t/BRK.B/x"}
    assert not any(incoming.retain or incoming.dup for incoming in received)


async def test_only_what_was_not_acknowledged_comes_again(any_broker: RunningBroker) -> None:
    async with any_broker.bus("receiver", ["t"]) as receiver, any_broker.bus("sender") as sender:
        for number in range(6):
            await sender.publish("t", str(number).encode())
        first = await take(receiver, 6, ack=False)
        for incoming in first[::2]:
            incoming.ack()
        # The acknowledgements are with the broker when it confirms what came behind them on the same connection.
        # Mosquitto may otherwise take the next connection first, and then never reads the rest of this one.
        await receiver.publish("behind", b"")
    async with any_broker.bus("receiver", ["t"]) as receiver:
        again = await take(receiver, 3)
    assert sorted(incoming.payload for incoming in again) == [b"1", b"3", b"5"]
    assert all(incoming.dup for incoming in again)
    packets = {incoming.payload: incoming.packet_id for incoming in first}
    assert all(incoming.packet_id == packets[incoming.payload] for incoming in again)


async def test_messages_for_an_absent_client_wait_for_it(any_calm_broker: RunningBroker) -> None:
    async with any_calm_broker.bus("receiver", ["t"]):
        pass
    async with any_calm_broker.bus("sender") as sender:
        await sender.publish("t", b"while away")
    async with any_calm_broker.bus("receiver", ["t"]) as receiver:
        assert [incoming.payload for incoming in await take(receiver, 1)] == [b"while away"]


async def test_a_retained_copy_carries_the_flag_and_a_live_message_does_not(
    any_calm_broker: RunningBroker,
) -> None:
    async with any_calm_broker.bus("live", ["t"]) as live, any_calm_broker.bus("sender") as sender:
        await sender.publish("t", b"kept", retain=True)
        assert [incoming.retain for incoming in await take(live, 1)] == [False]
        async with any_calm_broker.bus("later", ["t"]) as later:
            assert [incoming.retain for incoming in await take(later, 1)] == [True]


async def test_state_and_queues_survive_a_kill_of_the_broker_and_the_bus_returns_by_itself(
    any_broker: RunningBroker,
) -> None:
    connections: list[Connected] = []
    losses: list[str] = []
    async with any_broker.bus("receiver", ["t", "state"]) as receiver, any_broker.bus("sender") as sender:
        receiver.on_connected(connections.append)
        receiver.on_disconnected(losses.append)
        await sender.publish("state", b"kept", retain=True)
        await sender.publish("t", b"before")
        before = await take(receiver, 2, ack=False)
        if any_broker.kind == "mosquitto":
            # It saves at most once a second, and only when MORE than one thing changed.
            for number in range(3):
                await sender.publish(f"filler/{number}", b"x", retain=True)
            stored = any_broker.directory / "mosquitto" / "mosquitto.db"
            async with asyncio.timeout(PATIENCE):
                while not (stored.exists() and b"filler/2" in stored.read_bytes()):
                    await asyncio.sleep(0.05)
        await any_broker.kill_and_return()
        await confirmed(sender, b"after")
        seen: set[bytes] = set()
        while seen != {b"kept", b"before", b"after"}:
            seen |= {incoming.payload for incoming in await take(receiver, 1)}
        before[0].ack()  # on a connection that is gone: does nothing
        await receiver.wait_connected(PATIENCE)  # what waited for it may come before its subscriptions are confirmed
    assert losses
    assert connections
    assert connections[-1].session_present
    async with any_broker.bus("fresh", ["state"]) as fresh:
        assert [incoming.payload for incoming in await take(fresh, 1)] == [b"kept"]


async def test_publishing_without_a_broker_fails_in_time_and_works_again_after(
    any_calm_broker: RunningBroker,
) -> None:
    async with any_calm_broker.bus("sender", publish_timeout=0.3) as sender:
        await any_calm_broker.stop()
        with pytest.raises(BusUnavailable):
            await sender.publish("t", b"1")
        with pytest.raises(BusUnavailable):
            await sender.publish("t", b"1")
        await any_calm_broker.start()
        await confirmed(sender, b"1")


async def test_the_last_will_says_offline_and_the_reconnect_online(any_calm_broker: RunningBroker) -> None:
    async with any_calm_broker.bus("watcher", [PRESENCE.topic]) as watcher:
        # Nothing brings the will of one connection and the word of the next into an order, so the next one waits.
        async with any_calm_broker.bus(
            "daemon", presence=[PRESENCE], backoff_initial=600.0, backoff_maximum=600.0
        ) as daemon:
            assert [incoming.payload for incoming in await take(watcher, 1)] == [b"online"]
            connection = daemon._connection
            assert connection is not None
            raw = connection._client.socket()
            assert isinstance(raw, socket.socket)
            raw.shutdown(socket.SHUT_RDWR)  # the network breaks; nobody says goodbye
            assert [incoming.payload for incoming in await take(watcher, 1)] == [b"offline"]
            await hurried(daemon)
            assert [incoming.payload for incoming in await take(watcher, 1)] == [b"online"]
        assert [incoming.payload for incoming in await take(watcher, 1)] == [b"offline"]


async def test_the_session_keeps_its_name_over_a_restart(any_calm_broker: RunningBroker, tmp_path: Path) -> None:
    file = tmp_path / "session"
    names: list[str] = []
    for _ in range(2):
        async with any_calm_broker.bus("receiver", ["t"], session_file=file) as receiver:
            names.append(receiver.session)
    assert names[0] == names[1]
    async with any_calm_broker.bus("receiver-b", ["t"], session_file=file) as receiver:
        assert receiver.session.split("/")[1] != names[0].split("/")[1]  # a session the broker did not know


async def test_nagle_is_off(any_calm_broker: RunningBroker) -> None:
    async with any_calm_broker.bus("sender") as sender:
        connection = sender._connection
        assert connection is not None
        raw = connection._client.socket()
        assert isinstance(raw, socket.socket)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_failed_connections_leave_no_descriptors_open() -> None:
    bus = MqttBus(MqttOptions("127.0.0.1", free_port(), "nobody", backoff_initial=0.001, backoff_maximum=0.002))
    await bus.start()
    with pytest.raises(BusUnavailable, match="no MQTT broker at"):
        await bus.wait_connected(0.2)
    before = len(os.listdir("/proc/self/fd"))
    await asyncio.sleep(0.3)
    after = len(os.listdir("/proc/self/fd"))
    await bus.stop()
    assert after <= before + 4  # an attempt may be under way


@pytest.mark.parametrize("pattern", ["$SYS/#", "$JS/#", "$MQTT/#"])
async def test_a_refused_subscription_is_an_error(calm_broker: RunningBroker, pattern: str) -> None:
    bus = MqttBus(calm_broker.options("nosy", as_daemon=False), ["t", pattern])
    await refused(bus, "refused the subscription")


async def test_a_bus_told_to_hurry_connects_before_its_pause_is_over(any_calm_broker: RunningBroker) -> None:
    async with any_calm_broker.bus("sender", backoff_initial=600.0, backoff_maximum=600.0) as sender:
        lost = asyncio.Event()
        sender.on_disconnected(lambda _reason: lost.set())
        await any_calm_broker.kill_and_return()
        await asyncio.wait_for(lost.wait(), PATIENCE)
        await hurried(sender)


async def test_a_cancelled_receive_loses_nothing(any_calm_broker: RunningBroker) -> None:
    async with any_calm_broker.bus("receiver", ["t"]) as receiver, any_calm_broker.bus("sender") as sender:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await take(receiver, 1, within=0.01)
        await sender.publish("t", b"1")
        assert len(await take(receiver, 1)) == 1


def test_a_client_id_with_a_dot_is_refused() -> None:
    with pytest.raises(ValueError, match="without dots"):
        MqttOptions("localhost", 1883, "fillbook.execution")


async def test_the_private_parts_of_the_libraries_are_where_they_were() -> None:
    """Fails when aiomqtt or paho change what runtime/mqtt_connection.py relies on."""
    client = aiomqtt.Client("localhost")
    assert isinstance(client._client, paho.Client)
    assert isinstance(client._connected, asyncio.Future)
    assert isinstance(client._disconnected, asyncio.Future)
    assert client._misc_task is None
    for name, parameters in {
        "_on_connect": ["client", "userdata", "flags", "reason_code", "properties"],
        "_on_disconnect": ["client", "userdata", "flags", "reason_code", "properties"],
        "_on_message": ["client", "userdata", "message"],
        "_on_publish": ["client", "userdata", "mid", "reason_code", "properties"],
    }.items():
        assert list(inspect.signature(getattr(client, name)).parameters) == parameters
        assert getattr(client._client, name.removeprefix("_")) == getattr(client, name)
    assert list(inspect.signature(client._wait_for).parameters) == ["fut", "timeout"]
    written = inspect.signature(client._on_socket_register_write)
    assert list(written.parameters) == ["client", "userdata", "sock"]
    assert client._client.on_socket_register_write == client._on_socket_register_write
    assert list(inspect.signature(client._client.ack).parameters) == ["mid", "qos"]
    assert list(inspect.signature(client._client.manual_ack_set).parameters) == ["on"]
    assert list(inspect.signature(client._client._sock_close).parameters) == []
    message = paho.MQTTMessage(mid=1, topic=b"t")
    assert (message.dup, message.retain, message.mid) == (False, False, 1)
    assert list(inspect.signature(client._client._handle_pubackcomp).parameters) == ["cmd"]
    assert list(inspect.signature(client._client._do_on_publish).parameters) == ["mid", "reason_code", "properties"]
    assert client._client._in_packet["packet"] == b""
    assert not client._client._out_messages
    with client._client._out_message_mutex:
        pass
