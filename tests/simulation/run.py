"""`./run simulate`: many seeds on several cores, and a verdict.

The last line sums up; exit 1 on a violation, which prints its seed, the trace before it and the command that
replays it.
"""

import argparse
import gc
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rich.console
import rich.progress
import structlog

from runtime.parallel import Progress, run_all
from tests.simulation.mutants import MASKED, MUTANTS, planted
from tests.simulation.storage import Connections
from tests.simulation.world import Outcome, World

_CHUNK = 25
"""Seeds of one job: what a job costs beside them, a collection above all, is then next to nothing."""
_SHOWN_LINES = 40
_SHOWN_CHARACTERS = 140


@dataclass(frozen=True, slots=True)
class Job:
    """Some seeds for one worker. `lines` of the trace are kept."""

    seeds: tuple[int, ...]
    mutant: str | None
    stop_at_first: bool


@contextmanager
def quiet() -> Iterator[Path]:
    """No logs, no collections in the middle of a run, and a folder in memory if there is one."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    was_on = gc.isenabled()
    gc.disable()
    gc.freeze()  # what was there before need not be looked through for what the worlds leave behind
    memory = Path("/dev/shm")
    try:
        with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
            try:
                yield Path(folder)
            finally:
                Connections.close_all()
    finally:
        structlog.configure(**before)
        logging.disable(level)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that never began, as in a killed process
            gc.collect()
        gc.unfreeze()
        if was_on:
            gc.enable()


def run_job(job: Job, progress: Progress | None = None) -> list[Outcome]:
    """Run the seeds of a job one after another."""
    with quiet() as folder, planted(job.mutant):
        found = []
        for seed in job.seeds:
            outcome = World(seed, folder).run()
            found.append(outcome)
            if progress is not None:
                progress(len(found))
            if job.stop_at_first and outcome.violation:
                break
        return found


def run_seeds(
    seeds: Sequence[int],
    workers: int,
    mutant: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Every seed; with a mutant, until one is found out. `progress` is told (job, seeds of it that are done)."""
    jobs = [Job(tuple(seeds[i : i + _CHUNK]), mutant, mutant is not None) for i in range(0, len(seeds), _CHUNK)]
    if mutant is None:
        return [outcome for found in run_all(run_job, jobs, workers, progress) for outcome in found]
    outcomes: list[Outcome] = []
    for first in range(0, len(jobs), workers):
        for found in run_all(run_job, jobs[first : first + workers], workers):
            outcomes += found
        if any(outcome.violation for outcome in outcomes):
            break
    return outcomes


@contextmanager
def bar(total: int) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True) as shown:
        task = shown.add_task("seeds", total=total)
        done: dict[int, int] = {}

        def told(job: int, seeds: int) -> None:
            done[job] = seeds
            shown.update(task, completed=sum(done.values()))

        yield told


def show(outcome: Outcome, mutant: str | None) -> None:
    """A violation, for whoever has to understand it."""
    for line in outcome.trace[-_SHOWN_LINES:]:
        print(line)
    extra = "" if mutant is None else f" --mutant {mutant}"
    print(f"seed {outcome.seed}: {outcome.violation}")
    print(f"replay: ./run simulate --seeds 1 --start {outcome.seed}{extra}")


def summary(outcomes: Sequence[Outcome], seconds: float, workers: int) -> str:
    """The last line."""
    stats: Counter[str] = Counter()
    for outcome in outcomes:
        stats.update(outcome.stats)
    violations = sum(outcome.violation is not None for outcome in outcomes)
    words = ("orders", "fills", "kills", "pauses", "broker crashes", "cuts")
    told = ", ".join(f"{stats[word]} {word}" for word in words)
    rate = len(outcomes) / seconds
    return (
        f"{len(outcomes)} seeds, {told}, {violations} violations, {rate:.2f} seeds/s on {workers} workers"
        f" ({rate / workers:.2f} per worker)"
    )


def tell_of_mutants(seeds: Sequence[int], workers: int) -> int:
    """Every planted bug: how many seeds it takes to find it, and as what, as the table of docs/reliability.md."""
    hidden = 0
    print("| mutant | seeds | found as |\n|---|---|---|")
    for name in sorted(MUTANTS):
        outcomes = run_seeds(seeds, workers, name)
        bad = min((outcome for outcome in outcomes if outcome.violation), key=lambda o: o.seed, default=None)
        if bad is not None:
            shown = (bad.violation or "").replace("|", "\\|")[:_SHOWN_CHARACTERS]
            print(f"| {name} | {bad.seed - seeds[0] + 1} | {shown} |", flush=True)
            continue
        hidden += name not in MASKED
        print(f"| {name} | {len(seeds)} | not found: {MASKED.get(name, 'nobody knows why')} |", flush=True)
    print(f"{len(MUTANTS)} mutants, {hidden} hidden without a reason")
    return 1 if hidden else 0


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="./run simulate", description="The services in simulated trouble.")
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="with a planted bug, until it is found out")
    parser.add_argument("--mutants", action="store_true", help="with each of the planted bugs in turn: a table")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()
    seeds = range(chosen.start, chosen.start + chosen.seeds)
    if chosen.mutants:
        return tell_of_mutants(seeds, chosen.workers)
    with bar(len(seeds)) as progress:
        outcomes = run_seeds(seeds, chosen.workers, chosen.mutant, progress)
    bad = [outcome for outcome in outcomes if outcome.violation]
    for outcome in bad[:3]:
        show(outcome, chosen.mutant)
    print(summary(outcomes, time.monotonic() - began, chosen.workers))
    return 1 if bad else 0
