"""What identifies a redelivered message: measured on both brokers, relied on by the inbox (see runtime.mqtt)."""

import asyncio
import hashlib
import os
import signal
import sys
from pathlib import Path

import pytest

from runtime.bus import BusUnavailable, Incoming
from tests.integration.brokers import EMBEDDED, PATIENCE, RunningBroker, running_broker
from tests.runtime.test_mqtt import take

RECEIVER = """
import asyncio, sys
from runtime.mqtt import MqttBus, MqttOptions

async def main() -> None:
    host, port, user, password, patience = sys.argv[1:]
    options = MqttOptions(host, int(port), "test-killed", username=user or None, password=password or None)
    bus = MqttBus(options, ["t"])
    await bus.start()
    await bus.wait_connected(float(patience))
    print("connected", flush=True)
    async for incoming in bus.messages():
        print(incoming.payload.decode(), incoming.packet_id, int(incoming.dup), flush=True)

asyncio.run(main())
"""


async def _run_receiver(broker: RunningBroker) -> asyncio.subprocess.Process:
    options = broker.options("killed")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RECEIVER, options.host, str(options.port), options.username or "",
        options.password or "", str(PATIENCE), stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), PATIENCE) == b"connected\n"
    return process


async def _lines(process: asyncio.subprocess.Process, count: int) -> list[tuple[str, int, bool]]:
    assert process.stdout is not None
    found = []
    for _ in range(count):
        text, packet, dup = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode().split()
        found.append((text, int(packet), dup == "1"))
    return found


async def test_a_killed_subscriber_gets_the_same_packet_ids_again(any_broker: RunningBroker) -> None:
    process = await _run_receiver(any_broker)
    async with any_broker.bus("sender") as sender:
        for number in range(3):
            await sender.publish("t", str(number).encode())
    first = await _lines(process, 3)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    process = await _run_receiver(any_broker)
    again = await _lines(process, 3)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert [dup for _, _, dup in first] == [False] * 3
    assert sorted(again) == sorted((text, packet, True) for text, packet, _ in first)


async def test_after_a_kill_of_the_embedded_broker_packet_ids_mean_something_else(
    embedded_broker: RunningBroker,
) -> None:
    """If this ever fails, NATS keeps packet ids now, and `incarnation` can leave the session's name.

    Whether DUP is set is not looked at: NATS says it of what it knows to have sent, which a kill may have made it
    forget (see the sender without a request id in docs/bus.md).
    """
    for stored_after in (0.1, 1, 5, 20):  # NATS tells nobody when an acknowledgement is on its disk
        name = f"receiver{stored_after * 10:g}"
        async with embedded_broker.bus(name, ["t"]) as receiver, embedded_broker.bus("sender") as sender:
            for number in range(3):
                await sender.publish("t", str(number).encode())
            first = await take(receiver, 3, ack=False)
            first[0].ack()
            await sender.publish("t", b"marker")  # behind the acknowledgement
            await take(receiver, 1, ack=True)
            await asyncio.sleep(stored_after)
            await embedded_broker.kill_and_return()
            again = await take(receiver, 2)
        assert _named(first) == [(b"0", 1, False), (b"1", 2, False), (b"2", 3, False)]
        if b"0" not in [incoming.payload for incoming in again]:
            break
    assert sorted((incoming.payload, incoming.packet_id) for incoming in again) == [(b"1", 1), (b"2", 2)]


async def test_a_live_redelivery_of_work_in_progress_is_dropped(embedded_broker: RunningBroker) -> None:
    """NATS sends an unacknowledged message again after each ack_wait (1 s), on the same connection."""
    async with embedded_broker.bus("receiver", ["t"]) as receiver, embedded_broker.bus("sender") as sender:
        await sender.publish("t", b"slow")
        (slow,) = await take(receiver, 1, ack=False)
        await asyncio.sleep(2.2)
        assert receiver.waiting == 0
        slow.ack()
        await sender.publish("t", b"next")
        assert _named(await take(receiver, 1)) == [(b"next", 2, False)]


async def test_a_copy_that_crosses_its_acknowledgement_is_not_taken_for_another_message(tmp_path: Path) -> None:
    """NATS sends it under a packet id of its own. If none is ever dropped, NATS has changed (see runtime.copies)."""
    async with running_broker(EMBEDDED, tmp_path, ack_wait=0.02) as broker:
        for attempt in range(20):
            async with broker.bus(f"receiver{attempt}", ["t"]) as receiver, broker.bus("sender") as sender:
                texts = [b"%d" % number for number in range(1_000)]
                sent = [await sender.publish_soon("t", text) for text in texts]
                packet_ids: dict[bytes, set[int | None]] = {}
                async with asyncio.timeout(PATIENCE):
                    async for incoming in receiver.messages():
                        if incoming.payload not in packet_ids and len(packet_ids) % 50 == 0:
                            hashlib.pbkdf2_hmac("sha256", b"busy for about ack_wait", b"", 40_000)
                        packet_ids.setdefault(incoming.payload, set()).add(incoming.packet_id)
                        incoming.ack()
                        if len(packet_ids) == len(texts):
                            break
                await asyncio.gather(*sent)
                assert {len(found) for found in packet_ids.values()} == {1}
                if receiver.copies_dropped:
                    return
    raise AssertionError("no copy crossed its acknowledgement")


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.long)])
async def test_nothing_confirmed_is_lost_while_the_broker_is_killed_under_load(
    embedded_broker: RunningBroker,
    kills: int,
) -> None:
    """The sender repeats until confirmed, the receiver acknowledges what it took: all arrive."""
    seen: dict[bytes, None] = {}
    confirmed: list[bytes] = []
    done = asyncio.Event()

    async with (
        embedded_broker.bus("receiver", ["t"]) as receiver,
        embedded_broker.bus("sender", publish_timeout=2) as sender,
    ):

        async def receive() -> None:
            async for incoming in receiver.messages():
                seen.setdefault(incoming.payload)
                incoming.ack()

        async def send() -> None:
            number = 0
            while not done.is_set():
                payload = str(number).encode()
                try:
                    await sender.publish("t", payload)
                except BusUnavailable:
                    continue
                confirmed.append(payload)
                number += 1

        receiving, sending = asyncio.create_task(receive()), asyncio.create_task(send())
        for _ in range(kills):
            await asyncio.sleep(0.15)
            await embedded_broker.kill_and_return()
        await asyncio.sleep(0.2)
        done.set()
        await sending
        async with asyncio.timeout(PATIENCE):
            while not set(confirmed) <= seen.keys():
                await asyncio.sleep(0.01)
        receiving.cancel()
    assert confirmed


def _named(messages: list[Incoming]) -> list[tuple[bytes, int | None, bool]]:
    return [(incoming.payload, incoming.packet_id, incoming.dup) for incoming in messages]
