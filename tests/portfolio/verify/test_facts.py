"""`verify` finds every edit of a fact."""

import pytest

from execution import tables
from tests.portfolio.bookkeeping import Database
from tests.portfolio.verify.books import (
    CASH,
    CHAIN,
    INCREMENTAL,
    LOTS,
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


def _edits(table: str) -> list[str]:
    """An UPDATE of each column of a fact to something else that the column may hold."""
    other = {
        "sequence": "900", "id": "'other'", "account": "'main'", "symbol": "'ETH-USD'", "side": "'BUY'",
        "kind": "'withdrawal'", "currency": "'EUR'", "venue_sequence": "901", "source": "'manual'",
        "signal_context": """'{"a":1}'""", "corrects": "'t3'", "order_id": "'o'", "order_type": "'limit'",
        "fee_asset": "'BNB'", "hash": f"'{'0' * 64}'",
    }  # fmt: skip
    times = ("executed_at", "recorded_at", "effective_at")
    other |= dict.fromkeys(times, "'2026-01-01T10:30:00.000000Z'")
    numbers = ("quantity", "price", "fee", "cash_effect", "amount")
    other |= dict.fromkeys(numbers, "'7.25'")
    columns = tables.metadata.tables[table].columns
    row = {"trades": "t7", "cash_flows": "f2"}[table]
    return [
        f"UPDATE {table} SET {column.name} = {other.get(column.name, repr('else'))} WHERE id = '{row}'"
        for column in columns
    ]


@pytest.mark.parametrize("edit", _edits("trades") + _edits("cash_flows"))
async def test_an_edit_of_any_column_of_a_fact_is_found_and_its_row_is_named(database: Database, edit: str) -> None:
    await keep_all(database, mixed_line())
    database.run(edit)

    results = run(database)

    assert CHAIN in broken(results)
    changed_id = " other " if "SET id =" in edit else " t7 " if "'t7'" in edit else " f2 "
    assert changed_id in problems(results, CHAIN)
    expected = 5 if "sequence = 900" in edit and "venue" not in edit else 1
    assert len(results[CHAIN - 1].problems) <= expected  # one changed row is one problem, not one for each after it


async def test_the_same_number_written_in_another_way_is_an_edit(database: Database) -> None:
    await keep_all(database, mixed_line())
    database.run("UPDATE trades SET price = price || '.0' WHERE id = 't7'")

    assert "t7 (sequence 7)" in problems(run(database), CHAIN)


async def test_a_changed_cash_effect_is_named_with_what_was_expected(database: Database) -> None:
    await keep_all(database, mixed_line())
    database.run("UPDATE trades SET cash_effect = '1' WHERE id = 't7'")

    results = run(database)

    assert {CASH, POSITIONS, INCREMENTAL, CHAIN} <= broken(results) | {INCREMENTAL}
    assert "trade t7 (sequence 7): cash effect 1, expected" in problems(results, CASH)


async def test_a_removed_fact_is_a_hole(database: Database) -> None:
    await keep_all(database, mixed_line())
    database.run("DELETE FROM trades WHERE id = 't7'")

    results = run(database)

    assert "trade t8 (sequence 8): follows sequence 6" in problems(results, CHAIN)
    assert "t7" in problems(results, ORPHANS)


async def test_an_inserted_fact_is_found(database: Database) -> None:
    line = mixed_line()
    await keep_all(database, line)
    columns = [
        column.name for column in tables.trades.columns if column.name not in ("sequence", "id", "venue_trade_id")
    ]
    same = ", ".join(columns)
    database.run(
        f"INSERT INTO trades (sequence, id, venue_trade_id, {same})"
        f" SELECT {len(line.facts) + 1}, 'x', 'x', {same} FROM trades WHERE id = 't7'"
    )

    found = problems(run(database), CHAIN)

    assert f"trade x (sequence {len(line.facts) + 1}): the hash does not follow" in found
    assert "ledger_head" in found


async def test_facts_in_another_order_are_found(database: Database) -> None:
    await keep_all(database, mixed_line())
    database.run("UPDATE trades SET sequence = -7 WHERE sequence = 7")
    database.run("UPDATE trades SET sequence = 7 WHERE sequence = 8")
    database.run("UPDATE trades SET sequence = 8 WHERE sequence = -7")

    found = problems(run(database), CHAIN)

    assert "trade t8 (sequence 7)" in found
    assert "trade t7 (sequence 8)" in found


async def test_a_cut_off_tail_is_seen_at_the_head(database: Database) -> None:
    line = mixed_line()
    await keep_all(database, line)
    database.run(f"DELETE FROM trades WHERE sequence = {len(line.facts)}")

    assert "ledger_head" in problems(run(database), CHAIN)


async def test_a_tail_that_was_cut_off_with_its_head_is_known_to_the_caches(database: Database) -> None:
    line = mixed_line()
    await keep_all(database, line)
    last = line.facts[-2]
    database.run(f"DELETE FROM trades WHERE sequence = {len(line.facts)}")
    database.run(f"UPDATE ledger_head SET sequence = {last.sequence}, hash = '{last.hash}'")

    assert "which the ledger does not have" in problems(run(database), ORPHANS)


async def test_a_number_that_cannot_be_read_fails_the_checks_that_need_it(database: Database) -> None:
    await keep_all(database, mixed_line())
    database.run("PRAGMA ignore_check_constraints = ON")
    database.run("UPDATE trades SET price = 'a lot' WHERE id = 't7'")

    results = run(database)

    assert {SELLS, LOTS, SUMS, CASH, CHAIN} <= broken(results)
    assert "cannot be computed" in problems(results, SELLS)
    assert "trade t7 (sequence 7): its numbers cannot be read" in problems(results, CASH)
    assert "t7" in problems(results, CHAIN)


async def test_candles_are_no_facts(database: Database) -> None:
    await keep_all(database, mixed_line())
    database.run(
        "INSERT INTO candles VALUES ('BTC-USD', '1m', '2026-01-01T10:00:00.000000Z', '1', '1', '1', '1', '1')"
    )
    database.run("UPDATE candles SET close = '2'")

    assert broken(run(database)) == set()
