"""A simulated MQTT broker and its network, with the real rules of QoS 1.

Packets of a connection arrive in order, each direction late by a drawn time. A message stays in the session
until its PUBACK; after a reconnect what was not acknowledged comes first, with DUP. A client id that connects
again takes the session over. A crash breaks every connection and rolls sessions, queues and retained messages
back to the last snapshot, as a broker does that writes its store now and then.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from runtime.topics import topic_matches
from tests.simulation.loop import OUTSIDE, SimLoop

_QUICK, _SLOW = (0.0005, 0.02), (0.05, 2.0)
"""Seconds that a packet takes."""
_CROSSED = 0.1
"""Share of acknowledgements that cross a copy of their message, in a storm and after it."""
WINDOW = 20
"""Unacknowledged messages on their way to one client."""


class Queued(NamedTuple):
    """A message in a session."""

    topic: str
    payload: bytes
    retain: bool = False
    dup: bool = False


@dataclass(slots=True)
class Session:
    """What the broker keeps of a client."""

    client_id: str
    name: str
    subscriptions: tuple[str, ...] = ()
    queue: deque[Queued] = field(default_factory=deque)
    in_flight: dict[int, Queued] = field(default_factory=dict)
    connection: "Connection | None" = None
    next_packet: int = 1


@dataclass(frozen=True, slots=True)
class NetworkFaults:
    """`doubled`: share of messages that the broker routes twice; `slow`: share of packets that take long."""

    doubled: float = 0.0
    slow: float = 0.05


@lru_cache(maxsize=20_000)
def _wanted(subscriptions: tuple[str, ...], topic: str) -> bool:
    return any(topic_matches(pattern, topic) for pattern in subscriptions)


class Broker:
    """See the module."""

    def __init__(self, loop: SimLoop, dice: random.Random, faults: NetworkFaults) -> None:
        self._loop = loop
        self._dice = dice
        self.faults = faults
        self.sessions: dict[str, Session] = {}
        self.retained: dict[str, bytes] = {}
        self.up = True
        self.stats: Counter[str] = Counter()
        self.copies: Counter[bytes] = Counter()
        """How many deliveries were made of what was published once, by payload."""
        self._connections: list[Connection] = []
        self._crossings = random.Random(dice.getstate()[1][0])  # of its own: whom else it would ask falls as before
        self._names = 0
        self._snapshot: tuple[list[tuple[str, str, tuple[str, ...], list[Queued]]], dict[str, bytes]] = ([], {})
        self.on_publish: Callable[[str, bytes, bool], None] = lambda topic, payload, retain: None
        self.on_acknowledged: Callable[[Queued], None] = lambda message: None

    # ---- network --------------------------------------------------------------------------------------

    def send(self, connection: "Connection", direction: str, deliver: Callable[..., None], *what: Any) -> None:
        """A packet on its way; packets of one direction stay in order."""
        if not connection.alive:
            return
        draw = self._dice.random
        low, high = _SLOW if draw() < self.faults.slow else _QUICK
        when = max(connection.last[direction], self._loop.time() + low + (high - low) * draw())
        connection.last[direction] = when + 1e-6
        self._loop.call_at(when, self._arrive, connection, deliver, what, context=OUTSIDE)

    def _arrive(self, connection: "Connection", deliver: Callable[..., None], what: tuple[Any, ...]) -> None:
        if connection.alive and self.up:
            deliver(*what)

    def cut(self) -> None:
        """Every connection breaks; the broker itself goes on."""
        for connection in list(self._connections):
            connection.lost("connection cut")
        self._connections.clear()
        self.stats["cuts"] += 1

    # ---- life -----------------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """What a crash goes back to."""
        sessions = [
            (s.client_id, s.name, s.subscriptions, [*s.in_flight.values(), *s.queue]) for s in self.sessions.values()
        ]
        self._snapshot = (sessions, dict(self.retained))

    def crash(self) -> None:
        """kill -9 of the broker."""
        self.cut()
        self.up = False
        self.stats["crashes"] += 1

    def restart(self) -> None:
        """The broker comes back with what it had on disk."""
        sessions, retained = self._snapshot
        self.retained = dict(retained)
        self.sessions = {}
        for client_id, name, subscriptions, queued in sessions:
            self.sessions[client_id] = Session(client_id, name, subscriptions, deque(queued))
        self.up = True

    # ---- protocol -------------------------------------------------------------------------------------

    def open(self, connection: "Connection") -> None:
        """A client asks for a connection."""
        self._connections.append(connection)
        self.send(connection, "up", self._on_connect, connection)

    def _on_connect(self, connection: "Connection") -> None:
        session = self.sessions.get(connection.client_id)
        present = session is not None
        if session is None:
            self._names += 1
            session = self.sessions[connection.client_id] = Session(connection.client_id, f"session-{self._names}")
        if session.connection is not None and session.connection.alive:
            session.connection.lost("session taken over")
        session.connection = connection
        session.subscriptions = connection.subscriptions
        for topic, payload in sorted(self.retained.items()):
            if _wanted(session.subscriptions, topic):
                session.queue.append(Queued(topic, payload, retain=True))
        self.send(connection, "down", connection.on_connected, session.name, present)
        for packet, message in list(session.in_flight.items()):  # again, under the packet ids that they had
            self._deliver(session, packet, Queued(message.topic, message.payload, message.retain, dup=True))
        self._pump(session)

    def publish(self, connection: "Connection", packet: int, topic: str, payload: bytes, retain: bool) -> None:
        """A client's message arrived."""
        self.route(topic, payload, retain)
        self.send(connection, "down", connection.on_puback, packet)

    def route(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Keep it if it is to be retained, and queue it for every session that wants it."""
        self.on_publish(topic, payload, retain)
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        times = 2 if self._dice.random() < self.faults.doubled else 1
        self.copies[payload] += times
        for session in list(self.sessions.values()):
            if _wanted(session.subscriptions, topic):
                session.queue.extend([Queued(topic, payload)] * times)
                self._pump(session)

    def acknowledge(self, connection: "Connection", packet: int) -> None:
        """A client's PUBACK arrived."""
        session = self.sessions.get(connection.client_id)
        if session is not None and session.connection is connection:
            forgotten = session.in_flight.pop(packet, None)
            if forgotten is not None and connection.had_a_new_one and self._crossings.random() < _CROSSED:
                self._cross(session, forgotten)
            self._pump(session)
            if forgotten is not None:
                self.on_acknowledged(forgotten)

    def _cross(self, session: Session, message: Queued) -> None:
        """A copy was on its way before the acknowledgement came, under a packet id of its own: see runtime.copies."""
        connection = session.connection
        assert connection is not None
        copy = Queued(message.topic, message.payload, message.retain, dup=True)
        self.stats["copies that crossed"] += 1
        self.send(connection, "down", connection.on_message, self._next_packet(session), copy, session.name)

    def _next_packet(self, session: Session) -> int:
        packet = session.next_packet
        while packet in session.in_flight:
            packet = packet % 65_535 + 1
        session.next_packet = packet % 65_535 + 1
        return packet

    def _pump(self, session: Session) -> None:
        connection = session.connection
        while session.queue and connection is not None and connection.alive and len(session.in_flight) < WINDOW:
            message = session.queue.popleft()
            self._deliver(session, self._next_packet(session), message)

    def _deliver(self, session: Session, packet: int, message: Queued) -> None:
        assert session.connection is not None
        session.in_flight[packet] = message
        session.connection.had_a_new_one |= not message.dup
        self.stats["delivered"] += 1
        self.stats["delivered again"] += message.dup
        self.send(session.connection, "down", session.connection.on_message, packet, message, session.name)


class Connection:
    """One TCP connection of a client, as both ends see it."""

    def __init__(self, broker: Broker, client_id: str, subscriptions: tuple[str, ...]) -> None:
        self.broker = broker
        self.client_id = client_id
        self.subscriptions = subscriptions
        self.alive = True
        self.had_a_new_one = False
        """Whether it delivered a message for the first time: before that nobody can tell copies (docs/adr/0007)."""
        self.last = {"up": 0.0, "down": 0.0}
        loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[tuple[str, bool]] = loop.create_future()
        self.closed: asyncio.Future[str] = loop.create_future()
        self.deliver: Callable[[int, Queued, str], None] = lambda packet, message, session: None
        self.unanswered: dict[int, asyncio.Future[None]] = {}
        self.patience: dict[int, asyncio.TimerHandle] = {}

    def lost(self, reason: str) -> None:
        """The connection is gone: what was on its way in either direction is too."""
        if self.alive:
            self.alive = False
            if not self.closed.done():
                self.closed.set_result(reason)

    def on_connected(self, session: str, present: bool) -> None:
        if not self.connected.done():
            self.connected.set_result((session, present))

    def on_puback(self, packet: int) -> None:
        future = self.unanswered.pop(packet, None)
        self.patience.pop(packet).cancel()
        if future is not None and not future.done():
            future.set_result(None)

    def on_message(self, packet: int, message: Queued, session: str) -> None:
        self.deliver(packet, message, session)
