"""Processes that benchmarks talk to: the real daemon, and two echos on the same broker.

The echo does no work at all; the storing echo makes each request durable before it answers, which is the
least that any solution must do.

`python -m tests.bench.servers daemon|echo|store FOLDER PORT`
"""

import asyncio
import json
import queue
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import process_megabytes

READY = "daemon.json"
"""The file in the data folder that says that a server is ready; the daemon writes it by itself."""


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its port, and the seconds from the start of the process until it was ready."""

    process: "subprocess.Popen[bytes]"
    port: int
    start_seconds: float

    @property
    def megabytes(self) -> float:
        """Peak resident memory so far, without the broker's."""
        return process_megabytes(self.process.pid) or 0.0


@contextmanager
def server(kind: str, folder: Path, timeout: float = 120.0) -> Iterator[Server]:
    """Run a server in a process of its own; ends it, and the broker with it, afterwards."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    command = [sys.executable, "-P", "-m", "tests.bench.servers", kind, str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not (folder / READY).exists():
            if process.poll() is not None or time.perf_counter() - began > timeout:
                raise RuntimeError(f"the {kind} did not start")
            time.sleep(0.002)
        yield Server(process, port, time.perf_counter() - began)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _daemon(folder: Path, port: int) -> None:
    from runtime.app import Daemon
    from runtime.log import configure_logging
    from tests.bench.material import settings_for

    settings = settings_for(folder, port)
    configure_logging(settings.log)
    await Daemon(settings, []).run()


class _Store(threading.Thread):
    """Bare sqlite3, synchronous=FULL: whatever waits is one commit, then all of it is answered."""

    def __init__(self, path: Path, answer: Callable[[bytes], None]) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._answer = answer
        self._waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()

    def put(self, _topic: str, payload: bytes) -> None:
        """Take a request."""
        self._waiting.put(payload)

    def run(self) -> None:
        """Commit groups until the process ends."""
        connection = sqlite3.connect(self._path, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE requests (body TEXT NOT NULL)")
        while True:
            group = [self._waiting.get()]
            with suppress(queue.Empty):
                while len(group) < 256:
                    group.append(self._waiting.get_nowait())
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO requests VALUES (?)", [(body.decode(),) for body in group])
            connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(self._answer_all, group)

    def _answer_all(self, group: list[bytes]) -> None:
        for body in group:
            self._answer(body)


async def _echo(folder: Path, port: int, *, store: bool = False) -> None:
    """Answers every request: one publication, no decoding beyond the id."""
    from runtime.broker import BrokerOptions, EmbeddedBroker
    from runtime.topics import Command, Topics
    from tests.bench.mqtt_load import BareClient

    topics = Topics()
    broker = EmbeddedBroker(BrokerOptions(directory=folder / "broker", port=port), topics)
    await broker.start()
    prefix = topics.response("main", "x")[:-1]
    client: BareClient

    def answer(payload: bytes) -> None:
        client.publish(prefix + json.loads(payload)["request_id"], b'{"status":"filled","final":true}')

    def answer_at_once(_topic: str, payload: bytes) -> None:
        answer(payload)

    take: Callable[[str, bytes], None] = answer_at_once
    if store:
        thread = _Store(folder / "requests.db", answer)
        thread.start()
        take = thread.put
    login = broker.credential
    client = await BareClient.connect("127.0.0.1", port, take, username=login.username, password=login.password)
    await client.subscribe(topics.request("main", Command.TRADE))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    (folder / READY).write_text("{}")
    await stop.wait()
    (folder / READY).unlink()
    client.close()
    await broker.stop()


async def _store(folder: Path, port: int) -> None:
    await _echo(folder, port, store=True)


def main() -> None:
    """Run one server until SIGTERM."""
    kind, folder, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    asyncio.run({"daemon": _daemon, "echo": _echo, "store": _store}[kind](folder, port))


if __name__ == "__main__":
    main()
