"""Planted bugs: each can still be planted, and those that break something at once are found out at once."""

import re

import pytest

from tests.simulation.mutants import MASKED, MUTANTS, planted
from tests.simulation.run import Job, run_job

SEEDS = 20
AT_ONCE = (
    "allocations-not-stored",
    "announcer-starts-at-the-head",
    "answer-before-commit",
    "changes-not-said",
    "fifo-by-arrival",
    "float-fee",
    "live-own-trades-external",
    "live-strangers-dropped",
    "no-inbox",
    "prices-not-valued",
    "requests-not-repeated",
    "said-before-commit",
    "sent-before-commit",
)


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_bug_can_be_planted(name: str) -> None:
    with planted(name):
        pass


@pytest.mark.parametrize("name", AT_ONCE)
def test_a_bug_that_breaks_a_promise_at_once_is_found_out(name: str) -> None:
    *_, last = run_job(Job(tuple(range(SEEDS)), name, stop_at_first=True))
    assert last.violation is not None
    assert re.search(r"\b(I[1-9]|L1)\b", last.violation), "it names the promise"


def test_every_reason_for_not_finding_a_bug_is_about_a_bug() -> None:
    assert MASKED.keys() <= MUTANTS.keys()
