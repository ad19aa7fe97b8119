"""Real brokers for tests, on free loopback ports: the embedded one and Mosquitto, behind one small class.

A test that takes the fixture `any_broker` runs on both. Nothing outlives its test.
"""

import asyncio
import itertools
import os
import random
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from runtime.broker import BrokerOptions, Credential, EmbeddedBroker, Violation, answers_connect, load_credential
from runtime.mqtt import MqttBus, MqttOptions, Presence
from runtime.supervisor import Child
from runtime.topics import Topics

EMBEDDED = "embedded"
MOSQUITTO = "mosquitto"
PATIENCE = 60.0
"""Seconds after which an awaited event counts as missing: nothing that works takes so long, on no machine."""

_MOSQUITTO_CONFIG = """
listener {port} 127.0.0.1
allow_anonymous true
user {user}
persistence true
persistence_location {directory}/
autosave_on_changes true
autosave_interval 1
max_queued_messages 0
{more}
max_packet_size 1200000
set_tcp_nodelay true
log_dest stdout
"""


def _ports() -> Iterator[int]:
    """Ports for one process of tests after another, over and over.

    Below those that the system gives to outgoing connections: one of these may otherwise take the port before the
    broker that it was chosen for listens, or while that is down. Each worker of pytest-xdist has its own.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = range(10_000 + worker, 30_000, workers)
    start = random.SystemRandom().randrange(len(mine))  # other runs of the tests may be under way
    return itertools.cycle((*mine[start:], *mine[:start]))


_next_ports = _ports()


def free_port() -> int:
    """A loopback port that nobody listens on, and another at each call."""
    for port in _next_ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("unreachable: the ports are endless")


class RunningBroker:
    """One broker that can be killed and brought back."""

    def __init__(self, kind: str, directory: Path, ack_wait: float = 1.0, more: str = "") -> None:
        self.kind = kind
        self._more = more
        self.directory = directory
        self._ack_wait = ack_wait
        self.host = "127.0.0.1"
        self.port = free_port()
        self.topics = Topics()
        self.violations: list[Violation] = []
        self._embedded: EmbeddedBroker | None = None
        self._mosquitto: Child | None = None
        self._credential: Credential | None = None

    async def start(self) -> None:
        """Start it and wait until it answers."""
        if self.kind == EMBEDDED:
            options = BrokerOptions(
                directory=self.directory / "broker", port=self.port, start_timeout=PATIENCE, ack_wait=self._ack_wait
            )
            self._embedded = EmbeddedBroker(options, self.topics, on_violation=self.violations.append)
            self._credential = self._embedded.credential
            await self._embedded.start()
        else:
            await self._start_mosquitto()

    async def _start_mosquitto(self) -> None:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        folder = self.directory / "mosquitto"
        folder.mkdir(exist_ok=True)
        config = folder / "mosquitto.conf"
        user = "root" if os.geteuid() == 0 else "mosquitto"
        config.write_text(_MOSQUITTO_CONFIG.format(port=self.port, directory=folder, user=user, more=self._more))
        self._mosquitto = await Child.start([program, "-c", str(config)], on_line=lambda _line: None)
        await self.wait_answering()

    async def wait_answering(self) -> None:
        """Return when it answers a CONNECT."""
        credential = self._credential or Credential("anybody", "", "")
        async with asyncio.timeout(PATIENCE):
            while not await answers_connect(self.host, self.port, credential):
                await asyncio.sleep(0.01)

    @property
    def pid(self) -> int:
        """The broker's process."""
        pid = self._mosquitto.pid if self._mosquitto is not None else None
        if self._embedded is not None:
            pid = self._embedded.pid
        assert pid is not None
        return pid

    def kill(self) -> None:
        """kill -9. The embedded one comes back by itself."""
        os.kill(self.pid, signal.SIGKILL)

    async def kill_and_return(self) -> None:
        """kill -9, and return when it answers again."""
        self.kill()
        if self._embedded is not None:
            restarts = self._embedded.restarts
            async with asyncio.timeout(PATIENCE):
                while self._embedded.restarts == restarts:
                    await asyncio.sleep(0.005)
        else:
            assert self._mosquitto is not None
            await self._mosquitto.wait()
            await self._start_mosquitto()

    async def stop(self) -> None:
        """End it."""
        if self._embedded is not None:
            await self._embedded.stop()
            self._embedded = None
        if self._mosquitto is not None:
            await self._mosquitto.stop()
            self._mosquitto = None

    def options(self, service: str, *, as_daemon: bool = True, **changes: Any) -> MqttOptions:
        """Connection options of a client; the daemon's credential where the broker wants one."""
        values: dict[str, Any] = {
            "host": self.host, "port": self.port, "client_id": f"test-{service}", "publish_timeout": PATIENCE,
        }  # fmt: skip
        if as_daemon and self._credential is not None:
            values |= {"username": self._credential.username, "password": self._credential.password}
        return MqttOptions(**(values | changes))

    @asynccontextmanager
    async def bus(
        self,
        service: str,
        subscriptions: Sequence[str] = (),
        *,
        presence: Sequence[Presence] = (),
        as_daemon: bool = True,
        **changes: object,
    ) -> AsyncIterator[MqttBus]:
        """A connected bus, stopped at the end."""
        bus = MqttBus(self.options(service, as_daemon=as_daemon, **changes), subscriptions, presence=presence)
        await bus.start()
        try:
            await bus.wait_connected(PATIENCE)
            yield bus
        finally:
            await bus.stop()


@asynccontextmanager
async def running_broker(
    kind: str, directory: Path, ack_wait: float = 1.0, more: str = ""
) -> AsyncIterator[RunningBroker]:
    """A broker that is stopped at the end. Skips, saying so, when Mosquitto is not installed. `more`: lines for its
    configuration."""
    if kind == MOSQUITTO and not (shutil.which("mosquitto") or Path("/usr/sbin/mosquitto").exists()):
        pytest.skip("mosquitto is not installed: the external broker is NOT tested")
    broker = RunningBroker(kind, directory, ack_wait, more)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


@pytest_asyncio.fixture(params=[EMBEDDED, MOSQUITTO])
async def any_broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunningBroker]:
    """The embedded broker, then Mosquitto."""
    async with running_broker(request.param, tmp_path) as broker:
        yield broker


@pytest_asyncio.fixture
async def embedded_broker(tmp_path: Path) -> AsyncIterator[RunningBroker]:
    """The embedded broker."""
    async with running_broker(EMBEDDED, tmp_path) as broker:
        yield broker


@pytest_asyncio.fixture(params=[EMBEDDED, MOSQUITTO])
async def any_calm_broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunningBroker]:
    """As `any_broker`, but nothing is sent twice because somebody was slow to acknowledge it.

    NATS numbers a copy anew when the acknowledgement was on its way, so that it cannot be told from another message.
    """
    async with running_broker(request.param, tmp_path, ack_wait=PATIENCE) as broker:
        yield broker


@pytest_asyncio.fixture
async def calm_broker(tmp_path: Path) -> AsyncIterator[RunningBroker]:
    """The embedded broker of `any_calm_broker`."""
    async with running_broker(EMBEDDED, tmp_path, ack_wait=PATIENCE) as broker:
        yield broker


__all__ = [
    "PATIENCE",
    "any_broker",
    "any_calm_broker",
    "calm_broker",
    "embedded_broker",
    "free_port",
    "load_credential",
    "running_broker",
]
