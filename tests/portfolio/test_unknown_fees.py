"""Fees that nobody can put a value on: what they leave unknown, and what stays exact."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial

import pytest

from config.instruments import default_instrument
from execution import ledger
from execution.fees import disposal_id
from execution.model import Trade
from portfolio import reports, validation, verify
from portfolio.fifo import ENGINE_VERSION, LotEngine
from portfolio.fills import Fill
from portfolio.lots import Method
from portfolio.matches import FillResult, result_of
from portfolio.reports import By, Question
from portfolio.validation import Check
from tests.portfolio.bookkeeping import Database, Line
from tests.portfolio.oracles import ours
from tests.portfolio.test_examples import Shop
from tests.portfolio.test_watchdog import watched

D = Decimal
RULES = [method for method in Method if method is not Method.SPECIFIC]


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database()
    for symbol in ("BNB-USD", "BTC-USD", "ETH-USD"):
        database.writer.submit(partial(ledger.add_instrument, instrument=default_instrument(symbol)))
    yield database
    database.close()


bnb = partial(dict[str, str], fee="0.01", fee_asset="BNB")
"""A fee in BNB without a mark."""


def valued(line: Line, trade: Trade, value: str) -> tuple[Trade, Trade]:
    """The last trade of a line with its fee in BNB at a mark, and the sell that disposes of the BNB."""
    trade = replace(trade, cash_effect=trade.cash_effect - D(value))
    line.facts[-1] = trade = replace(trade, hash=ledger.content_hash(trade, line.facts[-2].hash))
    disposal = line.sell("0.01", f"{D(value) * 100:f}", symbol="BNB-USD")
    disposal = replace(disposal, id=disposal_id(trade.id))
    line.facts[-1] = disposal = replace(disposal, hash=ledger.content_hash(disposal, line.facts[-2].hash))
    return trade, disposal


def pnl_of(trades: Sequence[Trade], method: Method = Method.FIFO, *, margin: bool = False) -> list[Decimal | None]:
    """The P&L of each allocation of some trades."""
    return [row.pnl for row in ours.book(trades, method, margin=margin).allocations]


# ---- by example -------------------------------------------------------------------------------------------------


async def test_a_fee_without_a_mark_leaves_the_profit_unknown_and_with_one_it_is_a_disposal(
    database: Database,
) -> None:
    shop = await Shop(database).open()
    line = Line()
    bnb_held = line.buy("1", "500", symbol="BNB-USD")
    deposit = line.deposit("10000")
    buy = line.buy("1", "100", **bnb())
    sell = line.sell("0.5", "130", fee="2")

    await shop.book(bnb_held, deposit, buy, sell)

    (row,) = shop.rows()
    assert row.to_wire()["pnl"] is None
    assert (row.cost_basis, row.proceeds, row.buy_fee, row.sell_fee, row.net_proceeds) == (50, 65, 0, 2, 63)
    position = shop.service.position("main", "BTC-USD")
    assert (position.quantity, position.cost_basis) == (D("0.5"), 50)
    assert (position.realized_pnl, position.incomplete) == (0, True)
    portfolio = shop.service.portfolio("main")
    assert portfolio.cash == 10000 - 500 - 100 + 63
    assert (portfolio.realized_pnl, portfolio.incomplete) == (0, True)

    # The mark became known: the trade is taken back, and comes again with the value of its fee.
    entry = line.take_back(buy)
    again, disposal = valued(line, line.buy("1", "100", minute=3, **bnb()), "6")
    await shop.book(entry, again, disposal)

    of_coins, of_bnb = sorted(shop.rows(), key=lambda row: row.symbol, reverse=True)
    assert (of_coins.cost_basis, of_coins.buy_fee, of_coins.pnl) == (53, 3, 10)
    assert (of_bnb.quantity, of_bnb.net_proceeds, of_bnb.pnl) == (D("0.01"), 6, 1)
    position = shop.service.position("main", "BTC-USD")
    assert (position.realized_pnl, position.cost_basis, position.incomplete) == (10, 53, False)
    assert shop.service.position("main", "BNB-USD").realized_pnl == 1
    assert shop.service.portfolio("main").cash == 10000 - 500 - 100 + 63  # the fee took BNB, no cash


def test_a_fee_of_the_sell_leaves_its_profit_unknown_and_that_of_no_other_sell() -> None:
    line = Line()
    trades = [line.buy("2", "100"), line.sell("1", "120", **bnb()), line.sell("1", "130")]

    assert pnl_of(trades) == [None, 30]


def test_of_a_sell_over_two_lots_only_the_part_beside_the_fee_is_unknown() -> None:
    line = Line()
    trades = [line.buy("1", "100", **bnb()), line.buy("1", "110"), line.sell("2", "130")]

    mine = ours.book(trades)

    assert [row.pnl for row in mine.allocations] == [None, 20]
    assert mine.results[trades[2].id].realized_pnl is None
    assert mine.engine.realized_pnl == 20


@pytest.mark.parametrize("flagged", ["opening", "closing"])
def test_a_short_position_knows_it_of_both_sides_and_a_flip_takes_it_along(flagged: str) -> None:
    line = Line()
    short = line.sell("1", "100", **(bnb() if flagged == "opening" else {}))
    flip = line.buy("2", "90", **(bnb() if flagged == "closing" else {}))
    trades = [short, flip, line.sell("1", "95")]

    mine = ours.book(trades, margin=True)

    closed, later = mine.allocations
    assert (closed.pnl, closed.cost_basis, closed.net_proceeds) == (None, 90, 100)
    assert later.pnl == (5 if flagged == "opening" else None)


@pytest.mark.parametrize("method", RULES)
def test_each_method_leaves_unknown_what_it_takes_from_a_lot_beside_the_fee(method: Method) -> None:
    line = Line()
    trades = [line.buy("1", "300", **bnb()), line.buy("1", "200"), line.buy("1", "100"), line.sell("1", "400")]

    found = {
        Method.FIFO: [None], Method.HIFO: [None], Method.LIFO: [D(300)], Method.LOFO: [D(300)],
        Method.AVERAGE: [None],
    }  # fmt: skip
    assert pnl_of(trades, method) == found[method]


def test_an_average_is_unknown_until_nothing_of_its_pool_is_held() -> None:
    line = Line()
    trades = [line.buy("1", "100"), line.sell("0.5", "110"), line.buy("1", "120", **bnb())]
    trades += [line.sell("0.5", "130"), line.buy("1", "90"), line.sell("2", "130")]
    trades += [line.buy("1", "100"), line.sell("1", "107")]

    mine = ours.book(trades, Method.AVERAGE)

    assert [row.pnl for row in mine.allocations] == [5, None, None, None, 7]
    assert (mine.engine.realized_pnl, mine.engine.cost_basis) == (12, 0)


# ---- totals -----------------------------------------------------------------------------------------------------


def mixed(line: Line) -> list[Trade]:
    """A sell with a profit, one beside a fee without a value, one half of each, and one without a lot."""
    return [
        line.buy("1", "100"),
        line.sell("1", "110", fee="1", triggered_by="bot:a"),
        line.buy("1", "100", **bnb()),
        line.sell("0.5", "120", triggered_by="bot:a"),
        line.buy("0.5", "100"),
        line.sell("1", "130", triggered_by="bot:b"),
        line.sell("1", "140", fee="4", triggered_by="bot:b"),
    ]


async def test_totals_leave_out_what_is_unknown_and_say_incomplete(database: Database) -> None:
    shop = await Shop(database).open()
    line = Line()
    await shop.book(line.deposit("1000"), *mixed(line))

    assert [row.pnl for row in shop.rows()] == [9, None, None, 15, None]
    position = shop.service.position("main", "BTC-USD")
    assert (position.realized_pnl, position.unmatched_quantity, position.incomplete) == (24, 1, True)
    groups = shop.service.attribution()
    assert {tag: group.realized_pnl for tag, group in groups.items()} == {"manual": 0, "bot:a": 9, "bot:b": 15}
    with database.connection() as connection:
        (line_of_all,) = reports.realized(connection, Question())
        by_bot = {found.group: found for found in reports.realized(connection, Question(By.TRIGGERED_BY))}
        views = {
            name: dict(connection.exec_driver_sql(f"SELECT * FROM {name}").mappings().one())
            for name in ("positions", "v_pnl_by_symbol", "v_allocation_health")
        }
    wire = line_of_all.to_wire(By.SYMBOL)
    assert (wire["sells"], wire["wins"], wire["realized_pnl"], wire["incomplete"]) == (4, 1, "24", True)
    assert (wire["quantity"], wire["proceeds"], wire["fees"], wire["cost_basis"]) == ("1.5", "175", "1", "150")
    assert (wire["unvalued_quantity"], wire["unmatched_quantity"], wire["unmatched_proceeds"]) == ("1", "1", "136")
    assert {tag: (found.incomplete, found.unvalued) for tag, found in by_bot.items()} == {
        "bot:a": (True, 5 * 10**17), "bot:b": (True, 5 * 10**17),
    }  # fmt: skip
    shown = views["positions"]
    assert (shown["quantity"], shown["cost_basis"], shown["realized_pnl"], shown["incomplete"]) == ("0", "0", "24", 1)
    shown = views["v_pnl_by_symbol"]
    assert (shown["pnl"], shown["proceeds"], shown["cost_basis"], shown["fees"]) == ("24", "175", "150", "1")
    assert (shown["quantity"], shown["unmatched_quantity"], shown["incomplete"]) == ("1.5", "1", 1)
    shown = views["v_allocation_health"]
    assert (shown["ok"], shown["pnl"], shown["allocated_quantity"]) == (1, "24", "2.5")


async def test_what_is_left_of_a_lot_beside_the_fee_keeps_the_known_cost_in_the_view(database: Database) -> None:
    line = Line()
    line.deposit("1000")
    line.buy("2", "100", **bnb())
    line.sell("0.5", "130", fee="1")
    shop = await Shop(database).open()
    await shop.book(*line.facts)

    assert shop.service.position("main", "BTC-USD").cost_basis == 150
    with database.connection() as connection:
        shown = connection.exec_driver_sql("SELECT cost_basis, quantity FROM positions").one()
        lot = connection.exec_driver_sql("SELECT cost_basis, quantity FROM tax_lots").one()
    assert tuple(shown) == tuple(lot) == ("150", "1.5")


# ---- the checks -------------------------------------------------------------------------------------------------


async def books(database: Database) -> Shop:
    """Stored allocations of the mixed trades by every rule, in a spot and a margin account."""
    shop = await Shop(database).open()
    line = Line()
    line.deposit("10000")
    line.deposit("10000", account="margin")
    mixed(line)
    line.sell("1", "100", account="margin", **bnb())
    line.buy("3", "90", account="margin", **bnb())
    line.sell("1", "95", account="margin")
    line.sell("1", "95", account="margin", symbol="ETH-USD")
    line.buy("1", "90", account="margin", symbol="ETH-USD")
    await shop.book(*line.facts)
    for method in RULES:
        await shop.service.compute(method=method, reason="test")
    return shop


def problems(database: Database) -> list[tuple[Check, str]]:
    found: list[tuple[Check, str]] = []
    with database.connection() as connection:
        scopes = validation.current_scopes(connection)
        validation.validate(connection, scopes, lambda check, text: found.append((check, text)))
    return found


def failed(database: Database) -> list[str]:
    with database.connection() as connection:
        return [problem for result in verify.verify(connection) for problem in result.problems]


async def test_sound_books_with_fees_without_a_value_pass_every_check(database: Database) -> None:
    await books(database)

    assert problems(database) == []
    assert failed(database) == []


@pytest.mark.parametrize("method", RULES)
async def test_a_number_where_it_is_unknown_is_found(database: Database, method: Method) -> None:
    await books(database)
    database.run(
        "UPDATE fifo_allocations SET pnl = decimal_sub(net_proceeds, cost_basis)"
        f" WHERE pnl IS NULL AND buy_trade IS NOT NULL AND method = '{method}'"
    )

    found = [text for check, text in problems(database) if check is Check.SUMS]

    assert found
    assert all("beside a fee that could not be valued, expected unknown" in text for text in found)
    assert all(f" {method}: " in text for text in found)


async def test_an_unknown_where_it_is_known_is_found(database: Database) -> None:
    await books(database)
    database.run("UPDATE fifo_allocations SET pnl = NULL WHERE symbol = 'ETH-USD'")

    found = [text for check, text in problems(database) if check is Check.SUMS]

    assert len(found) == len(RULES)
    assert all("although the fees of both trades have a value" in text for text in found)


async def test_trades_that_are_not_stored_yet_are_audited_alike(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line()
    line.deposit("1000")
    mixed(line)
    database.append(line.facts)
    assert failed(database) == []

    monkeypatch.setattr("portfolio.fifo.without_pnl", lambda piece: piece)

    assert any("the P&L of its allocation to t4 is known" in problem for problem in failed(database))


_match = LotEngine.match


def _with_numbers(engine: LotEngine, fill: Fill) -> FillResult:
    """A P&L as if the fee were nothing."""
    result = result_of(_match(engine, fill))
    pieces = [
        piece
        if piece.cost_units is None
        else piece._replace(pnl_units=piece.net_units - piece.cost_units)
        for piece in result.allocations
    ]  # fmt: skip
    return result._replace(allocations=tuple(pieces))


def _with_unknowns(engine: LotEngine, fill: Fill) -> FillResult:
    """No P&L where there is one."""
    result = result_of(_match(engine, fill))
    pieces = [piece._replace(pnl_units=None) for piece in result.allocations]
    return result._replace(allocations=tuple(pieces), realized_units=None)


def _with_a_total(engine: LotEngine, fill: Fill) -> FillResult:
    """A known P&L of a trade of which a part is unknown."""
    result = result_of(_match(engine, fill))
    return result._replace(realized_units=sum(piece.pnl_units or 0 for piece in result.allocations))


def _never_flagged(engine: LotEngine, fill: Fill) -> FillResult:
    return result_of(_match(engine, fill._replace(flagged=False)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (_with_numbers, "is known beside a fee that could not be valued"),
        (_with_numbers, "is not known or unknown as the fees say"),
        (_with_unknowns, "is unknown, although all fees have a value"),
        (_with_a_total, "its P&L is known, although a part of it is not"),
        (_never_flagged, "its fee has no value, and the engine says otherwise"),
    ],
)
async def test_the_check_after_each_fill_sees_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, wrong: object, said: str
) -> None:
    line = Line()
    line.deposit("1000")
    line.buy("1", "100")
    line.sell("0.5", "110")
    line.sell("0.5", "110", **bnb())
    line.buy("1", "100", **bnb())
    line.sell("0.5", "120")
    assert await watched(database, line.facts) == []
    with_fault = Database()
    monkeypatch.setattr(LotEngine, "match", wrong)

    found = await watched(with_fault, line.facts)

    with_fault.close()
    assert any(said in failure.problem for failure in found), found


# ---- rows of the engine before ------------------------------------------------------------------------------------


async def test_rows_of_the_engine_that_left_the_fee_out_are_computed_anew(database: Database) -> None:
    shop = await Shop(database).open()
    line = Line()
    line.deposit("1000")
    line.buy("1", "100", **bnb())
    line.sell("0.5", "130")
    await shop.book(*line.facts)
    await shop.service.stop()
    (row,) = shop.rows()
    older = ENGINE_VERSION - 1
    database.run("UPDATE fifo_allocations SET pnl = '15'")
    for table in ("fifo_pointers", "fifo_inventory_snapshots", "fifo_computation_log"):
        database.run(f"UPDATE {table} SET engine_version = {older}")
    # They are not wrong for what that engine knew, so that a change of the schema can go on.
    assert failed(database) == []
    assert {check for check, _ in problems(database)} == {Check.OUTDATED}

    again = await Shop(database).open()

    assert [row.pnl for row in again.rows()] == [None]
    assert again.service.position("main", "BTC-USD").realized_pnl == 0
    assert [old.pnl for old in again.rows(row.from_version)] == [15]
    assert (problems(database), failed(database)) == ([], [])
