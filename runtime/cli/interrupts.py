"""Ctrl-C, SIGTERM and SIGHUP at a command's process.

While a command works they are raised as a KeyboardInterrupt, so that what is open is closed: files, workers, the
cursor of a terminal. Before (modules are loaded, arguments read) and after there is nothing to be closed, and much
that makes something else of an exception: there Ctrl-C is an end at once, and the others are what they always were.

Light on purpose: it is loaded before all else, since loading the rest takes a while.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 130
"""The exit code after a Ctrl-C."""

_AGAIN = 0.02
"""Seconds until a dropped Ctrl-C comes again."""

_ENDS = (signal.SIGTERM, signal.SIGHUP)


class _Heard:
    """What is known of the signals of this process."""

    listens = False
    """Whether signals are ours: not in a test that calls commands, nor in the background of a shell."""
    asked: int | None = None
    """The signal that asked for an end, other than Ctrl-C."""
    pipe: int | None = None
    """Python itself writes the number of each signal here, whatever then becomes of the exception."""


_heard = _Heard()


def listen() -> None:
    """Let Ctrl-C end this process at once; `raised` changes that for as long as a command works."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # a shell that starts a process in the background has it ignore Ctrl-C
    signal.signal(signal.SIGINT, _leave)
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # the result stands; Python only tidies up
    sys.unraisablehook = _dropped
    _heard.pipe, written = os.pipe()
    for end in (_heard.pipe, written):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    _heard.listens = True


@contextmanager
def raised() -> Iterator[None]:
    """In here the signals are raised as a KeyboardInterrupt."""
    if not _heard.listens:
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDS}
    taken = [number for number in _ENDS if before[number] not in (signal.SIG_IGN, None)]  # as `nohup` ignores SIGHUP
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in taken:
        signal.signal(number, _ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _leave)
        for number in taken:
            signal.signal(number, before[number])
        # Python keeps in mind that source text ended with Ctrl-C (the module of a dataclass runs some as it loads),
        # and ends the process by SIGINT then, whatever the exit code, unless more is run.
        exec("")  # noqa: S102 - nothing


def came() -> bool:
    """Whether there was a Ctrl-C (or what stands for one). An error then tells nothing: a class that is being made
    turns a KeyboardInterrupt into a RuntimeError, a function that SQLite calls into an SQL error."""
    if _heard.pipe is None:
        return False
    try:
        return signal.SIGINT in os.read(_heard.pipe, 65_536)
    except BlockingIOError:
        return False


def end_as_asked() -> None:
    """After an interrupted command: end by the signal that asked for it, if that was not Ctrl-C."""
    if _heard.asked is not None:
        os.kill(os.getpid(), _heard.asked)


def _leave(*_: Any) -> None:
    os._exit(INTERRUPTED)


def _ask(number: int, _frame: Any) -> None:
    """As if it was Ctrl-C; the same signal once more ends the process at once."""
    _heard.asked = number
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)


def _dropped(what: "sys.UnraisableHookArgs") -> None:
    """Python drops what is raised in a callback out of which nothing can be raised, as of a weak reference in the
    middle of an import. A Ctrl-C must not get lost like that: it is sent to this process once more."""
    if issubclass(what.exc_type, KeyboardInterrupt):
        again = threading.Timer(_AGAIN, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(what)
