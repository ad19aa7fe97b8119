"""Late trades and corrections, one after another: what is taken from states on the way is what all trades give."""

from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio import batch, milestones, recompute
from portfolio.books import Books
from portfolio.fifo import Row
from portfolio.milestones import Milestone, Milestones
from tests.portfolio.bookkeeping import MARGIN, SPOT, Line
from tests.portfolio.oracles.histories import MOVES, TAKEN_BACK, Moves, arrivals
from tests.portfolio.oracles.laws import SYMBOL, Copy


@settings(max_examples=150, deadline=None)
@given(
    moves=MOVES,
    taken_back=TAKEN_BACK,
    margin=st.booleans(),
    every=st.integers(1, 3),
    most_states=st.integers(1, 4),
    most_lots=st.integers(0, 9),
)
def test_a_late_trade_costs_less_and_gives_the_same(
    moves: Moves, taken_back: list[int], margin: bool, every: int, most_states: int, most_lots: int
) -> None:
    account = MARGIN if margin else SPOT
    with pytest.MonkeyPatch.context() as patch, closing(Copy()) as database:
        patch.setattr(batch, "EVERY", every)
        patch.setattr(milestones, "MOST_STATES", most_states)
        patch.setattr(milestones, "MOST_LOTS", most_lots)
        books = Books({account.name: account})
        for trade in arrivals(moves, taken_back, account.name):
            database.append([trade])
            outcomes = books.apply([trade])
            stale = dict(books.stale)
            if not stale:
                continue
            with database.connection() as connection:
                ((computed, found),) = recompute.rebuild(connection, books, stale, outcomes).values()
                rows: list[Row] = []
                anew = batch.compute(
                    connection,
                    account,
                    SYMBOL,
                    books.sequence,
                    since=stale[account.name, SYMBOL],
                    sink=rows.extend,
                    wanted=frozenset({trade.id}),
                )
            assert (computed.book.dump(), found) == (anew.book.dump(), rows)
            assert (computed.results, computed.buys, computed.sells) == (anew.results, anew.buys, anew.sells)
            books.replace((account.name, SYMBOL), computed.book)


def reached(done: int, lots: int = 1) -> Milestone:
    """A state after so many trades, one a minute."""
    return Milestone(f"2026-01-01T00:{done:02d}:00.000000+00:00", {}, lots, done, 0)


def test_states_are_few_and_closer_to_each_other_towards_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milestones, "EVERY", 1)
    monkeypatch.setattr(milestones, "MOST_STATES", 5)
    kept = Milestones()
    for done in range(1, 41):
        kept.add(reached(done))
    ways = [40 - known.done for known in kept]
    assert len(ways) == 5
    assert ways[-1] == 0
    assert all(
        earlier - later >= later - latest for earlier, later, latest in zip(ways, ways[1:], ways[2:], strict=False)
    )
    assert ways[0] >= 16, "one of them is far back"


def test_states_with_many_open_lots_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milestones, "MOST_LOTS", 10)
    kept = Milestones()
    kept.add(reached(1, lots=11))
    assert kept.last is None
    for done in (2, 3, 4):
        kept.add(reached(done, lots=4))
    assert [known.done for known in kept] == [2, 4]


def test_a_symbol_that_was_computed_once_keeps_states_and_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "EVERY", 2)
    account = SPOT
    read: list[str] = []
    in_order = batch.in_order

    def watched(*arguments: object) -> object:
        read.append(str(arguments[-1]))
        return in_order(*arguments)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(batch, "in_order", watched)
    with closing(Copy()) as database, database.connection() as connection:
        line = Line()
        for number in range(8):
            line.buy("1", "100", minute=number)
        database.append(line.facts)
        first = batch.compute(connection, account, SYMBOL, 8, milestones=Milestones())
        assert first.book.milestones is not None
        last = first.book.milestones.last
        assert last is not None
        assert last.done == 6
        batch.compute(connection, account, SYMBOL, 8, milestones=first.book.milestones)
    assert read == ["", last.executed_at]
