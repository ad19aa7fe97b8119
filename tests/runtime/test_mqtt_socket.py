"""The buffered socket: nothing lost, nothing stuck, nothing out of order, whatever the network does."""

import asyncio
import inspect
import socket
from collections.abc import Callable, Iterator
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
import pytest

from runtime.mqtt_socket import PIECE, BufferedSocket, Pump
from tests.integration.brokers import PATIENCE

Pair = tuple[BufferedSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A buffered socket with a small send buffer, and its peer."""
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    buffered = BufferedSocket.around(near)
    far.settimeout(PATIENCE)
    with buffered, far:
        yield buffered, far


def everything(far: socket.socket) -> bytes:
    """What there is to read now."""
    found = b""
    far.setblocking(False)
    try:
        while piece := far.recv(1 << 20):
            found += piece
    except BlockingIOError:
        pass
    return found


def fill_the_network(near: BufferedSocket) -> bytes:
    """Send until no more is taken; what was taken."""
    taken = b""
    while True:
        packet = b"\x30" + len(taken).to_bytes(4, "big") * 1000
        try:
            near.send(packet)
        except BlockingIOError:
            return taken
        taken += packet


# ---- the socket alone --------------------------------------------------------------------------------


def test_one_read_of_the_network_is_handed_out_in_pieces(pair: Pair) -> None:
    near, far = pair
    far.sendall(b"abcdef")
    with pytest.raises(BlockingIOError):
        near.recv(1)  # nobody filled it
    near.fill()
    assert near.pending() == 6
    far.sendall(b"later")
    near.fill()  # does nothing while there is something left
    assert [near.recv(1), near.recv(2), near.recv(100)] == [b"a", b"bc", b"def"]
    assert near.pending() == 0
    with pytest.raises(BlockingIOError):
        near.recv(1)
    near.fill()
    assert near.recv(100) == b"later"


def test_the_end_and_an_error_come_after_and_before_what_was_read(pair: Pair) -> None:
    near, far = pair
    far.sendall(b"last")
    far.close()
    near.fill()
    assert near.recv(10) == b"last"
    near.fill()
    assert near.pending() == 1
    assert near.recv(10) == b""
    near.send(b"\x30\x00")
    with pytest.raises(OSError, match="Broken pipe"):
        near.flush()
    assert near.pending() == 1
    for use in (lambda: near.recv(1), lambda: near.send(b"\x30\x00")):
        with pytest.raises(OSError, match="Broken pipe"):
            use()
    near.close()
    assert near.pending() == 0  # so that nobody waits for a library that has given up


def test_an_error_of_reading_is_told(pair: Pair) -> None:
    near, far = pair
    near.send(b"\x30")
    near.flush()
    far.close()  # with something unread: a reset
    near.fill()
    with pytest.raises(ConnectionResetError):
        near.recv(1)


def test_packets_leave_together_and_in_order(pair: Pair) -> None:
    near, far = pair
    assert near.send(b"\x30one") == 4
    near.send(bytearray(b"\x30two"))
    assert everything(far) == b""
    near.flush()
    assert everything(far) == b"\x30one\x30two"
    assert near.unsent == 0


def test_a_full_network_refuses_and_nothing_is_lost(pair: Pair) -> None:
    near, far = pair
    taken = fill_the_network(near)
    assert 0 < near.unsent <= PIECE + 4001
    received = b""
    while near.unsent:
        received += everything(far)
        near.flush()
    near.send(b"\x30again")
    near.flush()
    assert received + everything(far) == taken + b"\x30again"


def test_a_goodbye_is_taken_only_when_the_network_takes_it(pair: Pair) -> None:
    near, far = pair
    taken = fill_the_network(near)
    with pytest.raises(BlockingIOError):
        near.send(b"\xe0\x00")
    received = b""
    while near.unsent:
        received += everything(far)
        near.flush()
    received += everything(far)
    near.send(b"\x30before")
    near.send(b"\xe0\x00")  # at once, with what was before it
    assert received + everything(far) == taken + b"\x30before\xe0\x00"


def test_closing_sends_what_was_taken(pair: Pair) -> None:
    near, far = pair
    near.send(b"\x30")
    near.close()
    assert far.recv(10) == b"\x30"
    assert far.recv(10) == b""
    near.close()


# ---- the pump ----------------------------------------------------------------------------------------


class Library:
    """As much of a library as the pump knows."""

    def __init__(self, sock: BufferedSocket) -> None:
        self.sock = sock
        self.out: list[bytes] = []
        self.found = bytearray()
        self.broken: list[Exception] = []
        self.lost = 0
        self.turns = 0
        self.pump = Pump(
            asyncio.get_running_loop(),
            read=self.read,
            write=self.write,
            wants_write=lambda: bool(self.out),
            broken=self.broken.append,
        )
        self.pump.open(sock)

    def read(self) -> None:
        try:
            piece = self.sock.recv(3)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if piece == b"bad":
            raise ValueError("bad")
        self.found += piece
        if not piece:
            self.lost += 1
            self.close()

    def write(self) -> None:
        self.turns += 1
        while self.out:
            try:
                self.sock.send(self.out[0])
            except BlockingIOError:
                return
            del self.out[0]

    def close(self) -> None:
        self.pump.close()
        self.sock.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


async def test_everything_read_is_taken_before_the_next_wait(pair: Pair) -> None:
    near, far = pair
    library = Library(near)
    sent = bytes(range(256)) * 1000
    far.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(far, sent)
    await until(lambda: len(library.found) == len(sent))
    assert library.found == sent
    far.close()
    await until(lambda: library.lost == 1)
    assert library.broken == []


async def test_one_turn_writes_once_and_from_any_thread(pair: Pair) -> None:
    near, far = pair
    library = Library(near)
    library.out += [b"\x30a", b"\x30b"]
    library.pump.write_soon()
    library.pump.write_soon()
    await until(lambda: library.turns > 0)
    assert everything(far) == b"\x30a\x30b"
    library.out.append(b"\x30c")
    await asyncio.to_thread(library.pump.write_soon)
    await until(lambda: library.turns > 1)
    assert everything(far) == b"\x30c"
    for _ in range(5):
        await asyncio.sleep(0)
    assert library.turns == 2  # it does not spin
    library.close()
    library.pump.write_soon()  # after the end it does nothing
    await asyncio.sleep(0)
    assert library.turns == 2


async def test_a_full_network_is_waited_for_without_spinning(pair: Pair) -> None:
    near, far = pair
    library = Library(near)
    sent = [b"\x30" + bytes((number,)) * 10_000 for number in range(100)]
    library.out += sent
    library.pump.write_soon()
    await until(lambda: library.turns > 0)
    for _ in range(20):
        library.pump.write_soon()
        await asyncio.sleep(0)
    assert library.turns == 1
    assert library.out
    assert near.unsent
    received = bytearray()

    def arrived() -> bool:
        received.extend(everything(far))
        return len(received) == sum(map(len, sent))

    await until(arrived)
    assert received == b"".join(sent)
    turns = library.turns
    for _ in range(20):
        await asyncio.sleep(0)
    assert library.turns == turns  # nobody watches a network that takes everything
    library.close()


async def test_a_failed_flush_ends_the_connection_once(pair: Pair) -> None:
    near, far = pair
    library = Library(near)
    loop = asyncio.get_running_loop()
    loop.remove_reader(near.fileno())  # so that it is the writing that notices
    far.close()
    library.out += [b"\x30a", b"\x30b"]
    library.pump.write_soon()
    await until(lambda: library.lost > 0)
    for _ in range(5):
        library.pump.write_soon()
        await asyncio.sleep(0)
    assert (library.lost, library.broken, near.fileno()) == (1, [], -1)


async def test_what_the_library_raises_breaks_the_connection(pair: Pair) -> None:
    near, far = pair
    library = Library(near)
    far.sendall(b"bad")
    await until(lambda: bool(library.broken))
    library.write = None  # type: ignore[method-assign,assignment]  # what cannot be called
    library.pump._write = library.write
    library.pump.write_soon()
    await until(lambda: len(library.broken) == 2)
    library.close()


async def test_a_socket_closed_before_the_loop_knew_it_is_not_watched(pair: Pair) -> None:
    near, _ = pair
    near.close()
    library = Library(near)
    library.pump.write_soon()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert library.turns == 0
    library.pump.close()


# ---- what is relied on of the libraries ------------------------------------------------------------


def puback(number: int) -> bytes:
    """A packet that the library takes without more ado."""
    return b"\x40\x02" + number.to_bytes(2, "big")


async def test_the_library_reads_and_writes_as_the_buffers_need_it(pair: Pair) -> None:
    """Fails when paho or aiomqtt change what runtime/mqtt_connection.py and runtime/mqtt_socket.py rely on."""
    outer = aiomqtt.Client("localhost")
    client = outer._client
    assert list(inspect.signature(client._create_socket).parameters) == []
    for name in ("_on_socket_open", "_on_socket_close", "_on_socket_register_write", "_on_socket_unregister_write"):
        assert list(inspect.signature(getattr(outer, name)).parameters) == ["client", "userdata", "sock"]
        assert getattr(client, name.removeprefix("_")) == getattr(outer, name)
    assert inspect.iscoroutinefunction(outer._misc_loop)

    # What `_create_socket` gives is the socket, from the first packet on, and its options can be set.
    near, far = pair
    opened: list[Any] = []
    asked: list[Any] = []
    lost: list[Any] = []
    client._create_socket = lambda: near  # type: ignore[method-assign]  # as our connection does
    client.on_socket_open = lambda _client, _data, sock: opened.append(sock)
    client.on_socket_register_write = lambda _client, _data, sock: asked.append(sock)
    client.on_socket_unregister_write = lambda _client, _data, sock: None
    client.on_socket_close = lambda _client, _data, sock: None
    client.on_disconnect = lambda *arguments: lost.append(arguments[3])
    client.connect("localhost")
    assert opened == asked == [near]
    assert client.socket() is near

    # A packet that waits is written by `loop_write`, whole, and `want_write` says whether there is one.
    assert client.want_write()
    client.loop_write()
    assert not client.want_write()
    assert everything(far) == b""
    near.flush()
    assert everything(far)[0] == 0x10

    # A call of `loop_read` takes a packet, or what there is of it, and says so only by the socket's state.
    taken: list[int] = []

    def taken_one() -> Any:
        taken.append(0)
        return paho.MQTT_ERR_SUCCESS

    client._packet_handle = taken_one  # type: ignore[method-assign]  # counts the packets
    far.setblocking(True)
    far.sendall(b"".join(map(puback, range(50))) + b"\x40")
    near.fill()
    while before := near.pending():
        client.loop_read()
        assert near.pending() < before
    assert len(taken) == 50
    far.sendall(puback(51)[1:])
    near.fill()
    while near.pending():
        client.loop_read()
    assert len(taken) == 51

    # A refused packet is kept, for the next `loop_write`.
    while not near._full:
        near.send(b"\x30" * 60_000)
    client.subscribe("t")
    assert client.loop_write() == paho.MQTT_ERR_SUCCESS
    assert client.want_write()

    # An error of the socket is a lost connection, told once, and the socket is closed.
    near._failure = ConnectionResetError()
    client.loop_read()
    client.loop_read()
    client.loop_write()
    assert client.socket() is None
    assert near.fileno() == -1
    assert len(lost) == 1
