"""The writer: one transaction for whatever waits, results only after the commit, errors to whom they belong."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from execution.errors import ExecutionError, LedgerError, StorageUnavailable
from execution.writer import GroupCommitWriter, InlineReader, InlineWriter
from tests.execution.house import START, Books, flow
from tests.integration.brokers import PATIENCE


class Witness:
    """Takes part in every transaction and writes down what happened to it."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.before: Callable[[Connection], None] = lambda connection: None

    def begin(self) -> None:
        self.seen.append("begin")

    def before_commit(self, connection: Connection) -> None:
        self.before(connection)

    def committed(self) -> None:
        self.seen.append("committed")

    def rolled_back(self) -> None:
        self.seen.append("rolled back")


def note(key: str) -> Callable[[Connection], str]:
    """A work that stores one row."""

    def work(connection: Connection) -> str:
        connection.exec_driver_sql("INSERT INTO followers (name, sequence) VALUES (?, 1)", (key,))
        return key

    return work


def fails(connection: Connection) -> None:
    """A work that stores a row and then fails."""
    note("never")(connection)
    raise LedgerError("this one alone")


class Gate:
    """A work that keeps the writer busy until it is opened, so that what follows waits together."""

    def __init__(self) -> None:
        self._open, self.entered = threading.Event(), threading.Event()

    def __call__(self, connection: Connection) -> None:
        self.entered.set()
        assert self._open.wait(PATIENCE)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture
async def writer(books: Books, witness: Witness) -> AsyncIterator[GroupCommitWriter]:
    """A running group-commit writer on a connection of its own."""
    made = GroupCommitWriter(books.engine(), participants=[witness])
    made.start()
    yield made
    made.stop()


async def together(writer: GroupCommitWriter, *works: Callable[[Connection], Any]) -> list[Any]:
    """Submit works so that they are waiting at once; their results or errors."""
    gate = Gate()
    first = writer.submit(gate)
    await asyncio.to_thread(gate.entered.wait)
    waiting = [writer.submit(work) for work in works]
    gate.open()
    await first
    return await asyncio.gather(*waiting, return_exceptions=True)


def names(books: Books) -> list[str]:
    """The rows that are committed."""
    return [
        row[0] for row in books.ask(lambda c: c.exec_driver_sql("SELECT name FROM followers ORDER BY name").all())
    ]


async def test_works_that_wait_together_share_one_transaction(
    books: Books, writer: GroupCommitWriter, witness: Witness
) -> None:
    assert await together(writer, *(note(f"{n:02}") for n in range(20))) == [f"{n:02}" for n in range(20)]
    assert witness.seen == ["begin", "committed"] * 2
    assert len(names(books)) == 20


async def test_a_result_comes_only_after_its_commit(books: Books, writer: GroupCommitWriter) -> None:
    for number in range(10):
        key = await writer.submit(note(f"key-{number}"))
        assert key in names(books)


async def test_nothing_is_visible_to_others_before_the_commit(books: Books, writer: GroupCommitWriter) -> None:
    gate = Gate()

    def early(connection: Connection) -> None:
        note("early")(connection)
        gate(connection)

    waiting = writer.submit(early)
    await asyncio.to_thread(gate.entered.wait)
    assert names(books) == []
    gate.open()
    await waiting
    assert names(books) == ["early"]


async def test_one_failing_work_of_a_group_fails_alone_and_the_others_commit(
    books: Books, writer: GroupCommitWriter, witness: Witness
) -> None:
    results = await together(writer, note("a"), fails, note("b"))
    assert results[0] == "a"
    assert results[2] == "b"
    assert isinstance(results[1], LedgerError)
    assert names(books) == ["a", "b"]
    assert witness.seen.count("begin") == witness.seen.count("committed") + witness.seen.count("rolled back")


async def test_a_broken_constraint_belongs_to_the_work_that_broke_it(books: Books, writer: GroupCommitWriter) -> None:
    results = await together(writer, note("a"), note("a"), note("b"))
    assert [results[0], results[2]] == ["a", "b"]
    assert isinstance(results[1], IntegrityError)
    assert names(books) == ["a", "b"]


async def test_a_locked_database_fails_the_whole_group_at_once_without_a_retry(
    books: Books, witness: Witness
) -> None:
    runs: list[int] = []
    writer = GroupCommitWriter(books.engine(), participants=[witness])
    with books.engine().connect() as other, other.begin():
        waiting = [writer.submit(lambda c: runs.append(1)) for _ in range(20)]
        writer.start()  # only now, so that it finds them all
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, StorageUnavailable) for result in results)
    assert "locked" in str(results[0])
    assert runs == []
    assert witness.seen.count("begin") == 1, "not one lock timeout per work"
    assert "committed" not in witness.seen
    assert await writer.submit(note("later")) == "later"
    writer.stop()


async def test_a_full_disk_fails_everybody_in_the_group_and_the_writer_lives_on(books: Books) -> None:
    engine = books.engine()
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    writer, witness = GroupCommitWriter(engine), Witness()
    writer.join(witness)
    writer.start()
    await writer.submit(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar_one())
    results = await together(writer, note("small"), lambda c: fill_up(books, c), note("other"))
    assert [type(result) for result in results] == [StorageUnavailable] * 3
    assert "full" in str(results[0])
    await writer.submit(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1000000").scalar_one())
    assert await writer.submit(note("after")) == "after"
    assert names(books) == ["after"]
    writer.stop()


def fill_up(books: Books, connection: Connection) -> None:
    """Write through the hot path (the raw driver) until no page is left."""
    for number in range(2000):
        books.tail.append_flow(connection, flow(f"{number}"), START)


async def test_a_participant_that_refuses_the_commit_fails_every_work_of_it(
    books: Books, writer: GroupCommitWriter, witness: Witness
) -> None:
    def refuse(connection: Connection) -> None:
        raise ExecutionError("fenced")

    witness.before = refuse
    results = await asyncio.gather(writer.submit(note("a")), writer.submit(note("b")), return_exceptions=True)
    assert [str(result) for result in results] == ["fenced", "fenced"]
    assert names(books) == []
    assert "committed" not in witness.seen


async def test_what_a_participant_writes_before_the_commit_is_part_of_it(
    books: Books, writer: GroupCommitWriter, witness: Witness
) -> None:
    count = iter(range(100))

    def write_head(connection: Connection) -> None:
        note(f"head-{next(count)}")(connection)

    witness.before = write_head
    await writer.submit(note("fact"))
    assert names(books) == ["fact", "head-0"]


async def test_stop_commits_what_was_submitted(books: Books, writer: GroupCommitWriter) -> None:
    gate = Gate()
    first = writer.submit(gate)
    waiting = [writer.submit(note(f"{n}")) for n in range(5)]
    gate.open()
    writer.stop()
    await first
    assert await asyncio.gather(*waiting) == ["0", "1", "2", "3", "4"]
    assert len(names(books)) == 5
    writer.stop()


async def test_submitting_after_stop_is_refused(writer: GroupCommitWriter) -> None:
    writer.stop()
    with pytest.raises(StorageUnavailable, match="stopped"):
        writer.submit(note("late"))


async def test_a_group_is_never_larger_than_its_setting(books: Books, witness: Witness) -> None:
    writer = GroupCommitWriter(books.engine(), group_max=4, participants=[witness])
    writer.start()
    await together(writer, *(note(f"{n:02}") for n in range(8)))
    writer.stop()
    assert witness.seen.count("committed") == 3


async def test_a_caller_who_gave_up_does_not_hurt_the_others(books: Books, writer: GroupCommitWriter) -> None:
    gate = Gate()
    first = writer.submit(gate)
    gone = asyncio.ensure_future(writer.submit(note("gone")))
    stays = writer.submit(note("stays"))
    gone.cancel()
    gate.open()
    await first
    assert await stays == "stays"
    assert names(books) == ["gone", "stays"]


class TestInline:
    """The writer of replay and simulation: in the caller, at once."""

    def test_works_since_the_last_flush_share_a_transaction(self, books: Books, witness: Witness) -> None:
        writer = InlineWriter(books.engine(), participants=[witness])
        writer.submit(note("a"))
        writer.submit(note("b"))
        assert names(books) == []
        writer.flush()
        assert names(books) == ["a", "b"]
        assert witness.seen == ["begin", "committed"]
        writer.flush()
        writer.stop()

    def test_a_failing_work_rolls_back_and_the_next_one_starts_afresh(self, books: Books, witness: Witness) -> None:
        writer = InlineWriter(books.engine(), commit_each=True)
        writer.join(witness)
        writer.submit(note("kept"))
        with pytest.raises(LedgerError):
            writer.submit(fails)
        writer.submit(note("next"))
        assert names(books) == ["kept", "next"]
        assert witness.seen == ["begin", "committed", "begin", "rolled back", "begin", "committed"]
        writer.stop()

    def test_a_participant_that_refuses_rolls_the_work_back(self, books: Books, witness: Witness) -> None:
        def refuse(connection: Connection) -> None:
            raise ExecutionError("fenced")

        witness.before = refuse
        writer = InlineWriter(books.engine(), commit_each=True, participants=[witness])
        with pytest.raises(ExecutionError, match="fenced"):
            writer.submit(note("a"))
        assert names(books) == []
        witness.before = lambda connection: None
        writer.stop()

    def test_a_locked_database_is_storage_unavailable_as_with_the_group_writer(self, books: Books) -> None:
        writer = InlineWriter(books.engine(), commit_each=True)
        with books.engine().connect() as other, other.begin(), pytest.raises(StorageUnavailable, match="locked"):
            writer.submit(note("a"))
        writer.submit(note("b"))
        assert names(books) == ["b"]
        writer.stop()

    async def test_awaiting_its_result_gives_the_value_and_its_reader_sees_it(self, books: Books) -> None:
        writer = InlineWriter(books.engine(), commit_each=True)
        assert await writer.submit(note("a")) == "a"
        seen = await InlineReader(writer).read(lambda c: c.exec_driver_sql("SELECT name FROM followers").scalar_one())
        assert seen == "a"
        writer.stop()
