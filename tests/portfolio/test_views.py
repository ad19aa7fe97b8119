"""The SQL views: numbers by hand, equal to the application, equal in SQLite's own shell, to the last digit."""

import asyncio
import json
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.exact import ZERO, plain
from config.instruments import default_instrument
from config.times import stored_time, time_text
from execution import candles, ledger
from execution.model import AccountMode, Candle, CashFlowKind, Fact, Side, Trade
from portfolio import bankroll
from portfolio.position import Portfolio
from portfolio.service import read_portfolios
from portfolio.views import VIEWS
from tests.portfolio.bookkeeping import ACCOUNTS, Database, Line, at, started

Row = dict[str, Any]


class House:
    """A database file with facts, their allocations stored by the service, and candles."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "books.db"
        self.database = Database(f"sqlite:///{self.file}")
        self.line = Line()
        self._stored = 0

        def catalogue(connection: Any) -> None:
            for symbol in ("BTC-USD", "ETH-USD", "BNB-USD", "AAPL"):
                ledger.add_instrument(connection, default_instrument(symbol))

        self.database.writer.submit(catalogue)

    def store(self) -> "House":
        """Store the line's new facts, and what they mean."""
        new: Sequence[Fact] = self.line.facts[self._stored :]
        if new:
            self.database.append(new)
            self._stored = len(self.line.facts)
        asyncio.run(self._mean())
        return self

    async def _mean(self) -> None:
        service = await started(self.database)
        await service.stop()

    def candle(self, symbol: str, timeframe: str, minute: int, close: str) -> None:
        """A stored candle that opens at a minute."""
        price = Decimal(close)
        candle = Candle(symbol, timeframe, at(minute), price, price, price, price, Decimal(1))
        self.database.writer.submit(lambda connection: candles.store(connection, [candle]))

    def rows(self, view: str) -> list[Row]:
        """A view through our connection; the very same must come from SQLite's shell."""
        with self.database.connection() as connection:
            ours = [dict(row) for row in connection.exec_driver_sql(f"SELECT * FROM {view}").mappings()]
        assert ours == shell(self.file, f"SELECT * FROM {view}")
        return ours

    def row(self, view: str, **where: str) -> Row:
        """The one row of a view with these values."""
        (found,) = [row for row in self.rows(view) if all(row[key] == value for key, value in where.items())]
        return found

    def portfolio(self, account: str) -> Portfolio:
        """What the application says."""
        with self.database.connection() as connection:
            return read_portfolios(connection)[account]

    def bankrolls(self) -> list[bankroll.Bankroll]:
        """What the application says of paper accounts."""
        with self.database.connection() as connection:
            return bankroll.read_bankrolls(connection)


def shell(file: Path, sql: str) -> list[Row]:
    """A query in the plain `sqlite3` shell."""
    done = subprocess.run(["sqlite3", "-json", str(file), sql], capture_output=True, text=True, check=True)
    return json.loads(done.stdout) if done.stdout.strip() else []


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.database.close()


# ---- by hand --------------------------------------------------------------------------------------------


def test_return_on_investment_is_0_at_cost(house: House) -> None:
    house.line.deposit("10000")
    house.line.buy("10", "247.305", symbol="AAPL")
    found = house.store().row("paper_bankroll", account="main")
    assert found == {
        "account": "main",
        "balance": "7526.95",
        "total_trades": 0,
        "winning_trades": 0,
        "total_pnl": "0",
        "roi": 0.0,
        "updated_at": stored_time(at(2)),
        "incomplete": 0,
    }


def test_the_worked_example_of_three_fills(house: House) -> None:
    house.line.deposit("100000")
    house.line.buy("0.5", "30000")
    house.line.buy("0.3", "31000")
    house.line.sell("0.7", "32000")
    house.store()
    found = house.row("paper_bankroll", account="main")
    # 100,000 - 15,000 - 9,300 + 22,400 = 98,100; 0.1 left at the last trade's 32,000: equity 101,300
    assert (found["balance"], found["total_trades"], found["winning_trades"]) == ("98100", 1, 1)
    assert (found["total_pnl"], found["roi"]) == ("1200", 0.013)
    position = house.row("positions", symbol="BTC-USD")
    assert (position["quantity"], position["cost_basis"], position["realized_pnl"]) == ("0.1", "3100", "1200")
    assert (position["mark_price"], position["market_value"], position["unrealized_pnl"]) == ("32000", "3200", "100")
    lot = house.row("tax_lots")
    assert (lot["trade"], lot["original_quantity"], lot["quantity"], lot["cost_basis"]) == (
        "t3",
        "0.3",
        "0.1",
        "3100",
    )
    pnl = house.row("v_pnl_by_symbol")
    assert (pnl["sells"], pnl["quantity"], pnl["proceeds"], pnl["cost_basis"]) == (1, "0.7", "22400", "21200")
    assert (pnl["pnl"], pnl["incomplete"]) == ("1200", 0)
    health = house.row("v_allocation_health")
    assert (health["buys"], health["sells"], health["allocations"], health["ok"]) == (2, 1, 2, 1)
    assert [row["kind"] for row in house.rows("transactions")] == ["deposit", "buy", "buy", "sell"]


def test_a_sell_without_a_lot_counts_but_did_not_win(house: House) -> None:
    house.line.deposit("1000")
    house.line.buy("1", "100")
    house.line.sell("3", "200", fee="0.3")
    house.store()
    found = house.row("paper_bankroll", account="main")
    assert (found["total_trades"], found["winning_trades"], found["total_pnl"]) == (1, 0, "99.9")
    assert found["incomplete"] == 1
    lost = house.row("v_unmatched_sells")
    assert (lost["sell_trade"], lost["quantity"], lost["net_proceeds"]) == ("t3", "2", "399.8")
    assert house.row("positions")["incomplete"] == 1
    assert house.row("v_pnl_by_symbol")["incomplete"] == 1
    assert house.row("v_allocation_health")["ok"] == 1


@pytest.mark.parametrize(("fee", "asset"), [("0.01", "BNB"), ("1.5", "BTC")], ids=["without-a-mark", "eats-the-fill"])
def test_the_bankroll_says_that_a_fee_without_a_value_is_missing_until_it_is_taken_back(
    house: House, fee: str, asset: str
) -> None:
    house.line.deposit("1000")
    wrong = house.line.buy("1", "100", fee=fee, fee_asset=asset)
    house.store()
    assert house.row("paper_bankroll", account="main")["incomplete"] == 1
    assert house.row("paper_bankroll", account="margin")["incomplete"] == 0
    assert [said.incomplete for said in house.bankrolls()] == [True, False]
    house.line.take_back(wrong)
    house.store()
    assert house.row("paper_bankroll", account="main")["incomplete"] == 0
    assert [said.incomplete for said in house.bankrolls()] == [False, False]


def test_what_opens_or_covers_a_short_position_is_no_closing_sell(house: House) -> None:
    house.line.deposit("1000", account="margin")
    house.line.sell("2", "100", account="margin")  # opens
    house.line.buy("3", "90", account="margin")  # covers 2 (won 20), opens 1
    house.line.sell("2", "80", account="margin")  # closes 1 (lost 10), opens 1
    house.store()
    found = house.row("paper_bankroll", account="margin")
    assert (found["total_trades"], found["winning_trades"], found["total_pnl"]) == (1, 0, "10")
    lot = house.row("tax_lots")
    assert (lot["trade"], lot["original_quantity"], lot["quantity"], lot["cost_basis"]) == ("t4", "-1", "-1", "-80")
    assert house.row("positions")["cost_basis"] == "-80"


def test_a_short_sale_covered_at_the_very_same_instant_is_no_closing_sell(house: House) -> None:
    house.line.deposit("1000", account="margin")
    house.line.sell("1", "100", account="margin", minute=5)
    house.line.buy("1", "90", account="margin", minute=5)
    found = house.store().row("paper_bankroll", account="margin")
    assert (found["total_trades"], found["winning_trades"], found["total_pnl"]) == (0, 0, "10")


def test_a_trade_that_was_taken_back_counts_nowhere(house: House) -> None:
    house.line.deposit("1000")
    house.line.buy("1", "100")
    wrong = house.line.sell("1", "900", fee="1")
    house.store()
    assert house.row("paper_bankroll", account="main")["winning_trades"] == 1
    house.line.take_back(wrong)
    house.store()
    found = house.row("paper_bankroll", account="main")
    assert (found["balance"], found["total_trades"], found["total_pnl"], found["roi"]) == ("900", 0, "0", 0.0)
    position = house.row("positions")
    assert (position["quantity"], position["mark_price"], position["fees"]) == ("1", "100", "0")
    assert house.row("v_allocation_health")["sells"] == 0


def test_an_account_without_trades_has_zeros(house: House) -> None:
    house.line.deposit("10000")
    found = house.store().rows("paper_bankroll")
    main, margin = sorted(found, key=lambda row: str(row["account"]))
    assert (main["balance"], main["total_trades"], main["total_pnl"], main["roi"]) == ("10000", 0, "0", 0.0)
    assert (margin["balance"], margin["roi"]) == ("0", None)


def test_nothing_paid_in_any_more_has_no_return(house: House) -> None:
    house.line.deposit("100")
    house.line.flow(CashFlowKind.INCOME, "50")
    house.line.flow(CashFlowKind.WITHDRAWAL, "100")
    found = house.store().row("paper_bankroll", account="main")
    assert (found["balance"], found["roi"]) == ("50", None)


def test_the_mark_is_the_close_that_came_last_whatever_the_timeframe(house: House) -> None:
    house.line.deposit("1000")
    house.line.buy("1", "100")
    house.store()
    house.candle("BTC-USD", "1h", 0, "110")  # closes at minute 60
    house.candle("BTC-USD", "1m", 58, "120")  # closes at minute 59
    found = house.row("positions")
    assert (found["mark_price"], found["mark_time"]) == ("110", stored_time(at(60)))
    house.candle("BTC-USD", "1m", 59, "130")  # both close at minute 60: by the name of the timeframe
    assert house.row("positions")["mark_price"] == "130"
    mark = house.portfolio("main").positions[0]
    assert (mark.mark_price, mark.mark_time) == (Decimal(130), at(60))


def test_trailing_zeros_signs_and_products_are_written_alike_in_the_shell(house: House) -> None:
    house.line.deposit("100.00")
    house.line.buy("0.10", "0.50", fee="0.10", fee_asset="USD")
    house.line.buy("100", "0.000000000000000001")
    house.line.sell("0.10", "0.00")
    house.store()
    for view in VIEWS:
        if not view.startswith("v_scope"):
            house.rows(view)
    assert house.row("positions")["quantity"] == "100"


def test_the_functions_give_the_numbers_of_the_shell(house: House) -> None:
    cases = [
        "'1.50', '2.50'",
        "'0.1', '-0.1'",
        "'-12', '5'",
        "'1', '1.00'",
        "NULL, '1'",
        "'1e3', '0.1'",
        "5, '-0.25'",
    ]
    for function in ("decimal_add", "decimal_sub", "decimal_mul"):
        for case in cases:
            sql = f"SELECT {function}({case}) AS found"
            with house.database.connection() as connection:
                ours = connection.exec_driver_sql(sql).scalar_one()
            (theirs,) = shell(house.file, sql)
            known = (ours, theirs["found"])
            assert known == (None, None) or Decimal(known[0]) == Decimal(known[1]), sql
    sums = ("SELECT '1' WHERE 0", "SELECT NULL", "SELECT NULL UNION ALL SELECT '1.50'", "SELECT '1.5' UNION SELECT 2")
    for rows in sums:
        sql = f"SELECT decimal_sum(x) AS found FROM (SELECT NULL AS x WHERE 0 UNION ALL {rows})"
        with house.database.connection() as connection:
            ours = connection.exec_driver_sql(sql).scalar_one()
        assert [{"found": ours}] == shell(house.file, sql)


# ---- equal to the application, and to sums by hand ------------------------------------------------------

_moves = st.tuples(
    st.sampled_from(Side),
    st.builds(
        lambda units, places: Decimal(units).scaleb(-places), st.integers(1, 10**9), st.sampled_from([0, 8, 18])
    ),
    st.builds(lambda units: Decimal(units).scaleb(-2), st.integers(0, 10**7)),
    st.sampled_from(["0", "0.01", "1.5", "0.00000001"]),
    st.sampled_from(["USD", "USD", "BASE", "BNB"]),
    st.sampled_from(["BTC-USD", "ETH-USD", "AAPL"]),
    st.sampled_from(sorted(ACCOUNTS)),
    st.integers(0, 6),  # minutes since the one before: often the same instant, never back
    st.integers(0, 9),  # 0: takes back an earlier trade
)


@contextmanager
def _house() -> Iterator[House]:
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder))
        try:
            yield house
        finally:
            house.database.close()


def _play(house: House, moves: Iterable[tuple[Any, ...]]) -> None:
    minute = 100
    back: set[str] = set()
    for account in sorted(ACCOUNTS):
        house.line.deposit("5000.50", account=account)
    for side, quantity, price, fee, asset, symbol, account, step, kind in moves:
        minute += step
        earlier = [fact for fact in house.line.facts if isinstance(fact, Trade) and not fact.corrects]
        left = [trade for trade in earlier if trade.id not in back]
        if kind == 0 and left:
            back.add(left[len(left) // 2].id)
            house.line.take_back(left[len(left) // 2])
            continue
        named = symbol.split("-")[0] if asset == "BASE" else asset
        house.line.trade(
            side,
            f"{quantity:f}",
            f"{price:f}",
            minute=minute,
            fee=fee,
            fee_asset=named,
            account=account,
            symbol=symbol,
        )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_moves, min_size=1, max_size=14))
def test_views_equal_the_application_and_naive_sums(moves: list[tuple[Any, ...]]) -> None:
    with _house() as house:
        _play(house, moves)
        house.store()
        _compare(house)


def _compare(house: House) -> None:
    found = {row["account"]: row for row in house.rows("paper_bankroll")}
    for said in house.bankrolls():
        wire = said.to_wire()
        assert found[said.account].pop("updated_at") == stored_time(said.updated_at)
        assert wire.pop("updated_at") == time_text(said.updated_at)
        assert found[said.account] == wire
    positions = {(row["account"], row["symbol"]): row for row in house.rows("positions")}
    lots = house.rows("tax_lots")
    for account in ACCOUNTS:
        portfolio = house.portfolio(account)
        assert found[account]["balance"] == plain(_cash(house, account)) == plain(portfolio.cash)
        for position in portfolio.positions:
            row, wire = positions.pop((account, position.symbol)), position.to_wire()
            for column in ("quantity", "cost_basis", "realized_pnl", "fees", "mark_price", "market_value"):
                assert row[column] == wire[column], (column, position.symbol, account)
            assert row["unrealized_pnl"] == wire["unrealized_pnl"]
            assert bool(row["incomplete"]) is position.incomplete
            mine = [lot for lot in lots if (lot["account"], lot["symbol"]) == (account, position.symbol)]
            assert sorted((lot["trade"], lot["quantity"], lot["cost_basis"]) for lot in mine) == sorted(
                (lot.trade_id, plain(lot.quantity), plain(lot.cost_basis)) for lot in position.open_lots
            )
    assert not positions
    assert all(row["ok"] == 1 for row in house.rows("v_allocation_health"))
    for row in house.rows("v_pnl_by_symbol"):
        parts = [Decimal(row[column]) for column in ("proceeds", "fees", "cost_basis")]
        assert plain(parts[0] - parts[1] - parts[2]) == row["pnl"]
    house.rows("transactions")
    house.rows("v_unmatched_sells")


def _cash(house: House, account: str) -> Decimal:
    return sum((fact.cash_effect for fact in house.line.facts if fact.account == account), ZERO)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE fifo_allocations SET quantity = '0.6' WHERE quantity = '0.7'",
        "UPDATE fifo_allocations SET pnl = '1400.000000000000000001'",
        "DELETE FROM fifo_allocations",
    ],
)
def test_health_sees_a_damaged_allocation(house: House, damage: str) -> None:
    house.line.buy("1", "30000")
    house.line.sell("0.7", "32000")
    house.store()
    assert house.row("v_allocation_health")["ok"] == 1
    house.database.run(damage)
    assert house.row("v_allocation_health")["ok"] == 0


def test_no_view_does_arithmetic_that_is_not_exact() -> None:
    assert ACCOUNTS["margin"].mode is AccountMode.MARGIN
    for name, sql in VIEWS.items():
        assert sql.count("AS REAL") == (2 if name == "paper_bankroll" else 0), name
        assert "total(" not in sql.replace("_total", ""), name
        assert "avg(" not in sql, name


def test_a_late_trade_moves_what_the_views_say(house: House) -> None:
    house.line.deposit("1000")
    first = house.line.buy("1", "100", minute=10)
    house.line.sell("1", "200", minute=20)
    house.store()
    assert house.row("paper_bankroll", account="main")["total_pnl"] == "100"
    house.line.buy("1", "50", minute=5)
    house.store()
    assert house.row("paper_bankroll", account="main")["total_pnl"] == "150"
    assert house.row("tax_lots")["trade"] == first.id
