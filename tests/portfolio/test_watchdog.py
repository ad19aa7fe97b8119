"""The cheap check after each fill: silent on sound books, whatever happens; one planted fault for each promise."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from execution import ledger
from execution.model import CashFlowKind, Fact, FactsRecorded, Side, Trade
from portfolio.books import Books, CashBook
from portfolio.fifo import LotEngine
from portfolio.fills import Fill
from portfolio.matches import Allocation, Matched, Row
from portfolio.watchdog import IntegrityFailed
from tests.portfolio.bookkeeping import Database, Line, deliver, started
from tests.portfolio.oracles.faults import closing_with, losing_fees


async def watched(database: Database, facts: Sequence[Fact], *, step: int = 1) -> list[IntegrityFailed]:
    """What is found while facts arrive, `step` at a time."""
    service = await started(database)
    found = []
    for start in range(0, len(facts), step):
        part = facts[start : start + step]
        await deliver(service, database, part)
        found += service.take_failures()
    return found


amounts = st.decimals(min_value="0.000001", max_value="1000", places=6)


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """Buys and sells with every kind of fee, late ones, flips, oversells, flows and corrections."""
    line = Line()
    line.deposit("1000000")
    taken: set[str] = set()
    for number in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(("trade", "trade", "trade", "flow", "take back")))
        trades = [
            fact for fact in line.facts if isinstance(fact, Trade) and fact.corrects is None and fact.id not in taken
        ]
        if kind == "flow":
            line.flow(draw(st.sampled_from(CashFlowKind)), str(draw(amounts)))
        elif kind == "take back" and trades:
            trade = draw(st.sampled_from(trades))
            taken.add(trade.id)
            line.take_back(trade)
        else:
            fee_asset = draw(st.sampled_from(("USD", "BTC", "BNB")))
            line.trade(
                draw(st.sampled_from(Side)),
                str(draw(amounts)),
                str(draw(amounts)),
                fee=str(draw(st.sampled_from(("0", "0.07", "0.000003", "2")))),
                fee_asset=fee_asset,
                account=draw(st.sampled_from(("main", "margin"))),
                symbol=draw(st.sampled_from(("BTC-USD", "ETH-USD"))),
                minute=draw(st.one_of(st.none(), st.integers(0, number + 2))),
            )
    return line


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(line=lines(), step=st.integers(1, 4))
async def test_sound_books_are_never_doubted(line: Line, step: int) -> None:
    database = Database()
    try:
        assert await watched(database, line.facts, step=step) == []
    finally:
        database.close()


async def test_books_that_are_loaded_again_are_not_doubted(database: Database) -> None:
    line = busy_line()
    assert await watched(database, line.facts) == []

    more = [line.buy("1", "100", fee="0.3"), line.sell("1.5", "120", fee="0.2")]

    assert await watched(database, more) == []


def busy_line() -> Line:
    line = Line()
    line.deposit("100000")
    for number in range(4):
        line.buy("0.3", f"{100 + number}", fee="0.07")
        line.sell("0.2", f"{120 - number}", fee="0.05")
    return line


def sloppy_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lots that lose a part of their fee."""
    monkeypatch.setattr(LotEngine, "_close", closing_with(losing_fees))


def lost_quantity(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that counts what is open wrongly."""
    real = LotEngine.match

    def lossy(engine: LotEngine, fill: Fill) -> Matched:
        matched = real(engine, fill)
        engine._quantity -= 1
        return matched

    monkeypatch.setattr(LotEngine, "match", lossy)


def generous_pnl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allocations whose P&L is not what they brought less what they cost."""

    def generous(row: Row) -> Allocation:
        piece = Allocation(*row)
        return piece._replace(pnl_units=(piece.pnl_units or 0) + 1)

    monkeypatch.setattr(LotEngine, "_close", closing_with(generous))


def too_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allocations of less than was sold."""

    def stingy(row: Row) -> Allocation:
        piece = Allocation(*row)
        return piece._replace(quantity_units=piece.quantity_units - 10**12)

    monkeypatch.setattr(LotEngine, "_close", closing_with(stingy))


def time_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allocations that were closed before they were opened."""

    def early(row: Row) -> Allocation:
        piece = Allocation(*row)
        assert piece.opened_at is not None
        return piece._replace(opened_at=piece.closed_at, closed_at=piece.opened_at)

    monkeypatch.setattr(LotEngine, "_close", closing_with(early))


def leaking_cash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Books that lose a deposit's cent."""
    real = CashBook.apply_flow

    def leak(book: CashBook, flow: object) -> None:
        real(book, flow)  # type: ignore[arg-type]  # handed through as it is
        book.cash -= Decimal("0.01")

    monkeypatch.setattr(CashBook, "apply_flow", leak)


def negative_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lots of which more is gone than there was."""
    real = Books.apply

    def spoiled(books: Books, facts: Sequence[Fact]) -> object:
        outcomes = real(books, facts)
        for book in books.symbols.values():
            if book.engine.edges is not None:
                book.engine._offset = book.engine.edges[0].quantity + 1
        return outcomes

    monkeypatch.setattr(Books, "apply", spoiled)


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (sloppy_take, "share of the fee"),
        (lost_quantity, "the trades leave"),
        (generous_pnl, "does not add up"),
        (too_small_pieces, "its allocations miss"),
        (time_travel, "does not add up"),
        (leaking_cash, "the facts add up to"),
        (negative_lot, "less than nothing"),
    ],
)
async def test_a_planted_fault_is_told_with_its_trade(
    database: Database, monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], said: str
) -> None:
    plant(monkeypatch)

    found = await watched(database, busy_line().facts)

    assert {failure.account for failure in found} == {"main"}
    assert any(said in failure.problem for failure in found), found
    assert all(failure.sequence > 0 for failure in found)


async def test_a_flipped_hash_is_told_once(database: Database) -> None:
    line = busy_line()
    broken = line.facts[3]
    line.facts[3] = replace(broken, hash=broken.hash[::-1])
    facts = [*line.facts[:4]]
    for fact in line.facts[4:]:  # those after it follow from what is stored
        facts.append(replace(fact, hash=ledger.content_hash(fact, facts[-1].hash)))

    (failure,) = await watched(database, facts)

    assert failure.problem == (
        "main/BTC-USD: trade t4 (sequence 4): its hash does not follow from its content and its predecessor"
    )


async def test_a_cash_effect_that_is_not_the_trades_own_is_told(database: Database) -> None:
    line = busy_line()
    trade = line.buy("1", "100")
    wrong = replace(trade, cash_effect=Decimal(-1), hash="")
    line.facts[-1] = replace(wrong, hash=ledger.content_hash(wrong, line.facts[-2].hash))

    (failure,) = await watched(database, line.facts)

    assert "cash effect -1 does not follow" in failure.problem


async def test_a_recomputation_that_could_not_be_read_leaves_no_doubt_behind(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The facts are booked then, and what they mean comes later."""
    line = busy_line()
    service = await started(database)
    database.append(line.facts)
    await service.on_facts(FactsRecorded(tuple(line.facts)))
    late = line.buy("1", "90", minute=1.5)
    database.append([late])
    real = service._recompute_stale

    async def fail(_outcomes: object) -> object:
        raise OSError("the disk is gone")

    monkeypatch.setattr(service, "_recompute_stale", fail)
    with pytest.raises(OSError, match="gone"):
        await service.on_facts(FactsRecorded((late,)))
    monkeypatch.setattr(service, "_recompute_stale", real)

    again = line.sell("0.1", "200")
    database.append([again])
    await service.on_facts(FactsRecorded((again,)))

    assert service.take_failures() == []
