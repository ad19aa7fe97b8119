"""The ledger: appending facts, the chain of hashes, reading without holes, the order of trades."""

from datetime import timedelta
from decimal import Decimal
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Connection

from config.instruments import default_instrument
from execution import ledger, tables
from execution.errors import ConflictingFact, LedgerError
from execution.ledger import LedgerTail
from execution.model import Account, CashFlowKind, Fact, Side, Trade
from tests.execution.house import BTC, START, Books, at, fill, flow


def test_facts_get_gap_free_sequences_across_trades_and_flows_and_transactions(books: Books) -> None:
    books.record(fill(1), flow("a"), fill(2))
    books.record(flow("b"), fill(3))
    assert [fact.sequence for fact in books.facts()] == [1, 2, 3, 4, 5, 6]
    assert books.ask(ledger.head).sequence == 6


def test_every_stored_hash_is_the_hash_of_the_content_and_of_the_predecessor(books: Books) -> None:
    context = {"rsi": 0.1, "signals": [{"name": "ü", "score": -1e-9}], "none": None}
    books.record(fill(1, fee="0.123"))
    books.record(fill(2, Side.SELL, "0.50", "1e2", signal_context=context), flow("a"), fill(3, venue_sequence=7))
    previous = tables.GENESIS_HASH
    for fact in books.facts():
        assert fact.hash == ledger.content_hash(fact, previous)
        previous = fact.hash
    assert books.ask(ledger.head).hash == previous


def test_what_append_returns_is_what_is_read_back(books: Books) -> None:
    context = {"score": 0.30000000000000004, "why": ["a", None, True]}
    appended = books.record(
        fill(1, quantity="0.000000000000000001", price="999999999999999999", signal_context=context, corrects="x"),
        flow("note"),
    )
    assert books.facts()[1:] == appended


def test_the_same_venue_trade_twice_is_one_row(books: Books) -> None:
    first = books.record(fill(1, fee="0.5"))
    again = books.record(fill(1, fee="0.50"))
    assert first[0] is not None
    assert again == [None]
    assert len(books.trades()) == 1
    assert books.ask(ledger.head).sequence == first[0].sequence


@pytest.mark.parametrize(
    "changed",
    [
        {"quantity": "2"},
        {"price": "101"},
        {"fee": "1"},
        {"fee_asset": "BTC"},
        {"side": Side.SELL},
        {"minute": 1},
    ],
)
def test_the_same_venue_trade_with_other_content_is_a_conflict(books: Books, changed: dict[str, Any]) -> None:
    books.record(fill(1))
    with pytest.raises(ConflictingFact, match="arrived again with other content"):
        books.record(fill(1, **changed))
    assert len(books.trades()) == 1


def test_the_same_venue_trade_id_on_another_symbol_or_account_is_another_trade(books: Books) -> None:
    books.record(fill(1), fill(1, symbol="ETH-USD"), fill(1, account="margin"))
    assert len(books.trades()) == 3


def test_the_same_cash_flow_twice_is_one_row_and_other_content_is_a_conflict(books: Books) -> None:
    books.record(flow("wire-1", "50"))
    assert books.record(flow("wire-1", "50.0")) == [None]
    for other in (flow("wire-1", "51"), flow("wire-1", "50", CashFlowKind.WITHDRAWAL)):
        with pytest.raises(ConflictingFact, match="wire-1"):
            books.record(other)
    assert books.count("cash_flows") == 2


def test_a_failed_transaction_leaves_no_hole_in_the_sequence(books: Books) -> None:
    def fail(connection: Connection) -> None:
        books.tail.append_flow(connection, flow("lost"), START)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        books.do(fail)
    books.record(flow("kept"))
    assert [fact.sequence for fact in books.facts()] == [1, 2]


def test_two_processes_append_in_turn_without_a_hole_or_a_broken_chain(books: Books) -> None:
    engine = books.engine()
    for number in range(6):
        books.record(fill(number))
        with engine.connect() as connection, connection.begin():
            other = LedgerTail()
            other.append_flow(connection, flow(f"other {number}"), START)
            other.before_commit(connection)
    facts = books.facts()
    assert [fact.sequence for fact in facts] == list(range(1, 14))
    for before, after in pairwise(facts):
        assert after.hash == ledger.content_hash(after, before.hash)


@pytest.mark.parametrize("page", [1, 2, 3, 5, 100])
def test_pages_of_facts_have_no_hole_at_their_borders(books: Books, page: int) -> None:
    pattern = "TTTFFTFTFFFTTF"
    books.record(*(fill(i) if kind == "T" else flow(str(i)) for i, kind in enumerate(pattern)))
    found: list[Fact] = []
    while len(found) <= len(pattern):
        last = len(found)
        facts = books.ask(partial(ledger.facts_since, sequence=last, limit=page))
        assert 0 < len(facts) <= page
        found += facts
    assert books.ask(lambda c: ledger.facts_since(c, len(found), page)) == []
    assert [fact.sequence for fact in found] == list(range(1, len(pattern) + 2))
    assert "".join("T" if isinstance(fact, Trade) else "F" for fact in found[1:]) == pattern


def test_trades_of_one_instant_stand_in_the_total_order(books: Books) -> None:
    books.do(lambda c: _orders(c, "order-a", "order-b"))
    wanted = [
        fill(1, minute=-1, id="z-earlier"),
        fill(2, Side.SELL, id="z-venue-1", venue_sequence=1),
        fill(3, Side.BUY, id="y-venue-2-buy", venue_sequence=2),
        fill(4, Side.SELL, id="x-venue-2-sell", venue_sequence=2),
        fill(5, Side.BUY, id="z-no-order"),
        fill(6, Side.BUY, id="b-order-a", order_id="order-a"),
        fill(7, Side.BUY, id="a-order-b", order_id="order-b"),
        fill(8, Side.BUY, id="c-order-b", order_id="order-b"),
        fill(9, Side.SELL, id="a-sell"),
        fill(10, Side.BUY, minute=1, id="a-later", venue_sequence=0),
    ]
    shuffled = [wanted[i] for i in (8, 3, 9, 0, 6, 2, 7, 1, 5, 4)]
    books.record(*shuffled)
    books.record(fill(11, symbol="ETH-USD"), fill(12, account="margin"))
    found = books.ask(lambda c: [trade.id for trade in ledger.trades_in_order(c, "main", BTC)])
    assert found == [trade.id for trade in wanted]


def _orders(connection: Connection, *ids: str) -> None:
    for id_ in ids:
        connection.exec_driver_sql(
            "INSERT INTO orders (id, request_id, client_order_id, account, symbol, side, type, time_in_force, status,"
            f" triggered_by, created_at, updated_at, close) VALUES ('{id_}', '{id_}', '{id_}', 'main', 'BTC-USD',"
            " 'BUY', 'market', 'IOC', 'pending', 'manual', '', '', 0)"
        )


def test_venue_sequence_zero_is_a_sequence_and_comes_before_none() -> None:
    def key(**fields: Any) -> tuple[object, ...]:
        values: dict[str, Any] = dict.fromkeys(Trade.__dataclass_fields__)
        values |= {"id": "t", "executed_at": START, "side": Side.BUY, **fields}
        return Trade(**values).order_key

    assert key(venue_sequence=0) < key(venue_sequence=1) < key(venue_sequence=None)
    assert key(order_id=None) < key(order_id="") < key(order_id="A") < key(order_id="a") < key(order_id="é")


def test_trades_can_be_filtered_and_paged_both_ways(books: Books) -> None:
    books.record(*(fill(i, triggered_by="bot:a" if i % 2 else "manual") for i in range(6)), fill(9, symbol="AAPL"))

    def numbers(found: list[Trade]) -> list[str | None]:
        return [trade.venue_trade_id for trade in found]

    assert numbers(books.ask(lambda c: ledger.trades(c, triggered_by="bot:a"))) == ["1", "3", "5"]
    assert numbers(books.ask(lambda c: ledger.trades(c, symbol="AAPL"))) == ["9"]
    assert numbers(books.ask(lambda c: ledger.trades(c, after_sequence=3, limit=2))) == ["2", "3"]
    newest = books.ask(lambda c: ledger.trades(c, newest_first=True, limit=2))
    assert numbers(newest) == ["9", "5"]
    older = books.ask(lambda c: ledger.trades(c, newest_first=True, limit=2, before_sequence=newest[-1].sequence))
    assert numbers(older) == ["4", "3"]
    assert books.ask(lambda c: ledger.trades(c, account="margin")) == []


def test_cash_flows_are_read_by_account(books: Books) -> None:
    books.record(flow("m", account="margin"))
    assert [f.idempotency_key for f in books.ask(ledger.cash_flows)] == ["opening", "m"]
    assert [f.idempotency_key for f in books.ask(lambda c: ledger.cash_flows(c, "margin"))] == ["m"]


def test_a_name_can_be_taken_only_once_in_the_catalogue_and_among_accounts(books: Books) -> None:
    with pytest.raises(LedgerError, match="'main' exists already"):
        books.do(lambda c: ledger.add_account(c, Account("main"), START))
    with pytest.raises(LedgerError, match="'AAPL' exists already"):
        books.do(lambda c: ledger.add_instrument(c, default_instrument("AAPL")))


def test_instruments_come_back_as_they_were_stored(books: Books) -> None:
    lot = books.ask(ledger.instruments)["LOT"]
    assert (lot.quantity_increment, lot.price_increment) == (Decimal("0.5"), Decimal("0.05"))
    assert (lot.maximum_notional, lot.enabled) == (Decimal(2000), True)
    assert books.ask(ledger.instruments)["OLD-USD"].enabled is False


def test_a_database_without_a_head_row_says_so(books: Books) -> None:
    books.do(lambda c: c.exec_driver_sql("DROP TRIGGER ledger_head_refuse_delete"))
    books.do(lambda c: c.exec_driver_sql("DELETE FROM ledger_head"))
    with pytest.raises(LedgerError, match="no head row"):
        books.ask(ledger.head)


def test_times_keep_their_microseconds(books: Books) -> None:
    books.record(fill(1, minute=1 / 60_000_000))
    assert books.trades()[0].executed_at == at(0) + timedelta(microseconds=1)
