"""Planted bugs: each can still be planted, and those that break something at once are found out at once."""

import pytest

from tests.simulation.mutants import MASKED, MUTANTS, planted
from tests.simulation.run import Job, run_job

SEEDS = 20
AT_ONCE = {
    "allocations-not-stored": "I6",
    "announcer-starts-at-the-head": "I9",
    "answer-before-commit": "I1",
    "changes-not-said": "I7",
    "fifo-by-arrival": "I6",
    "float-fee": "I3",
    "live-own-trades-external": "I5",
    "live-strangers-dropped": "I3",
    "no-inbox": "I5",
    "prices-not-valued": "I7",
    "requests-not-repeated": "I5",
    "said-before-commit": "I5 I8 I9",
    "sent-before-commit": "I1",
}
"""With the promise that is found broken first, or the promises of which one is."""


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_bug_can_be_planted(name: str) -> None:
    with planted(name):
        pass


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(AT_ONCE))
def test_a_bug_that_breaks_a_promise_at_once_is_found_out(name: str) -> None:
    *_, last = run_job(Job(tuple(range(SEEDS)), name, stop_at_first=True))
    assert last.violation is not None
    assert any(promise in last.violation for promise in AT_ONCE[name].split())


def test_every_reason_for_not_finding_a_bug_is_about_a_bug() -> None:
    assert MASKED.keys() <= MUTANTS.keys()
