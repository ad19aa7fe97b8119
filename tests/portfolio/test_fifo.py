"""The FIFO engine, by examples in the words of people who trade."""

import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from execution.model import AccountMode, Fact, Trade
from portfolio.errors import FifoError
from portfolio.fifo import LotEngine
from portfolio.fills import FeeIn
from portfolio.matches import FillResult
from portfolio.units import text_of_units, to_units, units_of_text
from tests.portfolio.bookkeeping import Line, at

D = Decimal


def run(mode: AccountMode, trades: Sequence[Fact], fee_in: FeeIn = FeeIn.QUOTE) -> tuple[LotEngine, list[FillResult]]:
    engine = LotEngine(mode)
    return engine, [
        engine.apply(trade, fee_in if trade.fee else FeeIn.QUOTE) for trade in trades if isinstance(trade, Trade)
    ]


def test_the_worked_example_comes_out_to_the_cent() -> None:
    line = Line()
    first = line.buy("0.5", "30000", minute=0)
    second = line.buy("0.3", "31000", minute=5)
    sell = line.sell("0.7", "32000", minute=10)

    engine, results = run(AccountMode.SPOT, [first, second, sell])

    rows = [(a.buy_trade, a.quantity, a.cost_basis, a.proceeds, a.pnl) for a in results[2].allocations]
    assert rows == [
        (first.id, D("0.5"), D(15000), D(16000), D(1000)),
        (second.id, D("0.2"), D(6200), D(6400), D(200)),
    ]
    assert [a.opened_at for a in results[2].allocations] == [at(0), at(5)]
    assert {a.closed_at for a in results[2].allocations} == {at(10)}
    assert results[2].realized_pnl == D(1200)
    assert results[0].realized_pnl is None
    (left,) = engine.open_lots()
    assert left == (second.id, D("0.1"), D(3100), at(5))
    assert engine.realized_pnl == D(1200)


def test_fees_go_into_the_basis_of_a_buy_and_off_the_proceeds_of_a_sell() -> None:
    line = Line()
    engine, results = run(AccountMode.SPOT, [line.buy("2", "100", fee="1"), line.sell("2", "110", fee="1.1")])

    (piece,) = results[1].allocations
    assert (piece.cost_basis, piece.proceeds, piece.sell_fee, piece.net_proceeds) == (
        D(201),
        D(220),
        D("1.1"),
        D("218.9"),
    )
    assert results[1].realized_pnl == D("17.9")
    assert (engine.quantity, engine.cost_basis) == (D(0), D(0))


def test_a_fee_of_a_cent_split_over_three_sells_adds_up_to_a_cent() -> None:
    line = Line()
    line.buy("3", "10", fee="0.01")
    for _ in range(3):
        line.sell("1", "10")

    engine, results = run(AccountMode.SPOT, line.facts)

    shares = [result.allocations[0].buy_fee for result in results[1:]]
    assert shares == [D("0.003333333333333333"), D("0.003333333333333333"), D("0.003333333333333334")]
    assert engine.realized_pnl == D("-0.01")
    assert engine.cost_basis == 0


def test_a_thousand_tiny_sells_stay_visible_and_close_the_position_exactly() -> None:
    line = Line()
    line.buy("0.009", "64123.59", fee="3.46")
    for _ in range(1000):
        line.sell("0.000009", "64200.01", fee="0.003467")

    engine, results = run(AccountMode.SPOT, line.facts)

    assert all(len(result.allocations) == 1 and not result.unmatched_units for result in results[1:])
    assert (engine.quantity, engine.cost_basis) == (D(0), D(0))
    assert engine.lot_count == 0
    assert engine.realized_pnl == D("0.009") * (D("64200.01") - D("64123.59")) - D("3.46") - D("3.467")


def test_a_spot_sell_beyond_the_lots_leaves_a_rest_without_basis_and_an_unknown_result() -> None:
    line = Line()
    engine, results = run(AccountMode.SPOT, [line.buy("1", "100"), line.sell("3", "110", fee="3")])

    known, unknown = results[1].allocations
    assert known.pnl == 9
    assert unknown.quantity == 2
    assert (unknown.buy_trade, unknown.cost_basis, unknown.pnl) == (None, None, None)
    assert (unknown.proceeds, unknown.sell_fee, unknown.net_proceeds) == (D(220), D(2), D(218))
    assert results[1].unmatched_quantity == 2
    assert results[1].realized_pnl is None
    assert (engine.realized_pnl, engine.unmatched_quantity, engine.quantity) == (D(9), D(2), D(0))


def test_a_margin_sell_without_lots_opens_a_short_lot_that_buys_close() -> None:
    line = Line()
    short = line.sell("2", "100", fee="2")
    first = line.buy("0.5", "90", fee="0.5")
    last = line.buy("1.5", "110")
    engine = LotEngine(AccountMode.MARGIN)

    assert engine.apply(short) == ((), 0, None, to_units(D(2)) * 10**18, False)
    assert engine.open_lots() == ((short.id, D(-2), D(-198), short.executed_at),)
    assert (engine.quantity, engine.cost_basis) == (D(-2), D(-198))

    (piece,) = engine.apply(first).allocations
    assert (piece.sell_trade, piece.buy_trade) == (short.id, first.id)
    assert (piece.net_proceeds, piece.cost_basis, piece.pnl) == (D("49.5"), D("45.5"), D(4))
    assert (piece.opened_at, piece.closed_at) == (short.executed_at, first.executed_at)

    assert engine.apply(last).realized_pnl == D("148.5") - 165
    assert (engine.quantity, engine.cost_basis) == (D(0), D(0))
    assert engine.lot_count == 0


@pytest.mark.parametrize(("opening", "sign"), [("buy", 1), ("sell", -1)])
def test_a_flip_is_cut_at_zero_and_its_fee_is_cut_with_it(opening: str, sign: int) -> None:
    line = Line()
    first = line.buy("1", "100") if opening == "buy" else line.sell("1", "100")
    flip = line.sell("3", "120", fee="0.01") if opening == "buy" else line.buy("3", "120", fee="0.01")

    engine, results = run(AccountMode.MARGIN, [first, flip])

    (piece,) = results[1].allocations
    closed_fee = piece.sell_fee if opening == "buy" else piece.buy_fee
    (lot,) = engine.open_lots()
    assert lot.quantity == -2 * sign
    open_fee = abs(lot.cost_basis + sign * 240)
    assert closed_fee == D("0.003333333333333333")
    assert closed_fee + open_fee == D("0.01")
    assert piece.pnl == 20 * sign - D("0.003333333333333333")


def test_a_fee_in_the_base_asset_reduces_what_a_buy_receives_and_not_what_it_cost() -> None:
    line = Line()
    buy = line.buy("1", "30000", fee="0.001", fee_asset="BTC")
    sell = line.sell("0.999", "31000")

    engine, results = run(AccountMode.SPOT, [buy, sell], FeeIn.BASE)

    assert results[0].fee == 30
    (piece,) = results[1].allocations
    assert (piece.quantity, piece.cost_basis, piece.buy_fee) == (D("0.999"), D(30000), D(30))
    assert results[1].realized_pnl == D("0.999") * 31000 - 30000
    assert (engine.quantity, engine.cost_basis) == (D(0), D(0))


def test_a_fee_in_the_base_asset_takes_extra_quantity_from_a_sell() -> None:
    line = Line()
    engine, results = run(
        AccountMode.SPOT, [line.buy("1", "100"), line.sell("0.5", "110", fee="0.01", fee_asset="BTC")], FeeIn.BASE
    )

    (piece,) = results[1].allocations
    assert (piece.quantity, piece.cost_basis, piece.net_proceeds) == (D("0.51"), D(51), D(55))
    assert engine.quantity == D("0.49")


def test_a_fee_in_a_third_asset_is_flagged_and_leaves_the_profit_unknown() -> None:
    line = Line()
    engine, results = run(
        AccountMode.SPOT, [line.buy("1", "100", fee="0.2", fee_asset="BNB"), line.sell("1", "110")], FeeIn.OTHER
    )

    assert results[0].fee_flagged
    assert results[0].fee == 0
    assert results[1].realized_pnl is None
    assert engine.realized_pnl == 0


def test_a_base_fee_that_eats_the_whole_fill_is_flagged_instead_of_guessed() -> None:
    engine, results = run(AccountMode.SPOT, [Line().buy("1", "100", fee="1", fee_asset="BTC")], FeeIn.BASE)

    assert results[0].fee_flagged
    assert engine.quantity == 1


def test_a_rebate_lowers_the_basis() -> None:
    line = Line()
    engine, _ = run(AccountMode.SPOT, [line.buy("3", "10", fee="-0.01"), line.sell("1", "10"), line.sell("2", "10")])

    assert engine.realized_pnl == D("0.01")
    assert engine.cost_basis == 0


def test_the_state_survives_json_exactly_and_goes_on_alike() -> None:
    line = Line()
    line.buy("3", "10", fee="0.01")
    line.buy("1", "31", fee="0.0007", fee_asset="BTC")
    line.sell("1.7", "12", fee="0.02")
    rest = [line.sell("0.9", "13"), line.sell("5", "13", fee="0.03")]
    engine = LotEngine(AccountMode.MARGIN)
    for trade in line.facts[:3]:
        assert isinstance(trade, Trade)
        engine.apply(trade, FeeIn.BASE if trade.fee_asset == "BTC" else FeeIn.QUOTE)

    again = LotEngine.load(json.loads(json.dumps(engine.dump())))

    assert again.dump() == engine.dump()
    assert [again.apply(trade) for trade in rest] == [engine.apply(trade) for trade in rest]
    assert (again.cost_basis, again.quantity) == (engine.cost_basis, engine.quantity)
    assert again.dump() == engine.dump()


@pytest.mark.parametrize("state", [{}, {"version": 0}, {**LotEngine(AccountMode.SPOT).dump(), "lots": [["t1"]]}])
def test_a_foreign_state_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(FifoError):
        LotEngine.load(state)


@pytest.mark.parametrize("value", ["1e-19", "NaN", "Infinity"])
def test_numbers_that_are_not_exact_are_refused_and_change_nothing(value: str) -> None:
    engine = LotEngine(AccountMode.SPOT)

    with pytest.raises(FifoError):
        engine.apply(replace(Line().buy("1", "1"), price=D(value)))

    assert engine.dump() == LotEngine(AccountMode.SPOT).dump()


@pytest.mark.parametrize("text", ["0", "1.5", "-0.000000000000000001", "999999999999999999.999999999999999999"])
def test_a_stored_text_gives_the_units_of_its_decimal(text: str) -> None:
    assert units_of_text(text) == to_units(D(text))
    assert text_of_units(units_of_text(text), 18) == text


def test_a_stored_text_with_too_many_decimals_is_refused_instead_of_misread() -> None:
    with pytest.raises(FifoError, match="at most 18 decimals"):
        units_of_text("0.0000000000000000001")
