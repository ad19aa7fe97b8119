"""The daemon's `Bus` over the simulated broker: it connects again by itself, as the real one does."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from runtime.bus import (
    BusUnavailable,
    Connected,
    ConnectedCallback,
    DisconnectedCallback,
    Incoming,
    Mailbox,
    settle,
)
from runtime.copies import Deliveries
from tests.simulation.broker import Broker, Connection, Queued

CONNECT_SECONDS = 5.0
PUBLISH_SECONDS = 10.0
RETRY_SECONDS = 0.2


class SimBus:
    """See `runtime.bus.Bus`."""

    def __init__(self, broker: Broker, client_id: str, subscriptions: Sequence[str] = ()) -> None:
        self.client_id = client_id
        self._broker = broker
        self._subscriptions = tuple(subscriptions)
        self._mailbox = Mailbox()
        self._connection: Connection | None = None
        self._stands = asyncio.Event()
        self._on_connected: list[ConnectedCallback] = []
        self._on_disconnected: list[DisconnectedCallback] = []
        self._task: asyncio.Task[None] | None = None
        self._packet = 0
        self._deliveries = Deliveries()
        self._unacknowledged: set[int] = set()

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands."""
        return self._stands.is_set()

    async def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._stay_connected())

    async def wait_connected(self, timeout: float | None = None) -> None:
        """Return when connected."""
        try:
            async with asyncio.timeout(timeout):
                await self._stands.wait()
        except TimeoutError:
            raise BusUnavailable("no connection") from None

    async def stop(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._connection is not None:
            self._connection.lost("stopped")
        self._stands.clear()
        self._mailbox.close()

    def abandon(self) -> None:
        """The process is dead: the kernel closes its socket."""
        if self._connection is not None:
            self._connection.lost("process died")

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Return when the broker has it."""
        future = await self.publish_soon(topic, payload, retain=retain, qos=qos)
        await future

    async def publish_soon(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1
    ) -> "asyncio.Future[None]":
        """Send it and return a future of the broker's acknowledgement."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        connection = self._connection
        if connection is None or not self.is_connected or not connection.alive:
            future.set_exception(BusUnavailable("not connected"))
            future.exception()
            return future
        self._packet += 1
        connection.unanswered[self._packet] = future
        self._broker.send(connection, "up", self._broker.publish, connection, self._packet, topic, payload, retain)
        connection.patience[self._packet] = loop.call_later(PUBLISH_SECONDS, self._too_late, future)
        return future

    @staticmethod
    def _too_late(future: "asyncio.Future[None]") -> None:
        if not future.done():
            future.set_exception(BusUnavailable("the broker does not answer"))
            future.exception()

    def messages(self) -> AsyncIterator[Incoming]:
        """Every message of the subscriptions."""
        return self._mailbox

    def on_connected(self, callback: ConnectedCallback) -> None:
        """See `Bus.on_connected`."""
        self._on_connected.append(callback)

    def on_disconnected(self, callback: DisconnectedCallback) -> None:
        """See `Bus.on_disconnected`."""
        self._on_disconnected.append(callback)

    # ---- inside ---------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        while True:
            if not self._broker.up:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            connection = self._connection = Connection(self._broker, self.client_id, self._subscriptions)
            connection.deliver = self._take
            self._deliveries, self._unacknowledged = Deliveries(), set()
            self._broker.open(connection)
            await asyncio.wait(
                (connection.connected, connection.closed),
                timeout=CONNECT_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if connection.connected.done() and connection.alive:
                session, present = connection.connected.result()
                self._stands.set()
                for callback in self._on_connected:
                    await settle(callback(Connected(session, present)))
                reason = await connection.closed
                await self._disconnected(connection, reason)
            else:
                connection.lost("no answer")
            await asyncio.sleep(RETRY_SECONDS)

    async def _disconnected(self, connection: Connection, reason: str) -> None:
        self._stands.clear()
        self._mailbox.forget()
        for future in connection.unanswered.values():
            if not future.done():
                future.set_exception(BusUnavailable(reason))
                future.exception()
        for callback in self._on_disconnected:
            await settle(callback(reason))

    def _take(self, packet: int, message: Queued, session: str) -> None:
        connection = self._connection
        assert connection is not None
        working = self._unacknowledged
        if self._deliveries.is_copy(
            packet,
            message.topic,
            message.payload,
            dup=message.dup,
            unacknowledged=working,
            now=asyncio.get_running_loop().time(),
        ):
            return  # as runtime.mqtt does
        working.add(packet)

        def acknowledge(_incoming: Incoming) -> None:
            working.discard(packet)
            if connection.alive:
                self._broker.send(connection, "up", self._broker.acknowledge, connection, packet)

        self._mailbox.put(
            Incoming(
                message.topic,
                message.payload,
                retain=message.retain,
                dup=message.dup,
                packet_id=packet,
                session=session,
                acknowledge=acknowledge,
            )
        )
