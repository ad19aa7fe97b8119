"""Stops what runs in each of its steps, one run for each: a step is one callback of an event loop in virtual time.

At the chosen step something else happens as well (a message, a wake), before or after the stop: what the stop and the
event do to each other shows at some step, whatever it is.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy import Connection

from tests.simulation.loop import SimLoop

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds of the loop's time within which a stop is heard."""
IDLE = 3600.0
"""What makes no step within so many seconds waits for something that will not come."""
_AFTER = 0.01


class Scene:
    """One run of something that is to be stopped, made anew for each step."""

    async def open(self) -> None:
        """Get ready. These steps do not count."""

    async def run(self) -> None:
        """What is stopped."""
        raise NotImplementedError

    def happens(self) -> None:
        """What comes at the same step as the stop."""

    async def check(self) -> None:
        """After the stop: whether anything is lost."""

    def close(self) -> None:
        """At the end."""


class SteppedLoop(SimLoop):
    """Calls something before one of its steps."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._at: int | None = None
        self._then: Callable[[], None] = lambda: None

    def in_steps(self, steps: int, then: Callable[[], None]) -> None:
        """Call `then` before the step after so many others."""
        self._at, self._then = self.steps + steps, then

    def _run(self, step: Any, now: float) -> None:
        if self._at is not None and self.steps >= self._at:
            self._at = None
            self._then()
        super()._run(step, now)


def stopped_at_each_step(make: Callable[[], Scene], most: int = 150) -> int:
    """Run a scene again and again, stopped one step later each time, until it has nothing more to do; how often."""
    for at in range(most):
        if not _stopped_at(make(), at):
            return at
    return most


def _stopped_at(scene: Scene, at: int) -> bool:
    loop = SteppedLoop(seed=at)
    asyncio.set_event_loop(loop)
    try:
        came = loop.run_until_complete(_life(loop, scene, at))
        gc.collect(0)
        assert not loop.failures, f"stopped at step {at}: {loop.failures}"
        return came
    finally:
        scene.close()
        loop.dispose()
        asyncio.set_event_loop(None)


async def _life(loop: SteppedLoop, scene: Scene, at: int) -> bool:
    await scene.open()
    before = asyncio.all_tasks()
    task = asyncio.create_task(scene.run())
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        if at % 2:
            scene.happens()
        task.cancel()
        if not at % 2:
            scene.happens()

    loop.in_steps(at, stop)
    await asyncio.wait((task,), timeout=IDLE)
    if not stopped:
        loop.in_steps(0, lambda: None)
        task.cancel()
    done, _ = await asyncio.wait((task,), timeout=PATIENCE)
    assert done, f"the stop at step {at} was not heard: {task.get_stack()}"
    if not task.cancelled():
        task.result()
    await scene.check()
    await asyncio.sleep(_AFTER)  # a callback of what has just ended
    left = asyncio.all_tasks() - before
    assert not left, f"left behind by the stop at step {at}: {left}"
    return stopped


class LateReader:
    """Reads at once and gives it a moment later, as a thread does."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def read(self, query: Callable[[Connection], T]) -> T:
        """See `Reader.read`."""
        result: T = await self._inner.read(query)
        await asyncio.sleep(_AFTER)
        return result


class LateWriter:
    """Commits whatever becomes of whoever waits for it, and says so a moment later, as a thread does."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def submit(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        """See `Writer.submit`."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # what the work gave

        try:
            result, error = _now(self._inner.submit(work)), None
        except Exception as raised:  # noqa: BLE001 - whatever a work raises belongs to who submitted it
            result, error = None, raised
        asyncio.get_running_loop().call_later(_AFTER, settle, result, error)
        return done


def _now(done: Awaitable[T]) -> T:
    """The result of what is there already."""
    steps: Coroutine[Any, Any, T] = _awaited(done)
    try:
        steps.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("an inline writer never waits")


async def _awaited(done: Awaitable[T]) -> T:
    return await done
