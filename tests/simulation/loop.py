"""An asyncio loop in virtual time with a seeded scheduler, and processes that can be killed and stopped in it.

Everything runs in one thread. A simulated process is a `Process` in a context variable that its tasks inherit.
`kill` makes every callback of a process vanish: no `finally`, no `except`, as at SIGKILL. A paused process
(SIGSTOP) runs on later. Time jumps from one timer to the next and never sleeps; which of several callbacks
that are ready comes first is drawn from the seed, so the same seed is the same run.
"""

import asyncio
import contextvars
import hashlib
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Nothing can happen any more, and the run is not over."""


class TooManySteps(RuntimeError):
    """The run does not come to an end."""


class Process:
    """A simulated process. `fuse`: kill it after so many steps; `skew`: its wall clock is off by seconds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.paused_until = 0.0
        self.skew = 0.0
        self.fuse: int | None = None


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("PROCESS", default=None)
OUTSIDE = contextvars.Context()
"""The context of what belongs to no process: network, broker, exchange."""


class _NoSelector:
    def select(self, _timeout: float | None) -> list[Any]:
        return []

    def close(self) -> None:
        """Nothing is open."""


class Step(asyncio.TimerHandle):
    """A callback that waits for its turn: asyncio's own handle without what is for debugging, which is made for every
    step of every run."""

    __slots__ = ()
    # asyncio's own, which its stubs take for never being None.
    _callback: Any
    _args: Any

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False

    def cancel(self) -> None:
        """It shall not run."""
        self._cancelled = True
        self._callback = self._args = None

    def __repr__(self) -> str:
        return f"<Step {self._callback} {self._args}>"


class SimLoop(asyncio.BaseEventLoop):
    """See the module. `on_fuse` is called with a process whose fuse burnt down."""

    # BaseEventLoop's own, which its stubs leave out.
    _ready: deque[Any]
    _scheduled: list[Any]
    _stopping: bool

    def __init__(self, seed: int, *, most_steps: int = 3_000_000) -> None:
        super().__init__()
        self._selector = _NoSelector()
        self._timers = itertools.count()
        self._now = 0.0
        self._choice = random.Random(f"scheduler {seed}")
        self._most_steps = most_steps
        self._digest = hashlib.blake2b(digest_size=8)
        self._undigested = bytearray()
        self.steps = 0
        self.failures: list[dict[str, Any]] = []
        self.on_fuse: Callable[[Process], None] = lambda process: None
        self._kept: list[asyncio.Task[Any]] = []
        self.set_exception_handler(lambda _loop, context: self.failures.append(context))

    # ---- what BaseEventLoop asks for ------------------------------------------------------------------

    def time(self) -> float:
        """Seconds since the run began."""
        return self._now

    def _process_events(self, _events: object) -> None:
        """There are no files."""

    def _write_to_self(self) -> None:
        """There are no threads to be woken from."""

    def run_in_executor(self, *_arguments: Any) -> Any:  # type: ignore[override]  # nobody may call it
        """Threads are outside of the simulation."""
        raise RuntimeError("a thread: what needs one goes through a port")

    def add_signal_handler(self, *_arguments: Any) -> None:  # type: ignore[override]  # takes anything
        """Signals come from the simulation itself."""

    def create_task(  # type: ignore[override]  # the stub's type variables say nothing more here
        self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None, context: Any = None
    ) -> asyncio.Task[T]:
        """As in the base class."""
        task: asyncio.Task[T] = asyncio.Task(coroutine, loop=self, name=name, context=context)
        # Kept: a killed task must not be collected during the run, for its `finally` would then run.
        self._kept.append(task)
        return task

    def dispose(self) -> None:
        """After the verdict: unwind every suspended coroutine while the loop still exists."""
        for task in reversed(self._kept):
            task._log_destroy_pending = False
            with suppress(BaseException):
                task.get_coro().close()
        self._kept.clear()
        self._ready.clear()
        self._scheduled.clear()
        self.close()

    # ---- the trace ------------------------------------------------------------------------------------

    def trace(self, *parts: object) -> None:
        """Make something a part of the run's digest."""
        self._undigested += repr(parts).encode()

    @property
    def digest(self) -> str:
        """Two runs of one seed have the same."""
        self._digest.update(self._undigested)
        self._undigested.clear()
        return self._digest.hexdigest()

    # ---- the scheduler --------------------------------------------------------------------------------

    def call_soon(  # type: ignore[override]  # the stub's type variables say nothing more here
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As in the base class."""
        step = Step(callback, args, contextvars.copy_context() if context is None else context)
        self._ready.append(step)
        return step

    def call_at(  # type: ignore[override]  # as above
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As in the base class, but for timers in tuples, which compare in C."""
        step = Step(callback, args, contextvars.copy_context() if context is None else context)
        heapq.heappush(self._scheduled, (when, next(self._timers), step))
        return step

    def call_later(  # type: ignore[override]  # as above
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As in the base class."""
        step = Step(callback, args, contextvars.copy_context() if context is None else context)
        heapq.heappush(self._scheduled, (self._now + delay, next(self._timers), step))
        return step

    def _run_once(self) -> None:
        """Not once but until the loop is asked to stop: half of what a step costs is in here."""
        ready, scheduled = self._ready, self._scheduled
        while True:
            while scheduled and scheduled[0][2]._cancelled:
                heapq.heappop(scheduled)
            if not ready and not self._stopping:
                if not scheduled:
                    raise Deadlock(f"nothing to run at {self._now:.3f} s")
                if scheduled[0][0] > self._now:
                    self._now = scheduled[0][0]
            now = self._now
            while scheduled and scheduled[0][0] <= now:
                ready.append(heapq.heappop(scheduled)[2])
            if len(ready) == 1:
                self._run(ready.popleft(), now)
            else:
                batch = list(ready)
                ready.clear()
                self._choice.shuffle(batch)
                for step in batch:
                    self._run(step, now)
            self._undigested += b"%d %.6f " % (self.steps, now)
            if self.steps > self._most_steps:
                raise TooManySteps(f"{self.steps} steps at {now:.3f} s")
            if self._stopping:
                return

    def _run(self, step: Any, now: float) -> None:
        if step._cancelled:
            return
        context = step._context
        process = context.get(PROCESS)
        if (
            process is not None
            and (process.dead or process.fuse is not None or process.paused_until > now)
            and not self._may_run(process, step, now)
        ):
            return
        self.steps += 1
        try:
            context.run(step._callback, *step._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as in the base class: whoever looks at the failures judges
            self.call_exception_handler({"message": "a callback failed", "exception": error, "handle": step})

    def _may_run(self, process: Process, step: Any, now: float) -> bool:
        """Whether the process of a step lives and runs; the steps of a stopped one come back later."""
        if process.fuse is not None and not process.dead:
            process.fuse -= 1
            if process.fuse <= 0:
                process.fuse = None
                self.on_fuse(process)
        if process.dead:
            return False
        if process.paused_until > now:
            # The same step: whoever holds it may still cancel it.
            heapq.heappush(self._scheduled, (process.paused_until, next(self._timers), step))
            return False
        return True


def in_process(process: Process) -> contextvars.Context:
    """A context in which everything belongs to a process."""
    context = OUTSIDE.copy()
    context.run(PROCESS.set, process)
    return context
