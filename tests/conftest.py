"""What holds for all tests: the examples of hypothesis, the order of the files, what coverage measures and leaves."""

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.suite import LONGEST, UNMEASURED
from tests.torn_coverage import remove_torn

# No property has a deadline: a busy machine is no fault of the code. The same examples everywhere, so that what
# passed here passes there; `./run test --long` looks for new ones.
settings.register_profile("new", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("new"), derandomize=True, database=None)
settings.load_profile("same")

# What CI systems and people wish for colours in their terminals changes what commands print. Before typer looks.
for _name in (
    "FORCE_COLOR",
    "PY_COLORS",
    "CLICOLOR_FORCE",
    "NO_COLOR",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
    "TERMINAL_WIDTH",
    "GITHUB_ACTIONS",
):
    os.environ.pop(_name, None)

# A shell has what it starts in the background ignore Ctrl-C, and what that starts as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_COVERAGE_OF_CHILDREN = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order is the workers' order with --no-loadscope-reorder (`./run test`)."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))
    for item in items:
        if item.nodeid.startswith(UNMEASURED):
            item.add_marker("no_cover")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """pytest-cov does not measure what has the marker no_cover; neither do the processes that it starts."""
    hidden: dict[str, str] = {}
    if item.get_closest_marker("no_cover") is not None:
        hidden = {name: os.environ.pop(name) for name in _COVERAGE_OF_CHILDREN if name in os.environ}
    try:
        return (yield)
    finally:
        os.environ.update(hidden)


@pytest.hookimpl(wrapper=True, trylast=True)  # the innermost: pytest-cov combines the files after its own yield
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    result = yield
    if not hasattr(session.config, "workerinput"):
        torn = remove_torn(session.config.rootpath)
        if torn:
            reporter = session.config.pluginmanager.getplugin("terminalreporter")
            reporter.write_line(f"\n{len(torn)} coverage files that killed processes left half written were removed")
    return result
