"""Sums over the ledger that are kept: they are what all facts give, or they are not used."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from execution import totals
from execution.errors import StorageUnavailable
from execution.ledger import NewCashFlow, NewTrade
from execution.model import CashFlowKind, Side
from execution.totals import read_totals, store_totals, stored_totals, sum_up
from tests.execution.house import BTC, Books, House, fill, flow

ETH = "ETH-USD"


def keep(books: Books) -> None:
    """Store the sums as they are now."""
    books.do(lambda c: store_totals(c, read_totals(c)))


FACTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("trade"),
            st.sampled_from(Side),
            st.sampled_from(["1", "2", "0.5"]),
            st.sampled_from(["0", "0.00000001", "0.1"]),
            st.sampled_from(["USD", "BTC", "ETH", "BNB"]),
            st.sampled_from([BTC, ETH]),
            st.sampled_from(["main", "margin"]),
            st.sampled_from(["manual", "bot:a", "stop:a"]),
            st.integers(0, 9),
        ),
        st.tuples(st.just("flow"), st.sampled_from(CashFlowKind), st.just("7")),
    ),
    max_size=12,
)


def made(number: int, drawn: tuple[object, ...]) -> NewTrade | NewCashFlow:
    """A drawn fact, before it is in the ledger."""
    if drawn[0] == "flow":
        return flow(str(number), str(drawn[2]), CashFlowKind(str(drawn[1])))
    _, side, quantity, fee, fee_asset, symbol, account, tag, minute = map(str, drawn)
    return fill(
        number,
        Side(side),
        quantity,
        minute=float(minute),
        fee=fee,
        fee_asset=fee_asset,
        symbol=symbol,
        account=account,
        triggered_by=tag,
    )


@pytest.fixture
def make_books(tmp_path: Path) -> Callable[[], Books]:
    """Fresh books, as often as asked."""
    numbers = itertools.count()

    def make() -> Books:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return Books(folder)

    return make


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(facts=FACTS, kept=st.lists(st.integers(0, 11), max_size=3))
def test_kept_sums_and_what_came_after_them_are_the_sums_of_all_facts(
    make_books: Callable[[], Books], facts: list[tuple[object, ...]], kept: list[int]
) -> None:
    books = make_books()
    for number, drawn in enumerate(facts):
        books.record(made(number, drawn))
        if number in kept:
            keep(books)
    assert books.ask(read_totals) == books.ask(sum_up)
    keep(books)
    assert books.ask(stored_totals) == books.ask(sum_up)
    books.close()


def test_only_what_came_after_the_kept_sums_is_read(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    books.record(fill(1), fill(2))
    keep(books)
    books.record(fill(3))
    began_at: list[int] = []
    add = totals._add_facts

    def watched(connection: object, found: totals.Totals) -> None:
        began_at.append(found.sequence)
        add(connection, found)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(totals, "_add_facts", watched)
    assert books.ask(read_totals).quantities["main", BTC] == 3
    assert began_at == [3]  # the opening deposit and two fills


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ledger_totals SET body = replace(body, '\"9900\"', '\"9901\"')",
        "UPDATE ledger_totals SET sequence = 1",
        "UPDATE ledger_totals SET hash = 'abc'",
        "UPDATE ledger_totals SET sha256 = ''",
        "UPDATE instruments SET quantity_increment = '0.5' WHERE symbol = 'BTC-USD'",
        "DELETE FROM ledger_totals",
    ],
)
def test_sums_that_are_not_what_was_kept_are_not_used(books: Books, damage: str) -> None:
    books.record(fill(1))
    keep(books)
    assert books.ask(stored_totals) is not None
    assert books.do(lambda c: c.exec_driver_sql(damage).rowcount) == 1
    assert books.ask(stored_totals) is None
    assert books.ask(read_totals) == books.ask(sum_up)


def test_sums_of_a_ledger_that_was_replaced_by_an_older_one_are_not_used(books: Books) -> None:
    books.record(fill(1))
    books.do(lambda c: store_totals(c, replace(read_totals(c), sequence=99)))
    assert books.ask(stored_totals) is None


async def test_the_service_keeps_the_sums_when_enough_facts_came(house: House, books: Books) -> None:
    await house.price("100")
    await house.buy("1")
    await house.service.keep_totals(5)
    assert books.count("ledger_totals") == 0
    for _ in range(4):
        await house.buy("0.1")
    await house.service.keep_totals(5)
    kept = books.ask(stored_totals)
    assert kept is not None
    assert kept.quantities["main", BTC] == Decimal("1.4")
    await house.buy("0.1")
    await house.service.keep_totals(5)
    assert books.ask(stored_totals) == kept, "too early"


async def test_after_a_restart_cash_and_quantity_are_those_of_before(
    house: House, books: Books, build: Callable[..., House]
) -> None:
    await house.price("100")
    await house.buy("1")
    await house.service.keep_totals(1)
    await house.buy("0.5")
    before = (house.state.cash("main"), house.state.held("main", BTC), house.state.deposited("main"))
    house.close()
    second = build()
    await second.open()
    assert (second.state.cash("main"), second.state.held("main", BTC), second.state.deposited("main")) == before


async def test_the_sums_are_kept_later_when_the_storage_fails(house: House, books: Books) -> None:
    await house.price("100")
    await house.buy("1")
    other = books.engine().connect()
    other.begin()
    with pytest.raises(StorageUnavailable):
        await house.service.keep_totals(1)
    other.rollback()
    other.close()
    await house.service.keep_totals(1)
    assert books.ask(stored_totals) is not None
