"""What is logged, and what not."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from config.settings import LogSettings
from runtime.log import configure_logging


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Logging is one for the whole process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("level", ["debug", "info"])
def test_a_log_in_a_watched_folder_does_not_tell_of_its_own_growth(
    level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line would be a change of the folder, which would be a line."""
    configure_logging(LogSettings(level=level, format="json"))

    logging.getLogger("watchfiles.main").info("1 change detected")
    logging.getLogger("watchfiles.main").debug("changes: ...")
    logging.getLogger("another").info("heard")

    assert [line.count("heard") for line in capsys.readouterr().err.splitlines()] == [1]
