"""Runs in other processes: same results, same order, errors and Ctrl-C as in one."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from config.errors import ConfigError
from runtime import processes
from runtime.parallel import Progress, run_all
from runtime.processes import WorkerLost
from signals.feeds.candle_file import CandleFile, CandleFileInvalid
from tests.integration.brokers import PATIENCE

START = processes.start


def squared(job: int, progress: Progress | None) -> tuple[int, int]:
    """The square, and who computed it."""
    if progress is not None:
        progress(job)
    return job * job, os.getpid()


def refuse(job: int, progress: Progress | None) -> int:
    if job == 2:
        raise ConfigError(f"job {job} is none")
    return job


def read_nothing(job: Path, progress: Progress | None) -> int:
    return CandleFile.open(job, "BTC-USD").check().candles


def vanish(job: int, progress: Progress | None) -> int:
    if job:
        os._exit(7)
    time.sleep(600)
    return job


def deaf(job: int, progress: Progress | None) -> int:
    """Job 1 ends the run when job 0, which does not hear a SIGTERM, is at work."""
    here = Path(os.environ["FILLBOOK_TEST_DEAF"])
    if job:
        while not here.exists():
            time.sleep(0.01)
        raise ConfigError("enough")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    here.touch()
    time.sleep(600)
    return job


def test_results_come_in_the_order_of_the_jobs_from_several_processes() -> None:
    found = run_all(squared, range(6), workers=2)
    assert [square for square, _ in found] == [0, 1, 4, 9, 16, 25]
    assert len({process for _, process in found} - {os.getpid()}) >= 1
    assert os.getpid() not in {process for _, process in found}


def test_one_worker_is_this_process() -> None:
    assert run_all(squared, range(3), workers=1) == [(n * n, os.getpid()) for n in range(3)]
    assert run_all(squared, [4], workers=2) == [(16, os.getpid())]


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_names_the_job(workers: int) -> None:
    told: list[tuple[int, int]] = []
    run_all(squared, [10, 20, 30], workers, lambda index, done: told.append((index, done)))
    assert sorted(told) == [(0, 10), (1, 20), (2, 30)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_a_job_is_raised_here_as_it_was_there(workers: int) -> None:
    with pytest.raises(ConfigError, match="job 2 is none"):
        run_all(refuse, range(5), workers)


def test_an_error_that_cannot_travel_keeps_its_words(tmp_path: Path) -> None:
    missing = [tmp_path / "a.csv", tmp_path / "b.csv"]
    with pytest.raises(CandleFileInvalid, match="readable file"):
        run_all(read_nothing, missing, workers=1)
    with pytest.raises(WorkerLost, match=r"CandleFileInvalid: .*\.csv: .*readable file"):
        run_all(read_nothing, missing, workers=2)


def test_a_worker_that_dies_ends_the_work_instead_of_hanging_it() -> None:
    began = time.monotonic()
    with pytest.raises(WorkerLost, match="ended with 7"):
        run_all(vanish, [0, 1], workers=2)
    assert time.monotonic() - began < 2 * PATIENCE  # the other worker would sleep for 600 s


def kill_at_once(*arguments: Any, **options: Any) -> processes.Worker:
    """A worker that is dead before it can take a job."""
    worker = START(*arguments, **options)
    worker.process.kill()
    worker.process.join()
    return worker


def stop_at_once(*arguments: Any, **options: Any) -> processes.Worker:
    """A worker that takes no job, and dies when it has got one."""
    worker = START(*arguments, **options)
    assert worker.process.pid is not None
    os.kill(worker.process.pid, signal.SIGSTOP)

    def kill() -> None:
        with suppress(ValueError):  # the other one was first, and this one is ended already
            worker.process.kill()

    threading.Timer(0.2, kill).start()
    return worker


@pytest.mark.parametrize("begin", [kill_at_once, stop_at_once])
def test_a_worker_that_dies_with_a_job_before_it_took_it_is_told_as_lost(
    monkeypatch: pytest.MonkeyPatch, begin: Callable[..., processes.Worker]
) -> None:
    monkeypatch.setattr(processes, "start", begin)
    with pytest.raises(WorkerLost, match="ended with -9"):
        run_all(squared, range(4), workers=2)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("threads", [0, 1], ids=["alone", "beside a thread that does not block the signal"])
def test_a_ctrl_c_while_the_workers_start_leaves_none_behind(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    start = processes.start
    started: list[processes.Worker] = []

    def interrupted(*arguments: Any, **options: Any) -> processes.Worker:
        os.kill(os.getpid(), signal.SIGINT)
        started.append(start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(processes, "start", interrupted)
    over = threading.Event()
    beside = [threading.Thread(target=over.wait) for _ in range(threads)]
    for thread in beside:
        thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_all(squared, range(4), workers=2)
    finally:
        over.set()
        for thread in beside:
            thread.join()
    assert len(started) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not multiprocessing.active_children()


def blocked(job: int, progress: Progress | None) -> bool:
    """Whether the worker does not hear a Ctrl-C."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_no_worker_hears_a_ctrl_c_not_even_the_first_that_this_process_starts() -> None:
    program = (
        "from runtime.parallel import run_all; from tests.runtime.test_parallel import blocked\n"
        "if __name__ == '__main__': print(run_all(blocked, range(4), workers=2))"
    )
    out = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True).stdout
    assert out == "[True, True, True, True]\n"


def test_a_worker_that_does_not_hear_a_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen: a handler of somebody else's (coverage's) that waited for a lock which the interrupted code held."""
    monkeypatch.setattr(processes, "GRACE", 0.3)
    monkeypatch.setenv("FILLBOOK_TEST_DEAF", str(tmp_path / "here"))
    began = time.monotonic()
    with pytest.raises(ConfigError, match="enough"):
        run_all(deaf, [0, 1], workers=2)
    assert time.monotonic() - began < 2 * PATIENCE  # the worker would sleep for 600 s
    assert not multiprocessing.active_children()
