"""Seeds that every change must pass, and the simulation itself: repeatable, honest, and awake."""

import pytest

from tests.simulation.run import Job, quiet, run_job, run_seeds
from tests.simulation.world import World

SEEDS = 60


def seen(seed: int) -> tuple[str, int]:
    """What tells one run from another."""
    with quiet() as folder:
        outcome = World(seed, folder).run()
    return outcome.digest, outcome.steps


@pytest.mark.timeout(600)
def test_worlds_keep_every_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # the workers' runs are then those of `./run simulate`
    outcomes = run_seeds(range(SEEDS), workers=2)
    assert len(outcomes) == SEEDS
    assert [(outcome.seed, outcome.violation) for outcome in outcomes if outcome.violation] == []
    assert sum(outcome.stats["fills"] for outcome in outcomes) > 10 * SEEDS, "hardly anything was traded"
    assert sum(outcome.stats.get("kills", 0) for outcome in outcomes) > SEEDS, "hardly anybody was killed"


def test_a_seed_is_the_same_run_every_time() -> None:
    assert seen(7) == seen(7)
    assert seen(7) != seen(8)


def test_a_planted_bug_is_found_out() -> None:
    (outcome,) = run_job(Job((0,), "no-inbox", stop_at_first=True))
    assert outcome.violation is not None
    assert outcome.trace
