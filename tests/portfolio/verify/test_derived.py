"""`verify` and stored numbers that the facts do not give."""

import pytest
from sqlalchemy import Connection

from execution import totals
from portfolio import checkpoint, fifo, recompute
from tests.portfolio.bookkeeping import Database
from tests.portfolio.oracles.faults import closing_with, losing_fees
from tests.portfolio.verify.books import (
    INCREMENTAL,
    LOTS,
    ORDER,
    ORPHANS,
    POSITIONS,
    SELLS,
    SUMS,
    broken,
    keep_all,
    mixed_line,
    problems,
    run,
)

FIRST_BUY = "(SELECT MIN(id) FROM fifo_allocations WHERE account = 'main' AND symbol = 'BTC-USD')"


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        ("quantity = '0.01'", {SELLS, SUMS, INCREMENTAL}),
        ("quantity = '99'", {SELLS, LOTS, SUMS, INCREMENTAL}),
        ("pnl = '1'", {SUMS, INCREMENTAL}),
        ("cost_basis = '1'", {SUMS, INCREMENTAL}),
        ("proceeds = '1'", {SUMS, INCREMENTAL}),
        ("net_proceeds = '1'", {SUMS, INCREMENTAL}),
        ("buy_fee = '1'", {SUMS, INCREMENTAL}),
        ("sell_fee = '1'", {SUMS, INCREMENTAL}),
        ("sell_trade = 'nobody'", {ORPHANS, INCREMENTAL}),
        ("buy_trade = 'nobody'", {ORPHANS, INCREMENTAL}),
        ("buy_trade = 't21'", {ORDER, INCREMENTAL}),
        ("buy_price = '1'", {SUMS, INCREMENTAL}),
        ("sell_price = '1'", {SUMS, INCREMENTAL}),
        ("buy_at = '2026-01-02T00:00:00.000000Z'", {INCREMENTAL}),
        ("sell_at = '2026-01-02T00:00:00.000000Z'", {INCREMENTAL}),
        ("closed_at = '2026-01-02T00:00:00.000000Z'", {INCREMENTAL}),
        ("from_version = 99", {ORPHANS}),
        ("to_version = 99", {ORPHANS}),
    ],
)
async def test_an_edited_allocation_is_named(database: Database, edit: str, found: set[int]) -> None:
    await keep_all(database, mixed_line())
    with database.connection() as connection:
        row = connection.exec_driver_sql(f"SELECT {FIRST_BUY}").scalar_one()
    database.run(f"UPDATE fifo_allocations SET {edit} WHERE id = {row}")

    results = run(database)

    assert found <= broken(results)
    named = "\n".join(problem for result in results for problem in result.problems)
    assert f"allocation {row}" in named


async def test_a_deleted_allocation_is_missed(database: Database) -> None:
    await keep_all(database, mixed_line())
    database.run(f"DELETE FROM fifo_allocations WHERE id = {FIRST_BUY}")

    results = run(database)

    assert {SELLS, INCREMENTAL} <= broken(results)


@pytest.mark.parametrize(
    "edit",
    ["SET version = 77", "SET sequence = 10000", "SET account = 'nobody'"],
)
async def test_an_edited_pointer_is_found(database: Database, edit: str) -> None:
    await keep_all(database, mixed_line())
    database.run(f"UPDATE fifo_pointers {edit} WHERE account = 'main' AND symbol = 'BTC-USD'")

    assert ORPHANS in broken(run(database))


@pytest.mark.parametrize("part", ["lots", "realized", "cash"])
async def test_a_checkpoint_that_says_something_else_is_found(database: Database, part: str) -> None:
    """Not only damaged: one with right digests whose state is not what the facts give."""
    line = mixed_line()
    await keep_all(database, line)
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

    assert broken(results) == {INCREMENTAL}
    assert "main" in problems(results, INCREMENTAL)


@pytest.mark.parametrize("part", ["cash", "quantities", "last_fills", "deposited", "opened"])
async def test_kept_sums_that_say_something_else_are_found(database: Database, part: str) -> None:
    await keep_all(database, mixed_line())

    def wrong(connection: Connection) -> None:
        kept = totals.read_totals(connection)
        getattr(kept, part).popitem()
        totals.store_totals(connection, kept)

    database.writer.submit(wrong)
    results = run(database)
    assert broken(results) == {INCREMENTAL}
    assert f"sums over the ledger: {part} are not what all facts give" in problems(results, INCREMENTAL)


async def test_a_damaged_checkpoint_is_reported(database: Database) -> None:
    await keep_all(database, mixed_line())
    database.run("UPDATE fifo_inventory_snapshots SET content = '{}' WHERE symbol = 'ETH-USD'")

    assert broken(run(database)) == {INCREMENTAL}


@pytest.mark.parametrize("stored", [True, False])
async def test_an_engine_that_splits_wrongly_is_caught_by_addition(
    database: Database, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """In what it stores, and in what waits to be stored; the same engine in the check does not hide it."""
    monkeypatch.setattr(fifo.LotEngine, "_close", closing_with(losing_fees))
    if stored:
        await keep_all(database, mixed_line())
    else:
        database.append(mixed_line().facts)

    assert "fee" in problems(run(database), SUMS)


async def test_positions_are_compared_with_sums_that_match_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keep_all(database, mixed_line())
    real = fifo.LotEngine._close

    def generous(engine: fifo.LotEngine, *arguments: object) -> object:
        engine._realized += 1
        return real(engine, *arguments)  # type: ignore[arg-type]  # handed through as they are

    monkeypatch.setattr(fifo.LotEngine, "_close", generous)

    assert POSITIONS in broken(run(database))
