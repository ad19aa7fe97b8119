"""Independent runs on several cores: the same results as one after the other, in the same order.

Not concurrent.futures: its workers can neither be asked how far they are nor be ended at Ctrl-C.
"""

from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias, TypeVar

from runtime import processes
from runtime.processes import Worker, portable

J = TypeVar("J")
R = TypeVar("R")

Progress: TypeAlias = Callable[[int], None]
"""Told how much of a job is done so far, in the job's own units."""
Work: TypeAlias = Callable[[J, Progress | None], R]
"""A module's function, so that another process finds it. Jobs and results must pickle."""

_DONE, _RESULT, _ERROR = "done", "result", "error"
_GONE = (EOFError, BrokenPipeError, ConnectionResetError)
"""Nobody is at the other end of a pipe."""


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
        self._workers: dict[Connection, Worker] = {}

    def start(self, work: "Work[Any, Any]", workers: int) -> None:
        """Start the workers."""
        with processes.undisturbed():
            for _ in range(workers):
                worker = processes.start(_serve, work, self._progress is not None)
                self._workers[worker.pipe] = worker

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
            try:
                pipe.send((index, self._jobs[index]))
            except _GONE:
                raise self._workers[pipe].lost() from None

    def _hear(self, pipe: Connection) -> None:
        try:
            kind, index, value = pipe.recv()
        except _GONE:
            raise self._workers[pipe].lost() from None
        if kind == _DONE:
            assert self._progress is not None
            self._progress(index, value)
        elif kind == _ERROR:
            raise value
        else:
            self._results[index] = value
            self._give(pipe)

    def end(self) -> None:
        """End the workers."""
        processes.end(self._workers.values())


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
    except _GONE:
        return
