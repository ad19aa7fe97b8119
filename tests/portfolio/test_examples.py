"""Examples through everything there is: facts in a real database, the service, the stored rows read back."""

import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from execution.model import Fact, FactsRecorded, Trade
from portfolio import allocations, allocator, checkpoint, fifo, runs
from portfolio.allocations import StoredAllocation
from portfolio.fifo import LotEngine
from portfolio.lots import Method
from tests.portfolio.bookkeeping import SPOT, Database, Line, at, service_of
from tests.portfolio.oracles.faults import closing_last_in
from tests.portfolio.oracles.stored import batch_of, content_of, content_of_batch, perform

D = Decimal


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "books.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # as in the daemon: readers beside the writer
    connection.close()
    database = Database(f"sqlite:///{path}")
    yield database
    database.close()


class Shop:
    """A portfolio service over a database, fed as the daemon feeds it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.service = service_of(database, checkpoint_facts=50)

    async def open(self) -> "Shop":
        """Start the service."""
        await self.service.start()
        return self

    async def book(self, *facts: Fact) -> None:
        """Record facts and store what they meant."""
        self.database.append(facts)
        await self.service.on_facts(FactsRecorded(tuple(facts)))
        await self.service.flush()

    def rows(self, version: int | None = None, method: Method = Method.FIFO) -> list[StoredAllocation]:
        """The stored rows, in the order in which they were matched."""
        with self.database.connection() as connection:
            found = list(allocations.stored(connection, version=version, method=method))
        return sorted(found, key=lambda row: (row.closed_at, row.id))

    def log(self) -> list[tuple[object, ...]]:
        """(version, mode, reason, status, engine version) of each run."""
        sql = "SELECT version, mode, reason, status, engine_version FROM fifo_computation_log ORDER BY id"
        with self.database.connection() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(sql).all()]


async def test_the_worked_example_comes_out_to_the_cent(database: Database) -> None:
    shop = await Shop(database).open()
    line = Line()
    first, second = line.buy("0.5", "30000", minute=0), line.buy("0.3", "31000", minute=5)
    sell = line.sell("0.7", "32000", minute=10)

    await shop.book(first, second, sell)

    half, fifth = (row.to_wire() for row in shop.rows())
    assert (half["sell_trade"], half["buy_trade"], half["quantity"]) == (sell.id, first.id, "0.5")
    assert (half["cost_basis"], half["proceeds"], half["net_proceeds"], half["pnl"]) == (
        "15000", "16000", "16000", "1000",
    )  # fmt: skip
    assert (fifth["sell_trade"], fifth["buy_trade"], fifth["quantity"]) == (sell.id, second.id, "0.2")
    assert (fifth["cost_basis"], fifth["proceeds"], fifth["net_proceeds"], fifth["pnl"]) == (
        "6200", "6400", "6400", "200",
    )  # fmt: skip
    assert (half["buy_at"], half["sell_at"]) == ("2026-01-01T10:00:00Z", "2026-01-01T10:10:00Z")
    (lot,) = shop.service.position("main", "BTC-USD").open_lots
    assert (lot.trade_id, lot.quantity, lot.cost_basis, lot.acquired_at) == (second.id, D("0.1"), D(3100), at(5))
    portfolio = shop.service.portfolio("main")
    assert (portfolio.realized_pnl, portfolio.cash) == (D(1200), D(-15000) - D(9300) + D(22400))


async def test_a_thousand_tiny_sells_are_all_allocated(database: Database) -> None:
    shop = await Shop(database).open()
    line = Line()
    buy = line.buy("0.009", "67123.45", minute=0, fee="1.23")
    sells = [line.sell("0.000009", "67200.01", minute=1 + number, fee="0.001") for number in range(1000)]

    await shop.book(buy, *sells)

    rows = shop.rows()
    assert [row.sell_trade for row in rows] == [sell.id for sell in sells]
    assert {(row.buy_trade, row.quantity) for row in rows} == {(buy.id, D("0.000009"))}
    assert sum(row.quantity for row in rows) == buy.quantity
    assert sum(row.cost_basis or D(0) for row in rows) == -buy.cash_effect
    assert sum(row.buy_fee or D(0) for row in rows) == D("1.23")
    assert sum(row.pnl or D(0) for row in rows) == sum(trade.cash_effect for trade in (buy, *sells))
    position = shop.service.position("main", "BTC-USD")
    assert (position.quantity, position.cost_basis, position.open_lots) == (0, 0, ())


async def test_a_cent_over_three_sells_is_a_cent(database: Database) -> None:
    shop = await Shop(database).open()
    line = Line()
    await shop.book(
        line.buy("3", "100", fee="0.01"), *(line.sell("1", "110") for _ in range(3)),
        line.buy("1", "100"), line.buy("1", "100"), line.buy("1", "100"), line.sell("3", "110", fee="0.01"),
    )  # fmt: skip

    rows = shop.rows()
    bought, sold = [row.buy_fee or D(0) for row in rows[:3]], [row.sell_fee for row in rows[3:]]
    for shares in (bought, sold):
        assert len(shares) == 3
        assert sum(shares) == D("0.01")
        assert max(shares) - min(shares) <= D("1e-18")
    assert sum(row.pnl or D(0) for row in rows) == 60 - D("0.02")


async def test_a_sell_of_more_than_a_quadrillion_with_eighteen_decimals(database: Database) -> None:
    shop = await Shop(database).open()
    line = Line()
    lots = [
        line.buy("600000000000000.000000000000000001", "0.000000000000000003", fee="0.000000000000000007"),
        line.buy("500000000000000.000000000000000001", "123456789.000000000000000001"),
    ]
    sell = line.sell("1000000000000000.000000000000000003", "1.000000000000000001", fee="0.01")

    await shop.book(*lots, sell)

    one, two = shop.rows()
    assert (one.quantity, two.quantity) == (lots[0].quantity, sell.quantity - lots[0].quantity)
    assert one.cost_basis == lots[0].quantity * lots[0].price + lots[0].fee
    assert two.cost_basis == two.quantity * lots[1].price
    assert one.net_proceeds + two.net_proceeds == sell.cash_effect
    position = shop.service.position("main", "BTC-USD")
    assert position.quantity == D("99999999999999.999999999999999999")
    assert (one.cost_basis or 0) + (two.cost_basis or 0) + position.cost_basis == -sum(
        trade.cash_effect for trade in lots
    )


async def test_a_flip_is_cut_at_zero_and_its_fee_counted_once(database: Database) -> None:
    shop = await Shop(database).open()
    line = Line()
    buy = line.buy("1", "100", fee="0.3", account="margin")
    flip = line.sell("3", "110", fee="0.1", account="margin")
    cover = line.buy("3", "90", fee="0.2", account="margin")

    await shop.book(buy, flip, cover)

    long, short = shop.rows()
    assert (long.sell_trade, long.buy_trade, long.quantity) == (flip.id, buy.id, D(1))
    assert (short.sell_trade, short.buy_trade, short.quantity) == (flip.id, cover.id, D(2))
    assert (short.sell_at, short.buy_at, short.closed_at) == (at(2), at(3), at(3))
    assert long.sell_fee + short.sell_fee == D("0.1")
    (lot,) = shop.service.position("margin", "BTC-USD").open_lots
    assert (lot.trade_id, lot.quantity) == (cover.id, D(1))
    realized = shop.service.portfolio("margin").realized_pnl
    assert realized is not None
    assert realized - lot.cost_basis == sum(trade.cash_effect for trade in (buy, flip, cover))


async def test_late_trades_and_corrections_equal_computing_from_scratch(database: Database) -> None:
    shop = await Shop(database).open()
    line = Line()
    wrong = line.buy("1", "55", minute=15, fee="0.01")
    await shop.book(
        line.buy("2", "100", minute=10), wrong, line.sell("1", "130", minute=20), line.sell("1.5", "140", minute=30)
    )
    versions = [(max(row.from_version for row in shop.rows()), shop.rows())]

    for fact in (line.buy("1", "90", minute=5), line.take_back(wrong), line.sell("0.25", "99", minute=12)):
        await shop.book(fact)
        versions.append((max(row.from_version for row in shop.rows()), shop.rows()))

    trades = [fact for fact in line.facts if isinstance(fact, Trade)]
    assert content_of(shop.rows()) == content_of_batch(batch_of(trades, SPOT)[1])
    assert len({version for version, _ in versions}) == 4
    for version, rows in versions:
        assert content_of(shop.rows(version)) == content_of(rows)
    assert {row[3] for row in shop.log()[1:]} == {"completed"}


async def test_another_version_of_the_algorithm_begins_from_scratch_and_the_old_rows_stay_readable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line()
    trades = [line.buy("1", "100"), line.buy("1", "120"), line.sell("1", "130")]
    with monkeypatch.context() as old:
        for module in (fifo, allocations, allocator, checkpoint, runs):
            old.setattr(module, "ENGINE_VERSION", fifo.ENGINE_VERSION - 1, raising=False)
        old.setattr(LotEngine, "_close", closing_last_in)  # what the algorithm was before it was put right
        shop = await Shop(database).open()
        await shop.book(*trades)
        await shop.service.stop()
        before = shop.rows()
        assert [row.pnl for row in before] == [D(10)]

    shop = await Shop(database).open()

    assert [row.pnl for row in shop.rows()] == [D(30)]
    assert content_of(shop.rows()) == content_of_batch(batch_of(trades, SPOT)[1])
    assert shop.service.position("main", "BTC-USD").realized_pnl == D(30)
    assert content_of(shop.rows(before[0].from_version)) == content_of(before)
    assert shop.log()[-1][4] == fifo.ENGINE_VERSION


async def test_methods_are_versions_side_by_side(database: Database) -> None:
    shop = await Shop(database).open()
    line = Line()
    await shop.book(*(line.buy("1", price) for price in ("100", "300", "200")), line.sell("1", "250"))

    for method in (Method.LIFO, Method.HIFO, Method.LOFO, Method.AVERAGE):
        await shop.service.compute(method=method, reason="comparison")

    pnl = {method: [row.pnl for row in shop.rows(method=method)] for method in Method}
    assert pnl == {
        Method.FIFO: [D(150)],
        Method.LIFO: [D(50)],
        Method.HIFO: [D(-50)],
        Method.LOFO: [D(150)],
        Method.AVERAGE: [D(50)],
        Method.SPECIFIC: [],
    }


def test_a_reader_sees_the_old_version_until_the_new_one_is_whole(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line()
    trades = [line.buy("1", "100", minute=9)]
    trades += [line.sell("0.01", "130", minute=10 + number) for number in range(80)]
    trades.append(line.buy("0.5", "50", minute=1))
    database.append(trades)
    first = perform(database, SPOT, Method.FIFO, len(trades) - 1)
    readers = create_engine(database.engine.url)
    seen: list[tuple[int, list[object]]] = []

    def look() -> None:
        with readers.connect() as reader:
            pointer = allocations.pointers(reader)["main", "BTC-USD"].version
            seen.append((pointer, [*content_of(list(allocations.stored(reader)))]))

    look()
    for name in ("close", "insert_contents", "point", "finish"):
        real = getattr(allocations, name)

        def watched(*arguments: object, _real: object = real, **more: object) -> object:
            look()
            done = _real(*arguments, **more)  # type: ignore[operator]  # one of four functions
            look()
            return done

        monkeypatch.setattr(allocations, name, watched)
    second = perform(database, SPOT, Method.FIFO, len(trades))
    monkeypatch.undo()
    during = list(seen)
    look()
    readers.dispose()

    assert len(during) >= 9
    assert all(sight == seen[0] for sight in during)
    assert seen[0][0] == first.version
    assert seen[-1] == (second.version, [*content_of_batch(batch_of(trades, SPOT)[1])])
    assert seen[-1] != seen[0]


def test_a_run_that_fails_on_the_way_leaves_the_old_version_whole(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line()
    trades = [line.buy("1", "100", minute=9), line.sell("1", "130", minute=10), line.buy("1", "50", minute=1)]
    database.append(trades)
    first = perform(database, SPOT, Method.FIFO, 2)
    with database.connection() as connection:
        before = list(allocations.stored(connection))

    def died(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(allocations, "point", died)
    with pytest.raises(KeyboardInterrupt):
        perform(database, SPOT, Method.FIFO, 3)
    monkeypatch.undo()

    with database.connection() as connection:
        assert list(allocations.stored(connection)) == before
        assert allocations.pointers(connection)["main", "BTC-USD"].version == first.version
        assert connection.exec_driver_sql(
            "SELECT COUNT(*) FROM fifo_computation_log WHERE status = 'running'"
        ).scalar()
