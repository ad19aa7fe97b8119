"""Scopes computed in other processes while this one writes: a long recomputation uses more than one core.

Matching, comparing and forming rows are Python and take twice as long as SQLite's writing. Each worker computes
its share of the orders in turn, over a connection of its own, and sends what differs in chunks; it runs ahead
of the writer by no more than a few of them, so that memory stays bounded.
"""

import gc
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self

from portfolio import runs
from portfolio.allocations import Content, Counts
from portfolio.runs import Order, Target
from runtime import database, processes
from runtime.processes import portable

FEW_TRADES = 20_000
"""Up to here a process costs more than it brings."""

MOST_WORKERS = 3
"""More than one process that writes can keep up with."""

_AHEAD = 24
"""Chunks (of some 5,000 rows) of one worker that wait here at most."""

_MAPPED_BYTES = 1 << 34
"""Trades of a symbol lie all over the file: read from the system's cache without copying each page."""

_END, _ADD, _DONE, _COUNTS, _ERROR = "end", "add", "done", "counts", "error"


class _Matcher:
    """A process with the orders that it computes in turn, and what it said that nobody wanted to hear yet."""

    def __init__(self, url: str, orders: list[Order]) -> None:
        self.worker = processes.start(_serve, url, orders, duplex=False, daemon=True)
        self.said: deque[tuple[str, Any]] = deque()
        self.silent = False

    @property
    def may_speak(self) -> bool:
        """Whether there is more to come, and room for it."""
        return not self.silent and len(self.said) < _AHEAD

    def hear(self) -> None:
        """Keep the next message."""
        try:
            self.said.append(self.worker.pipe.recv())
        except EOFError:
            self.silent = True


class Matchers:
    """Worker processes that compute `orders`, to be asked for in their order. Leaving the context ends them."""

    def __init__(self, url: str, orders: Sequence[Order], workers: int) -> None:
        self._orders = [replace(order, progress=None) for order in orders]
        self._next = 0
        count = max(1, min(workers, len(orders)))
        self._matchers: list[_Matcher] = []
        try:
            with processes.undisturbed():
                for number in range(count):
                    self._matchers.append(_Matcher(url, self._orders[number::count]))
        except BaseException:  # a Ctrl-C that came meanwhile is raised here, before anybody could end the workers
            self._end()
            raise

    @property
    def processes(self) -> list[int]:
        """The ids of the processes."""
        return [matcher.worker.process.pid or 0 for matcher in self._matchers]

    def find_differences(self, order: Order, target: Target) -> Counts:
        """What `runs.find_differences` finds, of the next of the orders. Raises FifoError, WorkerLost."""
        if replace(order, progress=None) != self._orders[self._next]:
            raise ValueError("the orders in their order")
        matcher = self._matchers[self._next % len(self._matchers)]
        self._next += 1
        while True:
            kind, value = self._next_of(matcher)
            if kind == _ADD:
                target.add(value)
            elif kind == _END:
                target.end(value)
            elif kind == _DONE:
                if order.progress is not None:
                    order.progress(value)
            elif kind == _ERROR:
                raise value
            else:
                counts: Counts = value
                return counts

    def _next_of(self, matcher: _Matcher) -> tuple[str, Any]:
        """The next message of a process; what others say meanwhile is kept, as long as there is room."""
        while True:
            speaking = {each.worker.pipe: each for each in self._matchers if each.may_speak}
            for pipe in wait(list(speaking), timeout=0 if matcher.said or matcher.silent else None):
                speaking[pipe].hear()  # type: ignore[index]  # wait() gives back what it was given
            if matcher.said:
                return matcher.said.popleft()
            if matcher.silent:
                raise matcher.worker.lost()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        processes.end(matcher.worker for matcher in self._matchers)


class _Sent:
    """Differences on their way to the process that writes."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def end(self, instant: datetime) -> None:
        self._pipe.send((_END, instant))

    def add(self, rows: list[Content]) -> None:
        self._pipe.send((_ADD, rows))

    def done(self, trades: int) -> None:
        self._pipe.send((_DONE, trades))


def _serve(pipe: Pipe, url: str, orders: list[Order]) -> None:
    """The life of a worker: its orders one after the other, until nobody is at the other end."""
    gc.disable()  # millions of tuples without a cycle: looking for one costs a twentieth
    engine = database.reader_engine(url, connections=1)
    sent = _Sent(pipe)
    with suppress(BrokenPipeError, ConnectionResetError):
        for order in orders:
            try:
                with engine.connect() as connection:
                    connection.connection.cursor().execute(f"PRAGMA mmap_size={_MAPPED_BYTES}").close()
                    with connection.begin():
                        found = runs.find_differences(connection, replace(order, progress=sent.done), sent)
            except Exception as error:  # noqa: BLE001 - it is raised in the process that asked
                pipe.send((_ERROR, portable(error)))
            else:
                pipe.send((_COUNTS, found))
    pipe.close()
