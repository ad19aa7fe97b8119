"""Seeds that every change must pass, and the simulation itself: repeatable, honest, and awake."""

import random

import pytest

from tests.simulation.faults import Faults
from tests.simulation.run import Job, quiet, run_job, run_seeds
from tests.simulation.world import Outcome, World

SEEDS = 200
LIVE_SEED = 53
"""One of those with a live venue."""


def seen(seed: int) -> tuple[str, int]:
    """What tells one run from another."""
    with quiet() as folder:
        outcome = World(seed, folder).run()
    return outcome.digest, outcome.steps


def _sum(outcomes: list[Outcome], what: str) -> int:
    return sum(outcome.stats.get(what, 0) for outcome in outcomes)


@pytest.mark.timeout(1200)
def test_worlds_keep_every_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # the workers' runs are then those of `./run simulate`
    outcomes = run_seeds(range(SEEDS), workers=2)
    assert len(outcomes) == SEEDS
    assert [(outcome.seed, outcome.violation) for outcome in outcomes if outcome.violation] == []
    assert _sum(outcomes, "fills") > 4 * SEEDS, "hardly anything was traded"
    assert _sum(outcomes, "live fills") > SEEDS, "hardly anything was traded at a venue"
    assert _sum(outcomes, "kills") > SEEDS / 4, "hardly anybody was killed"


def test_a_seed_is_the_same_run_every_time() -> None:
    assert seen(7) == seen(7)
    assert seen(7) != seen(8)


def test_a_seed_is_the_same_run_whatever_ran_before_it() -> None:
    *_, last = run_job(Job((5, LIVE_SEED, 7), None, stop_at_first=False))
    assert (last.digest, last.steps) == seen(7)


def test_a_seed_with_a_live_venue_is_the_same_run_every_time() -> None:
    assert Faults.drawn(random.Random(f"faults {LIVE_SEED}")).venue is not None
    assert seen(LIVE_SEED) == seen(LIVE_SEED)


def test_a_planted_bug_is_found_out() -> None:
    *others, outcome = run_job(Job(tuple(range(20)), "no-inbox", stop_at_first=True))
    assert outcome.violation is not None
    assert outcome.trace
    assert not any(other.violation or other.trace for other in others)
