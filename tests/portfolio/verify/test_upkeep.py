"""`verify` and guards, reviews, older schemas."""

import pytest
from sqlalchemy import Connection

from execution import guards
from tests.portfolio.bookkeeping import Database
from tests.portfolio.verify.books import (
    CASH,
    CHAIN,
    GUARDS,
    POSITIONS,
    REVIEWS,
    broken,
    keep_all,
    mixed_line,
    problems,
    run,
)


@pytest.mark.parametrize("name", guards.names())
async def test_a_missing_guard_is_a_failure_with_the_command_that_restores_it(database: Database, name: str) -> None:
    await keep_all(database, mixed_line())
    database.writer.submit(lambda connection: connection.exec_driver_sql(f"DROP TRIGGER {name}"))

    results = run(database)

    assert broken(results) == {GUARDS}
    assert problems(results, GUARDS) == f"trigger {name} is missing: `fillbook verify --restore-guards` makes it anew"
    restored: list[str] = []
    database.writer.submit(lambda connection: restored.extend(guards.restore(connection)))
    assert restored == [name]
    assert broken(run(database)) == set()


async def test_a_guard_that_guards_nothing_is_a_failure(database: Database) -> None:
    await keep_all(database, mixed_line())

    def weaken(connection: Connection) -> None:
        connection.exec_driver_sql("DROP TRIGGER trades_refuse_update")
        connection.exec_driver_sql(
            "CREATE TRIGGER trades_refuse_update BEFORE UPDATE ON trades WHEN 0 BEGIN SELECT 1; END"
        )

    database.writer.submit(weaken)

    assert "trades_refuse_update is not as it was made" in problems(run(database), GUARDS)


async def test_an_unmatched_sell_that_nobody_was_told_of_is_found(database: Database) -> None:
    await keep_all(database, mixed_line())
    database.run("DELETE FROM review_queue")

    results = run(database)

    assert broken(results) == {REVIEWS}
    assert "is not in the review queue" in problems(results, REVIEWS)


async def test_a_review_of_nothing_is_found(database: Database) -> None:
    line = mixed_line()
    await keep_all(database, line)
    database.run(f"UPDATE review_queue SET trade_id = '{line.facts[3].id}'")

    assert "is open, but sell" in problems(run(database), REVIEWS)


async def test_a_database_without_the_newer_tables_is_checked_as_far_as_it_goes(database: Database) -> None:
    database.append(mixed_line().facts)
    for table in ("fifo_allocations", "fifo_pointers", "fifo_computation_log", "fifo_inventory_snapshots",
                  "review_queue", "lot_selections"):  # fmt: skip
        database.run(f"DROP TABLE {table}")

    results = run(database)

    assert broken(results) == set()
    assert [result.number for result in results if result.skipped] == [REVIEWS]
    database.run("UPDATE trades SET cash_effect = '1' WHERE id = 't7'")
    assert {CASH, POSITIONS, CHAIN} <= broken(run(database))
