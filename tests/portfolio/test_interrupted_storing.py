"""A task that is cancelled while it stores: what was committed all the same is not stored again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from execution.model import Fact, FactsRecorded
from portfolio.lots import Method
from portfolio.verify import verify
from tests.portfolio.bookkeeping import Database, Line, service_of
from tests.portfolio.verify.books import register

T = TypeVar("T")


class LateWriter:
    """Commits at once, but says so only when it is let: like a thread whose caller was cancelled meanwhile."""

    def __init__(self, database: Database) -> None:
        self._writer = database.writer
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.waiting = asyncio.Event()

    async def submit(self, work: Callable[[Connection], T]) -> T:
        done: Awaitable[T] = self._writer.submit(work)
        if not self.let_go.is_set():
            self.waiting.set()
            await self.let_go.wait()
        return await done


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database()
    database.writer.submit(register)
    yield database
    database.close()


async def cancelled(writer: LateWriter, work: Awaitable[object]) -> None:
    """Cancel something while its transaction is under way; the transaction ends well."""
    writer.let_go.clear()
    writer.waiting.clear()
    task = asyncio.ensure_future(work)
    await writer.waiting.wait()
    task.cancel()
    asyncio.get_running_loop().call_later(0.01, writer.let_go.set)
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("what", ["flush", "compute"])
async def test_what_was_committed_when_its_task_was_cancelled_is_stored_once(database: Database, what: str) -> None:
    writer = LateWriter(database)
    service = service_of(database, writer=writer)
    await service.start()
    line = Line()
    facts: list[Fact] = [line.deposit("1000"), line.buy("2", "100", fee="1"), line.sell("1", "130", fee="0.5")]
    database.append(facts)
    await service.on_facts(FactsRecorded(tuple(facts)))

    if what == "flush":
        await cancelled(writer, service.flush())
    else:
        await service.flush()
        await cancelled(writer, service.compute(method=Method.FIFO, reason="test"))
    more = [line.sell("0.5", "140", fee="0.5")]
    database.append(more)
    await service.on_facts(FactsRecorded(tuple(more)))
    await service.stop()

    with database.connection() as connection:
        rows = connection.exec_driver_sql("SELECT COUNT(*) FROM fifo_allocations WHERE to_version IS NULL").scalar()
        problems = [problem for result in verify(connection) for problem in result.problems]
    assert (rows, problems) == (2, [])
