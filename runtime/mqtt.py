"""The bus over MQTT 3.1.1. The only module that knows aiomqtt and paho, and their private parts.

What is used of the libraries' private API, and why (a test fails when one of it changes):
- paho's `manual_ack_set` and `ack`, because aiomqtt acknowledges before our code has run;
- aiomqtt's `_on_connect`, `_on_message`, `_on_publish` (overridden), because its queue hides the DUP flag
  and the session-present flag, and its `publish` costs a task and a timer for each message;
- paho's `_create_socket` (replaced), because paho makes several system calls for each packet, and aiomqtt's
  `_on_socket_open`, `_on_socket_close`, `_on_socket_register_write` and `_on_socket_unregister_write`
  (overridden), for the buffers and because it watches the number of a descriptor a moment later, when it may
  be another socket's; with them its `_misc_loop` and `_misc_task`;
- aiomqtt's `_disconnected` future, and paho's `_sock_close`, without which failed connections leak
  descriptors.

What identifies a redelivery (measured, NATS 2.15.1 and Mosquitto 2.0.11; `session` and `packet_id` of Incoming)
- A first delivery never has DUP; a redelivery always has it, on both, over kills of the subscriber.
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
- Order within what is redelivered is kept after a broker's kill; between old and new messages it is not.
"""

import asyncio
import contextlib
import inspect
import logging
import os
import random
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt
import paho.mqtt.client as paho

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
from runtime.mqtt_socket import BufferedSocket, Pump

_SUBACK_FAILURE = 0x80
_STABLE_AFTER = 0.3  # seconds a connection must have stood before the back-off starts anew
_GOODBYE = 2.0  # seconds for `offline` and DISCONNECT

log = logging.getLogger("fillbook.mqtt")
_library_log = logging.getLogger("fillbook.mqtt.library")
_library_log.setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Presence:
    """A retained status topic: `online` after every connect, `offline` as last will and before a clean stop."""

    topic: str
    online: bytes
    offline: bytes


@dataclass(frozen=True, slots=True)
class MqttOptions:
    """Where and how to connect. Times in seconds.

    `session_file` keeps the session's name over restarts; `incarnation` names the running embedded broker.
    """

    host: str
    port: int
    client_id: str
    username: str | None = None
    password: str | None = None
    keepalive: int = 10
    connect_timeout: float = 5.0
    publish_timeout: float = 5.0
    max_in_flight: int = 256
    backoff_initial: float = 0.1
    backoff_maximum: float = 2.0
    session_file: Path | None = None
    incarnation: Callable[[], str] = lambda: ""
    clean_session: bool = False
    """For commands that come and go: the broker keeps nothing of them."""

    def __post_init__(self) -> None:
        if not self.client_id or "." in self.client_id:
            raise ValueError(f"an MQTT client id without dots, not {self.client_id!r}")  # NATS makes subjects of it


class _Connection(aiomqtt.Client):
    """One connection; a new one is made for each attempt, since aiomqtt's state does not survive a failure."""

    def __init__(self, options: MqttOptions, presence: Presence | None, deliver: Callable[[Any], None]) -> None:
        will = None
        if presence is not None:
            will = aiomqtt.Will(presence.topic, presence.offline, qos=1, retain=True)
        super().__init__(
            options.host,
            options.port,
            identifier=options.client_id,
            username=options.username,
            password=options.password,
            protocol=aiomqtt.ProtocolVersion.V311,
            clean_session=options.clean_session,
            will=will,
            timeout=options.connect_timeout,
            keepalive=options.keepalive,
            max_inflight_messages=options.max_in_flight,
            # Without TCP_NODELAY a QoS 1 request and its reply take 88 ms instead of 0.8.
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
            logger=_library_log,
        )
        self._client.manual_ack_set(True)
        self._client.connect_timeout = options.connect_timeout
        self._create_plain: Callable[[], Any] = self._client._create_socket
        self._client._create_socket = self._open_socket  # type: ignore[method-assign]
        self._pump = Pump(
            self._loop,
            read=self._client.loop_read,
            write=self._client.loop_write,
            wants_write=self._client.want_write,
            broken=self._broke,
        )
        self._deliver = deliver
        self.session_present = False
        self._publish_timeout = options.publish_timeout
        # Ordered by deadline, because every publish has the same timeout.
        self._unconfirmed: dict[int, tuple[asyncio.Future[None], float]] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    # ---- what paho calls, on the event loop's thread ------------------------------------------------

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        self.session_present = bool(flags.session_present)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_message(self, client: Any, userdata: Any, message: paho.MQTTMessage) -> None:
        self._deliver(message)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        entry = self._unconfirmed.pop(mid, None)
        if entry is not None and not entry[0].done():
            entry[0].set_result(None)

    def _open_socket(self) -> BufferedSocket:
        return BufferedSocket.around(self._create_plain())

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        self._loop.call_soon_threadsafe(self._opened, sock)  # called from the thread that connects

    def _opened(self, sock: BufferedSocket) -> None:
        self._pump.open(sock)
        self._misc_task = self._loop.create_task(self._misc_loop())

    def _on_socket_close(self, client: Any, userdata: Any, sock: Any) -> None:
        self._pump.close()
        super()._on_socket_close(client, userdata, sock)

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        self._pump.write_soon()

    def _on_socket_unregister_write(self, client: Any, userdata: Any, sock: Any) -> None:
        """The pump sees by itself when there is nothing left to write."""

    def _broke(self, error: Exception) -> None:
        if not self._disconnected.done():
            self._disconnected.set_exception(error)

    # ---- what the bus calls -------------------------------------------------------------------------

    def send(self, topic: str, payload: bytes, retain: bool, qos: int) -> "asyncio.Future[None]":
        """Give one message to the socket's buffer; the future is done when the broker acknowledged it."""
        future: asyncio.Future[None] = self._loop.create_future()
        info = self._client.publish(topic, payload, qos, retain)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            future.set_exception(BusUnavailable(f"could not publish: {paho.error_string(info.rc)}"))
        elif qos == 0:
            future.set_result(None)
        else:
            self._unconfirmed[info.mid] = (future, self._loop.time() + self._publish_timeout)
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(self._publish_timeout, self._sweep)
        return future

    def acknowledge(self, packet_id: int) -> None:
        """Send the PUBACK of a received message; without a connection the broker sends it again."""
        if not self._disconnected.done():
            self._client.ack(packet_id, 1)

    async def closed(self) -> str:
        """Return the reason when the connection is gone."""
        await asyncio.wait((self._disconnected,))
        error = self._disconnected.exception()
        return "closed" if error is None else str(error)

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._connected.done() and not self._disconnected.done()

    def dispose(self, reason: str) -> None:
        """Close the socket whatever state the library is in, and fail what waits for a PUBACK."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._client._sock_close()
        if self._misc_task is not None:
            self._misc_task.cancel()
        for future in (self._connected, self._disconnected):
            if future.done() and not future.cancelled():
                future.exception()  # mark as seen
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for waiting, _ in unconfirmed.values():
            if not waiting.done():
                waiting.set_exception(BusUnavailable(f"connection lost before the acknowledgement: {reason}"))

    def _sweep(self) -> None:
        """Fail what the broker has not acknowledged in time."""
        self._sweeper = None
        now = self._loop.time()
        while self._unconfirmed:
            packet, (future, deadline) = next(iter(self._unconfirmed.items()))
            if deadline > now and not future.done():
                self._sweeper = self._loop.call_later(deadline - now, self._sweep)
                return
            del self._unconfirmed[packet]
            if not future.done():
                future.set_exception(BusUnavailable("the broker did not acknowledge in time"))


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
        self._connection: _Connection | None = None
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
            await asyncio.wait_for(self._ready.wait(), timeout)
        except TimeoutError:
            where = f"{self._options.host}:{self._options.port}"
            raise BusUnavailable(f"no MQTT broker at {where}: {self.last_error or 'no answer'}") from None

    async def stop(self) -> None:
        """Say offline, disconnect, end the iteration. The broker keeps the session."""
        self._stopping.set()
        self._wake.set()
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
            await self._pause(delay * random.uniform(0.5, 1.0))  # noqa: S311
            delay = min(delay * 2, self._options.backoff_maximum)

    def hurry(self) -> None:
        """Try to connect now instead of after the pause: the broker is known to be back."""
        self._wake.set()

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        if not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)

    async def _one_connection(self) -> str:
        """Connect, serve until the connection is gone or the bus is stopped; why it ended."""
        connection: _Connection | None = None
        reason = "stopped"
        try:
            will = self._presence[0] if self._presence else None
            connection = _Connection(self._options, will, self._received)
            self._connection = connection
            self._unacknowledged = set()
            # Messages of a session that was there may come with the CONNACK; of a new one, after SUBSCRIBE.
            self._connection_session = self.session
            await connection.__aenter__()
            await self._establish(connection)
            closing = asyncio.ensure_future(connection.closed())
            stopping = asyncio.ensure_future(self._stopping.wait())
            await asyncio.wait((closing, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if closing.done():
                reason = closing.result()
            else:
                closing.cancel()
                await self._leave(connection)
        except (aiomqtt.MqttError, BusUnavailable, SubscriptionRefused, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
        finally:
            if connection is not None:
                connection.dispose(reason)
            self._connection = None
            self._mailbox.forget()
            if self._ready.is_set():
                self._ready.clear()
                self._call(self._on_disconnected, reason)
        return reason

    async def _establish(self, connection: _Connection) -> None:
        """Subscribe, say online, tell the callbacks."""
        if not connection.session_present:
            self._session_name = self._new_session()
            self._connection_session = self.session
        if self._subscriptions:
            granted = await connection.subscribe([(pattern, 1) for pattern in self._subscriptions])
            refused = [
                pattern
                for pattern, code in zip(self._subscriptions, granted, strict=True)
                if _code(code) >= _SUBACK_FAILURE
            ]
            if refused:
                raise SubscriptionRefused(f"the broker refused the subscription to {', '.join(refused)}")
        for presence in self._presence:
            await connection.send(presence.topic, presence.online, True, 1)
        self.last_error = None
        self._ready.set()
        self._call(self._on_connected, Connected(self.session, connection.session_present))

    async def _leave(self, connection: _Connection) -> None:
        """A clean goodbye: a DISCONNECT suppresses the will, so `offline` is published before it."""
        async with asyncio.timeout(_GOODBYE):  # a broker that hangs must not hold up the daemon's end
            for presence in self._presence:
                await connection.send(presence.topic, presence.offline, True, 1)
            await connection.__aexit__(None, None, None)

    def _call(self, callbacks: Sequence[Callable[[Any], Any]], argument: object) -> None:
        """Run callbacks without holding up the connection; an asynchronous one becomes a task."""
        for callback in callbacks:
            result = callback(argument)
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

    def _received(self, message: paho.MQTTMessage) -> None:
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
        if message.qos:
            if message.dup and message.mid in unacknowledged:
                return  # the first copy is still being worked on and will be acknowledged
            unacknowledged.add(message.mid)

        def acknowledge(incoming: Incoming) -> None:
            if incoming.packet_id is not None:
                unacknowledged.discard(incoming.packet_id)
                connection.acknowledge(incoming.packet_id)

        self._mailbox.put(
            Incoming(
                topic,
                bytes(message.payload),
                retain=message.retain,
                dup=message.dup,
                qos=message.qos,
                packet_id=message.mid if message.qos else None,
                session=self._connection_session,
                acknowledge=acknowledge if message.qos else None,
            )
        )

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
            temporary = file.with_name(file.name + ".new")
            temporary.write_text(name, encoding="ascii")
            os.replace(temporary, file)
        return name


def _code(granted: Any) -> int:
    """The number of a SUBACK code, which paho gives as a ReasonCode or an int."""
    return int(getattr(granted, "value", granted))
