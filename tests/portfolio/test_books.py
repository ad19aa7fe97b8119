"""Books, positions and portfolios: what facts add up to, and their JSON form."""

import itertools
from decimal import Decimal

import pytest

from execution.model import CashFlowKind, Fact, Price, Trade
from portfolio.books import Books, rebuilt
from portfolio.errors import SequenceHole, UnknownAccount
from portfolio.recompute import recompute
from portfolio.valuation import Marks, value_account
from tests.portfolio.bookkeeping import ACCOUNTS, Line, at

D = Decimal


def marks(**prices: str) -> Marks:
    made = Marks()
    for symbol, price in prices.items():
        made.on_price(Price(symbol.replace("_", "-"), D(price), at(100)))
    return made


def books_of(line: Line) -> Books:
    books = Books(ACCOUNTS)
    books.apply(line.facts)
    return books


def test_a_portfolio_prints_the_agreed_json() -> None:
    line = Line()
    line.deposit("100000")
    line.buy("0.5", "30000", minute=0)
    second = line.buy("0.3", "31000", minute=5)
    line.sell("0.7", "32000", minute=10)

    wire = value_account(books_of(line), marks(BTC_USD="33000"), "main").to_wire()

    assert wire == {
        "account": "main",
        "currency": "USD",
        "cash": "98100",
        "net_flows": "100000",
        "income": "0",
        "market_value": "3300",
        "equity": "101400",
        "realized_pnl": "1200",
        "unrealized_pnl": "200",
        "total_pnl": "1400",
        "return": "0.014",
        "fees": "0",
        "incomplete": False,
        "sequence": 4,
        "positions": [
            {
                "symbol": "BTC-USD",
                "quantity": "0.1",
                "cost_basis": "3100",
                "average_cost": "31000",
                "mark_price": "33000",
                "mark_time": "2026-01-01T11:40:00Z",
                "market_value": "3300",
                "unrealized_pnl": "200",
                "pnl_percent": "6.4516129",
                "realized_pnl": "1200",
                "fees": "0",
                "incomplete": False,
                "dust": False,
                "unmatched_quantity": "0",
                "lot_count": 1,
                "open_lots": [
                    {
                        "buy_trade": second.id,
                        "quantity": "0.1",
                        "cost_basis": "3100",
                        "acquired_at": "2026-01-01T10:05:00Z",
                    }
                ],
            }
        ],
    }


def test_without_a_mark_values_are_unknown_and_so_are_the_totals_that_need_them() -> None:
    line = Line()
    line.deposit("1000")
    line.buy("1", "100")
    line.buy("1", "50", symbol="ETH-USD")

    portfolio = value_account(books_of(line), marks(BTC_USD="120"), "main")

    known, unknown = portfolio.positions
    assert (known.unrealized_pnl, unknown.unrealized_pnl) == (D(20), None)
    assert (unknown.market_value, unknown.mark_price, unknown.pnl_percent) == (None, None, None)
    assert unknown.average_cost == 50
    assert portfolio.cash == 850
    totals = (portfolio.market_value, portfolio.equity, portfolio.unrealized_pnl, portfolio.total_pnl)
    assert totals == (None, None, None, None)
    assert portfolio.return_ratio is None
    assert portfolio.to_wire()["equity"] is None


def test_a_closed_position_is_worth_nothing_costs_nothing_and_keeps_its_result() -> None:
    line = Line()
    line.buy("3", "10", fee="0.01")
    line.sell("3", "12")

    (position,) = value_account(books_of(line), Marks(), "main").positions

    assert (position.quantity, position.cost_basis, position.market_value) == (D(0), D(0), D(0))
    assert position.average_cost is None
    assert position.realized_pnl == D("5.99")
    assert value_account(books_of(line), Marks(), "main").open_positions == ()


def test_a_short_position_has_negative_cost_and_earns_when_the_price_falls() -> None:
    line = Line()
    line.deposit("1000", account="margin")
    sell = line.sell("2", "100", account="margin", fee="1")

    portfolio = value_account(books_of(line), marks(BTC_USD="90"), "margin")

    (position,) = portfolio.positions
    assert (position.quantity, position.cost_basis, position.average_cost) == (D(-2), D(-199), D("99.5"))
    assert (position.market_value, position.unrealized_pnl) == (D(-180), D(19))
    assert portfolio.equity == 1019
    assert position.to_wire()["open_lots"] == [
        {
            "buy_trade": None,
            "sell_trade": sell.id,
            "quantity": "-2",
            "cost_basis": "-199",
            "acquired_at": "2026-01-01T10:02:00Z",
        }
    ]


def test_income_and_standalone_fees_count_in_the_total_and_flows_do_not() -> None:
    line = Line()
    line.deposit("1000")
    line.flow(CashFlowKind.INCOME, "7")
    line.flow(CashFlowKind.FEE, "2")
    line.flow(CashFlowKind.WITHDRAWAL, "500")

    portfolio = value_account(books_of(line), Marks(), "main")

    assert (portfolio.cash, portfolio.equity, portfolio.net_flows) == (D(505), D(505), D(500))
    assert (portfolio.total_pnl, portfolio.fees, portfolio.return_ratio) == (D(5), D(2), D("0.01"))


@pytest.mark.parametrize("withdrawn", ["1000", "1500"])
def test_there_is_no_return_on_nothing(withdrawn: str) -> None:
    line = Line()
    line.deposit("1000")
    line.flow(CashFlowKind.WITHDRAWAL, withdrawn)

    assert value_account(books_of(line), Marks(), "main").return_ratio is None


def test_an_unmatched_sell_and_a_third_asset_fee_make_the_totals_incomplete() -> None:
    for more in ({}, {"fee": "0.1", "fee_asset": "BNB"}):
        line = Line()
        if more:
            line.buy("1", "100", **more)
        else:
            line.sell("1", "100")
        portfolio = value_account(books_of(line), marks(BTC_USD="100"), "main")
        assert portfolio.incomplete
        assert portfolio.positions[0].incomplete


def test_the_base_asset_is_known_from_symbol_and_currency_and_its_fee_reduces_the_quantity() -> None:
    line = Line()
    line.buy("1", "30000", fee="0.001", fee_asset="BTC")

    (position,) = value_account(books_of(line), marks(BTC_USD="30000"), "main").positions

    assert (position.quantity, position.cost_basis, position.fees) == (D("0.999"), D(30000), D(30))
    assert not position.incomplete


def test_results_are_grouped_by_who_triggered_them() -> None:
    line = Line()
    line.buy("1", "100", triggered_by="bot:a")
    line.sell("0.5", "110", triggered_by="bot:b")
    line.sell("1", "120", triggered_by="stop:a")

    groups = books_of(line).attribution("main")

    assert {tag: (group.fills, group.realized_pnl) for tag, group in groups.items()} == {
        "bot:a": (1, D(0)),
        "bot:b": (1, D(5)),
        "stop:a": (1, D(10)),
    }
    assert books_of(line).attribution("margin") == {}


def test_a_hole_in_the_sequence_is_an_error_and_what_came_before_it_is_booked() -> None:
    line = Line()
    line.deposit("10")
    line.deposit("20")
    line.deposit("30")
    books = Books(ACCOUNTS)

    with pytest.raises(SequenceHole, match="sequence 2 is missing, before 3"):
        books.apply([line.facts[0], line.facts[2]])

    assert (books.sequence, books.cash["main"].cash) == (1, D(10))


def test_a_fact_of_an_unknown_account_is_an_error() -> None:
    line = Line()
    line.deposit("10", account="elsewhere")

    with pytest.raises(UnknownAccount, match="elsewhere"):
        Books(ACCOUNTS).apply(line.facts)


def test_a_back_dated_trade_makes_its_symbol_stale_and_a_rebuild_gives_what_a_batch_gives() -> None:
    line = Line()
    line.buy("1", "100", minute=10)
    line.sell("1", "130", minute=20)
    late = line.buy("1", "90", minute=5)
    after = line.sell("1", "140", minute=30)
    books = Books(ACCOUNTS)

    outcomes = books.apply(line.facts)

    scope = ("main", "BTC-USD")
    assert set(books.stale) == {scope}
    assert [outcome.result is None for outcome in outcomes] == [False, False, True, True]
    ordered = sorted((f for f in line.facts if isinstance(f, Trade)), key=lambda trade: trade.order_key)
    book, results = rebuilt(ACCOUNTS["main"], "BTC-USD", ordered, books.sequence, frozenset({late.id, after.id}))
    books.replace(scope, book)
    assert books.symbols[scope].engine.realized_pnl == (130 - 90) + (140 - 100)
    assert results[after.id].realized_pnl == 40
    assert results[late.id].realized_pnl is None
    assert books.dump() == recompute(line.facts, ACCOUNTS).dump()


def test_the_order_of_arrival_does_not_matter_to_the_lots() -> None:
    trades = [
        ("buy", "1", "100", 1.0),
        ("buy", "1", "110", 2.0),
        ("sell", "1.5", "120", 3.0),
        ("sell", "0.2", "90", 4.0),
    ]
    seen = set()
    for arrival in itertools.permutations(trades):
        line = Line()
        for side, quantity, price, minute in arrival:
            (line.buy if side == "buy" else line.sell)(quantity, price, minute=minute)
        engine = recompute(line.facts, ACCOUNTS).symbols["main", "BTC-USD"].engine
        seen.add((engine.quantity, engine.cost_basis, engine.realized_pnl))
    assert seen == {(D("0.3"), D(33), D(25) - D(4))}


def test_a_message_lists_at_most_so_many_lots_and_says_how_many_there_are() -> None:
    line = Line()
    for symbol in ("BTC-USD", "ETH-USD"):
        for _ in range(5):
            line.buy("1", "1", symbol=symbol)

    first, second = value_account(books_of(line), Marks(), "main", lots=7).positions

    assert (len(first.open_lots), len(second.open_lots)) == (5, 2)
    assert (first.lot_count, second.lot_count) == (5, 5)


def test_facts_of_two_accounts_do_not_mix() -> None:
    line = Line()
    line.deposit("10")
    line.deposit("20", account="margin")
    line.buy("1", "5")
    line.sell("1", "5", account="margin")
    facts: list[Fact] = line.facts

    books = recompute(facts, ACCOUNTS)

    assert (books.cash["main"].cash, books.cash["margin"].cash) == (D(5), D(25))
    assert books.symbols_of("main") == ["BTC-USD"]
    assert books.symbols["margin", "BTC-USD"].engine.quantity == -1
