"""`verify` and cash that does not follow from the trades."""

from dataclasses import replace
from decimal import Decimal

from tests.portfolio.bookkeeping import Database, Line
from tests.portfolio.verify.books import (
    CASH,
    broken,
    keep_all,
    problems,
    rehashed,
    run,
    valued_fee,
)


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
