"""A database with the symbols of the sound books."""

from collections.abc import Iterator

import pytest

from tests.portfolio.bookkeeping import Database
from tests.portfolio.verify.books import register


@pytest.fixture
def database() -> Iterator[Database]:
    """A fresh ledger with two accounts and the symbols of `mixed_line`."""
    made = Database()
    made.writer.submit(register)
    yield made
    made.close()
