"""What execution knows while it runs: facts of other processes, reservations, candles, followers."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial

import pytest
from sqlalchemy import Connection

from config.instruments import default_instrument
from execution import candles, followers, ledger, raw
from execution.errors import LedgerDamaged, StorageUnavailable
from execution.ledger import LedgerTail
from execution.model import Account, AccountKind, OrderStatus, Side
from tests.execution.house import BTC, HALF, START, Books, House, answers, bar, fill, flow, reason, snapshot
from tests.execution.venues import ScriptedVenue, filled, lost

BUY, SELL = Side.BUY, Side.SELL


async def test_facts_appended_by_another_process_count_at_the_next_request(house: House, books: Books) -> None:
    await house.price("100")
    books.record(fill(1, quantity="5", fee="1"), flow("other", "1000"))
    assert house.state.held("main", BTC) == 0, "nobody has asked yet"
    assert reason(await house.sell("6")).expected == "at most 5 BTC-USD"
    assert (house.state.cash("main"), house.state.sequence) == (10_000 - 501 + 1000, 3)
    assert (await house.sell("5")).status == "filled"


async def test_a_symbol_that_another_process_registered_with_its_trade_is_known(house: House, books: Books) -> None:
    books.do(lambda c: ledger.add_instrument(c, default_instrument("NEW-USD")))
    books.record(fill(1, symbol="NEW-USD", quantity="3"))
    await house.deposit("1")
    assert house.state.held("main", "NEW-USD") == 3


async def test_a_symbol_whose_registration_was_rolled_back_is_not_known(house: House) -> None:
    """Found by the simulation: trades of such a symbol could not be recorded until the next start."""
    known = dict(house.state.instruments)

    def fails_at_its_end(connection: Connection) -> None:
        ledger.add_instrument(connection, default_instrument("NEW-USD"))
        house.state.reload_catalogue(connection)
        assert "NEW-USD" in house.state.instruments
        raise StorageUnavailable("disk full")

    with pytest.raises(StorageUnavailable):
        await house.writer.submit(fails_at_its_end)
    assert house.state.instruments == known


async def test_more_facts_than_one_page_are_caught_up_in_one_go(house: House, books: Books) -> None:
    books.record(*(flow(f"{n}", "1") for n in range(5001)))
    await house.deposit("1")
    assert house.state.cash("main") == 15_002


async def test_facts_that_are_missing_are_an_error_and_not_waited_for(house: House, books: Books) -> None:
    """Found by the simulation with a planted bug: the writer looked for them for ever."""
    books.do(lambda c: raw.execute(c, "UPDATE ledger_head SET sequence = sequence + 1"))
    with pytest.raises(LedgerDamaged, match="no fact after sequence 1, the head is at 2"):
        await house.deposit("1")


async def test_a_hole_in_the_facts_is_an_error(house: House, books: Books) -> None:
    books.record(flow("a", "1"))
    with pytest.raises(LedgerDamaged, match="sequence 2 is missing, before 3"):
        house.state.fold(replace(books.facts()[-1], sequence=3))


async def test_a_fee_in_the_base_asset_is_taken_off_the_quantity_and_not_off_the_cash(
    house: House, books: Books
) -> None:
    books.record(fill(1, quantity="2", fee="0.01", fee_asset="BTC"))
    await house.deposit("1")
    assert house.state.held("main", BTC) == Decimal("1.99")
    assert house.state.cash("main") == 10_000 - 200 + 1


async def test_a_notional_order_reserves_only_what_it_has_not_spent_yet(build: Callable[..., House]) -> None:
    house = build(costs=HALF)
    await house.open()
    await house.candle(bar(0, "100"))
    await house.buy(notional="900", limit="90")
    assert house.state.free_cash("main") == 9100
    await house.candle(bar(1, "85", volume="8"))
    assert house.state.cash("main") == 10_000 - 4 * 85
    assert house.state.free_cash("main") == 9100


async def test_a_part_that_can_no_longer_be_paid_cancels_the_rest_and_keeps_the_part(
    build: Callable[..., House], books: Books
) -> None:
    house = build(costs=replace(HALF, maker_fee_bps=Decimal(100)))
    await house.open()
    await house.candle(bar(0, "100"))
    placed = await house.buy("100", limit="99")
    await house.candle(bar(1, "98", volume="180"))
    assert house.stored_order(placed.order_id).status == "partially_filled"
    await house.withdraw("50")
    books.record(fill(900, quantity="10", price="100"))
    (answer,) = answers(await house.candle(bar(2, "98.9", volume="180")))
    assert (answer.status, len(answer.trades), reason(answer).code) == ("cancelled", 1, "INSUFFICIENT_FUND")
    assert house.state.free_cash("main") == house.state.cash("main") >= 0


async def test_a_fill_of_an_unknown_order_shows_that_the_venue_knows_it(
    build: Callable[..., House], books: Books
) -> None:
    books.do(lambda c: ledger.add_account(c, Account("live", kind=AccountKind.LIVE, venue="broker"), START))
    books.record(flow("opening-live", "1000", account="live"))
    broker = ScriptedVenue()
    broker.when_placed = lost
    house = build(venues=[broker])
    await house.open()
    await house.candle(bar(0, "100"))
    placed = await house.buy("1", account="live")
    house.close()
    broker.when_resumed = lambda order: [filled(order, 1, "0.5")]
    second = build(venues=[broker])
    (answer,) = answers(await second.open())
    assert (answer.status, answer.reason, len(answer.trades)) == ("partially_filled", None, 1)
    assert second.stored_order(placed.order_id).status is OrderStatus.PARTIALLY_FILLED
    assert second.state.free_cash("live") == 900, "half is spent, half is reserved"


async def test_loading_again_changes_nothing(house: House) -> None:
    await house.price("100")
    await house.buy("2")
    await house.sell("1", limit="110")
    before = snapshot(house.state)
    await house.writer.submit(house.state.load)
    assert snapshot(house.state) == before


def test_appending_outside_of_the_service_needs_only_a_tail_of_its_own(books: Books) -> None:
    tail = LedgerTail()

    def work(connection: Connection) -> None:
        tail.begin()
        tail.append_flow(connection, flow("own"), START)
        tail.before_commit(connection)
        tail.before_commit(connection)

    books.do(work)
    assert books.ask(ledger.head).sequence == 2


class TestCandles:
    """Stored candles."""

    def test_they_are_read_in_time_order_whole_or_from_the_end(self, books: Books) -> None:
        stored = [bar(minute, "1") for minute in (3, 1, 2)]
        books.do(lambda c: candles.store(c, [*stored, bar(9, "5", timeframe="1h"), bar(1, "7", symbol="AAPL")]))
        books.do(lambda c: candles.store(c, []))
        whole = books.ask(lambda c: candles.history(c, BTC, "1m"))
        assert whole == sorted(stored, key=lambda candle: candle.time)
        assert books.ask(lambda c: candles.history(c, BTC, "1m", last=2)) == whole[1:]
        assert books.ask(lambda c: candles.history(c, "MSFT", "1m")) == []

    def test_the_newest_of_each_symbol_and_timeframe_is_found(self, books: Books) -> None:
        books.do(lambda c: candles.store(c, [bar(1, "1"), bar(2, "2"), bar(0, "3", timeframe="1h")]))
        assert books.ask(candles.latest) == {
            (BTC, "1m"): bar(2, "2"),
            (BTC, "1h"): bar(0, "3", timeframe="1h"),
        }


def test_a_follower_goes_on_where_it_stopped(books: Books) -> None:
    assert books.ask(lambda c: followers.position(c, "announcer")) == 0
    for sequence in (3, 7):
        books.do(partial(followers.advance, name="announcer", sequence=sequence))
    assert books.ask(lambda c: followers.position(c, "announcer")) == 7
    assert books.ask(lambda c: followers.position(c, "other")) == 0
