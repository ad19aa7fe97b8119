"""The embedded broker: who may publish what, its life and death, and what it says when it cannot run."""

import asyncio
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime import broker as broker_module
from runtime.broker import (
    BrokerError,
    BrokerOptions,
    EmbeddedBroker,
    PortTaken,
    Violation,
    answers_connect,
    find_server,
    load_credential,
    subject_of,
    topic_of,
)
from runtime.mqtt import MqttBus, Presence
from runtime.topics import Topics
from tests.integration.brokers import PATIENCE, RunningBroker, free_port
from tests.runtime.test_mqtt import refused, take

ALLOWED = [
    "fillbook/v1/market/BRK.B/price",
    "fillbook/v1/market/BTC-USD/candle/1m",
    "fillbook/v1/bot/weighted/set",
    "fillbook/v1/main/request/trade",
    "fillbook/v1/main/request/halt",
    "home/kitchen/light.1",
]
DENIED = [
    "fillbook/v1/main/request/trade/bot/weighted",
    "fillbook/v1/status",
    "fillbook/v1/service/execution/status",
    "fillbook/v1/bot/weighted/state",
    "fillbook/v1/bot/weighted/recommendation",
    "fillbook/v1/main/trade",
    "fillbook/v1/main/position/BRK.B",
    "fillbook/v1/main/portfolio",
    "fillbook/v1/main/response/r-1",
    "fillbook/v1/main/alert",
    "fillbook/v1/main/integrity",
    "fillbook/v1/alert",
    "$JS/API/STREAM/PURGE/$MQTT_msgs",
    "$MQTT/msgs/fillbook/v1/main/trade",
]


async def until(condition: Callable[[], object], within: float = PATIENCE) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)


async def test_everybody_may_ask_and_only_the_daemon_may_answer(calm_broker: RunningBroker) -> None:
    broker = calm_broker
    async with (
        broker.bus("watcher", ["#"], as_daemon=False) as watcher,
        broker.bus("person", as_daemon=False) as person,
        broker.bus("daemon") as daemon,
    ):
        for topic in DENIED:
            await person.publish(topic, b"forged", retain=True)  # acknowledged like a good one
        for topic in ALLOWED:
            await person.publish(topic, b"asked")
        for topic in DENIED:
            if not topic.startswith("$"):
                await daemon.publish(topic, b"answered")
        expected = [(topic, b"asked") for topic in ALLOWED]
        expected += [(topic, b"answered") for topic in DENIED if not topic.startswith("$")]
        found = await take(watcher, len(expected))
        assert sorted((incoming.topic, incoming.payload) for incoming in found) == sorted(expected)
        await until(lambda: len(broker.violations) == len(DENIED))
    assert broker.violations == [Violation(topic, "test-person") for topic in DENIED]
    async with broker.bus("later", ["#"], as_daemon=False) as later:
        await person_marker(broker)
        assert [incoming.payload for incoming in await take(later, 1)] == [b"marker"]  # nothing forged was retained


async def person_marker(broker: RunningBroker) -> None:
    async with broker.bus("marker", as_daemon=False) as person:
        await person.publish("home/marker", b"marker")


async def test_a_strangers_last_will_cannot_speak_for_the_daemon(calm_broker: RunningBroker) -> None:
    will = Presence("fillbook/v1/main/trade", b"online", b"forged")
    async with calm_broker.bus("watcher", ["#"]) as watcher:
        async with calm_broker.bus("stranger", presence=[will], as_daemon=False) as stranger:
            connection = stranger._connection
            assert connection is not None
            raw = connection._client.socket()
            assert isinstance(raw, socket.socket)
            raw.shutdown(socket.SHUT_RDWR)
            await until(lambda: not stranger.is_connected)
        await person_marker(calm_broker)
        assert [incoming.payload for incoming in await take(watcher, 1)] == [b"marker"]


async def test_a_wrong_password_is_refused(calm_broker: RunningBroker) -> None:
    bus = MqttBus(calm_broker.options("thief", username="fillbook", password="wrong"))
    await refused(bus, "Not authorized")


async def test_the_nats_port_lets_nobody_in_without_the_password(calm_broker: RunningBroker) -> None:
    ports = {
        int(line.split()[1].split(":")[1], 16)
        for line in Path(f"/proc/{calm_broker.pid}/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[9] in _inodes(calm_broker.pid)
    } - {calm_broker.port}
    assert len(ports) == 1
    reader, writer = await asyncio.open_connection("127.0.0.1", ports.pop())
    await reader.readline()
    writer.write(b'CONNECT {"verbose":true}\r\nPUB fillbook.v1.main.trade 1\r\nx\r\n')
    assert b"Authorization" in await reader.readline()
    writer.close()
    await writer.wait_closed()


def _inodes(pid: int) -> set[str]:
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        link = os.readlink(descriptor)
        if socket_link := re.fullmatch(r"socket:\[(\d+)\]", link):
            found.add(socket_link[1])
    return found


async def test_300_kilobytes_reach_the_daemon(calm_broker: RunningBroker) -> None:
    async with (
        calm_broker.bus("daemon", ["t"]) as daemon,
        calm_broker.bus("person", as_daemon=False) as person,
    ):
        await person.publish("t", b"a" * 300_000)
        assert len((await take(daemon, 1))[0].payload) == 300_000


async def test_its_files_are_private(calm_broker: RunningBroker) -> None:
    folder = calm_broker.directory / "broker"
    for name in ("nats.conf", "credential.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    credential = load_credential(folder)
    assert credential == load_credential(folder)
    assert "." not in credential.client_id("execution")


async def test_a_killed_child_is_started_again_under_a_new_incarnation(tmp_path: Path) -> None:
    restarts: list[int] = []
    options = BrokerOptions(tmp_path / "broker", port=free_port(), start_timeout=PATIENCE)
    broker = EmbeddedBroker(options, Topics(), on_restart=restarts.append)
    await broker.start()
    try:
        incarnation, pid = broker.incarnation, broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: restarts == [1])
        assert broker.pid not in (None, pid)
        assert broker.incarnation != incarnation
        assert await answers_connect("127.0.0.1", broker.options.port, broker.credential)
    finally:
        await broker.stop()
    assert broker.pid is None


async def test_a_taken_port_is_an_error_that_says_how_to_choose_another(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        broker = EmbeddedBroker(BrokerOptions(tmp_path / "broker", port=port), Topics())
        with pytest.raises(PortTaken, match=rf"127\.0\.0\.1:{port} .*--set broker\.port=.*FILLBOOK_BROKER__PORT"):
            await broker.start()
        assert broker.pid is None


async def test_two_brokers_never_share_a_folder(
    calm_broker: RunningBroker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broker_module, "_LEAVING", 0.1)
    second = EmbeddedBroker(BrokerOptions(calm_broker.directory / "broker", port=free_port()), Topics())
    with pytest.raises(BrokerError, match=f"in use by process {os.getpid()}"):
        await second.start()


def test_a_missing_server_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    assert find_server()
    with pytest.raises(BrokerError, match=r"broker\.command"):
        find_server([str(tmp_path / "nats-server")])


async def test_a_broken_server_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    fake = tmp_path / "nats-server"
    fake.write_text("#!/bin/sh\necho '[1] [FTL] no more electricity'\nexit 1\n")
    fake.chmod(0o755)
    broker = EmbeddedBroker(BrokerOptions(tmp_path / "b", port=free_port(), command=[str(fake)]), Topics())
    with pytest.raises(BrokerError, match="no more electricity"):
        await broker.start()


PARENT = """
import asyncio, sys
from pathlib import Path
from runtime.broker import BrokerOptions, EmbeddedBroker
from runtime.topics import Topics

async def main() -> None:
    broker = EmbeddedBroker(BrokerOptions(Path(sys.argv[1]), port=int(sys.argv[2]), start_timeout=60), Topics())
    await broker.start()
    print(broker.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_it_dies_with_its_parent_and_the_next_daemon_takes_over(tmp_path: Path) -> None:
    port = free_port()
    folder = tmp_path / "broker"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), str(port)], stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        child = int(await asyncio.to_thread(parent.stdout.readline))
        parent.kill()
    await until(lambda: not _is_alive(child))
    broker = EmbeddedBroker(BrokerOptions(folder, port=port, start_timeout=PATIENCE), Topics())
    await broker.start()
    await broker.stop()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("topic", "subject"),
    [("a/b", "a.b"), ("fillbook/v1/main/position/BRK.B", "fillbook.v1.main.position.BRK//B"), ("a", "a")],
)
def test_topics_and_subjects_are_each_others_inverse(topic: str, subject: str) -> None:
    assert subject_of(topic) == [subject]
    assert topic_of(subject) == topic


def test_a_filter_for_everything_below_is_two_subjects() -> None:
    assert subject_of("a/+/b/#") == ["a.*.b", "a.*.b.>"]
