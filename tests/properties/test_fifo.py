"""Laws of the FIFO engine and of the books, on random trades."""

import json
import random
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.exact import ZERO
from execution.model import AccountMode, CashFlowKind, Price, Side, Trade
from portfolio.books import Books, SymbolBook, rebuilt
from portfolio.fifo import LotEngine
from portfolio.fills import FeeIn
from portfolio.recompute import recompute
from portfolio.valuation import Marks, value_account
from tests.portfolio.bookkeeping import ACCOUNTS, Line, at


def decimals(lowest: int, highest: int) -> st.SearchStrategy[Decimal]:
    """Decimals of 1 to `highest` with 0 to 18 places: round ones, and ones that split badly."""
    return st.builds(
        lambda units, places: Decimal(units).scaleb(-places),
        st.integers(lowest, highest),
        st.sampled_from([0, 2, 8, 18]),
    )


quantities = decimals(1, 10**9)
prices = decimals(0, 10**8)
fees = st.one_of(st.just(ZERO), decimals(0, 10**4))
moves = st.tuples(st.sampled_from(Side), quantities, prices, fees, st.sampled_from(["USD", "USD", "BTC", "BNB"]))
histories = st.lists(moves, min_size=1, max_size=25)
modes = st.sampled_from(AccountMode)


def trades_of(history: list[tuple[Side, Decimal, Decimal, Decimal, str]], account: str = "main") -> list[Trade]:
    line = Line()
    return [
        line.trade(side, f"{quantity:f}", f"{price:f}", fee=f"{fee:f}", fee_asset=asset, account=account)
        for side, quantity, price, fee, asset in history
    ]


def fee_in(trade: Trade) -> FeeIn:
    return {"USD": FeeIn.QUOTE, "BTC": FeeIn.BASE}.get(trade.fee_asset, FeeIn.OTHER)


def moved(trade: Trade) -> Decimal:
    """The effective quantity of a trade, as the documentation defines it."""
    if trade.fee_asset != "BTC":
        return trade.quantity
    effective = trade.quantity - trade.side.sign * trade.fee
    return effective if effective > 0 else trade.quantity


@given(histories, modes)
def test_quantities_and_fees_add_up_to_the_last_digit(
    history: list[tuple[Side, Decimal, Decimal, Decimal, str]], mode: AccountMode
) -> None:
    engine = LotEngine(mode)
    trades = {trade.id: trade for trade in trades_of(history)}
    results = {trade.id: engine.apply(trade, fee_in(trade)) for trade in trades.values()}
    pieces = [piece for result in results.values() for piece in result.allocations]
    lots = {lot.trade_id: lot for lot in engine.open_lots()}

    for trade in trades.values():
        is_sell = trade.side is Side.SELL
        mine = [p for p in pieces if (p.sell_trade if is_sell else p.buy_trade) == trade.id]
        lot = lots.get(trade.id)
        assert sum((p.quantity for p in mine), ZERO) + (abs(lot.quantity) if lot else ZERO) == moved(trade)
        shares = sum((p.sell_fee if is_sell else p.buy_fee or ZERO for p in mine), ZERO)
        if lot is not None:
            shares += lot.cost_basis - lot.quantity * trade.price
        assert shares == results[trade.id].fee
        if mode is AccountMode.MARGIN:
            assert results[trade.id].unmatched_units == 0
    for piece in pieces:
        if piece.buy_trade is not None and piece.cost_basis is not None and piece.buy_fee is not None:
            buy, sell = trades[piece.buy_trade], trades[piece.sell_trade]
            assert piece.cost_basis == piece.quantity * buy.price + piece.buy_fee
            assert piece.net_proceeds == piece.quantity * sell.price - piece.sell_fee
            flagged = results[buy.id].fee_flagged or results[sell.id].fee_flagged
            assert piece.pnl == (None if flagged else piece.net_proceeds - piece.cost_basis)
    assert engine.quantity == sum((lot.quantity for lot in lots.values()), ZERO)
    assert engine.cost_basis == sum((lot.cost_basis for lot in lots.values()), ZERO)
    assert engine.realized_pnl == sum((piece.pnl or ZERO for piece in pieces), ZERO)


@given(histories)
def test_what_was_bought_is_consumed_or_still_there(
    history: list[tuple[Side, Decimal, Decimal, Decimal, str]],
) -> None:
    engine = LotEngine(AccountMode.SPOT)
    trades = trades_of(history)
    results = [engine.apply(trade, fee_in(trade)) for trade in trades]
    matched = sum((p.quantity for r in results for p in r.allocations if p.buy_trade is not None), ZERO)
    bought = sum((moved(trade) for trade in trades if trade.side is Side.BUY), ZERO)
    sold = sum((moved(trade) for trade in trades if trade.side is Side.SELL), ZERO)

    assert matched + engine.quantity == bought
    assert matched + engine.unmatched_quantity == sold
    assert engine.quantity >= 0


@given(histories, modes)
def test_a_closed_position_leaves_cost_zero(
    history: list[tuple[Side, Decimal, Decimal, Decimal, str]], mode: AccountMode
) -> None:
    engine = LotEngine(mode)
    line = Line()
    for trade in trades_of(history):
        engine.apply(trade, fee_in(trade))
    if engine.quantity:
        side = Side.SELL if engine.quantity > 0 else Side.BUY
        engine.apply(line.trade(side, f"{abs(engine.quantity):f}", "7", fee="0.01"))

    assert (engine.quantity, engine.cost_basis) == (ZERO, ZERO)
    assert engine.open_lots() == ()


@given(histories, modes, st.lists(st.integers(0, 25), max_size=4))
def test_a_dumped_and_loaded_engine_is_the_same_engine(
    history: list[tuple[Side, Decimal, Decimal, Decimal, str]], mode: AccountMode, cuts: list[int]
) -> None:
    through, restarted = LotEngine(mode), LotEngine(mode)
    for number, trade in enumerate(trades_of(history)):
        if number in cuts:
            restarted = LotEngine.load(json.loads(json.dumps(restarted.dump())))
        assert restarted.apply(trade, fee_in(trade)) == through.apply(trade, fee_in(trade))
    assert restarted.dump() == through.dump()
    assert (restarted.quantity, restarted.cost_basis) == (through.quantity, through.cost_basis)


@given(histories, st.sampled_from(sorted(ACCOUNTS)), st.lists(st.integers(0, 25), max_size=4))
def test_streaming_in_any_split_equals_the_batch(
    history: list[tuple[Side, Decimal, Decimal, Decimal, str]], account: str, cuts: list[int]
) -> None:
    facts = trades_of(history, account)
    streaming = Books(ACCOUNTS)
    edges = sorted({0, *(cut for cut in cuts if cut < len(facts)), len(facts)})
    for start, end in pairwise(edges):
        streaming.apply(facts[start:end])

    assert streaming.dump() == recompute(facts, ACCOUNTS).dump()


@given(histories, st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(
    history: list[tuple[Side, Decimal, Decimal, Decimal, str]], shuffle: random.Random
) -> None:
    arrival = list(range(len(history)))
    shuffle.shuffle(arrival)
    in_order, shuffled = Line(), Line()
    for line, order in ((in_order, range(len(history))), (shuffled, arrival)):
        for minute in order:
            side, quantity, price, fee, asset = history[minute]
            line.trade(side, f"{quantity:f}", f"{price:f}", fee=f"{fee:f}", fee_asset=asset, minute=minute)
    left = recompute(in_order.facts, ACCOUNTS).symbols["main", "BTC-USD"]
    right = recompute(shuffled.facts, ACCOUNTS).symbols["main", "BTC-USD"]

    assert [lot[1:] for lot in left.engine.open_lots()] == [lot[1:] for lot in right.engine.open_lots()]
    assert left.engine.realized_pnl == right.engine.realized_pnl
    assert (left.fee_units, left.flagged_fees) == (right.fee_units, right.flagged_fees)


@given(st.lists(st.tuples(moves, st.integers(0, 3), st.booleans()), max_size=20))
def test_late_trades_are_noticed_also_within_one_instant_and_after_a_restart(
    history: list[tuple[tuple[Side, Decimal, Decimal, Decimal, str], int, bool]],
) -> None:
    account = ACCOUNTS["main"]
    line = Line()
    seen: list[Trade] = []
    book = SymbolBook(account, "BTC-USD")
    for (side, quantity, price, fee, asset), minute, restarted in history:
        trade = line.trade(side, f"{quantity:f}", f"{price:f}", fee=f"{fee:f}", fee_asset=asset, minute=minute)
        if minute == 3:  # a source without venue sequences: the other parts of the order decide
            trade = replace(trade, venue_sequence=None)
        if restarted:
            book = SymbolBook.load(account, "BTC-USD", json.loads(json.dumps(book.dump())))
        is_late = any(trade.order_key < other.order_key for other in seen)
        seen.append(trade)
        result = book.apply(trade)
        assert (result is None) == is_late
        if result is None:
            in_order = sorted(seen, key=lambda trade: trade.order_key)
            book, _ = rebuilt(account, "BTC-USD", in_order, len(seen))

    in_order = sorted(seen, key=lambda trade: trade.order_key)
    assert book.dump() == rebuilt(account, "BTC-USD", in_order, len(seen))[0].dump()


money = decimals(1, 10**9)
flows = st.lists(st.tuples(st.sampled_from(CashFlowKind), money), max_size=5)


@given(histories, flows, money)
def test_flows_and_results_add_up_to_equity_when_nothing_is_incomplete(
    history: list[tuple[Side, Decimal, Decimal, Decimal, str]],
    cash: list[tuple[CashFlowKind, Decimal]],
    mark: Decimal,
) -> None:
    line = Line()
    for kind, amount in cash:
        line.flow(kind, f"{amount:f}", account="margin")
    for side, quantity, price, fee, asset in history:
        fee_asset = "USD" if asset == "BNB" else asset
        line.trade(side, f"{quantity:f}", f"{price:f}", fee=f"{fee:f}", fee_asset=fee_asset, account="margin")
    marks = Marks()
    marks.on_price(Price("BTC-USD", mark, at(0)))

    portfolio = value_account(recompute(line.facts, ACCOUNTS), marks, "margin")

    if not portfolio.incomplete:
        assert portfolio.total_pnl is not None
        assert portfolio.net_flows + portfolio.total_pnl == portfolio.equity
        assert portfolio.cash == sum((fact.cash_effect for fact in line.facts), ZERO)


simple = st.tuples(
    st.sampled_from(Side),
    st.integers(1, 400).map(lambda units: Decimal(units) / 100),
    st.integers(1, 9999).map(lambda units: Decimal(units) / 100),
)


@settings(max_examples=60)
@given(st.lists(simple, min_size=1, max_size=15))
def test_the_lots_are_those_of_an_independent_bookkeeper(history: list[tuple[Side, Decimal, Decimal]]) -> None:
    """beancount's own FIFO booking, on spot trades that are never oversold."""
    loader = pytest.importorskip("beancount.loader")
    core = pytest.importorskip("beancount.core.data")
    engine = LotEngine(AccountMode.SPOT)
    line = Line()
    held = realized = ZERO
    text = [
        '2020-01-01 open Assets:Coins COIN "FIFO"',
        "2020-01-01 open Assets:Cash",
        "2020-01-01 open Income:Gains",
    ]
    for number, (side, quantity, price) in enumerate(history):
        if side is Side.SELL:
            quantity = min(quantity, held)
            if not quantity:
                continue
        held += side.sign * quantity
        result = engine.apply(line.trade(side, str(quantity), str(price), minute=1440 * number))
        realized += result.realized_pnl or ZERO
        cost = f"{{{price} USD}}" if side is Side.BUY else f"{{}} @ {price} USD"
        text += [
            f'{at(1440 * number):%Y-%m-%d} * "fill"',
            f"  Assets:Coins  {side.sign * quantity} COIN {cost}",
            f"  Assets:Cash  {-side.sign * quantity * price} USD",
            "  Income:Gains" if side is Side.SELL else "",
        ]
    entries, errors, _ = loader.load_string("\n".join(text))
    assert errors == []
    lots: dict[tuple[object, Decimal], Decimal] = {}
    gains = ZERO
    for posting in (
        posting for entry in entries if isinstance(entry, core.Transaction) for posting in entry.postings
    ):
        if posting.account == "Assets:Coins":
            key = (posting.cost.date, posting.cost.number)
            lots[key] = lots.get(key, ZERO) + posting.units.number
            if posting.price is not None:
                # Their own gains account is rounded to the precision of the input; the booked lots are not.
                gains -= posting.units.number * (posting.price.number - posting.cost.number)

    theirs = sorted((day, quantity, quantity * price) for (day, price), quantity in lots.items() if quantity)
    assert sorted((lot.acquired_at.date(), lot.quantity, lot.cost_basis) for lot in engine.open_lots()) == theirs
    assert realized == engine.realized_pnl == gains
