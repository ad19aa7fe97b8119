"""Stored allocations: streaming, restarts, late trades and corrections give what a batch from scratch gives."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from execution import ledger
from execution.errors import StorageUnavailable
from execution.model import FactsRecorded, Trade
from portfolio import allocations, batch, reviews
from portfolio.allocations import StoredAllocation
from portfolio.matches import Allocation, Row
from portfolio.service import PortfolioService
from portfolio.tables import ReviewStatus
from tests.portfolio.bookkeeping import Database, Line, deliver, service_of

D = Decimal
T = TypeVar("T")


def current(database: Database, version: int | None = None) -> list[StoredAllocation]:
    with database.connection() as connection:
        found = list(allocations.stored(connection, version=version))
    return sorted(found, key=lambda row: (row.account, row.symbol, row.closed_at, row.id))


def content(rows: list[StoredAllocation]) -> list[tuple[Any, ...]]:
    """Rows without ids, versions and batches."""
    return [
        (row.account, row.symbol, row.sell_trade, row.buy_trade, row.quantity, row.cost_basis, row.net_proceeds,
         row.pnl, row.buy_at, row.sell_at)
        for row in rows
    ]  # fmt: skip


def from_scratch(database: Database) -> list[tuple[Any, ...]]:
    """What the engine makes of all trades, without anything that is stored."""
    found: list[tuple[Any, ...]] = []
    with database.connection() as connection:
        head = ledger.head(connection).sequence
        pairs = connection.exec_driver_sql("SELECT DISTINCT account, symbol FROM trades ORDER BY 1, 2").all()
        for account, symbol in pairs:
            pieces: list[Row] = []
            owner = ledger.accounts(connection)[account]
            batch.compute(connection, owner, symbol, head, sink=pieces.extend)
            for p in map(Allocation._make, pieces):
                times = (p.closed_at, p.opened_at) if p.closed_by_buy else (p.opened_at, p.closed_at)
                found.append((account, symbol, p.sell_trade, p.buy_trade, p.quantity, p.cost_basis, p.net_proceeds,
                              p.pnl, *times))  # fmt: skip
    return found


async def test_a_fill_is_stored_once_with_the_version_that_its_scope_began(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    buy, sell = line.buy("2", "100", fee="1"), line.sell("1", "130", fee="0.5")

    await deliver(service, database, [buy, sell])
    await service.flush()
    await service.flush()

    (row,) = current(database)
    assert (row.sell_trade, row.buy_trade, row.quantity) == (sell.id, buy.id, D(1))
    assert (row.cost_basis, row.proceeds, row.sell_fee, row.net_proceeds, row.pnl) == (
        D("100.5"), D(130), D("0.5"), D("129.5"), D(29),
    )  # fmt: skip
    assert row.to_version is None
    with database.connection() as connection:
        (log,) = connection.exec_driver_sql("SELECT * FROM fifo_computation_log").mappings()
    assert (log["mode"], log["buys"], log["sells"], log["allocations"], log["total_pnl"]) == (
        "incremental", 1, 1, 1, "29",
    )  # fmt: skip
    assert log["version"] == row.from_version


async def test_facts_that_are_booked_again_after_a_restart_store_nothing_twice(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    await deliver(service, database, [line.buy("2", "100"), line.sell("1", "130")])
    await service.flush()  # stored, but the snapshot is still the empty one: a restart books both again

    again = service_of(database)
    await again.start()
    await deliver(again, database, [line.sell("1", "140")])
    await again.flush()

    assert [row.pnl for row in current(database)] == [D(30), D(40)]
    assert content(current(database)) == from_scratch(database)


async def test_fills_that_a_kill_kept_from_being_stored_are_stored_at_the_next_start(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    await deliver(service, database, [line.buy("2", "100"), line.sell("1", "130")])

    await service_of(database).start()

    assert content(current(database)) == from_scratch(database)


async def test_a_late_trade_ends_rows_from_its_instant_on_and_the_old_version_stays_readable(
    database: Database,
) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    first = [line.buy("1", "100", minute=10), line.sell("1", "130", minute=20)]
    second = [line.buy("1", "110", minute=30), line.sell("1", "150", minute=40)]
    await deliver(service, database, [*first, *second])
    await service.flush()
    before = current(database)
    late = line.buy("1", "90", minute=25)

    await deliver(service, database, [late])
    await service.flush()

    rows = current(database)
    assert [row.pnl for row in rows] == [D(30), D(60)]
    assert rows[0] == before[0]  # closed before the late trade: untouched
    assert rows[1].from_version > before[1].from_version
    assert current(database, version=before[1].from_version) == [
        before[0], replace(before[1], to_version=rows[1].from_version - 1),
    ]  # fmt: skip
    assert content(rows) == from_scratch(database)


async def test_a_trade_that_is_taken_back_has_no_effect_from_its_instant_on(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    wrong = line.buy("1", "50", minute=5)
    await deliver(service, database, [wrong, line.buy("1", "100", minute=10), line.sell("1", "130", minute=20)])
    await service.flush()
    assert [row.pnl for row in current(database)] == [D(80)]

    await deliver(service, database, [line.take_back(wrong)])
    await service.flush()

    assert [row.pnl for row in current(database)] == [D(30)]
    assert content(current(database)) == from_scratch(database)
    position = service.position("main", "BTC-USD")
    assert (position.quantity, position.realized_pnl) == (D(0), D(30))
    assert service.portfolio("main").cash == D(30)


async def test_a_sell_without_a_lot_is_put_up_for_review_once_and_settled_by_the_missing_buy(
    database: Database,
) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    sell = line.sell("1", "130", minute=20)

    await deliver(service, database, [sell])
    raised = await service.flush()

    assert [(alert.code, alert.about["trade"]) for alert in raised] == [("unmatched_sell", sell.id)]
    with database.connection() as connection:
        (review,) = reviews.reviews(connection)
    assert (review.status, review.trade_id, review.quantity) == (ReviewStatus.OPEN, sell.id, D(1))
    (row,) = current(database)
    assert (row.buy_trade, row.cost_basis, row.pnl) == (None, None, None)

    await deliver(service, database, [line.buy("1", "100", minute=10)])
    assert await service.flush() == []

    with database.connection() as connection:
        (review,) = reviews.reviews(connection)
    assert (review.status, review.resolved_by) == (ReviewStatus.RESOLVED, reviews.RECOMPUTATION)
    assert [row.pnl for row in current(database)] == [D(30)]


async def test_a_run_that_died_is_marked_as_failed_and_the_version_before_it_stays(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    await deliver(service, database, [line.buy("1", "100", minute=10), line.sell("1", "130", minute=20)])
    await service.flush()
    before = current(database)
    service._storage._writer = DiesAfter(database, 1)
    database.append([late := line.buy("1", "90", minute=5)])
    await service.on_facts(FactsRecorded((late,)))

    with pytest.raises(StorageUnavailable):
        await service.flush()  # the run is logged, then the process is gone

    assert current(database) == before
    again = service_of(database)
    await again.start()
    with database.connection() as connection:
        statuses = connection.exec_driver_sql(
            "SELECT mode, status, error FROM fifo_computation_log ORDER BY id"
        ).all()
    assert ("symbol", "failed", "interrupted: the process ended before the run did") in statuses
    assert [row.pnl for row in current(database)] == [D(40)]
    assert content(current(database)) == from_scratch(database)


class DiesAfter:
    """A writer that takes so many works and then nothing more."""

    def __init__(self, database: Database, works: int) -> None:
        self._database = database
        self._left = works

    def submit(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        self._left -= 1
        if self._left < 0:
            raise StorageUnavailable("gone")
        return self._database.writer.submit(work)


class Flaky:
    """A writer that fails as it is told, once each."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.fail = 0

    def submit(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        if self.fail:
            self.fail -= 1
            raise StorageUnavailable("disk full")
        return self._database.writer.submit(work)


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("trade"),
            st.sampled_from(["buy", "sell"]),
            st.integers(1, 5),
            st.integers(1, 30),
            st.sampled_from(["BTC-USD", "ETH-USD"]),
            st.sampled_from(["main", "margin"]),
        ),
        st.tuples(st.just("take_back"), st.integers(0, 30)),
        st.tuples(st.sampled_from(["flush", "restart", "kill", "fail", "snapshot"])),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_whatever_happens_the_stored_allocations_equal_those_from_scratch(steps: list[tuple[Any, ...]]) -> None:
    asyncio.run(_whatever_happens(steps))


async def _whatever_happens(steps: list[tuple[Any, ...]]) -> None:
    database = Database()
    line = Line()
    flaky = Flaky(database)

    def fresh() -> PortfolioService:
        return service_of(database, writer=flaky, checkpoint_facts=4)

    try:
        service = fresh()
        await service.start()
        for step in steps:
            if step[0] == "trade":
                _, side, quantity, minute, symbol, account = step
                make = line.buy if side == "buy" else line.sell
                price = str(100 + minute)
                fact = make(str(quantity), price, minute=minute, fee="0.01", symbol=symbol, account=account)
                await deliver(service, database, [fact])
            elif step[0] == "take_back":
                taken = {fact.corrects for fact in line.facts if isinstance(fact, Trade)}
                left = [
                    fact for fact in line.facts
                    if isinstance(fact, Trade) and fact.corrects is None and fact.id not in taken
                ]  # fmt: skip
                if left:
                    await deliver(service, database, [line.take_back(left[step[1] % len(left)])])
            elif step[0] == "flush":
                await service.flush()
            elif step[0] == "fail":
                flaky.fail = 1
                with suppress(StorageUnavailable):
                    await service.flush()
                flaky.fail = 0
            else:
                if step[0] == "restart":
                    await service.stop()
                service = fresh()
                await service.start()
        await service.flush()
        assert content(current(database)) == from_scratch(database)
        with database.connection() as connection:
            open_reviews = {r.trade_id for r in reviews.reviews(connection, ReviewStatus.OPEN)}
        assert open_reviews == {row.sell_trade for row in current(database) if row.buy_trade is None}
    finally:
        database.close()
