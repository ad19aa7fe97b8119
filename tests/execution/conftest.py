"""Books and houses for the tests of execution."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from execution import ledger
from execution.model import Account, AccountKind
from tests.execution.house import START, Books, House, flow, make_template
from tests.execution.venues import ScriptedVenue


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


@pytest.fixture
def broker(books: Books) -> ScriptedVenue:
    """A live venue behind the account `live`, with 1,000 in it."""
    books.do(lambda c: ledger.add_account(c, Account("live", kind=AccountKind.LIVE, venue="broker"), START))
    books.record(flow("opening-live", "1000", account="live"))
    return ScriptedVenue()


@pytest.fixture
async def brokered(build: Callable[..., House], broker: ScriptedVenue) -> House:
    """An open house with that venue, and a price."""
    house = build(venues=[broker])
    await house.open()
    await house.price("100")
    return house
