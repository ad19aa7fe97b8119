"""Recomputation inside the daemon: the schedule, repetition, what goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from execution.model import AlertRaised, FactsRecorded, Responded, ResponseStatus
from portfolio.lots import Method
from portfolio.service import PortfolioService
from runtime.messages import RecomputeRequest
from runtime.recompute import Recomputer
from tests.integration.brokers import PATIENCE
from tests.portfolio.bookkeeping import CLOCK, Database, Line

SOON = timedelta(milliseconds=20)


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database()
    yield database
    database.close()


class Said:
    """What was published."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self._news = asyncio.Event()

    def publish(self, message: Responded | AlertRaised) -> None:
        self.messages.append(message)
        self._news.set()

    async def until(self, kind: type, count: int = 1) -> list[Any]:
        """The messages of a kind, once there are so many."""
        async with asyncio.timeout(PATIENCE):
            while len(found := [message for message in self.messages if isinstance(message, kind)]) < count:
                self._news.clear()
                await self._news.wait()
        return found


async def books(database: Database) -> PortfolioService:
    """A position with two sells, stored."""
    service = PortfolioService(
        database.writer, database.reader, CLOCK, checkpoint_facts=1000, fence=lambda _connection: None
    )
    await service.start()
    line = Line()
    facts = (line.buy("3", "100"), line.sell("1", "130"), line.sell("1", "140"))
    database.append(facts)
    await service.on_facts(FactsRecorded(facts))
    await service.flush()
    return service


@asynccontextmanager
async def running(
    database: Database, service: PortfolioService, said: Said, every: timedelta | None = None
) -> AsyncIterator[Recomputer]:
    async def poll() -> None:
        await service.catch_up()

    recomputer = Recomputer(service, database.reader, CLOCK, said.publish, poll, every=every)
    task = asyncio.create_task(recomputer.run())
    try:
        yield recomputer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def logged(database: Database, reason: str) -> int:
    with database.connection() as connection:
        sql = "SELECT COUNT(*) FROM fifo_computation_log WHERE reason = ? AND status = 'completed'"
        return int(connection.exec_driver_sql(sql, (reason,)).scalar_one())


async def test_a_scheduled_run_that_finds_a_difference_raises_an_alert_and_repairs_it(database: Database) -> None:
    service, said = await books(database), Said()
    database.run("UPDATE fifo_allocations SET pnl = '7' WHERE sell_trade = 't3'")

    async with running(database, service, said, SOON):
        (alert, *_) = await said.until(AlertRaised)

    assert (alert.code, alert.severity, alert.account) == ("allocations_differed", "high", "main")
    assert "main/BTC-USD" in alert.message
    with database.connection() as connection:
        sql = "SELECT pnl FROM fifo_allocations WHERE to_version IS NULL ORDER BY id"
        assert connection.exec_driver_sql(sql).scalars().all() == ["30", "40"]


async def test_a_scheduled_run_that_finds_nothing_is_quiet(database: Database) -> None:
    service, said = await books(database), Said()

    async with running(database, service, said, SOON):
        async with asyncio.timeout(PATIENCE):
            while logged(database, "scheduled") < 2:
                await asyncio.sleep(0)

    assert said.messages == []


async def test_without_a_schedule_nothing_runs_by_itself(database: Database) -> None:
    service, said = await books(database), Said()

    async with running(database, service, said) as recomputer:
        await recomputer.take(RecomputeRequest("r", "main", "manual", full=True), "hash")
        await said.until(Responded, 2)

    assert logged(database, "scheduled") == 0
    assert logged(database, "requested") == 1


async def test_a_request_that_comes_again_while_it_runs_runs_once(database: Database) -> None:
    service, said = await books(database), Said()
    request = RecomputeRequest("r", "main", "manual", full=True)

    async with running(database, service, said) as recomputer:
        await asyncio.gather(*(recomputer.take(request, "hash") for _ in range(5)))
        await said.until(Responded, 6)
        await recomputer.take(request, "hash")
        answers = await said.until(Responded, 7)

    assert logged(database, "requested") == 1
    assert [answer.status for answer in answers] == [ResponseStatus.ACCEPTED] * 5 + [ResponseStatus.DONE] * 2
    assert answers[5] == answers[6]


async def test_a_choice_of_lots_that_is_not_possible_is_the_answer_and_may_be_tried_again(database: Database) -> None:
    service, said = await books(database), Said()
    database.run("INSERT INTO lot_selections VALUES ('t2', 0, 'gone', '1', 'ann', '2026-01-01T00:00:00.000000Z')")
    request = RecomputeRequest("r", "main", "manual", method=Method.SPECIFIC, full=True)

    async with running(database, service, said) as recomputer:
        await recomputer.take(request, "hash")
        answer = (await said.until(Responded, 2))[-1]
        assert (answer.status, answer.reason.code) == (ResponseStatus.REFUSED, "cannot_compute")
        assert "t2" in answer.reason.expected
        database.run("DELETE FROM lot_selections")
        await recomputer.take(request, "hash")
        assert (await said.until(Responded, 4))[-1].status is ResponseStatus.DONE
