"""A stream without holes, and nobody who recorded a fact waits for a million others to be handed out."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from execution.model import Fact, FactsRecorded
from runtime.database import ThreadReader, reader_engine
from runtime.follower import PAGE, LedgerFollower
from tests.execution.house import Books, flow
from tests.integration.brokers import PATIENCE


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[tuple[ThreadReader, list[Fact]]]:
    """A ledger of three pages and a half."""
    books = Books(tmp_path)
    facts = [f for f in books.record(*(flow(f"d{n}", "1") for n in range(PAGE * 7 // 2))) if f is not None]
    books.close()
    found = ThreadReader(reader_engine(books.url))
    yield found, list(facts)
    found.stop()


class Consumer:
    """Takes a page when it is allowed to."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.asked = asyncio.Event()
        self.may = asyncio.Semaphore(0)

    async def __call__(self, recorded: FactsRecorded) -> None:
        """Take it."""
        self.asked.set()
        await self.may.acquire()
        self.got += [fact.sequence for fact in recorded.facts]


async def test_a_fact_recorded_while_a_backlog_is_handed_out_is_not_waited_for(
    reader: tuple[ThreadReader, list[Fact]],
) -> None:
    consumer = Consumer()
    follower = LedgerFollower(reader[0], sequence=reader[1][0].sequence - 1)
    follower.add(consumer)
    polling = asyncio.create_task(follower.poll())
    await consumer.asked.wait()
    waiting = asyncio.create_task(follower.offer(FactsRecorded((reader[1][-1],))))
    consumer.may.release()  # the first page
    await asyncio.wait_for(waiting, PATIENCE)
    assert len(consumer.got) == PAGE
    await follower.offer(FactsRecorded((reader[1][-1],)))  # at once, while a page is under way
    for _ in range(10):
        consumer.may.release()
    await polling
    assert consumer.got == [fact.sequence for fact in reader[1]]


async def test_a_hole_before_a_fact_is_read_from_the_ledger_before_it(
    reader: tuple[ThreadReader, list[Fact]],
) -> None:
    consumer = Consumer()
    facts = reader[1]
    follower = LedgerFollower(reader[0], sequence=facts[-10].sequence)
    follower.add(consumer)
    consumer.may.release()
    await follower.offer(FactsRecorded((facts[-1],)))
    assert consumer.got == [fact.sequence for fact in facts[-9:]]


async def test_what_another_process_appended_in_masses_is_left_to_the_next_poll(
    reader: tuple[ThreadReader, list[Fact]],
) -> None:
    consumer = Consumer()
    facts = reader[1]
    follower = LedgerFollower(reader[0], sequence=facts[0].sequence - 1)
    follower.add(consumer)
    for _ in range(10):
        consumer.may.release()
    await follower.offer(FactsRecorded((facts[-1],)))
    assert follower.is_behind()
    assert len(consumer.got) == PAGE
    await follower.poll()
    assert not follower.is_behind()
    assert consumer.got == [fact.sequence for fact in facts]


@pytest.mark.parametrize(
    ("dear", "expected"),
    [
        (lambda _page: True, [PAGE, 2 * PAGE, PAGE // 2]),
        (lambda page: page == 1, [PAGE, 2 * PAGE, PAGE // 2]),
        (lambda page: page == 2, [PAGE, PAGE, PAGE * 3 // 2]),
        (lambda _page: False, [PAGE, PAGE, PAGE, PAGE // 2]),
    ],
)
async def test_the_page_after_one_that_is_dear_as_a_page_is_larger_as_long_as_more_wait(
    reader: tuple[ThreadReader, list[Fact]], dear: Callable[[int], bool], expected: list[int]
) -> None:
    follower = LedgerFollower(reader[0])
    sizes: list[int] = []

    async def consume(recorded: FactsRecorded) -> None:
        sizes.append(len(recorded.facts))
        if dear(len(sizes)):
            follower.widen()

    follower.add(consume)
    for _ in range(2):  # the second time begins small again
        sizes.clear()
        follower.sequence = reader[1][0].sequence - 1
        await follower.poll()
        assert sizes == expected
