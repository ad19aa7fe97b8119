"""Books and houses for the tests of execution."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.execution.house import Books, House, make_template


@pytest.fixture(scope="session", autouse=True)
def _template(tmp_path_factory: pytest.TempPathFactory) -> None:
    make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    """A fresh database with 10,000 in `main`."""
    made = Books(tmp_path)
    yield made
    made.close()


@pytest.fixture
def build(books: Books) -> Iterator[Callable[..., House]]:
    """Makes houses over the same books; they are closed after the test."""
    made: list[House] = []

    def make(**options: Any) -> House:
        house = House(books, **options)
        made.append(house)
        return house

    yield make
    for house in made:
        house.close()


@pytest.fixture
async def house(build: Callable[..., House]) -> House:
    """An open house with a free paper exchange."""
    opened = build()
    await opened.open()
    return opened
