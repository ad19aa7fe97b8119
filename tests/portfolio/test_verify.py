"""`verify` passes on sound books and names the row when one is not."""

from collections.abc import Iterator

import pytest

from execution.model import FactsRecorded
from portfolio.service import PortfolioService
from portfolio.verify import CheckResult, verify
from tests.portfolio.bookkeeping import CLOCK, Database, Line


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database()
    yield database
    database.close()


def mixed_line() -> Line:
    """Two accounts, both modes, every kind of fee, an unmatched sell, a back-dated trade."""
    line = Line()
    line.deposit("100000")
    line.deposit("100000", account="margin")
    for number in range(4):
        line.buy("0.3", f"{30000 + number}", fee="0.07", triggered_by="bot:a")
        line.buy("2", f"{1500 + number}", fee="0.001", fee_asset="ETH", symbol="ETH-USD")
        line.sell("0.7", "1600", fee="0.003", fee_asset="ETH", symbol="ETH-USD")
        line.sell("0.2", f"{30500 - number}", fee="0.05", triggered_by="stop:a")
        line.sell("1.7", f"{31000 + number}", fee="0.01", account="margin")
        line.buy("1.1", f"{30000 - number}", fee="0.01", fee_asset="BNB", account="margin")
    line.buy("9", "29000", fee="1", account="margin")
    line.sell("1", "40000", minute=25)
    line.buy("0.1", "20000", minute=2)
    return line


async def keep_books(database: Database, line: Line, *, rest: int = 5) -> None:
    """Store facts and a checkpoint that lacks the last ones."""
    service = PortfolioService(database.writer, database.reader, CLOCK, checkpoint_facts=10**6, fence=lambda _: None)
    await service.start()
    database.append(line.facts[:-rest])
    await service.on_facts(FactsRecorded(tuple(line.facts[:-rest])))
    await service.stop()
    database.append(line.facts[-rest:])


def run(database: Database) -> list[CheckResult]:
    with database.connection() as connection:
        return verify(connection)


async def test_sound_books_pass_every_check(database: Database) -> None:
    await keep_books(database, mixed_line())
    seen: list[tuple[int, int, int]] = []

    with database.connection() as connection:
        results = verify(connection, lambda *progress: seen.append(progress))

    assert [(r.number, r.ok, r.problems) for r in results] == [(n, True, []) for n in (1, 2, 3, 4)]
    total = len(mixed_line().facts)
    assert results[0].figures["facts"] == str(total)
    assert results[1].figures["unmatched quantity"] != "0"
    assert results[2].figures == {"checkpoint sequence": str(total - 5), "sequence": str(total)}
    assert {number for number, _, _ in seen} == {1, 3, 4}
    assert all(done <= full == total for _, done, full in seen)


async def test_an_empty_ledger_passes(database: Database) -> None:
    assert all(result.ok for result in run(database))


@pytest.mark.parametrize(
    ("damage", "broken"),
    [
        ("UPDATE trades SET cash_effect = '1' WHERE id = 't7'", {1, 3, 4}),
        ("UPDATE trades SET price = '30001' WHERE id = 't7'", {1, 3, 4}),
        ("UPDATE trades SET triggered_by = 'bot:b' WHERE id = 't7'", {3, 4}),
        ("UPDATE cash_flows SET amount = '1' WHERE id = 'f1'", {3, 4}),
        ("UPDATE cash_flows SET currency = 'EUR' WHERE id = 'f1'", {1, 4}),
    ],
)
async def test_a_changed_fact_is_named(database: Database, damage: str, broken: set[int]) -> None:
    await keep_books(database, mixed_line())
    database.run(damage)

    results = run(database)

    assert {result.number for result in results if not result.ok} == broken
    row = damage.rsplit("'", 2)[1]
    assert f"{row} (sequence {row[1:]})" in results[3].problems[0]
    assert results[3].figures["problems"] == "1"


async def test_a_removed_fact_is_a_hole(database: Database) -> None:
    await keep_books(database, mixed_line())
    database.run("DELETE FROM trades WHERE id = 't7'")

    results = run(database)

    assert [result.ok for result in results] == [True, False, False, False]
    assert "sequence 7, not 8" in results[1].problems[0]
    assert "trade t8 (sequence 8): follows sequence 6" in results[3].problems


async def test_a_number_that_cannot_be_read_fails_the_checks_that_need_it(database: Database) -> None:
    await keep_books(database, mixed_line())
    database.run("PRAGMA ignore_check_constraints = ON")
    database.run("UPDATE trades SET price = 'a lot' WHERE id = 't7'")

    results = run(database)

    assert [result.ok for result in results] == [False] * 4
    assert all("cannot be computed" in result.problems[0] for result in results)


async def test_a_cut_off_tail_is_seen_at_the_head(database: Database) -> None:
    line = mixed_line()
    await keep_books(database, line)
    database.run(f"DELETE FROM trades WHERE sequence = {len(line.facts)}")

    assert any("ledger_head" in problem for problem in run(database)[3].problems)


@pytest.mark.parametrize("part", ["lots", "realized", "cash"])
async def test_a_checkpoint_that_says_something_else_is_found(database: Database, part: str) -> None:
    """Not only damaged: one with right digests whose state is not what the facts give."""
    from portfolio import checkpoint, recompute

    line = mixed_line()
    await keep_books(database, line)
    with database.connection() as connection:
        books = recompute.from_ledger(connection)
    engine = books.symbols["main", "ETH-USD"].engine
    if part == "lots":
        engine._queue.popleft()
    elif part == "realized":
        engine._realized += 1
    else:
        books.cash["main"].cash += 1
    database.writer.submit(lambda connection: checkpoint.store(connection, checkpoint.take(books, None)))

    results = run(database)

    assert [result.ok for result in results] == [True, True, False, True]
    assert "main" in results[2].problems[0]


async def test_a_damaged_checkpoint_is_reported(database: Database) -> None:
    await keep_books(database, mixed_line())
    database.run("UPDATE fifo_inventory_snapshots SET content = '{}' WHERE symbol = 'ETH-USD'")

    assert [result.ok for result in run(database)] == [True, True, False, True]


async def test_an_engine_that_splits_wrongly_is_caught_by_the_audit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from portfolio import fifo

    await keep_books(database, mixed_line())
    real = fifo.Lot.take

    def sloppy(lot: fifo.Lot, quantity: int) -> int:
        return real(lot, quantity) // 10 * 10 if lot.fee else 0

    monkeypatch.setattr(fifo.Lot, "take", sloppy)

    result = run(database)[1]

    assert not result.ok
    assert any("fee" in problem or "open lots" in problem for problem in result.problems)
