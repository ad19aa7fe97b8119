"""Every invariant of the books on random trades."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.portfolio.oracles.cases import Case, cases
from tests.portfolio.oracles.faults import FAULTS, Fault
from tests.portfolio.oracles.laws import IN_MEMORY
from tests.portfolio.oracles.stored_laws import STORED

Law = Callable[[Case], None]


def named(law: Law) -> str:
    return law.__name__


@pytest.mark.parametrize("law", IN_MEMORY, ids=named)
@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_of_every_method(law: Law, case: Case) -> None:
    law(case)


@pytest.mark.parametrize("law", STORED, ids=named)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_of_what_is_stored(law: Law, case: Case) -> None:
    law(case)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_this_fault_is_caught(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first failure will do: nothing is made smaller, and the same cases are drawn each time.
    @settings(
        max_examples=400,
        deadline=None,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases([fault.method]))
    def holds(case: Case) -> None:
        fault.law(case)

    fault.plant(monkeypatch)
    with pytest.raises(AssertionError):
        holds()


def test_each_law_has_a_fault_that_it_catches() -> None:
    assert {fault.law for fault in FAULTS} == {*IN_MEMORY, *STORED}
