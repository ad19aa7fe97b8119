"""Random trades and how they are matched: what the laws are tried on."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from hypothesis import strategies as st

from execution.model import Account, Trade
from portfolio.lots import Method
from portfolio.matches import Allocation
from tests.portfolio.bookkeeping import MARGIN, SPOT
from tests.portfolio.oracles import ours
from tests.portfolio.oracles.histories import MOVES, TAKEN_BACK, Moves, arrivals, effective

SYMBOL = "BTC-USD"
ZERO = Fraction(0)


@dataclass(frozen=True)
class Case:
    """Trades, how they are matched, and a few numbers for whatever a law has to choose."""

    moves: Moves
    taken_back: list[int]
    margin: bool
    method: Method
    numbers: list[int]

    @property
    def account(self) -> Account:
        """The account that trades."""
        return MARGIN if self.margin else SPOT

    @property
    def arrived(self) -> list[Trade]:
        """The trades in their order of arrival, then the entries that take some back."""
        return arrivals(self.moves, self.taken_back, self.account.name)

    @property
    def trades(self) -> list[Trade]:
        """Those that count, in their total order."""
        return effective(self.arrived)

    @property
    def booked(self) -> ours.Ours:
        """What the product's engine makes of them."""
        return ours.book(self.trades, self.method, margin=self.margin)


RULES = [method for method in Method if method is not Method.SPECIFIC]


def cases(methods: Sequence[Method] = tuple(RULES)) -> st.SearchStrategy[Case]:
    """Random cases of some methods."""
    numbers = st.lists(st.integers(0, 30), min_size=3, max_size=3)
    return st.builds(Case, MOVES, TAKEN_BACK, st.booleans(), st.sampled_from(methods), numbers)


def opening(row: Allocation) -> str | None:
    """The trade whose lot a row closes."""
    return row.sell_trade if row.closed_by_buy else row.buy_trade


def closes(row: Allocation) -> str:
    """The trade that a row belongs to."""
    return row.buy_trade if row.closed_by_buy and row.buy_trade is not None else row.sell_trade
