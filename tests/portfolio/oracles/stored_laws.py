"""What must hold of any trades over a database: in batches, whatever order they arrive in, stored, computed anew.

Each law runs the product over a case and raises AssertionError when it is broken.
"""

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from execution.model import FactsRecorded
from portfolio.books import SymbolBook
from portfolio.lots import Method, engine_for
from portfolio.matches import Allocation
from portfolio.recompute import recompute
from portfolio.service import PortfolioService
from tests.portfolio.bookkeeping import ACCOUNTS, CLOCK, Database, at
from tests.portfolio.oracles.cases import SYMBOL, Case, closes, opening
from tests.portfolio.oracles.histories import in_account
from tests.portfolio.oracles.stored import Copy, batch_of, content_of, content_of_batch, perform, stored_in

MICROSECOND = timedelta(microseconds=1)


def streaming_equals_the_batch(case: Case) -> None:
    """Fill by fill from trades, or all at once from the rows of the database: one engine, one result."""
    book = SymbolBook(case.account, SYMBOL, engine_for(case.method, case.account.mode))
    rows: list[Allocation] = []
    for trade in case.trades:
        result = book.apply(trade)
        assert result is not None
        rows += result.allocations

    at_once, found = batch_of(case.arrived, case.account, case.method)

    assert found == rows
    known, theirs = book.dump(), at_once.dump()
    # The last trade of a batch may be one that was taken back.
    assert {**known, "last_key": None} == {**theirs, "last_key": None}


def nothing_closes_before_it_opened(case: Case) -> None:
    """In the total order of trades, which the batch finds by itself."""
    order = {trade.id: number for number, trade in enumerate(case.trades)}
    _, rows = batch_of(case.arrived, case.account, case.method)
    for row in rows:
        lot = opening(row)
        if lot is not None:
            assert order[lot] < order[closes(row)]
            assert row.opened_at is not None
            assert row.opened_at <= row.closed_at


def the_order_of_arrival_changes_nothing(case: Case) -> None:
    """The same trades, arriving in another order: the same rows and the same book."""
    trades = [trade for trade in case.arrived if trade.corrects is None]
    turn = case.numbers[0] % len(trades)
    other = list(reversed(trades[turn:])) + trades[:turn]
    shuffled = [replace(trade, sequence=number) for number, trade in enumerate(other, 1)]

    scope = (case.account.name, SYMBOL)
    assert recompute(shuffled, ACCOUNTS).symbols[scope].dump() == recompute(trades, ACCOUNTS).symbols[scope].dump()
    (book, rows), (again, same) = (batch_of(facts, case.account, case.method) for facts in (trades, shuffled))
    assert rows == same
    assert book.dump() == again.dump()


def what_was_taken_back_never_was(case: Case) -> None:
    """Trades that were taken back, and the entries that do it, leave the rows of a history without them."""
    without = [replace(trade, sequence=number) for number, trade in enumerate(case.trades, 1)]
    book, rows = batch_of(case.arrived, case.account, case.method)
    if without:
        other, same = batch_of(without, case.account, case.method)
        assert rows == same
        assert {**book.dump(), "last_key": None} == {**other.dump(), "last_key": None}
    else:
        assert (rows, book.engine.lot_count) == ([], 0)


def a_partial_recomputation_equals_one_from_scratch(case: Case) -> None:
    """Of late trades and corrections, from their instant on; the version before it stays as it was."""
    trades = case.arrived
    known = 1 + case.numbers[1] % len(trades)
    late = trades[known:]
    since = min((trade.executed_at for trade in late), default=at(case.numbers[2] % 7))
    with closing(Copy()) as database:
        database.append(trades)
        first = perform(database, case.account, case.method, known)
        before = content_of(stored_in(database, case.method))

        second = perform(database, case.account, case.method, len(trades), since)

        after = content_of(stored_in(database, case.method))
        old = content_of(stored_in(database, case.method, first.version))
        new = content_of(stored_in(database, case.method, second.version))
    _, from_scratch = batch_of(trades, case.account, case.method)
    assert after == new == content_of_batch(from_scratch)
    assert old == before == content_of_batch(batch_of(trades[:known], case.account, case.method)[1])


def a_full_recomputation_repairs_what_is_stored(case: Case) -> None:
    """Whatever versions there were before: rows that are missing, stale or doubled are noticed."""
    trades = case.arrived
    with closing(Copy()) as database:
        database.append(trades)
        perform(database, case.account, case.method, 1 + case.numbers[1] % len(trades))
        perform(database, case.account, case.method, 1 + case.numbers[0] % len(trades))
        database.run(f"DELETE FROM fifo_allocations WHERE id % 5 = {case.numbers[2] % 5}")

        perform(database, case.account, case.method, len(trades))

        rows = content_of(stored_in(database, case.method))
    assert rows == content_of_batch(batch_of(trades, case.account, case.method)[1])


def what_the_daemon_stores_equals_a_batch(case: Case) -> None:
    """Fill by fill as they arrive, with a kill, flushes and late trades on the way."""
    asyncio.run(_follow(case))


async def _follow(case: Case) -> None:
    trades = in_account(case.arrived, case.account)
    with closing(Copy()) as database:
        service = _service(database)
        await service.start()
        for number, trade in enumerate(trades):
            database.append([trade])
            await service.on_facts(FactsRecorded((trade,)))
            if number in case.numbers[:2]:
                await service.flush()
            if number == case.numbers[2]:
                service = _service(database)  # the one before was killed
                await service.start()
        await service.flush()
        rows = content_of(stored_in(database, Method.FIFO))
    assert rows == content_of_batch(batch_of(trades, case.account)[1])
    position = service.position(case.account.name, SYMBOL)
    known = sum((row[8] for row in rows if isinstance(row[8], Decimal)), Decimal(0))
    assert position.realized_pnl == known


def _service(database: Database) -> PortfolioService:
    return PortfolioService(
        database.writer, database.reader, CLOCK, checkpoint_facts=7, fence=lambda _connection: None
    )


STORED: list[Callable[[Case], None]] = [
    streaming_equals_the_batch,
    nothing_closes_before_it_opened,
    the_order_of_arrival_changes_nothing,
    what_was_taken_back_never_was,
    a_partial_recomputation_equals_one_from_scratch,
    a_full_recomputation_repairs_what_is_stored,
    what_the_daemon_stores_equals_a_batch,
]
