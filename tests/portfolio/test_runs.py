"""Runs on request: what they report, and that fills are booked while one is under way."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import TypeVar

from sqlalchemy import Connection

from execution.model import FactsRecorded
from portfolio import allocations, validation
from portfolio.lots import Method
from portfolio.tables import RunMode
from tests.portfolio.bookkeeping import Database, Line, at, deliver, service_of

T = TypeVar("T")


class Gate:
    """A reader that can be made to wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = asyncio.Event()

    async def read(self, query: Callable[[Connection], T]) -> T:
        found = await self._database.reader.read(query)
        if not self.open.is_set():
            self.waiting.set()
            await self.open.wait()
        return found


def problems(database: Database) -> list[str]:
    found: list[str] = []
    with database.connection() as connection:
        validation.validate(
            connection, validation.current_scopes(connection), lambda _check, text: found.append(text)
        )
    return found


def profits(database: Database) -> list[Decimal | None]:
    with database.connection() as connection:
        return [row.pnl for row in allocations.stored(connection)]


async def test_a_run_over_right_rows_changes_none_and_says_so(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    await deliver(service, database, [line.buy("2", "100"), line.sell("1", "130"), line.sell("1", "140")])

    (done,), alerts = await service.compute(reason="test")

    assert (done.unchanged, done.changes.ended, done.changes.added, done.differs) == (2, 0, 0, False)
    assert done.to_wire()["realized_pnl"] == "70"
    assert (done.mode, done.sequence, alerts) == (RunMode.FULL, 3, [])


async def test_a_run_over_a_wrong_row_replaces_the_rows_from_there_on(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    facts = [line.buy("3", "100"), line.sell("1", "130"), line.sell("1", "140"), line.sell("1", "150")]
    await deliver(service, database, facts)
    await service.flush()
    database.run("UPDATE fifo_allocations SET pnl = '7' WHERE sell_trade = 't3'")

    (done,), _ = await service.compute(reason="test")

    assert (done.unchanged, done.changes.ended, done.changes.added, done.differs) == (1, 2, 2, True)
    assert profits(database) == [30, 40, 50]
    assert problems(database) == []


async def test_a_run_since_an_instant_leaves_what_was_closed_before(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    facts = [line.buy("3", "100"), line.sell("1", "130"), line.sell("1", "140"), line.sell("1", "150")]
    await deliver(service, database, facts)
    await service.flush()
    database.run("UPDATE fifo_allocations SET pnl = '7' WHERE sell_trade IN ('t2', 't4')")

    (done,), _ = await service.compute(since=at(3), reason="test")

    assert (done.mode, done.counts.allocations, done.unchanged) == (RunMode.SYMBOL, 2, 1)
    assert profits(database) == [7, 40, 50]


async def test_fills_are_booked_while_a_run_is_under_way_and_stored_behind_it(database: Database) -> None:
    gate = Gate(database)
    service = service_of(database, reader=gate)
    await service.start()
    line = Line()
    await deliver(service, database, [line.buy("3", "100", minute=1), line.sell("1", "130", minute=20)])
    await service.flush()
    gate.open.clear()
    run = asyncio.create_task(service.compute(reason="test"))
    await gate.waiting.wait()

    database.append([sell := line.sell("1", "140", minute=30)])
    await asyncio.wait_for(service.on_facts(FactsRecorded((sell,))), 5)
    await service.flush()
    assert service.position("main", "BTC-USD").realized_pnl == 70
    assert profits(database) == [30]  # it waits for the run, which knows nothing of it
    gate.open.set()
    (done,), _ = await run
    await service.flush()

    assert (done.sequence, done.differs) == (2, False)
    assert profits(database) == [30, 40]
    assert problems(database) == []


async def test_a_late_trade_that_comes_while_a_run_is_under_way_is_stored_behind_it(database: Database) -> None:
    gate = Gate(database)
    service = service_of(database, reader=gate)
    await service.start()
    line = Line()
    await deliver(service, database, [line.buy("1", "100", minute=10), line.sell("1", "130", minute=20)])
    await service.flush()
    gate.open.clear()
    run = asyncio.create_task(service.compute(method=Method.FIFO, reason="test"))
    await gate.waiting.wait()

    database.append([late := line.buy("1", "90", minute=5)])
    booked = asyncio.create_task(service.on_facts(FactsRecorded((late,))))
    gate.open.set()
    await asyncio.gather(run, booked)
    await service.flush()

    assert profits(database) == [40]
    assert problems(database) == []


async def test_a_run_that_is_cancelled_keeps_nothing_waiting_and_is_marked_as_failed(database: Database) -> None:
    gate = Gate(database)
    service = service_of(database, reader=gate)
    await service.start()
    line = Line()
    await deliver(service, database, [line.buy("3", "100"), line.sell("1", "130")])
    await service.flush()
    gate.open.clear()
    run = asyncio.create_task(service.compute(reason="test"))
    await gate.waiting.wait()
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    gate.open.set()

    await deliver(service, database, [line.sell("1", "140")])
    await service.flush()

    assert profits(database) == [30, 40]
    with database.connection() as connection:
        sql = "SELECT status FROM fifo_computation_log WHERE reason = 'test'"
        assert connection.exec_driver_sql(sql).scalars().all() == ["failed"]
