"""A person's side of the bus: ask the daemon for something and wait for its answer, read what it retains.

Used by commands. The sessions are clean ones: the broker forgets a command as soon as it is gone.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from config.settings import Settings
from runtime.bus import Bus, BusUnavailable, Incoming
from runtime.errors import Unreachable
from runtime.messages import BotAction
from runtime.mqtt import MqttBus, MqttOptions
from runtime.rundir import DaemonInfo
from runtime.topics import Command, Topics
from runtime.wire import encode

B = TypeVar("B", bound=Bus)

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where the daemon listens, not we
_REPEAT_SECONDS = 2.0
_LINGER_SECONDS = 3.0


class NoAnswer(Unreachable):
    """Nobody answered in time. If the request was sent, its outcome is unknown."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon's broker is, and under which base its topics are."""

    host: str
    port: int
    topics: Topics
    username: str | None = None
    password: str | None = None


def address_of(settings: Settings, daemon: DaemonInfo | None) -> Address | None:
    """The broker of the running daemon; without one the external broker of the settings, if there is any."""
    broker = settings.broker
    password = None if broker.password is None else broker.password.get_secret_value()
    login = (None, None) if broker.embedded else (broker.username, password)
    if daemon is not None:
        host = _ANYWHERE.get(daemon.broker_host, daemon.broker_host)
        return Address(host, daemon.broker_port, Topics(daemon.base_topic), *login)
    if broker.embedded:
        return None
    return Address(broker.host, broker.port, Topics(settings.base_topic), *login)


@asynccontextmanager
async def connected(address: Address, subscriptions: Sequence[str], *, timeout: float) -> AsyncIterator[MqttBus]:
    """A connection for one command. Raises BusUnavailable after `timeout` seconds without a broker."""
    async with attached(client_bus(address, subscriptions, timeout=timeout), timeout=timeout) as bus:
        yield bus


def client_bus(address: Address, subscriptions: Sequence[str], *, timeout: float = 5.0) -> MqttBus:
    """A bus of a person's own, not started yet. It connects again by itself for as long as it runs."""
    return MqttBus(
        MqttOptions(
            host=address.host,
            port=address.port,
            client_id=f"fillbook-cli-{secrets.token_hex(8)}",
            username=address.username,
            password=address.password,
            connect_timeout=min(5.0, timeout),
            publish_timeout=min(5.0, timeout),
            clean_session=True,
        ),
        subscriptions,
    )


@asynccontextmanager
async def attached(bus: B, *, timeout: float) -> AsyncIterator[B]:
    """Start a bus, and stop it at the end. Raises BusUnavailable after `timeout` seconds without a broker."""
    await bus.start()
    try:
        await bus.wait_connected(timeout)
        yield bus
    finally:
        await bus.stop()


async def ask(
    address: Address,
    account: str,
    command: Command,
    body: Mapping[str, Any],
    *,
    timeout: float,
    linger: float = _LINGER_SECONDS,
) -> dict[str, Any]:
    """Publish a request and return the response; the final one if that comes within `linger` seconds.

    `body` has its request_id, so that the same request is repeated until somebody answers it. Raises
    BusUnavailable without a broker, NoAnswer after `timeout` seconds; NotATopicPart for a bad account or id.
    """
    topic = address.topics.request(account, command)
    answers = address.topics.response(account, body["request_id"])
    async with connected(address, [answers], timeout=timeout) as bus:
        return await exchange(
            bus, topic, encode(dict(body)), timeout=timeout, resting=is_resting(body), linger=linger
        )


def is_resting(body: Mapping[str, Any]) -> bool:
    """Whether an order is meant to wait in the book: then its acceptance is the whole answer."""
    return body.get("limit_price") is not None and body.get("time_in_force") != "IOC"


async def exchange(
    bus: Bus,
    topic: str,
    payload: bytes,
    *,
    timeout: float,
    resting: bool = False,
    repeat: float = _REPEAT_SECONDS,
    linger: float = _LINGER_SECONDS,
) -> dict[str, Any]:
    """Repeat a request until its response is there. The bus is subscribed to that response and nothing else."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    waiting = _Answers(bus)
    try:
        while (remaining := deadline - loop.time()) > 0:
            with suppress(BusUnavailable, TimeoutError):  # it may have arrived all the same; else the next one
                async with asyncio.timeout(remaining):
                    await bus.publish(topic, payload)
            answer = await waiting.next(min(repeat, deadline - loop.time()))
            if answer is None:
                continue
            until = min(deadline, loop.time() + linger)
            while not answer["final"] and not resting:
                later = await waiting.next(until - loop.time())
                if later is None:
                    break
                answer = later
            return answer
    finally:
        waiting.cancel()
    raise NoAnswer(f"no answer within {timeout:g} s")


WANTED_STATUS = {BotAction.START: "RUNNING", BotAction.STOP: "STOPPED"}
"""What a bot is to become; an evaluation is seen by its recommendation."""


def bot_filters(topics: Topics, name: str, action: BotAction) -> list[str]:
    """What a bus must be subscribed to for `tell_bot`."""
    return [topics.recommendation(name) if action is BotAction.EVALUATE else topics.bot_state(name)]


async def tell_bot(
    bus: Bus, topics: Topics, name: str, action: BotAction, *, timeout: float
) -> dict[str, Any] | None:
    """Start, stop or evaluate a bot; its state or recommendation that shows it, else the last one heard.

    None when nothing was heard within `timeout` seconds. Raises BusUnavailable.
    """
    await bus.publish(topics.bot_set(name), action.encode())
    wanted = WANTED_STATUS.get(action)
    heard: dict[str, Any] | None = None
    messages = bus.messages()
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while heard is None or (wanted is not None and heard.get("status") != wanted):
                incoming = await anext(messages)
                incoming.ack()
                with suppress(ValueError):
                    found = json.loads(incoming.payload)
                    heard = found if isinstance(found, dict) else heard
    return heard


class _Answers:
    """The responses on a bus, one at a time and with a time limit; a timeout loses none."""

    def __init__(self, bus: Bus) -> None:
        self._messages = bus.messages()
        self._task: asyncio.Task[dict[str, Any]] | None = None

    async def next(self, seconds: float) -> dict[str, Any] | None:
        """The next response, None after so many seconds."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._take())
        done, _ = await asyncio.wait((self._task,), timeout=max(0.0, seconds))
        if not done:
            return None
        task, self._task = self._task, None
        return task.result()

    async def _take(self) -> dict[str, Any]:
        while True:
            incoming = await anext(self._messages)
            incoming.ack()
            with suppress(ValueError):
                found = json.loads(incoming.payload)
                if isinstance(found, dict) and "status" in found and "final" in found:
                    return found

    def cancel(self) -> None:
        """Nobody waits any more."""
        if self._task is not None:
            self._task.cancel()


async def retained(address: Address, filters: Sequence[str], *, timeout: float = 5.0) -> dict[str, Any]:
    """The last JSON message on each topic under some filters, of those that the broker retains.

    Raises BusUnavailable without a broker, or when it does not answer in time.
    """
    found: dict[str, Any] = {}
    async with connected(address, filters, timeout=timeout) as bus:
        await _take_retained(bus, lambda incoming: _keep(incoming, found))
    return found


async def overheard_by(
    address: Address,
    filters: Sequence[str],
    hear: Callable[[Incoming], None],
    *,
    seconds: float,
    timeout: float = 5.0,
) -> None:
    """Hand every message that is retained, and what is heard within `seconds` after those, to `hear`.

    Raises BusUnavailable.
    """
    async with connected(address, filters, timeout=timeout) as bus:
        await _take_retained(bus, hear)
        messages = bus.messages()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    incoming = await anext(messages)
                    incoming.ack()
                    hear(incoming)


async def _take_retained(bus: MqttBus, hear: Callable[[Incoming], None]) -> None:
    """A broker sends what it retains before it answers the next question, or (Mosquitto) as much of it as may be
    unacknowledged at once: it is asked until there is no more."""
    messages = bus.messages()
    more = True
    while more:
        await bus.round_trip()
        taken = [await anext(messages) for _ in range(bus.waiting)]
        for incoming in taken:
            incoming.ack()
            hear(incoming)
        more = any(incoming.retain for incoming in taken)


def _keep(incoming: Incoming, found: dict[str, Any]) -> None:
    with suppress(ValueError):
        if incoming.payload:
            found[incoming.topic] = json.loads(incoming.payload)
