"""Processes that benchmarks talk to: the real daemon, and an echo on the same broker that does no work.

`python -m tests.bench.servers daemon|echo FOLDER PORT`
"""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


async def _echo(folder: Path, port: int) -> None:
    """Answers every request at once: one publication, no decoding beyond the id, nothing stored."""
    from runtime.broker import BrokerOptions, EmbeddedBroker
    from runtime.topics import Command, Topics
    from tests.bench.mqtt_load import BareClient

    topics = Topics()
    broker = EmbeddedBroker(BrokerOptions(directory=folder / "broker", port=port), topics)
    await broker.start()
    prefix = topics.response("main", "x")[:-1]
    client: BareClient

    def answer(_topic: str, payload: bytes) -> None:
        client.publish(prefix + json.loads(payload)["request_id"], b'{"status":"filled","final":true}')

    login = broker.credential
    client = await BareClient.connect("127.0.0.1", port, answer, username=login.username, password=login.password)
    await client.subscribe(topics.request("main", Command.TRADE))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    (folder / READY).write_text("{}")
    await stop.wait()
    (folder / READY).unlink()
    client.close()
    await broker.stop()


def main() -> None:
    """Run one server until SIGTERM."""
    kind, folder, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    asyncio.run({"daemon": _daemon, "echo": _echo}[kind](folder, port))


if __name__ == "__main__":
    main()
