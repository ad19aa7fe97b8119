"""`verify` passes on sound books and names the row when one is not."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import Connection

from config.instruments import default_instrument
from execution import guards, ledger, tables, totals
from execution.fees import disposal_id
from execution.model import FactsRecorded, Trade
from portfolio import checkpoint, fifo, recompute
from portfolio.verify import CHECKS, CheckResult, verify
from tests.portfolio.bookkeeping import Database, Line, service_of
from tests.portfolio.oracles.faults import closing_with, losing_fees

SELLS, LOTS, SUMS, ORPHANS, ORDER, CASH, POSITIONS, INCREMENTAL, CHAIN, GUARDS, REVIEWS = range(1, CHECKS + 1)
SYMBOLS = ("BTC-USD", "ETH-USD", "BNB-USD")


def register(connection: Connection) -> None:
    """The symbols that the trades are of."""
    for symbol in SYMBOLS:
        ledger.add_instrument(connection, default_instrument(symbol))


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database()
    database.writer.submit(register)
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
    line.take_back(line.buy("3", "1000", fee="2", symbol="ETH-USD"))
    valued_fee(line)
    return line


def valued_fee(line: Line, quantity: str = "0.01", mark: str = "500") -> tuple[Trade, Trade]:
    """A buy whose fee in BNB was valued at a mark, and the sell that disposes of the BNB."""
    buy = line.buy("0.2", "30000", fee=quantity, fee_asset="BNB")
    value = Decimal(quantity) * Decimal(mark)
    line.facts[-1] = buy = rehashed(replace(buy, cash_effect=buy.cash_effect - value), line)
    disposal = line.sell(quantity, mark, symbol="BNB-USD")
    line.facts[-1] = disposal = rehashed(replace(disposal, id=disposal_id(buy.id)), line)
    return buy, disposal


def rehashed(trade: Trade, line: Line) -> Trade:
    """The last trade of a line, changed, with the hash that it then has."""
    return replace(trade, hash=ledger.content_hash(trade, line.facts[-2].hash))


async def keep_books(database: Database, line: Line, *, rest: int = 5) -> None:
    """Store facts and a checkpoint that lacks the last ones."""
    service = service_of(database, checkpoint_facts=10**6)
    await service.start()
    database.append(line.facts[:-rest])
    await service.on_facts(FactsRecorded(tuple(line.facts[:-rest])))
    await service.stop()
    database.append(line.facts[-rest:])


async def keep_all(database: Database, line: Line) -> None:
    """Store facts, and everything that the portfolio makes of them."""
    await keep_books(database, line, rest=1)
    service = service_of(database, checkpoint_facts=10**6)
    await service.start()
    await service.stop()


def broken(results: list[CheckResult]) -> set[int]:
    """The numbers of the checks that failed."""
    return {result.number for result in results if not result.ok}


def run(database: Database, **scope: str) -> list[CheckResult]:
    with database.connection() as connection:
        return verify(connection, **scope)  # type: ignore[arg-type]  # account and symbol only


def problems(results: list[CheckResult], number: int) -> str:
    """What a check found, as one text."""
    return "\n".join(results[number - 1].problems)


async def test_sound_books_pass_every_check(database: Database) -> None:
    line = mixed_line()
    await keep_all(database, line)
    seen: list[tuple[int, int, int]] = []

    with database.connection() as connection:
        results = verify(connection, lambda *progress: seen.append(progress))

    assert [(r.number, r.ok, r.problems) for r in results] == [(n, True, []) for n in range(1, CHECKS + 1)]
    figures = {name: value for result in results for name, value in result.figures.items()}
    total = str(len(line.facts))
    assert (figures["facts"], figures["sequence"], figures["checkpoint sequence"]) == (total, total, total)
    assert int(figures["unmatched"]) > 0
    assert int(figures["allocations"]) > 20
    assert all(done <= full for _, done, full in seen)
    assert (6, len(line.facts), len(line.facts)) in seen


async def test_the_figures_are_those_of_the_account(database: Database) -> None:
    line = Line()
    line.deposit("10000")
    line.buy("5", "248.75")
    await keep_all(database, line)

    figures = run(database)[POSITIONS - 1].figures

    assert figures["balance main"] == "8756.25 USD"
    assert figures["positions main"] == "BTC-USD: 5 @ 248.75"
    assert figures["trades"] == "1"


async def test_allocations_that_are_not_stored_yet_are_no_fault(database: Database) -> None:
    """A daemon stores them a moment after the fills; its books are matched and audited up to the head meanwhile."""
    line = mixed_line()
    await keep_books(database, line)

    results = run(database)

    assert broken(results) == set()
    assert results[0].figures["stored up to"] == f"{len(line.facts) - 5} of {len(line.facts)}"


async def test_an_account_and_a_symbol_can_be_checked_alone(database: Database) -> None:
    await keep_all(database, mixed_line())
    database.run("UPDATE fifo_allocations SET pnl = '1' WHERE id = (SELECT MIN(id) FROM fifo_allocations"
                 " WHERE symbol = 'ETH-USD')")  # fmt: skip

    assert broken(run(database, account="margin")) == set()
    assert broken(run(database, symbol="BTC-USD")) == set()
    assert broken(run(database, account="main", symbol="ETH-USD")) == {SUMS, INCREMENTAL}


async def test_an_empty_ledger_passes(database: Database) -> None:
    assert broken(run(database)) == set()


# ---- facts ----------------------------------------------------------------------------------------------


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


# ---- cash -----------------------------------------------------------------------------------------------


async def test_a_valued_fee_needs_the_trade_that_disposes_of_its_asset(database: Database) -> None:
    line = Line()
    line.deposit("10000")
    line.buy("1", "500", symbol="BNB-USD")
    buy, _ = valued_fee(line)
    line.facts.pop()
    await keep_all(database, line)

    results = run(database)

    assert broken(results) == {CASH}
    assert f"trade {buy.id}" in problems(results, CASH)
    assert "no trade disposes of it" in problems(results, CASH)


async def test_a_disposal_of_another_quantity_is_found(database: Database) -> None:
    line = Line()
    line.deposit("10000")
    line.buy("1", "500", symbol="BNB-USD")
    _, disposal = valued_fee(line)
    line.facts[-1] = rehashed(replace(disposal, quantity=Decimal("0.02"), cash_effect=Decimal(10)), line)
    await keep_all(database, line)

    assert "does not dispose of the fee" in problems(run(database), CASH)


async def test_a_trade_that_is_taken_back_nets_to_nothing(database: Database) -> None:
    line = Line()
    line.deposit("10000")
    entry = line.take_back(line.buy("2", "100", fee="1"))
    line.facts[-1] = rehashed(replace(entry, quantity=Decimal(1), cash_effect=Decimal(101)), line)
    await keep_all(database, line)

    results = run(database)

    assert CASH in broken(results)
    assert "is not the trade that it takes back" in problems(results, CASH)


# ---- what is derived --------------------------------------------------------------------------------------


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


# ---- guards, reviews, older schemas ------------------------------------------------------------------------


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
