"""What a user's bot prints: into the log, so much of it and no more."""

import os
import select
import threading  # noqa: TID251 - reads what a bot's process prints
import time
from collections import deque

import structlog

from signals.isolation.limits import OUTPUT_LINES

_MINUTE = 60.0
_LONGEST = 500
_TAIL = 60

log = structlog.get_logger(__name__)


class Output:
    """Empties a pipe in a thread of its own, so that no bot ever waits for the log, until its writers are gone or
    `finish` is called.

    The first OUTPUT_LINES lines of a minute are logged, of the others the number. `tail` is what came last.
    """

    def __init__(self, descriptor: int, bot: str) -> None:
        self._descriptor = descriptor
        self._log = log.bind(bot=bot)
        self._line = b""
        self._window = 0.0
        self._logged = 0
        self._dropped = 0
        self._told_to_end, self._end = os.pipe()
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self._thread = threading.Thread(target=self._run, name=f"output of {bot}", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """The process has ended: wait until all that it wrote is read, at most so long. Only once.

        Others may still have the pipe, if it started some that left its group; they are not waited for.
        """
        os.close(self._end)
        if threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while data := self._next():
                self._take(data)
        finally:
            os.close(self._descriptor)
            os.close(self._told_to_end)
        if self._line:
            self._show(self._line)
        self._say_dropped()

    def _next(self) -> bytes:
        """What was written next; nothing at the end."""
        waiting = select.poll()
        for descriptor in (self._descriptor, self._told_to_end):
            waiting.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in waiting.poll()]
        return os.read(self._descriptor, 65_536) if self._descriptor in ready else b""

    def _take(self, data: bytes) -> None:
        lines = (self._line + data).split(b"\n")
        self._line = lines.pop()[: _LONGEST * 4]
        for line in lines:
            self._show(line)

    def _show(self, line: bytes) -> None:
        now = time.monotonic()  # noqa: TID251 - the log is protected in real time, whatever the candles' time is
        if now - self._window >= _MINUTE:
            self._say_dropped()
            self._window, self._logged = now, 0
        text = line[: _LONGEST * 4].decode("utf-8", "replace").rstrip("\r")[:_LONGEST]
        self.tail.append(text)
        if self._logged < OUTPUT_LINES:
            self._logged += 1
            self._log.info("bot prints", text=text)
        else:
            self._dropped += 1

    def _say_dropped(self) -> None:
        if self._dropped:
            self._log.warning("bot prints too much", lines_dropped=self._dropped)
            self._dropped = 0
