"""The memory bus of replay and simulation: typed messages, delivered in the order of publication.

Nothing is encoded and nothing waits: what the MQTT bus does with JSON and a broker happens here with a
queue, so that the services see the same messages in the same order.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

M = TypeVar("M")


class MessageBus:
    """Queued subscribers by message type, and taps that see a message at once."""

    def __init__(self) -> None:
        self._subscribers: dict[type, Callable[[Any], Awaitable[None]]] = {}
        self._taps: dict[type, Callable[[Any], None]] = {}
        self._queue: deque[Any] = deque()

    def subscribe(self, kind: type[M], handler: Callable[[M], Awaitable[None]]) -> None:
        """Deliver messages of `kind` to `handler` when the bus is drained."""
        self._subscribers[kind] = handler

    def tap(self, kind: type[M], handler: Callable[[M], None]) -> None:
        """Show messages of `kind` to `handler` as they are published."""
        self._taps[kind] = handler

    def publish(self, message: Any) -> None:
        """Take a message; one that nobody asked for is dropped."""
        kind = type(message)
        tap = self._taps.get(kind)
        if tap is not None:
            tap(message)
        if kind in self._subscribers:
            self._queue.append(message)

    async def drain(self) -> None:
        """Deliver until nothing is under way any more."""
        while self._queue:
            message = self._queue.popleft()
            await self._subscribers[type(message)](message)
