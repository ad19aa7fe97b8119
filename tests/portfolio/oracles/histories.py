"""Random trades of one symbol, as nasty as the ledger takes them, in their order of arrival."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from hypothesis import strategies as st

from execution.model import Account, Side, Source, Trade, trade_cash_effect
from portfolio.fills import FeeIn
from tests.portfolio.bookkeeping import Line

FEE_IN = {"USD": FeeIn.QUOTE, "BTC": FeeIn.BASE}


def fee_in(trade: Trade) -> FeeIn:
    """The kind of a BTC-USD trade's fee."""
    return FEE_IN.get(trade.fee_asset, FeeIn.OTHER)


def decimals(lowest: int, highest: int) -> st.SearchStrategy[Decimal]:
    """Decimals of 0 to 18 places: round ones, ones that split badly, the largest and the smallest."""
    return st.builds(
        lambda units, places: Decimal(units).scaleb(-places),
        st.integers(lowest, highest),
        st.sampled_from([0, 2, 8, 18]),
    )


# Small whole numbers beside the huge ones: lots that close exactly, equal prices, equal instants.
QUANTITIES = st.one_of(
    st.integers(1, 4).map(Decimal), decimals(1, 10**10), st.integers(1, 10**33).map(lambda u: Decimal(u).scaleb(-18))
)
PRICES = st.one_of(st.integers(0, 5).map(Decimal), decimals(0, 10**10))
FEES = st.one_of(st.just(Decimal(0)), decimals(0, 10**4), decimals(-(10**3), 10**3))

Moves = list[tuple[Side, Decimal, Decimal, Decimal, str, int, str]]

MOVES: st.SearchStrategy[Moves] = st.lists(
    st.tuples(
        st.sampled_from(Side),
        QUANTITIES,
        PRICES,
        FEES,
        st.sampled_from(["USD", "USD", "BTC", "BNB", "BNB at a mark"]),
        st.integers(0, 6),  # minutes: back-dated trades and trades of one instant
        st.sampled_from(["sequence", "sequence", "order a", "order b", "nothing"]),
    ),
    min_size=1,
    max_size=20,
)
TAKEN_BACK = st.lists(st.integers(0, 30), max_size=3)


def arrivals(moves: Moves, taken_back: Sequence[int] = (), account: str = "main") -> list[Trade]:
    """The trades of some moves, and at the end the entries that take some of them back."""
    line = Line()
    for side, quantity, price, fee, asset, minute, known_by in moves:
        add(line, side, quantity, price, fee, asset, minute, known_by, account)
    trades = [fact for fact in line.facts if isinstance(fact, Trade)]
    for index in sorted({number % len(trades) for number in taken_back}):
        line.take_back(trades[index])
    return [fact for fact in line.facts if isinstance(fact, Trade)]


def add(
    line: Line,
    side: Side,
    quantity: Decimal,
    price: Decimal,
    fee: Decimal = Decimal(0),
    asset: str = "USD",
    minute: float | None = None,
    known_by: str = "sequence",
    account: str = "main",
) -> Trade:
    """Append one trade; "BNB at a mark" is a fee in a third asset whose value is part of the cash effect."""
    name, _, mark = asset.partition(" ")
    trade = line.trade(
        side, f"{quantity:f}", f"{price:f}", fee=f"{fee:f}", fee_asset=name, minute=minute, account=account
    )
    if mark and fee:
        cash = trade_cash_effect(side, quantity, price, fee * Decimal("612.345678"))
        trade = replace(trade, cash_effect=cash)
    if known_by != "sequence":
        order = known_by if "order" in known_by else None
        trade = replace(trade, venue_sequence=None, order_id=order, source=Source.IMPORT)
    line.facts[-1] = trade
    return trade


def effective(trades: Sequence[Trade]) -> list[Trade]:
    """The trades that count, in their total order: none that was taken back, no entry that does it."""
    taken_back = {trade.corrects for trade in trades}
    kept = [trade for trade in trades if trade.corrects is None and trade.id not in taken_back]
    return sorted(kept, key=lambda trade: trade.order_key)


def in_account(trades: Sequence[Trade], account: Account) -> list[Trade]:
    """The same trades in another account."""
    return [replace(trade, account=account.name) for trade in trades]
