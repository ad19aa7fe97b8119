"""A socket that costs one system call for many packets, and what moves its bytes on the event loop.

The MQTT library asks its socket for one byte, then for another, then for the rest of each packet, and sends each
packet by itself. Here one `recv` of 64 KiB is handed out piece by piece, and what is sent during one turn of the
event loop leaves in one `send`.

Nothing gets stuck: the reader goes on until the buffer is empty before it waits for the socket again, and
no byte is read from the socket while there are some in the buffer.

Memory is bounded. In: one read. Out: `PIECE` and one packet, because `send` refuses more while the network takes
nothing, so that the rest stays in the library's queue; that queue holds at most the publishes in flight (the
semaphore of `publish_soon`) and one acknowledgement for each message the broker may have unacknowledged.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PIECE = 65_536
_DISCONNECT = 0xE0


class BufferedSocket(socket.socket):
    """A connected TCP socket that does not block. `send` takes whole MQTT packets.

    It is a socket.socket because the library sets options such as TCP_NODELAY on nothing else.
    """

    @classmethod
    def around(cls, plain: socket.socket) -> Self:
        """Take over the descriptor of `plain`, which is not to be used any more."""
        # The protocol's number is given because finding it out would ask the system.
        buffered = cls(plain.family, plain.type, plain.proto, fileno=plain.detach())
        buffered.setblocking(False)
        return buffered

    def __init__(self, family: int, kind: int, protocol: int, *, fileno: int) -> None:
        super().__init__(family, kind, protocol, fileno)
        self._in, self._taken = b"", 0
        self._ended = False
        self._out = bytearray()
        self._full = False
        self._failure: OSError | None = None

    # ---- in ------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """One read from the network, if nothing is left of the last; its end or error is for `recv` to tell."""
        if self.pending():
            return
        try:
            self._in, self._taken = super().recv(PIECE), 0
            self._ended = not self._in
        except BlockingIOError:
            pass
        except OSError as error:
            self._failure = error

    def pending(self) -> int:
        """How many bytes can be taken; 1 also when there is an end or an error to tell."""
        return (len(self._in) - self._taken) or int(self._ended or self._failure is not None)

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Up to `bufsize` bytes of the buffer, never of the network; BlockingIOError when there are none."""
        if self._failure is not None:
            raise self._failure
        start = self._taken
        if start == len(self._in):
            if self._ended:
                return b""
            raise BlockingIOError
        self._taken = min(start + bufsize, len(self._in))
        return self._in[start : self._taken]

    # ---- out -----------------------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """How many bytes wait for a `flush`."""
        return len(self._out)

    def send(self, data: "ReadableBuffer", flags: int = 0, /) -> int:
        """Take one packet for the next `flush`; BlockingIOError when the network is full."""
        if self._failure is not None:
            raise self._failure
        if self._full:
            raise BlockingIOError
        packet = memoryview(data)
        if packet[0] & 0xF0 == _DISCONNECT:
            # The library closes as soon as we have taken it, so it is taken only when the network did.
            self.flush()
            if self._out:
                raise BlockingIOError
            return super().send(packet)
        self._out += packet
        if len(self._out) >= PIECE:
            self.flush()
        return len(packet)

    def flush(self) -> None:
        """Give the network as much as it takes; its OSError goes to the caller, and to every later use."""
        if not self._out:
            return
        try:
            sent = super().send(self._out)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._failure = error
            self._out.clear()
            raise
        del self._out[:sent]
        self._full = bool(self._out)

    def close(self) -> None:
        """Send what the network takes at once, and close."""
        with contextlib.suppress(OSError):
            self.flush()
        self._in, self._taken, self._ended, self._failure = b"", 0, False, None
        self._out.clear()
        super().close()


class Pump:
    """Calls the library when its socket can be read, and once per turn of the event loop when it has to write.

    `read` and `write` let it work on its socket, and `wants_write` says whether it has packets left. An exception
    that they raise goes to `broken`. All but `write_soon` is for the event loop's thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        read: Callable[[], object],
        write: Callable[[], object],
        wants_write: Callable[[], bool],
        broken: Callable[[Exception], None],
    ) -> None:
        """Made on the event loop's thread."""
        self._loop = loop
        self._thread = threading.get_ident()
        self._read, self._write, self._wants_write, self._broken = read, write, wants_write, broken
        self._sock: BufferedSocket | None = None
        self._scheduled = False
        self._watching = False

    def open(self, sock: BufferedSocket) -> None:
        """Begin, unless the socket has been closed meanwhile: its number may be another's by now."""
        if sock.fileno() >= 0:
            self._sock = sock
            self._loop.add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        """The socket is about to be closed."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            self._watch(sock, False)

    def write_soon(self) -> None:
        """The library has something to write. From any thread."""
        if threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self.write_soon)
        elif not self._scheduled and not self._watching:
            self._scheduled = True
            self._loop.call_soon(self._writable)

    def _readable(self) -> None:
        sock = self._sock
        if sock is None:
            return
        sock.fill()
        try:
            while sock.pending():
                self._read()
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection is broken
            self._broken(error)

    def _writable(self) -> None:
        self._scheduled = False
        sock = self._sock
        if sock is None:
            return
        try:
            if self._flushed(sock):
                self._write()
            if self._sock is sock and self._flushed(sock):
                self._watch(sock, sock.unsent > 0 or self._wants_write())
        except Exception as error:  # noqa: BLE001 - as above
            self._broken(error)

    def _flushed(self, sock: BufferedSocket) -> bool:
        """Whether the connection still stands; if not, the library learns it as from a failed read."""
        try:
            sock.flush()
        except OSError:
            self._read()
            return False
        return True

    def _watch(self, sock: BufferedSocket, watch: bool) -> None:
        """Only while the network is full does the event loop ask whether it can be written to."""
        if watch and not self._watching:
            self._loop.add_writer(sock.fileno(), self._writable)
        elif self._watching and not watch:
            self._loop.remove_writer(sock.fileno())
        self._watching = watch
