"""The line to a live venue for one account: calls with a time limit, and what is known of whether it answers.

Nobody waits for a call longer than its time limit, also not for one that does not end when it is cancelled; of those
so many may be left behind, and then no more are made until one comes back. A client that fails in another way than
the port allows has not answered either: what became of the call is to be found out.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from execution.exchange import ExchangeRefused, ExchangeTimeout
from execution.ports import Clock

T = TypeVar("T")


def is_stopped() -> bool:
    """Whether the present task was cancelled, and not something that it waits for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


@dataclass(frozen=True, slots=True)
class Silence:
    """Since when a venue has not answered, and how its last call failed. `began` is the event loop's time."""

    since: datetime
    began: float
    why: str


@dataclass(slots=True)
class Line:
    """See the module. `limit`: seconds that a call may take, and after which a venue without an answer counts as
    silent; `most`: calls that may be left behind. All from the event loop."""

    venue: str
    clock: Clock
    limit: float
    most: int
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is something to find out at once."""
    silence: Silence | None = None
    is_silent: bool = False
    """Whether the venue had not answered for longer than a call may take when the last call failed."""
    _left: set["asyncio.Task[Any]"] = field(default_factory=set)

    async def ask(self, call: Coroutine[Any, Any, T]) -> T:
        """The answer of a call. Raises ExchangeTimeout, ExchangeRefused."""
        if len(self._left) >= self.most:
            call.close()
            raise ExchangeTimeout(f"{len(self._left)} calls to {self.venue} have not come back")
        began, since = asyncio.get_running_loop().time(), self.clock.now()
        try:
            answer = await self._within(call)
        except ExchangeRefused:
            self._answered()
            raise
        except ExchangeTimeout as error:
            self._failed(began, since, str(error))
            raise
        except Exception as error:
            why = f"the client of {self.venue} failed: {type(error).__name__}: {error}"
            self._failed(began, since, why)
            raise ExchangeTimeout(why) from error
        self._answered()
        return answer

    async def _within(self, call: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(call)
        try:
            await asyncio.wait((task,), timeout=self.limit)
        finally:
            if not task.done():
                self._leave(task)
        if not task.done():
            raise ExchangeTimeout(f"{self.venue} gave no answer within {self.limit:g} s")
        if task.cancelled():  # by the client itself: for whoever asked that is no stop
            raise ExchangeTimeout(f"the client of {self.venue} gave the call up")
        return task.result()

    def _leave(self, task: "asyncio.Task[Any]") -> None:
        """Nobody waits for a call any more."""
        self._left.add(task)
        task.add_done_callback(self._came_back)
        task.cancel()

    def _came_back(self, task: "asyncio.Task[Any]") -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # nobody else looks at it

    def _answered(self) -> None:
        self.silence, self.is_silent = None, False

    def _failed(self, began: float, since: datetime, why: str) -> None:
        first = self.silence or Silence(since, began, why)
        self.silence = Silence(first.since, first.began, why)
        self.is_silent = asyncio.get_running_loop().time() - first.began >= self.limit
