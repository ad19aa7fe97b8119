"""What holds for all tests: the examples that hypothesis tries, and coverage files of killed processes."""

from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.torn_coverage import remove_torn

# No property has a deadline: a busy machine is no fault of the code. The same examples everywhere, so that what
# passed here passes there; `./run test --long` looks for new ones.
settings.register_profile("new", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("new"), derandomize=True, database=None)
settings.load_profile("same")


@pytest.hookimpl(wrapper=True, trylast=True)  # the innermost: pytest-cov combines the files after its own yield
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    result = yield
    if not hasattr(session.config, "workerinput"):
        torn = remove_torn(session.config.rootpath)
        if torn:
            reporter = session.config.pluginmanager.getplugin("terminalreporter")
            reporter.write_line(f"\n{len(torn)} coverage files that killed processes left half written were removed")
    return result
