"""The proof of stored allocations: it finds nothing in honest rows, and each planted fault."""

import asyncio

import pytest

from execution.model import Fact
from portfolio import allocations, validation
from portfolio.lots import Method
from portfolio.validation import Check
from tests.portfolio.bookkeeping import Database, Line, deliver, service_of

METHODS = (Method.LIFO, Method.HIFO, Method.LOFO, Method.AVERAGE, Method.SPECIFIC)


def honest() -> list[Fact]:
    """Fees of three kinds, thirds, partial lots, an oversell, a flip and trades of one instant."""
    line = Line()
    line.deposit("10000")
    line.buy("1", "100", fee="0.01")
    line.sell("0.333333333333333333", "120", fee="0.01")
    line.buy("2", "110", fee="0.002", fee_asset="BTC")
    wrong = line.buy("5", "1")
    line.sell("1.5", "90", fee="0.07")
    line.take_back(wrong)
    line.buy("1", "95", minute=50, fee="0.03")
    line.sell("3", "130", minute=50, fee="0.01")
    line.buy("1", "50", fee="0.1", fee_asset="BNB", symbol="ETH-USD")
    line.sell("1", "60", symbol="ETH-USD")
    line.sell("2", "100", account="margin", fee="0.02")
    line.buy("3", "90", account="margin", fee="0.05")
    line.sell("1", "80", account="margin", fee="0.01")
    return line.facts


@pytest.fixture
def books(database: Database) -> Database:
    """Stored allocations of the honest trades, of every method."""

    async def fill() -> None:
        service = service_of(database)
        await service.start()
        await deliver(service, database, honest())
        await service.flush()
        for method in METHODS:
            await service.compute(method=method, reason="test")

    asyncio.run(fill())
    return database


def problems(database: Database, version: int | None = None) -> list[tuple[Check, str]]:
    found: list[tuple[Check, str]] = []
    with database.connection() as connection:
        scopes = validation.current_scopes(connection)
        if version is not None:
            scope = validation.scope_of_version(connection, version)
            assert scope is not None
            scopes = [scope]
        validation.validate(connection, scopes, lambda check, text: found.append((check, text)))
    return found


def test_honest_rows_of_every_method_have_no_problem(books: Database) -> None:
    assert problems(books) == []


def test_what_was_looked_at_is_counted(books: Database) -> None:
    with books.connection() as connection:
        scopes = validation.current_scopes(connection, Method.FIFO)
        totals = validation.validate(connection, scopes, lambda _check, text: pytest.fail(text))

    assert (totals.scopes, totals.trades, totals.sells) == (3, 11, 6)
    assert (totals.allocations, totals.unmatched, totals.open_lots) == (9, 1, 0)


FIRST = "(SELECT MIN(id) FROM fifo_allocations WHERE symbol = 'BTC-USD' AND account = 'main' AND method = 'fifo')"
FAULTS: list[tuple[str, Check, str]] = [
    (f"DELETE FROM fifo_allocations WHERE id = {FIRST}", Check.SELLS, "0 of 0.333333333333333333 is allocated"),
    (f"UPDATE fifo_allocations SET quantity = '0.2' WHERE id = {FIRST}", Check.SELLS, "0.2 of 0.333333333333333333"),
    (f"UPDATE fifo_allocations SET quantity = '1.5' WHERE id = {FIRST}", Check.LOTS, "takes more of BUY t2"),
    (f"UPDATE fifo_allocations SET quantity = '-1' WHERE id = {FIRST}", Check.SUMS, "expected above 0"),
    (f"UPDATE fifo_allocations SET pnl = '1' WHERE id = {FIRST}", Check.SUMS, "expected net proceeds less cost"),
    (f"UPDATE fifo_allocations SET pnl = NULL WHERE id = {FIRST}", Check.SUMS, "no P&L, although"),
    (f"UPDATE fifo_allocations SET cost_basis = NULL WHERE id = {FIRST}", Check.SUMS, "no cost beside a buy"),
    (f"UPDATE fifo_allocations SET cost_basis = '33' WHERE id = {FIRST}", Check.SUMS, "expected quantity x 100"),
    (f"UPDATE fifo_allocations SET proceeds = '40' WHERE id = {FIRST}", Check.SUMS, "expected quantity x 120"),
    (f"UPDATE fifo_allocations SET net_proceeds = '40' WHERE id = {FIRST}", Check.SUMS, "proceeds less the sell"),
    (
        f"UPDATE fifo_allocations SET sell_fee = '0', net_proceeds = proceeds WHERE id = {FIRST}",
        Check.SUMS, "SELL t3: the parts of its fee are 0, expected 0.01",
    ),
    (
        "UPDATE fifo_allocations SET cost_basis = '1', pnl = net_proceeds - 1 WHERE method = 'average'"
        " AND symbol = 'ETH-USD'", Check.SUMS, "closes the position, but",
    ),
    (f"UPDATE fifo_allocations SET quantity = 'much' WHERE id = {FIRST}", Check.SUMS, "cannot be read"),
    (f"UPDATE fifo_allocations SET buy_trade = 'gone' WHERE id = {FIRST}", Check.ORPHANS, "there is no trade gone"),
    (f"UPDATE fifo_allocations SET buy_trade = 't10' WHERE id = {FIRST}", Check.ORPHANS, "t10 is no BUY of"),
    (f"UPDATE fifo_allocations SET buy_at = sell_at WHERE id = {FIRST}", Check.ORPHANS, "t2 was executed at"),
    (f"UPDATE fifo_allocations SET sell_price = '119' WHERE id = {FIRST}", Check.ORPHANS, "SELL t3 is 120"),
    (f"UPDATE fifo_allocations SET buy_trade = 't4' WHERE id = {FIRST}", Check.ORDER, "before BUY t4 was executed"),
    ("DELETE FROM fifo_pointers WHERE symbol = 'ETH-USD'", Check.VERSIONS, "has trades, but no current version"),
    ("DELETE FROM fifo_pointers WHERE symbol = 'ETH-USD'", Check.VERSIONS, "its scope has no current version"),
    ("UPDATE fifo_pointers SET version = 1000 WHERE symbol = 'ETH-USD'", Check.VERSIONS, "which no run made"),
    (f"UPDATE fifo_allocations SET from_version = 999 WHERE id = {FIRST}", Check.VERSIONS, "no run made version 999"),
    (f"UPDATE fifo_allocations SET to_version = 999 WHERE id = {FIRST}", Check.VERSIONS, "ended, but the pointer"),
    (
        "UPDATE fifo_allocations SET buy_trade = NULL, buy_at = NULL, cost_basis = NULL, pnl = NULL, buy_fee = NULL,"
        f" buy_price = NULL WHERE id = {FIRST}", Check.FULL, "buy None): expected sell t3, buy t2",
    ),
    ("UPDATE fifo_pointers SET engine_version = 1", Check.OUTDATED, "computed by version 1 of the engine"),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "check", "text"), FAULTS, ids=[f"{fault[0][:60]} {fault[2]}" for fault in FAULTS])
def test_a_planted_fault_is_found_and_the_row_is_named(books: Database, sql: str, check: Check, text: str) -> None:
    books.run(sql)

    found = problems(books)

    assert any(kind is check and text in said for kind, said in found), found
    if "method = 'average'" not in sql and check is not Check.VERSIONS and "engine" not in text:
        assert all("main/BTC-USD fifo: " in said for _, said in found)


async def test_a_version_that_was_replaced_is_checked_for_what_it_says(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    line.buy("1", "100", minute=10)
    line.sell("1", "130", minute=20)
    await deliver(service, database, line.facts[:])
    await service.flush()
    with database.connection() as connection:
        (old,) = {row.from_version for row in allocations.stored(connection)}
    await deliver(service, database, [line.buy("1", "90", minute=5)])
    await service.flush()

    assert problems(database) == []
    assert problems(database, version=old) == []

    database.run(f"UPDATE fifo_allocations SET pnl = '7' WHERE from_version = {old}")
    assert [check for check, _ in problems(database, version=old)] == [Check.SUMS]
    assert problems(database) == []
