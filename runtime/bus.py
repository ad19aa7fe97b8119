"""The bus as the composition sees it: a protocol, and a bus in memory for tests, simulation and replay.

Delivery is at least once in both directions. A received message stays with the broker until `ack()`; what
was not acknowledged comes again (with `dup`) after a reconnect. `publish` returns when the BROKER has the
message; if it raises, the message may or may not have been delivered, so that the caller repeats the same
payload (same ids inside) until it succeeds.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from runtime.errors import RuntimeFault, Unreachable
from runtime.topics import topic_matches


class BusError(RuntimeFault):
    """Base class of the bus's errors."""


class BusUnavailable(BusError, Unreachable):
    """The broker did not take the message in time, or the connection broke while it was under way."""


class SubscriptionRefused(BusError):
    """The broker granted a connection but not a subscription (SUBACK 0x80)."""


class Incoming:
    """One received message. `ack()` exactly when everything that it caused is committed.

    `session` names the persistent session it came through (it changes when the broker lost the session),
    `packet_id` is None for QoS 0. What identifies a redelivery is documented at `runtime.mqtt`.
    """

    __slots__ = ("_acknowledge", "acknowledged", "dup", "packet_id", "payload", "qos", "retain", "session", "topic")

    def __init__(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        dup: bool = False,
        qos: int = 1,
        packet_id: int | None = None,
        session: str = "",
        acknowledge: "Callable[[Incoming], None] | None" = None,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.retain = retain
        self.dup = dup
        self.qos = qos
        self.packet_id = packet_id
        self.session = session
        self.acknowledged = False
        self._acknowledge = acknowledge

    def ack(self) -> None:
        """Tell the broker that it may forget the message. Twice is the same as once.

        On a connection that is gone by now it does nothing: the broker delivers the message again.
        """
        if self.acknowledged:
            return
        self.acknowledged = True
        if self._acknowledge is not None:
            self._acknowledge(self)

    def __repr__(self) -> str:
        flags = "".join((" retain" if self.retain else "", " dup" if self.dup else ""))
        return f"<Incoming {self.topic} {len(self.payload)} bytes, packet {self.packet_id}{flags}>"


ConnectedCallback: TypeAlias = "Callable[[Connected], Awaitable[None] | None]"
DisconnectedCallback: TypeAlias = "Callable[[str], Awaitable[None] | None]"


class Connected:
    """What is known when a connection stands: whether the broker still had the session."""

    __slots__ = ("session", "session_present")

    def __init__(self, session: str, session_present: bool) -> None:
        self.session = session
        self.session_present = session_present


class Bus(Protocol):
    """What services' adapters may do with a bus. The subscriptions are fixed when it is made."""

    @property
    def is_connected(self) -> bool:
        """Whether a broker is reachable right now."""
        ...

    async def start(self) -> None:
        """Begin to connect; returns at once (`wait_connected` waits)."""
        ...

    async def wait_connected(self, timeout: float | None = None) -> None:
        """Return when connected; BusUnavailable after `timeout` seconds."""
        ...

    async def stop(self) -> None:
        """Say offline and disconnect. Unacknowledged messages stay with the broker."""
        ...

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Return when the broker acknowledged the message. Raises BusUnavailable."""
        ...

    async def publish_soon(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1
    ) -> "asyncio.Future[None]":
        """Hand the message over and return a future of its acknowledgement (BusUnavailable inside it).

        The pipelined form: waits only while the bounded number of messages in flight is reached.
        Messages leave in the order of the calls.
        """
        ...

    def messages(self) -> AsyncIterator[Incoming]:
        """Every message of the subscriptions, until the bus is stopped. One consumer."""
        ...

    def on_connected(self, callback: ConnectedCallback) -> None:
        """Call (and await) `callback` after each connect, when subscriptions and `online` are in place."""
        ...

    def on_disconnected(self, callback: DisconnectedCallback) -> None:
        """Call `callback` with the reason after each loss of the connection."""
        ...


class Mailbox:
    """The unbounded queue between a bus and its one consumer; ends when closed. Safe to cancel.

    Unbounded on purpose: a bounded one would have to drop messages. The broker bounds it by the number of
    messages it sends without an acknowledgement.
    """

    def __init__(self) -> None:
        self._waiting: deque[Incoming] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, incoming: Incoming) -> None:
        """Append one message and wake the consumer."""
        self._waiting.append(incoming)
        self._wake_up()

    def forget(self) -> None:
        """Drop what waits: its connection is gone and the broker will send it again."""
        self._waiting.clear()

    def close(self) -> None:
        """End the iteration after what waits."""
        self._closed = True
        self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def __aiter__(self) -> AsyncIterator[Incoming]:
        return self

    async def __anext__(self) -> Incoming:
        # The message is taken only after the wait, so that a cancelled wait loses nothing.
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        return self._waiting.popleft()


class _MemorySession:
    """What the memory broker keeps of one client while it is away."""

    def __init__(self, name: str, subscriptions: Sequence[str]) -> None:
        self.name = name
        self.subscriptions = tuple(subscriptions)
        self.unacknowledged: dict[int, tuple[str, bytes]] = {}
        self.next_packet = 1
        self.client: MemoryBus | None = None

    def deliver(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Queue a message for the client, and send it when the client is there."""
        if qos == 0:
            if self.client is not None:
                self.client.take(Incoming(topic, payload, retain=retain, qos=0, session=self.name))
            return
        packet = self.next_packet
        self.next_packet = packet % 65_535 + 1
        self.unacknowledged[packet] = (topic, payload)
        self._send(packet, retain=retain, dup=False)

    def resume(self) -> None:
        """Send again what was never acknowledged."""
        for packet in list(self.unacknowledged):
            self._send(packet, retain=False, dup=True)

    def _send(self, packet: int, *, retain: bool, dup: bool) -> None:
        if self.client is None:
            return
        topic, payload = self.unacknowledged[packet]
        self.client.take(
            Incoming(
                topic,
                payload,
                retain=retain,
                dup=dup,
                packet_id=packet,
                session=self.name,
                acknowledge=self._acknowledged,
            )
        )

    def _acknowledged(self, incoming: Incoming) -> None:
        if incoming.packet_id is not None:
            self.unacknowledged.pop(incoming.packet_id, None)


class MemoryBroker:
    """An MQTT broker in memory: sessions, queues, retained messages; deterministic and immediate."""

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.published: list[tuple[str, bytes, bool]] = []
        self.keep_published = True
        self._sessions: dict[str, _MemorySession] = {}

    def connect(self, client: "MemoryBus") -> tuple[_MemorySession, bool]:
        """The session of a client id and whether it was there before; retained messages are sent."""
        session = self._sessions.get(client.client_id)
        present = session is not None
        if session is None:
            session = self._sessions[client.client_id] = _MemorySession(client.client_id, client.subscriptions)
        session.subscriptions = client.subscriptions
        session.client = client
        session.resume()
        for topic, payload in self.retained.items():
            if any(topic_matches(pattern, topic) for pattern in session.subscriptions):
                session.deliver(topic, payload, retain=True)
        return session, present

    def publish(self, topic: str, payload: bytes, *, retain: bool, qos: int) -> None:
        """Keep the message when `retain` says so (an empty one clears) and deliver it to the subscribers."""
        if self.keep_published:
            self.published.append((topic, payload, retain))
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        for session in self._sessions.values():
            if any(topic_matches(pattern, topic) for pattern in session.subscriptions):
                session.deliver(topic, payload, qos=qos)


class MemoryBus:
    """One client of a `MemoryBroker`; the same behaviour as the MQTT bus without a network."""

    def __init__(self, broker: MemoryBroker, client_id: str, subscriptions: Sequence[str] = ()) -> None:
        self.client_id = client_id
        self.subscriptions = tuple(subscriptions)
        self._broker = broker
        self._session: _MemorySession | None = None
        self._mailbox = Mailbox()
        self._on_connected: list[ConnectedCallback] = []
        self._on_disconnected: list[DisconnectedCallback] = []

    @property
    def is_connected(self) -> bool:
        """Whether the client is attached to its broker."""
        return self._session is not None

    def take(self, incoming: Incoming) -> None:
        """Called by the broker with each message."""
        self._mailbox.put(incoming)

    async def start(self) -> None:
        """Attach to the broker (again): what was not acknowledged is delivered again with `dup`."""
        self._session, present = self._broker.connect(self)
        for callback in self._on_connected:
            await settle(callback(Connected(self._session.name, present)))

    async def wait_connected(self, timeout: float | None = None) -> None:
        """Nothing to wait for: raises BusUnavailable when not started."""
        if self._session is None:
            raise BusUnavailable("the memory bus is not connected")

    async def drop(self, reason: str = "dropped") -> None:
        """Lose the connection as if the network broke (a test's fault); `start` connects again."""
        if self._session is None:
            return
        self._session.client = None
        self._session = None
        self._mailbox.forget()
        for callback in self._on_disconnected:
            await settle(callback(reason))

    async def stop(self) -> None:
        """Detach; the messages' iteration ends."""
        if self._session is not None:
            self._session.client = None
            self._session = None
        self._mailbox.close()

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Deliver at once."""
        if self._session is None:
            raise BusUnavailable("the memory bus is not connected")
        self._broker.publish(topic, payload, retain=retain, qos=qos)

    async def publish_soon(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1
    ) -> "asyncio.Future[None]":
        """Deliver at once; the future is already done."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            await self.publish(topic, payload, retain=retain, qos=qos)
        except BusUnavailable as error:
            future.set_exception(error)
        else:
            future.set_result(None)
        return future

    def messages(self) -> AsyncIterator[Incoming]:
        """Every message of the subscriptions, until the bus is stopped."""
        return self._mailbox

    def on_connected(self, callback: ConnectedCallback) -> None:
        """Call `callback` after each connect."""
        self._on_connected.append(callback)

    def on_disconnected(self, callback: DisconnectedCallback) -> None:
        """Call `callback` after each loss of the connection."""
        self._on_disconnected.append(callback)


async def settle(result: Awaitable[None] | None) -> None:
    """Await what a callback returned, if it returned something to await."""
    if result is not None:
        await result
