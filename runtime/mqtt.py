"""The bus over MQTT 3.1.1: a session that outlives connections and processes.

What identifies a redelivery (measured, NATS 2.15.1 and Mosquitto 2.0.11; `session` and `packet_id` of Incoming)
- A redelivery always has DUP, on both, over kills of the subscriber. A first delivery does not have it, unless it
  waited in NATS for longer than `ack_wait`.
- A kill -9 of the BROKER under load can make NATS forget what it had delivered in its last moments: up to
  max_ack_pending messages come again WITHOUT the flag. Nothing tells them from new ones, so that a request
  without an id can then be done twice; who must not trade twice gives a request_id. It is rare when the daemon
  is killed, because its broker then gets a SIGTERM.
- After a kill -9 of the SUBSCRIBER a message comes back under its old packet id, on both.
- After a kill -9 of the BROKER Mosquitto keeps the packet ids, but NATS numbers the unacknowledged messages
  anew from 1: (1 acknowledged, 2, 3) come back as (1, 2). A packet id says nothing there, so the incarnation
  of the embedded broker is part of `session`: the same (session, packet id, body) with DUP is the same
  message, and a DUP in a new session can only be told by its body.
- NATS redelivers every `ack_wait` on the LIVE connection as well (same packet id, DUP), while the first copy
  is still being worked on: such copies are dropped here.
- A copy that crosses its acknowledgement comes with DUP under a new packet id (NATS, once `ack_wait` is over): see
  `runtime.copies`; such copies are dropped here too.
- Order within what is redelivered is kept after a broker's kill; between old and new messages it is not.
"""

import asyncio
import contextlib
import inspect
import logging
import random
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from runtime.bus import (
    BusUnavailable,
    Connected,
    ConnectedCallback,
    DisconnectedCallback,
    Incoming,
    Mailbox,
    SubscriptionRefused,
    settle,
)
from runtime.copies import Deliveries
from runtime.files import write_whole
from runtime.mqtt_connection import FAILURES, Connection, MqttOptions, Presence, Received

__all__ = ["MqttBus", "MqttOptions", "Presence"]

_STABLE_AFTER = 0.3  # seconds a connection must have stood before the back-off starts anew
_STOPPED = "stopped"
_GOODBYE = 2.0  # seconds for `offline` and DISCONNECT

log = logging.getLogger("fillbook.mqtt")


class MqttBus:
    """A client with a persistent session that reconnects by itself until it is stopped.

    Messages received before a connection was lost and not yet taken from `messages()` are dropped, because
    the broker sends them again; the one being worked on is redelivered as well, which the inbox absorbs.
    """

    def __init__(
        self, options: MqttOptions, subscriptions: Sequence[str] = (), *, presence: Sequence[Presence] = ()
    ) -> None:
        """`presence`: the first one is the last will (MQTT has one per connection), all are kept `online`."""
        self._options = options
        self._subscriptions = tuple(subscriptions)
        self._presence = tuple(presence)
        self._mailbox = Mailbox()
        self._connection: Connection | None = None
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(options.max_in_flight)
        self._task: asyncio.Task[None] | None = None
        self._callbacks: set[asyncio.Task[None]] = set()
        self._on_connected: list[ConnectedCallback] = []
        self._on_disconnected: list[DisconnectedCallback] = []
        self._session_name = self._stored_session() or self._new_session()
        self._connection_session = ""
        self._unacknowledged: set[int] = set()
        self._deliveries = Deliveries()
        self.copies_dropped = 0
        """How often the broker sent a copy of what had been acknowledged meanwhile."""
        self.last_error: str | None = None

    # ---- connection ----------------------------------------------------------------------------------

    @property
    def session(self) -> str:
        """The name of the persistent session: client, session, broker's incarnation."""
        return f"{self._options.client_id}/{self._session_name}/{self._options.incarnation()}"

    @property
    def is_connected(self) -> bool:
        """Whether the broker is reachable, subscribed to, and has been told `online`."""
        # A broken connection is known to the library before our task has run to say so.
        return self._ready.is_set() and self._connection is not None and self._connection.is_open

    def on_connected(self, callback: ConnectedCallback) -> None:
        """Call `callback` after each connect, when subscriptions and `online` are in place."""
        self._on_connected.append(callback)

    def on_disconnected(self, callback: DisconnectedCallback) -> None:
        """Call `callback` with the reason after each loss of an established connection."""
        self._on_disconnected.append(callback)

    async def start(self) -> None:
        """Begin to connect."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_connected(), name=f"mqtt {self._options.client_id}")

    async def wait_connected(self, timeout: float | None = None) -> None:
        """Return when connected; BusUnavailable after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
        except TimeoutError:
            where = f"{self._options.host}:{self._options.port}"
            raise BusUnavailable(f"no MQTT broker at {where}: {self.last_error or 'no answer'}") from None

    async def stop(self) -> None:
        """Say offline, disconnect, end the iteration. The broker keeps the session."""
        self._stopping.set()
        self._wake.set()
        if self._connection is not None:
            self._connection.give_up()
        if self._task is not None:
            await self._task
            self._task = None
        for task in list(self._callbacks):
            task.cancel()
        await asyncio.gather(*self._callbacks, return_exceptions=True)
        self._mailbox.close()

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        delay = self._options.backoff_initial
        while not self._stopping.is_set():
            started = loop.time()
            reason = await self._one_connection()
            if self._stopping.is_set():
                return
            if loop.time() - started >= _STABLE_AFTER:
                delay = self._options.backoff_initial
            self.last_error = reason
            log.warning("broker connection lost: %s", reason)
            # Jitter, so that many clients of one broker do not return at the same moment.
            await self._pause(delay * random.uniform(0.5, 1.0))  # noqa: S311 - nobody gains by guessing it
            delay = min(delay * 2, self._options.backoff_maximum)

    def hurry(self) -> None:
        """Try to connect now instead of after the pause: the broker is known to be back."""
        self._wake.set()

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        if not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()

    async def _one_connection(self) -> str:
        """Connect, serve until the connection is gone or the bus is stopped; why it ended."""
        connection: Connection | None = None
        reason = _STOPPED
        try:
            will = self._presence[0] if self._presence else None
            connection = Connection(self._options, will, self._received)
            self._connection = connection
            self._unacknowledged = set()
            self._deliveries = Deliveries()
            # Messages of a session that was there may come with the CONNACK; of a new one, after SUBSCRIBE.
            self._connection_session = self.session
            await connection.__aenter__()
            reason = await self._unless_stopped(self._serve(connection))
            if reason == _STOPPED:
                await self._leave(connection)
        except (*FAILURES, BusUnavailable, SubscriptionRefused) as error:
            reason = str(error) or type(error).__name__
        except Exception as error:  # a mistake of ours or of the library's; without a connection nobody could go on
            log.exception("a connection failed")
            reason = f"{type(error).__name__}: {error}"
        finally:
            if connection is not None:
                connection.dispose(reason)
            self._connection = None
            self._mailbox.forget()
            if self._ready.is_set():
                self._ready.clear()
                self._call(self._on_disconnected, reason)
        return reason

    async def _serve(self, connection: Connection) -> str:
        """Until the connection is gone; why it is."""
        await self._establish(connection)
        return await connection.closed()

    async def _unless_stopped(self, work: Coroutine[Any, Any, str]) -> str:
        """What a work gives, or that a stop ended it."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else _STOPPED
        finally:
            stopping.cancel()
            working.cancel()
            await asyncio.wait((working,))

    async def _establish(self, connection: Connection) -> None:
        """Subscribe, say online, tell the callbacks."""
        if not connection.session_present:
            self._session_name = self._new_session()
            self._connection_session = self.session
        if self._subscriptions:
            refused = await connection.subscribe_to(self._subscriptions)
            if refused:
                raise SubscriptionRefused(f"the broker refused the subscription to {', '.join(refused)}")
        for presence in self._presence:
            await connection.send(presence.topic, presence.online, True, 1)
        self.last_error = None
        self._ready.set()
        self._call(self._on_connected, Connected(self.session, connection.session_present))

    async def _leave(self, connection: Connection) -> None:
        """A clean goodbye: a DISCONNECT suppresses the will, so `offline` is published before it."""
        async with asyncio.timeout(_GOODBYE):  # a broker that hangs must not hold up the daemon's end
            for presence in self._presence:
                await connection.send(presence.topic, presence.offline, True, 1)
            await connection.__aexit__(None, None, None)

    def _call(self, callbacks: Sequence[Callable[[Any], Any]], argument: object) -> None:
        """Run callbacks without holding up the connection; an asynchronous one becomes a task."""
        for callback in callbacks:
            try:
                result = callback(argument)
            except Exception:
                log.exception("a connection callback failed")
                continue
            if inspect.isawaitable(result):
                task = asyncio.create_task(settle(result))
                self._callbacks.add(task)
                task.add_done_callback(self._callback_done)

    def _callback_done(self, task: "asyncio.Task[None]") -> None:
        self._callbacks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection callback failed", exc_info=error)

    # ---- sending -------------------------------------------------------------------------------------

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Return when the broker acknowledged. Raises BusUnavailable: the caller repeats the SAME payload."""
        await (await self.publish_soon(topic, payload, retain=retain, qos=qos))

    async def publish_soon(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1
    ) -> "asyncio.Future[None]":
        """Send now, in the order of the calls; the future is done when the broker acknowledged.

        Waits for a connection for at most the publish timeout, and while `max_in_flight` are unconfirmed.
        """
        await self._slots.acquire()
        try:
            if not self._ready.is_set():
                if self._stopping.is_set():
                    raise BusUnavailable("the bus is stopped")
                await self.wait_connected(self._options.publish_timeout)
            connection = self._connection
            if connection is None or not connection.is_open:
                raise BusUnavailable("the connection to the broker broke")
            future = connection.send(topic, payload, retain, qos)
        except BaseException:
            self._slots.release()
            raise
        future.add_done_callback(self._release)
        return future

    def _release(self, _future: "asyncio.Future[None]") -> None:
        self._slots.release()

    # ---- receiving -----------------------------------------------------------------------------------

    def messages(self) -> AsyncIterator[Incoming]:
        """Every message of the subscriptions, until the bus is stopped. One consumer."""
        return self._mailbox

    @property
    def waiting(self) -> int:
        """How many received messages nobody has taken yet."""
        return len(self._mailbox)

    def _received(self, message: Received) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:  # forbidden by MQTT; nobody can answer it, so it is dropped for good
            log.warning("a message on a topic that is not UTF-8 was dropped")
            connection.acknowledge(message.mid)
            return

        unacknowledged = self._unacknowledged
        payload = bytes(message.payload)
        if message.qos:
            if message.dup and message.mid in unacknowledged:
                return  # the first copy is still being worked on and will be acknowledged
            if self._deliveries.is_copy(
                message.mid,
                topic,
                payload,
                dup=message.dup,
                unacknowledged=unacknowledged,
                now=asyncio.get_running_loop().time(),
            ):
                self.copies_dropped += 1
                connection.acknowledge(message.mid)
                return
            unacknowledged.add(message.mid)

        def acknowledge(incoming: Incoming) -> None:
            if incoming.packet_id is not None:
                unacknowledged.discard(incoming.packet_id)
                connection.acknowledge(incoming.packet_id)

        self._mailbox.put(
            Incoming(
                topic,
                payload,
                retain=message.retain,
                dup=message.dup,
                qos=message.qos,
                packet_id=message.mid if message.qos else None,
                session=self._connection_session,
                acknowledge=acknowledge if message.qos else None,
            )
        )

    async def round_trip(self) -> None:
        """Return when the broker has answered again: what it had sent before that has been received.

        Only for clean sessions, since it asks for a subscription, whose refusal is an answer too.
        Raises BusUnavailable.
        """
        connection = self._connection
        if connection is None or not connection.is_open:
            raise BusUnavailable("the connection to the broker broke")
        try:
            await connection.subscribe_to([f"{self._options.client_id}/round-trip"])
        except FAILURES as error:
            raise BusUnavailable(f"the broker does not answer: {error}") from error

    # ---- the session's name --------------------------------------------------------------------------

    def _stored_session(self) -> str | None:
        file = self._options.session_file
        if file is None:
            return None
        try:
            return file.read_text(encoding="ascii").strip() or None
        except (OSError, ValueError):
            return None

    def _new_session(self) -> str:
        """A new name for a new session, kept in a file so that a restarted daemon knows it is the same one."""
        name = secrets.token_hex(8)
        file = self._options.session_file
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, name)
        return name
