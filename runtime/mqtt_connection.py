"""One connection over MQTT 3.1.1. The only module that knows aiomqtt and paho, and their private parts.

What is used of the libraries' private API, and why (a test fails when one of it changes):
- paho's `manual_ack_set` and `ack`, because aiomqtt acknowledges before our code has run;
- aiomqtt's `_on_connect`, `_on_message`, `_on_publish` (overridden), because its queue hides the DUP flag
  and the session-present flag, and its `publish` costs a task and a timer for each message;
- paho's `_create_socket` (replaced), because paho makes several system calls for each packet, and aiomqtt's
  `_on_socket_open`, `_on_socket_close`, `_on_socket_register_write` and `_on_socket_unregister_write`
  (overridden), for the buffers and because it watches the number of a descriptor a moment later, when it may
  be another socket's; with them its `_misc_loop` and `_misc_task`;
- paho's `_handle_pubackcomp` (replaced) with its `_in_packet`, `_out_message_mutex`, `_out_messages` and
  `_do_on_publish`, because it makes two objects of MQTT 5 for each PUBACK, which is most of what one costs;
- aiomqtt's `_on_disconnect` (overridden) and its `_connected` and `_disconnected` futures, because it waits on for
  a broker that hung up before it answered, and forgets that a connection broke in the moment in which it was made;
- aiomqtt's `_wait_for` (replaced), because asyncio.wait_for loses a cancel that comes together with the result;
- paho's `_sock_close`, without which failed connections leak descriptors.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypeVar

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from runtime.bus import (
    BusUnavailable,
)
from runtime.mqtt_socket import BufferedSocket, Pump

T = TypeVar("T")

_SUBACK_FAILURE = 0x80
_PACKET_ID_BYTES = 2
_PUBACK_REASON = ReasonCode(PacketTypes.PUBACK)
_PUBACK_PROPERTIES = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]  # the library has no types there

_library_log = logging.getLogger("fillbook.mqtt.library")
_library_log.setLevel(logging.ERROR)
# It calls an error what a broker answers to a subscription that was cancelled meanwhile.
_library_log.addFilter(lambda record: not str(record.msg).startswith("Unexpected message ID"))

Received: TypeAlias = paho.MQTTMessage
"""A message as the library gives it."""

FAILURES = (aiomqtt.MqttError, OSError, ValueError)
"""What a connection that cannot be made or kept raises."""


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


class Connection(aiomqtt.Client):
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
            # No limit but the bus's own: for one the library walks through all messages at each PUBACK.
            max_inflight_messages=0,
            # Without TCP_NODELAY a QoS 1 request and its reply take 88 ms instead of 0.8.
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
            logger=_library_log,
        )
        self._client.manual_ack_set(True)
        self._client.connect_timeout = options.connect_timeout
        self._create_plain: Callable[[], Any] = self._client._create_socket
        self._client._create_socket = self._open_socket  # type: ignore[method-assign]  # the library's one seam for it
        self._acknowledged: Callable[[Any], Any] = self._client._handle_pubackcomp
        self._client._handle_pubackcomp = self._quickly_acknowledged  # type: ignore[method-assign]  # as above
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

    async def __aenter__(self) -> Self:
        """Connect."""
        lost = self._disconnected
        await super().__aenter__()
        if lost.done():
            raise lost.exception() or aiomqtt.MqttError("closed")
        return self

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:
        try:
            async with asyncio.timeout(self.timeout if timeout is None else timeout):
                return await fut
        except TimeoutError:
            raise aiomqtt.MqttError("the broker did not answer in time") from None

    def give_up(self) -> None:
        """End an attempt to connect that is under way."""
        self._not_connected("given up")

    def _not_connected(self, why: str) -> None:
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError(why))

    # ---- what paho calls, on the event loop's thread ------------------------------------------------

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        self.session_present = bool(flags.session_present)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None
    ) -> None:
        if self._connected.done():
            super()._on_disconnect(client, userdata, flags, reason_code, properties)
        else:
            self._not_connected("the broker hung up before it answered")

    def _on_message(self, client: Any, userdata: Any, message: Received) -> None:
        self._deliver(message)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        entry = self._unconfirmed.pop(mid, None)
        if entry is not None and not entry[0].done():
            entry[0].set_result(None)

    def _quickly_acknowledged(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> Any:
        """A PUBACK of two bytes, as every one of MQTT 3.1.1 is; all else is left to the library."""
        client = self._client
        packet = client._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) != _PACKET_ID_BYTES:
            return self._acknowledged(cmd)
        packet_id = int.from_bytes(packet, "big")
        with client._out_message_mutex:
            if packet_id in client._out_messages:
                return client._do_on_publish(packet_id, _PUBACK_REASON, _PUBACK_PROPERTIES)
        return paho.MQTT_ERR_SUCCESS

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

    async def subscribe_to(self, patterns: Sequence[str]) -> list[str]:
        """Subscribe; returns the topics that the broker refused."""
        granted = await self.subscribe([(pattern, 1) for pattern in patterns])
        return [pattern for pattern, code in zip(patterns, granted, strict=True) if _code(code) >= _SUBACK_FAILURE]

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


def _code(granted: Any) -> int:
    """The number of a SUBACK code, which paho gives as a ReasonCode or an int."""
    return int(getattr(granted, "value", granted))
