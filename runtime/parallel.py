"""Independent runs on several cores: the same results as one after the other, in the same order.

Not concurrent.futures: its workers can neither be asked how far they are nor be ended at Ctrl-C.
"""

import multiprocessing
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias, TypeVar

from runtime.errors import RuntimeFault

J = TypeVar("J")
R = TypeVar("R")

Progress: TypeAlias = Callable[[int], None]
"""Told how much of a job is done so far, in the job's own units."""
Work: TypeAlias = Callable[[J, Progress | None], R]
"""A module's function, so that another process finds it. Jobs and results must pickle."""

_DONE, _RESULT, _ERROR = "done", "result", "error"

_GRACE = 5.0
"""Seconds for workers to end after a SIGTERM, before they are killed."""


class WorkerLost(RuntimeFault):
    """A worker process ended without an answer, or with an error that cannot travel."""


def run_all(
    work: "Work[J, R]", jobs: Sequence[J], workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> list[R]:
    """The result of every job, in their order.

    With one worker it all happens in this process. `progress` is told (index of the job, how much of it is
    done). The first error of a job ends all and is raised here; so does Ctrl-C, at once.
    """
    if workers <= 1 or len(jobs) <= 1:
        return [work(job, _told(progress, index)) for index, job in enumerate(jobs)]
    crew = _Crew(jobs, progress)
    try:
        crew.start(work, min(workers, len(jobs)))
        return crew.run()
    finally:
        crew.end()


def _told(progress: Callable[[int, int], None] | None, index: int) -> Progress | None:
    return None if progress is None else lambda done: progress(index, done)


class _Crew:
    """Worker processes that each take the next job as soon as they are free."""

    def __init__(self, jobs: Sequence[Any], progress: Callable[[int, int], None] | None) -> None:
        self._jobs = jobs
        self._progress = progress
        self._waiting = deque(range(len(jobs)))
        self._results: dict[int, Any] = {}
        self._workers: dict[Connection, BaseProcess] = {}

    def start(self, work: "Work[Any, Any]", workers: int) -> None:
        """Start the workers. A Ctrl-C that came meanwhile is raised at the end of this, so that `end` finds all."""
        # Ctrl-C reaches the whole process group: the workers leave it to this process, which ends them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(workers):
                self._start(work)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start(self, work: "Work[Any, Any]") -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy threads in the middle of their work
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, work, self._progress is not None))
        process.start()
        theirs.close()
        self._workers[ours] = process

    def run(self) -> list[Any]:
        for pipe in self._workers:
            self._give(pipe)
        while len(self._results) < len(self._jobs):
            ready = wait(list(self._workers))
            for pipe in [pipe for pipe in self._workers if pipe in ready]:
                self._hear(pipe)
        return [self._results[index] for index in range(len(self._jobs))]

    def _give(self, pipe: Connection) -> None:
        if self._waiting:
            index = self._waiting.popleft()
            pipe.send((index, self._jobs[index]))

    def _hear(self, pipe: Connection) -> None:
        try:
            kind, index, value = pipe.recv()
        except EOFError:
            process = self._workers[pipe]
            process.join()
            raise WorkerLost(f"a worker process ended with {process.exitcode} in the middle of its run") from None
        if kind == _DONE:
            assert self._progress is not None
            self._progress(index, value)
        elif kind == _ERROR:
            raise value
        else:
            self._results[index] = value
            self._give(pipe)

    def end(self) -> None:
        """End the workers, whatever they are at, and whatever they do about a SIGTERM."""
        for pipe, process in self._workers.items():
            pipe.close()
            process.terminate()
        for process in self._workers.values():
            process.join(_GRACE)
            process.kill()
            process.join()
            process.close()


def _serve(pipe: Connection, work: "Work[Any, Any]", with_progress: bool) -> None:
    """The life of a worker process: jobs in, results out, until nobody is at the other end."""
    try:
        while True:
            index, job = pipe.recv()
            tell = None if not with_progress else lambda done, index=index: pipe.send((_DONE, index, done))
            try:
                answer = (_RESULT, index, work(job, tell))
            except Exception as error:  # noqa: BLE001 - it is raised in the process that asked
                answer = (_ERROR, index, portable(error))
            pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def portable(error: Exception) -> Exception:
    """The error as it can be raised in another process; one that does not pickle becomes a WorkerLost."""
    error.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes: many errors pickle but cannot be loaded
    except Exception:  # noqa: BLE001 - whatever pickle found
        return WorkerLost(f"{type(error).__name__}: {error}")
    return error
