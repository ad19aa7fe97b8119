"""Worker processes: started in spite of a Ctrl-C, ended whatever they are at; their errors travel."""

import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from runtime.ctrl_c import deferred
from runtime.errors import RuntimeFault

GRACE = 5.0
"""Seconds for workers to end after a SIGTERM, before they are killed."""


class WorkerLost(RuntimeFault):
    """A worker process ended without an answer, or with an error that cannot travel."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A process, and our end of the pipe to it."""

    pipe: Connection
    process: BaseProcess

    def lost(self) -> WorkerLost:
        """The error of a worker whose pipe has ended."""
        self.process.join()
        return WorkerLost(f"a worker process ended with {self.process.exitcode} in the middle of its run")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Start workers in here: a Ctrl-C that comes meanwhile is raised at the end, when all are known.

    Ctrl-C reaches the whole process group: what is started in here leaves it to this process, which ends it. The
    mask, which they inherit, is not enough for this process: the signal may come to another thread that does not
    block it, and Python then raises in the main thread all the same.
    """
    resource_tracker.ensure_running()  # the first start would begin it, and lift the mask in the middle
    with deferred():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start(target: Callable[..., None], *arguments: Any, duplex: bool = True, daemon: bool = False) -> Worker:
    """A process that runs `target` with its end of a pipe and `arguments`, all of which must pickle. `daemon`: it may
    start no process itself, and ends with this one."""
    context = multiprocessing.get_context("spawn")  # a fork would copy threads in the middle of their work
    ours, theirs = context.Pipe(duplex)
    process = context.Process(target=target, args=(theirs, *arguments), daemon=daemon)
    process.start()
    theirs.close()
    return Worker(ours, process)


def end(workers: Iterable[Worker]) -> None:
    """End workers, whatever they are at, and whatever they do about a SIGTERM."""
    ending = list(workers)
    for worker in ending:
        worker.pipe.close()
        worker.process.terminate()
    for worker in ending:
        worker.process.join(GRACE)
        worker.process.kill()
        worker.process.join()
        worker.process.close()


def portable(error: Exception) -> Exception:
    """The error as it can be raised in another process; one that does not pickle becomes a WorkerLost."""
    error.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes: many errors pickle but cannot be loaded
    except Exception:  # noqa: BLE001 - whatever pickle found
        return WorkerLost(f"{type(error).__name__}: {error}")
    return error
