"""The process of one user-written bot: `python -m signals.isolation.worker SOCKET PARENT`.

It answers one message at a time and ends when the daemon does. Whatever the bot raises is answered as an error;
the daemon then ends the process. Standard output and error go through a pipe to the daemon's log.
"""

import ctypes
import json
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from signals.bot import Bar, BaseBot, PositionView
from signals.isolation.errors import BadReply, BotUnusable
from signals.isolation.limits import MAX_ERROR
from signals.isolation.resolve import construct, find_class
from signals.isolation.wire import HEADER, Ask, Start, received, state_body, verdict_body

_PR_SET_PDEATHSIG = 1


class _Ended(Exception):
    """The daemon closed its end."""


class Worker:
    """One bot and the socket over which it is asked."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._incoming = connection.makefile("rb")
        self._bot: Any = None
        self._warming = False

    def run(self) -> None:
        """Answer until the daemon closes its end, or until the bot failed."""
        with suppress(_Ended, ConnectionError):
            while True:
                message = self._receive()
                try:
                    body = self._answer(Ask(message[0]), message[1:])
                except _Ended:
                    raise
                except BaseException as error:  # noqa: BLE001 - anybody's code; the daemon decides what follows
                    self._drain()
                    self._send(_failure(error))
                else:
                    self._send(b"+" + body)
        with suppress(Exception):
            self._method("close", _nothing)()

    def _answer(self, ask: Ask, given: tuple[Any, ...]) -> bytes:
        if ask is Ask.DECIDE:
            bars, quantity, waiting = given
            bot = self._bot
            for bar in received(bars):
                bot.update(bar)
            return verdict_body(bot.decide(PositionView(quantity, waiting)))
        if ask is Ask.START:
            return self._start(Start(*given))
        if ask is Ask.WARM:
            self._warm()
            return b"{}"
        if ask is Ask.LOAD:
            self._method("load", _ignore)(given[0])
            return b"{}"
        return state_body(self._method("dump", dict)())

    def _start(self, start: Start) -> bytes:
        _limit_memory(start.memory_mb)
        self._bot = construct(find_class(start.target, start.folder), start.params)
        keeps_state = getattr(type(self._bot), "dump", BaseBot.dump) is not BaseBot.dump
        return b"true" if keeps_state else b"false"

    def _method(self, name: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
        """An optional part of the protocol."""
        return getattr(self._bot, name, None) or otherwise

    # ---- warming ------------------------------------------------------------------------------------

    def _warm(self) -> None:
        """The bot sees one stream of bars, however many messages they come in."""
        self._warming = True
        history = self._history()
        self._method("warm", self._update_all)(history)
        self._drain()  # a bot need not want all of them

    def _update_all(self, history: Iterable[Bar]) -> None:
        for bar in history:
            self._bot.update(bar)

    def _history(self) -> Iterator[Bar]:
        while bars := self._next_batch():
            yield from received(bars)

    def _next_batch(self) -> list[Any]:
        if not self._warming:
            return []
        batch: list[Any] = self._receive()
        self._warming = bool(batch)
        return batch

    def _drain(self) -> None:
        while self._next_batch():
            pass

    # ---- messages -----------------------------------------------------------------------------------

    def _receive(self) -> Any:
        (length,) = HEADER.unpack(self._read(HEADER.size))
        return pickle.loads(self._read(length))  # noqa: S301 - written by the daemon that started this process

    def _read(self, count: int) -> bytes:
        data = self._incoming.read(count)
        if len(data) < count:
            raise _Ended
        return data

    def _send(self, body: bytes) -> None:
        self._connection.sendall(HEADER.pack(len(body)) + body)


def _nothing() -> None:
    """For a bot without `close`."""


def _ignore(_state: Mapping[str, Any]) -> None:
    """For a bot without `load`."""


def _failure(error: BaseException) -> bytes:
    """An error as a message: what it is, where it was, and its traceback."""
    shown = error.__cause__ if isinstance(error, BotUnusable) and error.__cause__ is not None else error
    report: dict[str, Any] = {
        "text": _text_of(error)[:1000],
        "traceback": "".join(traceback.format_exception(shown))[-MAX_ERROR:],
    }
    if isinstance(error, BadReply):
        report["kind"] = "reply"
    elif isinstance(error, BotUnusable):
        report |= {"kind": error.stage, "text": error.expected[:1000], "params": error.params}
    else:
        report |= {"kind": "raised", "text": f"{type(error).__name__}: {report['text']}{_where(error)}"}
    return b"-" + json.dumps(report).encode()


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception of the user's may not even have a text
        return "(an error without a text)"


def _where(error: BaseException) -> str:
    """The last place in the bot's own code: " (breakout.py, line 12)"."""
    ours = os.path.dirname(__file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if os.path.dirname(frame.filename) != ours]
    return f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""


def _limit_memory(megabytes: int) -> None:
    """RLIMIT_DATA and not RLIMIT_AS: libraries reserve far more addresses than they use."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if megabytes:
            resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))


def _die_with(parent: int) -> None:
    """Linux ends this process when the daemon dies, also while C code never comes back."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that was in place
        os._exit(1)


def main() -> None:
    """Serve one bot."""
    _die_with(int(sys.argv[2]))
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is the pipe's TextIOWrapper
    sys.argv = sys.argv[:1]
    Worker(connection).run()
    sys.stdout.flush()
    os._exit(0)  # threads of the bot do not keep its process


if __name__ == "__main__":
    main()
