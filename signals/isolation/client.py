"""A bot whose code runs in a process of its own, seen by the daemon as any other bot.

Every call waits for the process, at most its time budget: a bot decides on a candle before the next one comes,
so there is nothing else to do for its series meanwhile.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from execution.model import Json
from signals.bot import Bar, PositionView, Verdict
from signals.errors import SignalsError
from signals.isolation.limits import BotLimits
from signals.isolation.process import WorkerProcess
from signals.isolation.wire import Ask, Start, check_state, sent, verdict_of

T = TypeVar("T")

_BATCH = 1000
"""Stored candles per message."""


class IsolatedBot:
    """The Bot protocol over a worker. Raises what the worker reports, or BotHung, BotDied, BadReply.

    After the first error and after `close` the process is gone; `dump` then still gives the last state.
    """

    def __init__(
        self, name: str, target: str, params: Mapping[str, Any], folder: str | None, limits: BotLimits
    ) -> None:
        """Start the process, import `target` ("module:Class") there and construct it.

        Raises BotUnusable, BotRaised, BotHung, BotDied.
        """
        self._limits = limits
        self._waiting: list[Bar] = []
        self._state: dict[str, Json] = {}
        self._is_stale = True
        self._process: WorkerProcess | None = WorkerProcess(name)
        start = Start(target, dict(params), folder, limits.memory_mb)
        self._keeps_state: bool = self._ask([(Ask.START, *start)], limits.start_seconds, "the start") is True

    @property
    def pid(self) -> int | None:
        """The process id while there is one."""
        return None if self._process is None else self._process.pid

    def update(self, bar: Bar) -> None:
        """Keep the candle for the next question."""
        self._waiting.append(bar)

    def decide(self, position: PositionView) -> Verdict:
        """Hand the candles over and wait for the verdict."""
        bars, self._waiting = sent(self._waiting), []
        self._is_stale = True
        message = (Ask.DECIDE, bars, *position)
        return self._checked(verdict_of, self._ask([message], self._limits.time_budget, "the decision on a candle"))

    def warm(self, history: Iterable[Bar]) -> None:
        """Send the stored candles in batches, each with its own budget: books of many years are no hang. The bot
        sees one stream."""
        self._is_stale = True
        self._ask(_batches(history), self._limits.start_seconds, "warming with the stored candles")

    def load(self, state: Mapping[str, Json]) -> None:
        """Give the stored state back."""
        self._is_stale = True
        self._ask([(Ask.LOAD, dict(state))], self._limits.start_seconds, "taking its state back")

    def dump(self) -> dict[str, Json]:
        """The state; asked for only when the bot did something since the last time."""
        if self._is_stale and self._keeps_state and self._process is not None:
            body = self._ask([(Ask.DUMP,)], self._limits.time_budget, "giving its state")
            self._state = self._checked(check_state, body)
            self._is_stale = False
        return self._state

    def dismiss(self) -> None:
        """Tell the process to end; `close` waits for it."""
        if self._process is not None:
            self._process.dismiss()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _ask(self, messages: Iterable[object], seconds: float, what: str) -> Any:
        process = self._process
        if process is None:
            raise SignalsError("the bot was closed")
        try:
            return process.ask(messages, seconds, what)
        except BaseException:
            self._kill()
            raise

    def _checked(self, check: Callable[[Any], T], body: Any) -> T:
        """A process that answers nonsense is not asked again."""
        try:
            return check(body)
        except SignalsError:
            self._kill()
            raise

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self.close()


def _batches(history: Iterable[Bar]) -> Iterator[object]:
    """The messages of a warm-up: the announcement, the bars, and an empty batch as the end."""
    yield (Ask.WARM,)
    bars = iter(history)
    while batch := sent(islice(bars, _BATCH)):
        yield batch
    yield []
