"""A load generator: a bare MQTT 3.1.1 client over asyncio, so that what is measured is not the client.

`python -m tests.bench.mqtt_load` with a JSON order on stdin prints what it found as JSON.
"""

import asyncio
import json
import secrets
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Message = Callable[[str, bytes], None]
_CONNACK, _PUBLISH, _PUBACK, _SUBACK = 2, 3, 4, 9


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("!H", len(raw)) + raw


def _packet(head: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (0x80 if length else 0))
        if not length:
            return bytes((head, *encoded)) + body


class BareClient(asyncio.Protocol):
    """QoS 1 both ways, acknowledgements sent at once, nothing repeated."""

    def __init__(self, on_message: Message) -> None:
        self._on_message = on_message
        self._buffer = bytearray()
        self._number = 0
        self._answered = asyncio.Event()
        self._transport: asyncio.Transport

    @classmethod
    async def connect(
        cls, host: str, port: int, on_message: Message, *, username: str | None = None, password: str | None = None
    ) -> "BareClient":
        """A connected client with a clean session."""
        loop = asyncio.get_running_loop()
        client: BareClient
        _, client = await loop.create_connection(lambda: cls(on_message), host, port)
        flags, login = 0x02, b""
        if username is not None and password is not None:
            flags, login = 0xC2, _text(username) + _text(password)
        name = f"bench-{secrets.token_hex(6)}"
        await client._ask(_packet(0x10, _text("MQTT") + bytes((4, flags, 0, 60)) + _text(name) + login))
        return client

    async def subscribe(self, topic_filter: str) -> None:
        """Subscribe with QoS 1."""
        self._number += 1
        await self._ask(_packet(0x82, struct.pack("!H", self._number) + _text(topic_filter) + b"\x01"))

    async def _ask(self, packet: bytes) -> None:
        self._answered.clear()
        self._transport.write(packet)
        await asyncio.wait_for(self._answered.wait(), 10)

    def publish(self, topic: str, payload: bytes) -> None:
        """Send with QoS 1; the acknowledgement is not waited for."""
        self._number = self._number % 65_535 + 1
        self._transport.write(_packet(0x32, _text(topic) + struct.pack("!H", self._number) + payload))

    def close(self) -> None:
        """Say goodbye."""
        self._transport.write(b"\xe0\x00")
        self._transport.close()

    # ---- asyncio.Protocol -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        assert isinstance(transport, asyncio.Transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take all whole packets out of the stream."""
        buffer = self._buffer
        buffer += data
        start = 0
        while True:
            length, shift, at = 0, 0, start + 1
            while at < len(buffer) and buffer[at] & 0x80:
                length |= (buffer[at] & 0x7F) << shift
                shift += 7
                at += 1
            if at >= len(buffer):
                break
            length |= buffer[at] << shift
            end = at + 1 + length
            if end > len(buffer):
                break
            self._packet(buffer[start], bytes(buffer[at + 1 : end]))
            start = end
        del buffer[:start]

    def _packet(self, head: int, body: bytes) -> None:
        kind = head >> 4
        if kind == _PUBLISH:
            size = int.from_bytes(body[:2], "big")
            topic, rest = body[2 : 2 + size].decode(), body[2 + size :]
            if head & 0x06:
                self._transport.write(b"\x40\x02" + rest[:2])
                rest = rest[2:]
            self._on_message(topic, rest)
        elif kind in (_CONNACK, _SUBACK):
            self._answered.set()


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: `rate` requests a second, or with 0 always `in_flight` of them."""

    host: str
    port: int
    request_topic: str
    response_filter: str
    price_topic: str
    prime: bool
    rate: float
    in_flight: int
    seconds: float


class Generator:
    """Sends order requests and times their answers, from when each was due."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._run = secrets.token_hex(4)
        self._due: dict[str, float] = {}
        self._number = 0
        self._latencies: list[float] = []
        self._refused: list[str] = []
        self._ends = float("inf")
        self._idle = asyncio.Event()
        self._client: BareClient

    async def run(self) -> dict[str, Any]:
        """The whole load; latencies in seconds."""
        load = self._load
        self._client = await BareClient.connect(load.host, load.port, self._on_message)
        await self._client.subscribe(load.response_filter)
        if load.prime:
            await self._prime()
        began = time.perf_counter()
        self._ends = began + load.seconds
        if load.rate:
            await self._at_rate(began)
        else:
            for _ in range(load.in_flight):
                self._send(time.perf_counter())
        await self._until_idle(load.seconds + 30)
        took = time.perf_counter() - began
        self._client.close()
        return {
            "answered": len(self._latencies),
            "unanswered": len(self._due),
            "refused": self._refused[:3],
            "seconds": took,
            "latencies": self._latencies,
        }

    async def _prime(self) -> None:
        """A price, and something to sell."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._client.publish(self._load.price_topic, f'{{"price":"50000.25","time":"{now}"}}'.encode())
        await asyncio.sleep(0.3)
        self._ends = 0.0
        self._send(time.perf_counter(), '"side":"BUY","quantity":"10"')
        await self._until_idle(10)
        self._latencies.clear()

    async def _until_idle(self, timeout: float) -> None:
        self._idle.clear()
        if self._due:
            try:
                await asyncio.wait_for(self._idle.wait(), timeout)
            except TimeoutError:
                return

    async def _at_rate(self, began: float) -> None:
        count = int(self._load.rate * self._load.seconds)
        for number in range(count):
            due = began + number / self._load.rate
            delay = due - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            self._send(due)

    def _send(self, due: float, what: str = "") -> None:
        self._number += 1
        key = f"{self._run}-{self._number}"
        what = what or ('"side":"BUY","quantity":"0.01"' if self._number % 2 else '"side":"SELL","quantity":"0.01"')
        self._due[key] = due
        body = f'{{"symbol":"BTC-USD",{what},"request_id":"{key}"}}'
        self._client.publish(self._load.request_topic, body.encode())

    def _on_message(self, topic: str, payload: bytes) -> None:
        due = self._due.pop(topic.rpartition("/")[2], None)
        if due is None:
            return
        now = time.perf_counter()
        self._latencies.append(now - due)
        if b'"filled"' not in payload:
            self._refused.append(payload.decode()[:300])
        if not self._load.rate and now < self._ends:
            self._send(now)
        elif not self._due:
            self._idle.set()


def main() -> None:
    """Run the load that stdin describes."""
    load = Load(**json.loads(sys.stdin.read()))
    print(json.dumps(asyncio.run(Generator(load).run())))


if __name__ == "__main__":
    main()
