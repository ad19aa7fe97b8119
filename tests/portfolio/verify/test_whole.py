"""`verify` passes on sound books."""

from decimal import Decimal

import pytest

from portfolio.bankroll import read_bankrolls
from portfolio.service import read_portfolios
from portfolio.verify import CHECKS, verify
from tests.portfolio.bookkeeping import Database, Line
from tests.portfolio.verify.books import INCREMENTAL, POSITIONS, SUMS, broken, keep_all, keep_books, mixed_line, run


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


async def test_without_candles_the_figures_are_at_the_last_trade_as_in_the_portfolio(database: Database) -> None:
    line = Line()
    line.deposit("10000")
    line.buy("5", "200")
    line.sell("1", "300")
    await keep_all(database, line)

    figures = run(database)[POSITIONS - 1].figures

    assert (figures["P&L main"], figures["ROI main"]) == ("500", "5 %")


async def test_of_one_symbol_no_return_is_told_as_it_would_leave_out_what_else_is_held(database: Database) -> None:
    line = Line()
    line.deposit("10000")
    line.buy("5", "200")
    line.buy("1", "1500", symbol="ETH-USD")
    await keep_all(database, line)

    figures = run(database, symbol="ETH-USD")[POSITIONS - 1].figures

    assert figures["positions main"] == "ETH-USD: 1 @ 1500"
    assert "ROI main" not in figures
    assert figures["P&L main ETH-USD"] == "0", "it names the symbol: it is not the account's"
    assert "P&L main" not in figures


@pytest.mark.parametrize("unknown", ["fee", "sell"])
async def test_with_unknown_profit_the_return_is_that_of_the_bankroll_and_both_say_incomplete(
    database: Database, unknown: str
) -> None:
    line = Line()
    line.deposit("10000")
    if unknown == "fee":
        line.buy("5", "200", fee="1", fee_asset="BNB")
        line.sell("5", "300")
    else:
        line.sell("5", "100")
    await keep_all(database, line)

    figures = run(database)[POSITIONS - 1].figures
    with database.connection() as connection:
        (bankroll,) = (found for found in read_bankrolls(connection) if found.account == "main")
        portfolio = read_portfolios(connection)["main"]

    assert figures["ROI main"] == "5 % (incomplete)"
    assert figures["P&L main"].endswith(" (incomplete)")
    assert (bankroll.roi, bankroll.incomplete) == (0.05, True)
    assert (portfolio.return_ratio, portfolio.incomplete) == (Decimal("0.05"), True)


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
