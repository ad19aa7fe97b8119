"""A scripted venue and houses that trade at it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.execution.exchanges import LiveHouse, ScriptedExchange, open_live_account
from tests.execution.house import Books


@pytest.fixture
def exchange() -> ScriptedExchange:
    return ScriptedExchange()


@pytest.fixture
def make(books: Books, exchange: ScriptedExchange) -> Iterator[Callable[..., LiveHouse]]:
    """Makes houses over the same books and the same venue; they are closed after the test."""
    open_live_account(books)
    made: list[LiveHouse] = []

    def build(**options: Any) -> LiveHouse:
        made.append(LiveHouse(books, exchange, **options))
        return made[-1]

    yield build
    for house in made:
        house.close()


@pytest.fixture
async def live(make: Callable[..., LiveHouse]) -> LiveHouse:
    house = make()
    await house.open()
    return house
