"""What a user's bot prints: into the log, so much of it and no more."""

import os
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
    """Empties a pipe in a thread of its own, so that no bot ever waits for the log, until its writers are gone.

    The first OUTPUT_LINES lines of a minute are logged, of the others the number. `tail` is what came last.
    """

    def __init__(self, descriptor: int, bot: str) -> None:
        self._descriptor = descriptor
        self._log = log.bind(bot=bot)
        self._line = b""
        self._window = 0.0
        self._logged = 0
        self._dropped = 0
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self._thread = threading.Thread(target=self._run, name=f"output of {bot}", daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until all is read, at most so long."""
        if threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while data := os.read(self._descriptor, 65_536):
                self._take(data)
        finally:
            os.close(self._descriptor)
        if self._line:
            self._show(self._line)
        self._say_dropped()

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
