"""The portfolio service on a real SQLite ledger: following, checkpoints, prices, what it publishes."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from itertools import pairwise
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from config.exact import plain
from config.instruments import default_instrument
from execution import candles
from execution.errors import LeaseLost, StorageUnavailable
from execution.model import Account, Candle, FactsRecorded, Price
from portfolio import recompute
from portfolio.position import PortfolioChanged, PositionChanged
from portfolio.service import PortfolioService, read_portfolios
from portfolio.verify import differences, verify
from tests.portfolio.bookkeeping import Database, Line, at, deliver, service_of

D = Decimal
T = TypeVar("T")


def busy_line(rounds: int = 5) -> Line:
    line = Line()
    line.deposit("100000")
    for number in range(rounds):
        line.buy("0.3", f"{30000 + number}", fee="0.07")
        line.buy("2", f"{1500 + number}", fee="0.01", symbol="ETH-USD")
        line.sell("0.2", f"{30500 - number}", fee="0.05")
    return line


def assert_equals_recomputation(service: PortfolioService, database: Database) -> None:
    with database.connection() as connection:
        assert list(differences(service._books, recompute.from_ledger(connection))) == []


async def test_each_fill_is_answered_with_its_result(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    buy, sell = line.buy("1", "100"), line.sell("1", "130", fee="1")

    outcomes = await deliver(service, database, [buy, sell])

    assert [(o.trade, o.realized_pnl) for o in outcomes] == [(buy, None), (sell, D(29))]
    assert service.sequence == 2


async def test_duplicates_are_ignored_and_an_overlap_is_booked_once(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = busy_line()
    database.append(line.facts)

    await service.on_facts(FactsRecorded(tuple(line.facts[:4])))
    assert await service.on_facts(FactsRecorded(tuple(line.facts[:4]))) == []
    assert await service.on_facts(FactsRecorded(())) == []
    rest = await service.on_facts(FactsRecorded(tuple(line.facts[2:])))

    assert [o.trade for o in rest] == line.facts[4:]
    assert_equals_recomputation(service, database)


async def test_what_is_missing_before_a_message_is_read_from_the_ledger(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = busy_line()
    database.append(line.facts)

    outcomes = await service.on_facts(FactsRecorded((line.facts[-1],)))

    assert [o.trade for o in outcomes] == line.facts[1:]
    assert_equals_recomputation(service, database)


async def test_facts_of_another_process_are_found_by_catching_up(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = busy_line(700)
    database.append(line.facts)

    outcomes = await service.catch_up()

    assert len(outcomes) == 2100
    assert await service.catch_up() == []
    assert_equals_recomputation(service, database)


async def test_a_start_from_a_checkpoint_and_a_start_from_nothing_give_the_same_books(database: Database) -> None:
    line = busy_line()
    first = service_of(database)
    await first.start()
    await deliver(first, database, line.facts[:9])
    await first.stop()
    database.append(line.facts[9:])

    second = service_of(database)
    await second.start()

    assert second.checkpoint_problem is None
    assert second.sequence == len(line.facts)
    assert_equals_recomputation(second, database)


async def test_checkpoints_come_every_so_many_facts_and_write_what_changed(database: Database) -> None:
    service = service_of(database, checkpoint_facts=6)
    await service.start()
    line = busy_line(20)
    stored = []
    for fact in line.facts:
        await deliver(service, database, [fact])
        with database.connection() as connection:
            query = "SELECT sequence FROM fifo_inventory_snapshots WHERE account = ''"
            rows = connection.exec_driver_sql(query).all()
            stored.append(rows[0][0] if rows else 0)
    sequences = sorted(set(stored) - {0})

    assert sequences[0] == 6
    # As many facts apart as there are lots to write, once these are more than six.
    gaps = [later - earlier for earlier, later in pairwise(sequences)]
    assert gaps == sorted(gaps)
    assert min(gaps) >= 6
    with database.connection() as connection:
        opened = recompute.open_books(connection)
        assert opened.stored_sequence == sequences[-1]
        assert list(differences(opened.books, recompute.from_ledger(connection))) == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE fifo_inventory_snapshots SET content = replace(content, '00', '01') WHERE symbol = ''",
        "UPDATE fifo_inventory_snapshots SET sequence = sequence - 1 WHERE account = ''",
        "UPDATE fifo_inventory_snapshots SET engine_version = 0",
        "DELETE FROM fifo_inventory_snapshots WHERE symbol = 'ETH-USD'",
        "DELETE FROM fifo_inventory_snapshots WHERE account = ''",
        "UPDATE fifo_inventory_snapshots SET content = '{}'",
    ],
)
async def test_a_damaged_checkpoint_is_replaced_by_a_full_recomputation(database: Database, damage: str) -> None:
    service = service_of(database)
    await service.start()
    await deliver(service, database, busy_line().facts)
    await service.stop()
    database.run(damage)

    again = service_of(database)
    await again.start()

    assert again.checkpoint_problem is not None
    assert_equals_recomputation(again, database)
    await again.stop()
    healed = service_of(database)
    await healed.start()
    assert healed.checkpoint_problem is None


async def test_a_checkpoint_of_another_ledger_is_not_used(database: Database) -> None:
    service = service_of(database)
    await service.start()
    await deliver(service, database, busy_line(2).facts)
    await service.stop()
    other = Line()
    for _ in range(9):
        other.deposit("5")
    database.run("DELETE FROM trades")
    database.run("DELETE FROM cash_flows")
    database.run("UPDATE ledger_head SET sequence = 0")
    database.append(other.facts)

    again = service_of(database)
    await again.start()

    assert again.checkpoint_problem is not None
    assert again.portfolio("main").cash == 45


async def test_a_checkpoint_is_not_written_once_the_role_is_lost(database: Database) -> None:
    taken_over = False

    def fence(_connection: Connection) -> None:
        if taken_over:
            raise LeaseLost("another daemon")

    service = service_of(database, checkpoint_facts=1, fence=fence)
    await service.start()
    taken_over = True

    with pytest.raises(LeaseLost):
        await deliver(service, database, busy_line(1).facts)

    with database.connection() as connection:
        assert connection.exec_driver_sql("SELECT max(sequence) FROM fifo_inventory_snapshots").scalar() == 0
        assert connection.exec_driver_sql("SELECT count(*) FROM fifo_allocations").scalar() == 0


async def test_a_full_disk_costs_a_checkpoint_and_no_outcome(database: Database) -> None:
    class FullDisk:
        def submit(self, work: Callable[[Connection], T]) -> Awaitable[T]:
            raise StorageUnavailable("disk full")

    service = service_of(database, writer=FullDisk(), checkpoint_facts=1)
    await service.start()

    outcomes = await deliver(service, database, busy_line(1).facts)

    assert len(outcomes) == 3
    assert service.checkpoint_problem == "disk full"


async def test_a_back_dated_trade_is_matched_where_it_belongs(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    facts = [line.buy("1", "100", minute=10), line.sell("1", "130", minute=20)]
    assert (await deliver(service, database, facts))[1].realized_pnl == 30
    late = line.buy("1", "90", minute=5)
    sell = line.sell("1", "140", minute=30)

    outcomes = await deliver(service, database, [late, sell])

    assert [o.realized_pnl for o in outcomes] == [None, D(40)]
    assert [service.has_recomputed(), service.has_recomputed()] == [True, False]
    assert service.portfolio("main").realized_pnl == 80
    assert_equals_recomputation(service, database)
    await deliver(service, database, [line.buy("2", "70", minute=40)])
    assert not service.has_recomputed()
    await service.stop()
    assert_equals_recomputation(service, database)


async def test_what_was_sold_between_two_back_dated_trades_is_allocated(database: Database) -> None:
    """Found by the simulation, seed 1079: the second recomputation forgot what had come since the first."""
    service = service_of(database)
    await service.start()
    line = Line()
    await deliver(service, database, [line.buy("3", "100", minute=10), line.sell("1", "120", minute=20)])
    await deliver(service, database, [line.buy("1", "90", minute=5)])
    await deliver(service, database, [line.sell("1", "130", minute=30), line.buy("1", "110", minute=50)])
    await deliver(service, database, [line.buy("1", "105", minute=40)])
    await service.flush()
    with database.connection() as connection:
        assert [result.problems for result in verify(connection) if "alloc" in result.name and not result.ok] == []
    await service.stop()


class Failing:
    """A reader whose disk does not answer."""

    async def read(self, query: Callable[[Connection], T]) -> T:
        raise StorageUnavailable("disk I/O error")


@pytest.mark.parametrize("again", ["the same facts", "later facts", "a flush"])
async def test_a_back_dated_trade_whose_recomputation_could_not_read_is_recomputed_later(
    database: Database, again: str
) -> None:
    """Found by the simulation, seed 32090: the position stayed as it was before that trade."""
    service = service_of(database)
    await service.start()
    line = Line()
    await deliver(service, database, [line.buy("1", "100", minute=10), line.sell("1", "120", minute=20)])
    service.take_changes()
    late = line.buy("1", "90", minute=5)
    service._reader = Failing()
    with pytest.raises(StorageUnavailable):
        await deliver(service, database, [late])
    service._reader = database.reader

    later = [line.buy("2", "70", minute=40)] if again == "later facts" else []
    if again == "a flush":
        await service.flush()
    if later:
        database.append(later)
    outcomes = await service.on_facts(FactsRecorded((late, *later)))

    assert [outcome.trade for outcome in outcomes] == [late, *later]
    assert all(outcome.result for outcome in outcomes)
    assert service.portfolio("main").sequence == (late, *later)[-1].sequence
    assert_equals_recomputation(service, database)
    assert {change.position.symbol for change in service.take_changes() if isinstance(change, PositionChanged)} == {
        late.symbol
    }
    assert service.take_failures() == []
    await service.stop()
    assert_equals_recomputation(service, database)


class Interrupted:
    """A reader that lets nobody read any more: whoever waits for it is cancelled, as at a stop."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def read(self, query: Callable[[Connection], T]) -> T:
        self.asked.set()
        never: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        return await never


async def test_a_stop_in_the_middle_of_a_recomputation_still_leaves_a_true_checkpoint(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    await deliver(service, database, [line.buy("1", "100", minute=10), line.sell("1", "120", minute=20)])
    late = line.buy("1", "90", minute=5)
    database.append([late])
    interrupted = Interrupted()
    service._reader = interrupted
    recomputing = asyncio.create_task(service.on_facts(FactsRecorded((late,))))
    await interrupted.asked.wait()
    recomputing.cancel()
    await asyncio.gather(recomputing, return_exceptions=True)
    service._reader = database.reader

    await service.stop()

    assert_equals_recomputation(service, database)
    again = service_of(database)
    await again.start()
    assert_equals_recomputation(again, database)


async def test_an_account_opened_later_is_learned_from_the_ledger(database: Database) -> None:
    from execution import ledger

    service = service_of(database)
    await service.start()
    database.writer.submit(lambda connection: ledger.add_account(connection, Account("new"), at(0)))
    line = Line()

    await deliver(service, database, [line.deposit("10", account="new")])

    assert service.portfolio("new").cash == 10


async def test_changes_are_told_once_with_their_newest_state(database: Database) -> None:
    service = service_of(database)
    await service.start()
    service.take_changes()
    line = busy_line()
    await deliver(service, database, line.facts)

    changes = service.take_changes()

    assert [(type(c), c.position.symbol if isinstance(c, PositionChanged) else None) for c in changes] == [
        (PositionChanged, "BTC-USD"),
        (PositionChanged, "ETH-USD"),
        (PortfolioChanged, None),
    ]
    assert all(change.to_wire()["sequence"] == len(line.facts) for change in changes)
    assert changes[0].to_wire()["account"] == "main"
    assert service.take_changes() == []


async def test_a_price_changes_the_accounts_that_hold_the_symbol_and_no_others(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    await deliver(service, database, [line.deposit("500"), line.buy("1", "100"), line.deposit("5", account="margin")])
    service.take_changes()

    service.on_price(Price("ETH-USD", D(1), at(0)))
    assert service.take_changes() == []
    service.on_price(Price("BTC-USD", D(150), at(1)))
    position, portfolio = service.take_changes()

    assert isinstance(position, PositionChanged)
    assert isinstance(portfolio, PortfolioChanged)
    assert position.position.unrealized_pnl == 50
    assert (portfolio.account, portfolio.portfolio.equity) == ("main", D(550))

    await deliver(service, database, [line.sell("1", "150")])
    service.take_changes()
    service.on_price(Price("BTC-USD", D(160), at(2)))
    assert service.take_changes() == []


async def test_an_older_price_never_replaces_a_later_one(database: Database) -> None:
    service = service_of(database)
    await service.start()
    await deliver(service, database, [Line().buy("1", "100")])

    def candle(minute: float, close: str, timeframe: str = "1m") -> Candle:
        return Candle("BTC-USD", timeframe, at(minute), D(1), D(1), D(1), D(close), D(1))

    service.on_candle(candle(60, "150"))  # closes at minute 61
    service.on_price(Price("BTC-USD", D(140), at(60.9)))
    service.on_candle(candle(0, "130", "1h"))  # closes at minute 60
    assert service.position("main", "BTC-USD").mark_price == 150
    assert service.position("main", "BTC-USD").mark_time == at(61)
    service.on_price(Price("BTC-USD", D(160), at(61)))
    assert service.position("main", "BTC-USD").mark_price == 160


async def test_everything_can_be_published_again(database: Database) -> None:
    service = service_of(database)
    await service.start()
    await deliver(service, database, busy_line().facts)
    service.take_changes()

    state = service.all_state()

    assert [type(c).__name__ for c in state] == ["PositionChanged"] * 2 + ["PortfolioChanged"] * 2
    assert {c.account for c in state if isinstance(c, PortfolioChanged)} == {"main", "margin"}


async def test_stored_candles_value_the_positions_after_a_restart_and_without_a_service(database: Database) -> None:
    database.append([Line().buy("1", "100")])
    stored = [
        Candle("BTC-USD", timeframe, at(minute), D(1), D(1), D(1), D(close), D(1))
        for timeframe, minute, close in (("1m", 0, "101"), ("1m", 1, "102"), ("1h", -60, "99"))
    ]
    database.writer.submit(lambda connection: candles.store(connection, stored))
    service = service_of(database)
    await service.start()

    with database.connection() as connection:
        offline = read_portfolios(connection)

    assert service.portfolio("main").positions[0].mark_price == 102
    assert offline["main"] == service.portfolio("main")
    assert set(offline) == {"main", "margin"}


async def test_a_rest_below_the_dust_threshold_is_flagged_and_still_counts(database: Database) -> None:
    service = service_of(database)
    await service.start()
    line = Line()
    threshold = default_instrument("BTC-USD").dust
    bought = D(1) + threshold / 2

    await deliver(service, database, [line.buy(plain(bought), "100"), line.sell("1", "110")])

    position = service.position("main", "BTC-USD")
    assert (position.quantity, position.is_dust) == (threshold / 2, True)
    assert position.to_wire()["dust"] is True
    assert position.cost_basis == threshold / 2 * 100
    await deliver(service, database, [line.buy(plain(threshold / 2), "100")])
    assert not service.position("main", "BTC-USD").is_dust  # exactly the threshold is none
