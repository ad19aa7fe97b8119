"""Where a Ctrl-C is raised: not in the middle of what would be left half done, and not behind a long work."""

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def deferred() -> Iterator[None]:
    """A Ctrl-C that comes in here is raised at the end."""
    came: list[int] = []
    if not _in_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def run_inline(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing: a Ctrl-C is raised where it stands.

    `asyncio.run` would ask it to end when it next waits for something, which is after the whole work.
    """
    return asyncio.run(_raising(work))


async def _raising(work: Coroutine[Any, Any, T]) -> T:
    """In here, and not around the loop: raised in the loop itself it could lose a step of a task."""
    asked = signal.getsignal(signal.SIGINT)
    if not _in_main_thread() or not callable(asked):  # it is ignored, or ends the process as it is
        return await work
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return await work
    finally:
        signal.signal(signal.SIGINT, asked)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
