"""Commands look at no settings but those of the test, and what they said is shown when it fails."""

import os
from collections.abc import Generator
from pathlib import Path

import pluggy
import pytest

from tests.runtime.cli.terminal import SAID

_SHOWN = 30_000


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Nothing has been said yet."""
    SAID.clear()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, pluggy.Result[pytest.TestReport], None]:
    """An exit code alone tells nothing: below a failed test stands what its commands printed."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and SAID:
        report.sections.append(("what the commands said", "\n".join(SAID)[-_SHOWN:]))


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FILLBOOK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
