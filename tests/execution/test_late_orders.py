"""A bot's order that comes after its candle is filled from stored candles, whatever happens while they are read."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import pytest

from execution.errors import StorageUnavailable
from execution.model import Candle, OrderChanged, Side
from tests.execution.house import House, answers, at, bar

BUY = Side.BUY
Read = Callable[[str, datetime], Awaitable[list[Candle]]]


class Shelf:
    """The stored candles of a house, which may be out of reach or slow."""

    def __init__(self, house: House) -> None:
        self._read: Read = house.paper._candles_since
        self.broken = False
        self.asked = asyncio.Event()
        self.found = asyncio.Event()
        self.found.set()
        house.paper._candles_since = self.read

    async def read(self, symbol: str, instant: datetime) -> list[Candle]:
        if self.broken:
            raise StorageUnavailable("the database could not be read: disk I/O error")
        found = await self._read(symbol, instant)
        self.asked.set()
        await self.found.wait()
        return found


@pytest.fixture
async def shelf(house: House) -> Shelf:
    """Of a house with one stored candle, the one that opened at 10:01."""
    await house.candle(bar(1, "100"))
    return Shelf(house)


async def test_an_order_that_was_stored_while_the_candles_could_not_be_read_is_sent_later(
    house: House, shelf: Shelf
) -> None:
    """Found by the simulation, seed 30062: it stayed pending until the next start."""
    shelf.broken = True
    wish = house.order(BUY, "1", decided=1, triggered_by="bot:a")
    first = await house.ask(wish)
    assert (first.status, first.final) == ("accepted", False)
    assert (await house.ask(wish)).status == "accepted", "repeating it does not send it twice"
    await house.service.on_timer()
    assert house.trades() == []
    shelf.broken = False
    (answer,) = answers(list(await house.service.on_timer()))
    assert (answer.status, answer.request_id) == ("filled", wish.request_id)
    assert [trade.price for trade in house.trades()] == [100]
    assert list(await house.service.on_timer()) == []


async def test_an_order_that_could_not_be_sent_can_be_cancelled(house: House, shelf: Shelf) -> None:
    shelf.broken = True
    placed = await house.buy("1", decided=1, triggered_by="bot:a")
    await house.send_cancel(placed.order_id)
    shelf.broken = False
    assert list(await house.service.on_timer()) == []
    assert house.stored_order(placed.order_id).status == "cancelled"
    assert house.trades() == []


async def test_an_order_that_could_not_be_sent_is_not_sent_while_the_storage_halts(
    house: House, shelf: Shelf
) -> None:
    shelf.broken = True
    await house.buy("1", decided=1, triggered_by="bot:a")
    shelf.broken = False
    house.service.storage_failure = "disk full"
    assert list(await house.service.on_timer()) == []
    assert house.trades() == []
    await house.resume()
    assert len(answers(list(await house.service.on_timer()))) == 1


async def test_no_candle_is_missed_that_closes_while_the_earlier_ones_are_read(house: House, shelf: Shelf) -> None:
    shelf.found.clear()
    wish = house.order(BUY, "1", limit="90", decided=1, triggered_by="bot:a")
    sending = asyncio.create_task(house.ask(wish))
    await shelf.asked.wait()
    await house.candle(bar(2, "80"))
    await house.candle(bar(3, "120"))
    shelf.found.set()
    assert (await sending).status == "filled"
    assert [(trade.price, trade.executed_at) for trade in house.trades()] == [(80, at(2))]


async def test_an_order_that_is_cancelled_while_it_enters_is_not_in_the_book(house: House, shelf: Shelf) -> None:
    shelf.found.clear()
    wish = house.order(BUY, "1", limit="90", decided=1, triggered_by="bot:a")
    sending = asyncio.create_task(house.send(wish))
    await shelf.asked.wait()
    await house.send_cancel(wish.request_id)
    shelf.found.set()
    events = await sending
    assert not [event for event in events if isinstance(event, OrderChanged)], "its end was said before"
    assert await house.candle(bar(2, "80")) == []
    assert not any(house.paper._book.values())
