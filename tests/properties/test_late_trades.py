"""Late trades and corrections, one after another: what is known of the time before is what all trades give."""

from contextlib import closing
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution.model import Account, Trade
from portfolio import batch, recompute, rewinding
from portfolio.batch import Computed, Reached
from portfolio.books import Books, FillOutcome
from portfolio.matches import Row
from tests.portfolio.bookkeeping import MARGIN, SPOT, Line
from tests.portfolio.oracles.cases import SYMBOL
from tests.portfolio.oracles.histories import MOVES, TAKEN_BACK, Moves, arrivals
from tests.portfolio.oracles.stored import Copy


def computed_anew(database: Copy, account: Account, books: Books, wanted: str) -> tuple[Computed, list[Row]]:
    """What all trades give."""
    rows: list[Row] = []
    since = books.stale[account.name, SYMBOL]
    with database.connection() as connection:
        computed = batch.compute(
            connection, account, SYMBOL, books.sequence, since=since, sink=rows.extend, wanted=frozenset({wanted})
        )
    return computed, rows


def rebuilt(database: Copy, books: Books, outcomes: list[FillOutcome]) -> tuple[Computed, list[Row]]:
    """What the product makes of the only stale symbol."""
    with database.connection() as connection:
        ((computed, found),) = recompute.rebuild(connection, books, dict(books.stale), outcomes).values()
    return computed, list(found)


def assert_the_same(one: tuple[Computed, list[Row]], other: tuple[Computed, list[Row]]) -> None:
    """Bit for bit."""
    (mine, rows), (anew, all_rows) = one, other
    assert (mine.book.dump(), rows) == (anew.book.dump(), all_rows)
    assert (mine.results, mine.buys, mine.sells) == (anew.results, anew.buys, anew.sells)


@settings(max_examples=150, deadline=None)
@given(
    moves=MOVES,
    taken_back=TAKEN_BACK,
    margin=st.booleans(),
    share=st.integers(0, 2),
    kept=st.sampled_from([0, 10]),
)
def test_a_late_trade_costs_less_and_gives_the_same(
    moves: Moves, taken_back: list[int], margin: bool, share: int, kept: int
) -> None:
    account = MARGIN if margin else SPOT
    with pytest.MonkeyPatch.context() as patch, closing(Copy()) as database:
        patch.setattr(rewinding, "SHARE", share)
        patch.setattr(rewinding, "KEPT", kept)
        books = Books({account.name: account})
        for trade in arrivals(moves, taken_back, account.name):
            database.append([trade])
            outcomes = books.apply([trade])
            if not books.stale:
                continue
            mine = rebuilt(database, books, outcomes)
            assert_the_same(mine, computed_anew(database, account, books, trade.id))
            books.replace((account.name, SYMBOL), mine[0].book)


@settings(max_examples=150, deadline=None)
@given(moves=MOVES, taken_back=TAKEN_BACK, margin=st.booleans(), together=st.integers(2, 9))
def test_late_trades_that_come_together_give_the_same(
    moves: Moves, taken_back: list[int], margin: bool, together: int
) -> None:
    account = MARGIN if margin else SPOT
    with pytest.MonkeyPatch.context() as patch, closing(Copy()) as database:
        patch.setattr(rewinding, "SHARE", 0)
        books = Books({account.name: account})
        trades = arrivals(moves, taken_back, account.name)
        for start in range(0, len(trades), together):
            page = trades[start : start + together]
            database.append(page)
            outcomes = books.apply(page)
            if books.stale:
                waiting = [outcome for outcome in outcomes if outcome.trade.id == page[-1].id]
                mine = rebuilt(database, books, waiting)
                assert_the_same(mine, computed_anew(database, account, books, page[-1].id))
                books.replace((account.name, SYMBOL), mine[0].book)


class Stale:
    """A book in memory and in a database, to which the last of some trades came late."""

    def __init__(self, line: Line, account: Account = SPOT) -> None:
        self.database = Copy()
        self.account = account
        self.books = Books({account.name: account})
        trades = [fact for fact in line.facts if isinstance(fact, Trade)]
        self.books.apply(trades[:-1])
        assert not self.books.stale
        self.late = trades[-1]
        self.outcomes = self.books.apply([self.late])
        self.database.append(trades)

    @property
    def since(self) -> datetime:
        """From when on its trades change."""
        return self.books.stale[self.account.name, SYMBOL]

    def rewound(self) -> Reached | None:
        """The state before that."""
        book = self.books.symbols[self.account.name, SYMBOL]
        with self.database.connection() as connection:
            return rewinding.rewound(connection, self.account, SYMBOL, book, self.since)

    def assert_computed_right(self) -> None:
        """The product makes of it what all trades give."""
        mine = rebuilt(self.database, self.books, self.outcomes)
        assert_the_same(mine, computed_anew(self.database, self.account, self.books, self.late.id))
        self.database.close()


def long_line(*, late: int) -> Line:
    """Twenty buys and sells that leave something, and a late buy."""
    line = Line()
    for number in range(10):
        line.buy("2", f"{100 + number}", minute=2 * number)
        line.sell("1.5", f"{110 + number}", minute=2 * number + 1)
    line.buy("1", "100", minute=late)
    return line


def test_the_first_late_trade_begins_with_what_was_held_before_it() -> None:
    stale = Stale(long_line(late=16))
    reached = stale.rewound()
    assert reached is not None
    assert (reached.since, reached.done, reached.buys) == (stale.since, 16, 8)
    assert reached.book.engine.quantity == 4
    stale.assert_computed_right()


def test_a_late_trade_before_most_others_begins_with_the_first_trade() -> None:
    stale = Stale(long_line(late=3))
    assert stale.rewound() is None
    stale.assert_computed_right()


def test_a_book_that_is_not_what_its_trades_make_it_is_not_taken_for_granted() -> None:
    stale = Stale(long_line(late=16))
    engine = stale.books.symbols[SPOT.name, SYMBOL].engine
    engine._queue.popleft()
    engine._quantity -= 10**18
    assert stale.rewound() is None
    stale.assert_computed_right()


def test_what_was_sold_without_a_lot_is_known_to_be_of_before_when_something_was_held_ever_since() -> None:
    line = Line()
    line.sell("1", "90", minute=0)
    for number in range(1, 10):
        line.buy("1", "100", minute=number)
    line.buy("1", "100", minute=8)
    stale = Stale(line)
    reached = stale.rewound()
    assert reached is not None
    assert reached.book.engine.unmatched_quantity == 1
    stale.assert_computed_right()


def test_where_a_sell_without_a_lot_may_be_of_either_side_all_trades_are_matched() -> None:
    line = Line()
    for number in range(8):
        line.buy("1", "100", minute=number)
    line.sell("9", "90", minute=9)
    line.buy("1", "100", minute=8)
    stale = Stale(line)
    assert stale.rewound() is None
    stale.assert_computed_right()


def test_a_short_position_that_was_closed_and_opened_by_mistake_is_as_it_was() -> None:
    line = Line()
    for number in range(0, 10, 2):
        line.sell("1", "100", minute=number, account="margin")
        line.buy("1", "90", minute=number + 1, account="margin")
    line.take_back(line.sell("1", "100", minute=10, account="margin"))
    stale = Stale(line, MARGIN)
    assert stale.rewound() is not None
    stale.assert_computed_right()
