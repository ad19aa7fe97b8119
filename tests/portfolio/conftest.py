"""A database for the tests of the portfolio."""

from collections.abc import Iterator

import pytest

from tests.portfolio.bookkeeping import Database


@pytest.fixture
def database() -> Iterator[Database]:
    """A fresh ledger with two accounts."""
    made = Database()
    yield made
    made.close()
