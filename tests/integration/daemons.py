"""A real daemon in a process of its own, and a client that hears everything it says.

The daemon is built from settings by a small script, without the command line: quick to start, and its
stdout is one JSON line for each thing the tests wait for. Nothing outlives its test.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection

from execution import ledger
from execution import orders as stored_orders
from execution.model import Order, Trade
from portfolio.verify import CheckResult, verify
from runtime.bus import Bus, BusUnavailable
from runtime.database import open_database, read, reader_engine, sqlite_url
from runtime.mqtt import MqttBus, MqttOptions
from tests.integration.brokers import PATIENCE, free_port

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
V1 = "fillbook/v1"
SCRIPT = """
import asyncio, faulthandler, json, os, signal, sys
from pathlib import Path
from config.loading import load_settings
from runtime.app import Daemon, Started
from runtime.errors import RuntimeFault
from runtime.log import configure_logging
from runtime.bot_files import owners_of
from runtime.reload import Sources
from signals.loading import load_bots

def say(**line):
    print(json.dumps(line), flush=True)

def observe(message):
    if isinstance(message, Started):
        say(event="started", feed=message.feed, seconds=message.seconds)

def main():
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # `Server.stacks`
    given = json.loads(sys.argv[1])
    def load():
        return load_settings(config_file=None, overrides=given["set"], environ={}, cwd=Path(given["data_dir"]))

    loaded = load()
    settings = loaded.settings
    configure_logging(settings.log)
    paths = tuple(Path(path) for path in given["bots"])
    bots = load_bots(paths, loaded.bot_overrides) if paths else []
    sources = Sources(paths, loaded.bot_overrides, owners_of(paths), loaded, load)
    try:
        asyncio.run(Daemon(settings, bots, roles=tuple(given["roles"]), observe=observe, sources=sources).run())
    except RuntimeFault as fault:
        say(event="failed", error=type(fault).__name__, message=str(fault))
        sys.exit(3)

main()
"""


@dataclass
class Books:
    """The database of a daemon, read beside it or after it."""

    file: Path

    def read(self, query: Callable[[Connection], T]) -> T:
        """One consistent read."""
        engine = reader_engine(sqlite_url(self.file))
        try:
            return read(engine, query)
        finally:
            engine.dispose()

    def write(self, work: Callable[[Connection], T]) -> T:
        """One transaction, as another process beside the daemon would make it."""
        engine = open_database(sqlite_url(self.file))
        try:
            with engine.connect() as connection, connection.begin():
                return work(connection)
        finally:
            engine.dispose()

    @property
    def trades(self) -> list[Trade]:
        """All trades by sequence."""
        return self.read(ledger.trades)

    @property
    def orders(self) -> list[Order]:
        """All orders."""
        return self.read(stored_orders.orders)

    @property
    def head(self) -> int:
        """The last sequence."""
        return self.read(ledger.head).sequence

    def dead_letters(self) -> list[stored_orders.DeadLetter]:
        """Messages that could not be taken."""
        return self.read(partial(stored_orders.dead_letters, limit=1000))

    def problems(self) -> list[CheckResult]:
        """The checks of `verify` that are not ok."""
        return [result for result in self.read(verify) if not result.ok]


@dataclass
class Server:
    """The settings of one daemon, and its process while it runs."""

    data_dir: Path
    port: int = field(default_factory=free_port)
    settings: Sequence[str] = ()
    bots: Sequence[Path] = ()
    roles: Sequence[str] = ("execution", "portfolio", "signals")
    process: asyncio.subprocess.Process | None = None
    said: list[dict[str, Any]] = field(default_factory=list)

    @property
    def books(self) -> Books:
        """Its database."""
        return Books(self.data_dir / "fillbook.db")

    @property
    def log_file(self) -> Path:
        """Its stderr, of all its lives."""
        return self.data_dir / f"{'-'.join(self.roles)}.log"

    @property
    def log(self) -> str:
        """What it wrote to stderr."""
        return self.log_file.read_text(encoding="utf-8")

    async def logged(self, text: str, times: int = 1) -> None:
        """Wait until it has written a text to its log so often."""
        try:
            async with asyncio.timeout(PATIENCE):
                while self.log.count(text) < times:
                    await asyncio.sleep(0.02)  # a file tells nobody of what is written to it
        except TimeoutError:
            raise AssertionError(f"{text!r} is not {times} times in the log\n{self.log[-3000:]}") from None

    async def launch(self) -> None:
        """Start the process; `ready` waits for it."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        given = {
            "set": [
                f"data_dir={self.data_dir}",
                f"broker.port={self.port}",
                f"broker.start_timeout_seconds={PATIENCE:g}",
                "log.format=json",
                *self.settings,
            ],
            "data_dir": str(self.data_dir),
            "bots": [str(path) for path in self.bots],
            "roles": list(self.roles),
        }
        with self.log_file.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-c", SCRIPT, json.dumps(given),
                stdout=asyncio.subprocess.PIPE, stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    async def start(self) -> "Server":
        """Start it and wait until it says so."""
        await self.launch()
        line = await self.next_line()
        assert line.get("event") == "started", f"{line}\n{self.log}"
        return self

    async def next_line(self) -> dict[str, Any]:
        """The next thing it says; empty when it ended."""
        assert self.process is not None
        assert self.process.stdout is not None
        raw = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE)
        line: dict[str, Any] = json.loads(raw) if raw else {}
        self.said.append(line)
        return line

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.returncode is None

    async def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self._close()

    async def stop(self, patience: float = PATIENCE) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        code = await asyncio.wait_for(self.process.wait(), patience)
        await self._close()
        return code

    async def _close(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        await self.process.stdout.read()

    async def stacks(self) -> str:
        """What all of its threads are doing: for a test that waits in vain."""
        assert self.process is not None
        before = len(self.log)
        self.process.send_signal(signal.SIGUSR1)
        await asyncio.sleep(0.3)
        return self.log[before:]

    async def kill_broker(self) -> None:
        """kill -9 of the embedded broker, the daemon's one child; waits until there is one."""
        assert self.process is not None
        file = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        async with asyncio.timeout(PATIENCE):
            while not (children := file.read_text().split()):
                await asyncio.sleep(0.002)
        assert len(children) == 1, f"one child, not {children}"
        os.kill(int(children[0]), signal.SIGKILL)


@asynccontextmanager
async def serving(data_dir: Path, **options: Any) -> AsyncIterator[Server]:
    """A started daemon; killed at the end if it still runs."""
    server = Server(data_dir, **options)
    try:
        await server.start()
        yield server
    finally:
        if server.running:
            await server.kill()


@dataclass(frozen=True)
class Heard:
    """One message."""

    topic: str
    body: Any
    retain: bool

    @property
    def last(self) -> str:
        """The last level of the topic."""
        return self.topic.rpartition("/")[2]


class Listener:
    """Hears every message that a bus brings, and can speak."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.heard: list[Heard] = []
        self._news = asyncio.Event()
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.bus.start()
        await self.bus.wait_connected(PATIENCE)
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.bus.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        taken: set[tuple[str, int | None, str, bytes]] = set()
        async for incoming in self.bus.messages():
            name = (incoming.session, incoming.packet_id, incoming.topic, incoming.payload)
            if incoming.dup and name in taken:  # NATS heard of the acknowledgement after more than its ack_wait
                incoming.ack()
                continue
            taken.add(name)
            try:
                body = json.loads(incoming.payload)
            except (ValueError, RecursionError):
                body = incoming.payload
            self.heard.append(Heard(incoming.topic, body, incoming.retain))
            incoming.ack()
            self._news.set()
            self._more.set()

    def all(self, topic: str) -> list[Heard]:
        """What came on a topic below `fillbook/v1/` so far."""
        return [heard for heard in self.heard if heard.topic == f"{V1}/{topic}"]

    async def follow(self) -> AsyncIterator[Heard]:
        """Every message from the first on, as they come. For one follower beside `until`."""
        seen = 0
        while True:
            self._more.clear()
            while seen < len(self.heard):
                yield self.heard[seen]
                seen += 1
            await self._more.wait()

    async def until(self, wanted: Callable[[], T | None], what: str = "", patience: float = PATIENCE) -> T:
        """Wait until `wanted` gives something; asked at each message and now and then: it may look elsewhere."""
        async with asyncio.timeout(patience):
            try:
                while True:
                    self._news.clear()
                    if found := wanted():
                        return found
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.2):
                            await self._news.wait()
            except asyncio.CancelledError:
                raise AssertionError(f"did not come: {what or wanted}; heard {self.tail()}") from None

    def tail(self) -> str:
        """The last messages, for a failure."""
        return "\n".join(f"{heard.topic} {str(heard.body)[:300]}" for heard in self.heard[-12:])

    async def on(self, topic: str, fits: Callable[[Heard], Any] = lambda _heard: True) -> Heard:
        """The first message on a topic below `fillbook/v1/` that fits."""
        return await self.until(
            lambda: next((heard for heard in self.all(topic) if fits(heard)), None), f"a message on {topic}"
        )

    async def more(self, topic: str, count: int) -> None:
        """Wait until more than `count` messages came on a topic."""
        await self.until(lambda: len(self.all(topic)) > count, f"more than {count} on {topic}")

    async def alert(self, code: str, what: str = "", topic: str = "main/alert") -> Heard:
        """The first alert with a code, which is then forgotten."""
        found = await self.until(
            lambda: next((heard for heard in self.all(topic) if heard.body["code"] == code), None),
            f"{code} for {what}",
        )
        self.heard.remove(found)
        return found

    async def answer(self, request_id: str, account: str = "main") -> Any:
        """The body of the final response to a request."""
        return (await self.on(f"{account}/response/{request_id}", lambda heard: heard.body["final"])).body

    async def say(self, topic: str, body: Any, *, retain: bool = False) -> None:
        """Publish below `fillbook/v1/`; a dictionary as JSON. Returns at the PUBACK."""
        payload = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else dumped(body)
        await self.bus.publish(f"{V1}/{topic}", payload, retain=retain)

    async def ask(self, body: dict[str, Any], command: str = "trade", account: str = "main") -> Any:
        """Send a request with its request_id and return the final answer."""
        await self.say(f"{account}/request/{command}", body)
        return await self.answer(body["request_id"], account)


class Ear(Listener):
    """Hears every message under `fillbook/`, in a session that the broker keeps, and can speak."""

    bus: MqttBus

    def __init__(
        self, port: int, name: str = "ear", *, clean: bool = False, publish_timeout: float = PATIENCE
    ) -> None:
        options = MqttOptions(
            host="127.0.0.1", port=port, client_id=f"test-{name}", clean_session=clean, backoff_initial=0.02,
            backoff_maximum=0.1, publish_timeout=publish_timeout,
        )  # fmt: skip
        super().__init__(MqttBus(options, ["fillbook/#"]))
        self.sessions: list[bool] = []
        """Of each connection: whether the broker still had the session."""
        self.bus.on_connected(lambda connected: self.sessions.append(connected.session_present))


_PROBES = itertools.count()


async def price_known(ear: Ear, symbol: str = "BTC-USD") -> None:
    """Wait until the daemon has read a price: requests may overtake it. Asks for what cannot be had.

    Under a new id at each time: what was answered before, in an earlier life even, would be answered so again.
    """
    while True:
        body = {"request_id": f"probe-{next(_PROBES)}", "symbol": symbol, "side": "SELL", "quantity": "999999"}
        if (await ear.ask(body))["reason"]["code"] != "no_price":
            break
    ear.heard.clear()


async def advised(ear: Ear, bot: str, symbol: str, body: dict[str, str]) -> None:
    """Tell a candle as a live market does, with time for everybody until the next: return when the bot has advised on
    it, and what it has asked for is answered."""
    topic = f"bot/{bot}/recommendation"
    told = len(ear.all(topic))
    await ear.say(f"market/{symbol}/candle/1m", body)
    await ear.more(topic, told)

    def is_answered() -> bool:
        asked = {heard.body["request_id"] for heard in ear.all(f"main/request/trade/bot/{bot}")}
        ready = [heard for heard in ear.all(topic) if heard.body["ready_to_trade"]]
        answered = {heard.last for heard in ear.heard if "/response/" in heard.topic}
        return len(asked) >= len(ready) and asked <= answered

    await ear.until(is_answered, f"an answer to what {bot} asked for")


async def advised_until(
    ear: Ear, bot: str, symbol: str, candles: Iterable[dict[str, str]], wanted: Callable[[], T | None]
) -> T:
    """Tell candles, see `advised`, until `wanted` gives something: what is asked for at one is done at another."""
    for body in candles:
        await advised(ear, bot, symbol, body)
        if found := wanted():
            return found
    raise AssertionError(f"no more candles; heard {ear.tail()}")


def dumped(body: Any) -> bytes:
    """JSON bytes."""
    return json.dumps(body).encode()


Kept = dict[str, Any]
"""Bodies of retained messages by their topics below `fillbook/v1/`."""


async def retained(port: int, pattern: str = "fillbook/#") -> Kept:
    """What the broker retains, as a client sees it that subscribes now (everything that comes in one round)."""
    found: Kept = {}
    options = MqttOptions(
        host="127.0.0.1", port=port, client_id="test-retained", clean_session=True, publish_timeout=PATIENCE
    )
    bus = MqttBus(options, [pattern, "test/end"])
    await bus.start()
    try:
        await bus.wait_connected(PATIENCE)
        await bus.publish("test/end", b"")
        async with asyncio.timeout(PATIENCE):
            async for incoming in bus.messages():
                incoming.ack()
                if incoming.topic == "test/end":
                    break
                if incoming.retain:
                    found[incoming.topic.removeprefix(f"{V1}/")] = json.loads(incoming.payload)
    finally:
        await bus.stop()
    return found


async def retains(port: int, fits: Callable[[Kept], Any], pattern: str = "fillbook/#") -> None:
    """Wait until what the broker retains fits. It may say a message to those who listen before it retains it, and
    what was retained before a restart of the daemon is there until that has said something newer."""
    found: Kept = {}
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                found = await retained(port, pattern)
                with contextlib.suppress(KeyError):  # there is nothing on a topic yet
                    if fits(found):
                        return
                await asyncio.sleep(0.05)  # the broker tells nobody what it retains
    except TimeoutError:
        raise AssertionError(f"not what the broker retains: {found}") from None


class Load:
    """Sends requests at a pace and repeats each until its final response came, whatever dies meanwhile.

    Ever more slowly: a busy machine that got them faster than it can answer would never come to the new ones.
    """

    def __init__(self, ear: Ear, *, per_second: float, repeat_after: float = 0.5, in_flight: int = 64) -> None:
        self._ear = ear
        self._pause = 1 / per_second
        self._repeat_after = repeat_after
        self._gate = asyncio.Semaphore(in_flight)
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self.since = 0
        """The last sequence of the ledger before there was somebody to hear what is announced."""
        self.answers: dict[str, Any] = {}
        self.sent: dict[str, tuple[str, dict[str, Any]]] = {}
        self.repeated = 0

    async def run(self, requests: Iterator[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        """Send all (command, body); the final answers by request id."""
        sorting = asyncio.create_task(self._sort())
        tasks: list[asyncio.Task[None]] = []
        try:
            for command, body in requests:
                await self._gate.acquire()
                tasks.append(asyncio.create_task(self._one(command, body)))
                await asyncio.sleep(self._pause)
            async with asyncio.timeout(2 * PATIENCE):
                await asyncio.gather(*tasks)
        except TimeoutError:
            missing = sorted(self.sent.keys() - self.answers.keys())
            raise AssertionError(f"never answered: {missing[:20]}; heard {self._ear.tail()}") from None
        finally:
            for task in (sorting, *tasks):
                task.cancel()
            await asyncio.gather(sorting, *tasks, return_exceptions=True)
        return self.answers

    async def _one(self, command: str, body: dict[str, Any]) -> None:
        request_id = body["request_id"]
        final = self._waiting[f"{V1}/main/response/{request_id}"] = asyncio.get_running_loop().create_future()
        self.sent[request_id] = (command, body)
        pause = self._repeat_after
        try:
            while True:
                with contextlib.suppress(BusUnavailable):
                    await self._ear.say(f"main/request/{command}", body)
                await asyncio.wait((final,), timeout=pause)
                if final.done():
                    break
                pause = min(2 * pause, 2.0)
                self.repeated += 1
        finally:
            self._gate.release()
        self.answers[request_id] = final.result()

    async def _sort(self) -> None:
        async for heard in self._ear.follow():
            final = self._waiting.get(heard.topic)
            if final is not None and not final.done() and heard.body["final"]:
                final.set_result(heard.body)


def candle(time: str, price: str, volume: str = "1000", **changes: str) -> dict[str, str]:
    """A flat candle's body."""
    return {"time": time, "open": price, "high": price, "low": price, "close": price, "volume": volume, **changes}


def freeze(pid: int) -> None:
    """SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)


def thaw(pid: int) -> None:
    """SIGCONT."""
    os.kill(pid, signal.SIGCONT)
