"""What properties of execution need."""

import pytest

from tests.execution.house import make_template


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Books are copies of one database, which is made once."""
    make_template(tmp_path_factory.mktemp("template"))
