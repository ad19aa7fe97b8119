"""Disk full and database locked: nothing is sent, everybody sees it, a person's resume ends it."""

import asyncio
import threading
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection

from execution import ledger
from execution.errors import StorageUnavailable
from execution.limits import RiskLimits
from execution.model import Account, AccountKind, AlertRaised, HaltChanged, OrderStatus, Severity, Side
from execution.venue import VenueClosed, VenueReport
from tests.execution.house import HALF, START, Books, House, answers, bar, facts_in, flow, reason
from tests.execution.venues import ScriptedVenue, filled

BUY = Side.BUY


class Lock:
    """Another process that holds the write lock of the database."""

    def __init__(self, books: Books) -> None:
        self._connection: Connection = books.engine().connect()
        self._transaction: Any = None

    def hold(self) -> None:
        self._transaction = self._connection.begin()

    def release(self) -> None:
        self._transaction.rollback()
        self._connection.close()


@pytest.fixture
def lock(books: Books) -> Lock:
    return Lock(books)


def has_failed(house: House) -> bool:
    """Whether the house has stopped for its storage."""
    return house.service.storage_failure is not None


@pytest.fixture(params=[False, True], ids=["inline", "group commit"])
async def house(request: pytest.FixtureRequest, build: Callable[..., House]) -> House:
    """An open house with a price, with each of the writers."""
    opened = build(threaded=request.param)
    await opened.open()
    await opened.price("100")
    return opened


async def test_nothing_is_taken_while_the_database_is_locked_and_everybody_sees_it(house: House, lock: Lock) -> None:
    lock.hold()
    wish = house.order(BUY, "1")
    *halts, alert, refusal = await house.send(wish)
    assert {halt.account for halt in halts if isinstance(halt, HaltChanged) and halt.by == "storage"} == set(
        house.state.accounts
    )
    assert isinstance(alert, AlertRaised)
    assert (alert.severity, alert.code) == (Severity.HIGH, "storage_unavailable")
    assert "HALTED" in alert.message
    assert "locked" in alert.message
    assert reason(answers([refusal])[0]).code == "storage_unavailable"
    assert has_failed(house)
    lock.release()
    assert reason(await house.buy("1")).code == "storage_unavailable", "only a person's resume ends it"
    assert reason(await house.deposit("1")).code == "storage_unavailable"
    assert house.trades() == []
    events = await house.resume()
    resumed = [event for event in events if isinstance(event, HaltChanged) and not event.halted]
    assert {halt.account for halt in resumed} == set(house.state.accounts), "the shown halts are taken back"
    assert not has_failed(house)
    assert (await house.ask(wish)).status == "filled", "it was never taken, so it may come again"


async def test_a_resume_that_cannot_be_stored_or_is_refused_ends_nothing(house: House, lock: Lock) -> None:
    lock.hold()
    await house.buy("1")
    (refusal,) = await house.resume()
    assert reason(answers([refusal])[0]).code == "storage_unavailable"
    assert has_failed(house)
    lock.release()
    await house.resume(account="nobody")
    assert has_failed(house)
    await house.resume()
    assert not has_failed(house)


async def test_a_resume_is_said_although_nothing_can_be_read_then(
    house: House, lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock.hold()
    await house.buy("1")
    lock.release()

    async def broken(_query: object) -> None:
        raise StorageUnavailable("disk I/O error")

    monkeypatch.setattr(house.service, "_reader", SimpleNamespace(read=broken))
    resumed = [event for event in await house.resume() if isinstance(event, HaltChanged) and not event.halted]
    assert {halt.account for halt in resumed} == set(house.state.accounts)


async def test_a_known_request_still_gets_its_true_answer(house: House, lock: Lock) -> None:
    wish = house.order(BUY, "1")
    first = await house.ask(wish)
    lock.hold()
    await house.buy("1")
    lock.release()
    assert await house.ask(wish) == first
    assert reason(await house.ask(wish, "other body")).code == "idempotency_conflict"


async def test_fills_that_could_not_be_recorded_are_recorded_later_exactly_once(house: House, lock: Lock) -> None:
    placed = await house.buy("1", limit="90")
    lock.hold()
    *_, alert = await house.price("89")
    assert isinstance(alert, AlertRaised)
    assert house.trades() == []
    assert await house.service.on_timer() == [], "still locked, said once"
    assert house.state.free_cash("main") == 9910
    lock.release()
    events = await house.service.on_timer()
    assert len(facts_in(list(events))) == 1
    assert [(a.status, len(a.trades)) for a in answers(list(events))] == [("filled", 1)]
    assert list(await house.service.on_timer()) == []
    assert [trade.order_id for trade in house.trades()] == [placed.order_id]
    assert house.state.cash("main") == house.state.free_cash("main") == 9910


async def test_resume_records_what_was_waiting_before_anything_new_is_taken(house: House, lock: Lock) -> None:
    await house.buy("100", limit="90")
    lock.hold()
    await house.price("89")
    lock.release()
    events = await house.resume()
    assert len(facts_in(events)) == 1
    assert house.state.cash("main") == 1000


async def test_a_cancel_after_an_unrecorded_fill_does_not_lose_the_fill(house: House, lock: Lock) -> None:
    placed = await house.buy("1", limit="90")
    lock.hold()
    await house.price("89")
    lock.release()
    house.service.storage_failure = None  # as if the resume's own record had failed again
    await house.send_cancel(placed.order_id)
    assert house.stored_order(placed.order_id).status == "filled"
    assert len(house.trades()) == 1


async def test_an_unrecorded_part_is_recorded_before_the_later_part_of_the_same_order(
    build: Callable[..., House], lock: Lock
) -> None:
    house = build(costs=HALF)
    await house.open()
    await house.candle(bar(0, "100"))
    placed = await house.buy("10", limit="90")
    lock.hold()
    await house.service.on_candle(bar(1, "80", volume="8"))
    lock.release()
    await house.candle(bar(2, "80", volume="100"))
    assert [str(trade.quantity) for trade in house.trades(placed.order_id)] == ["4", "6"]
    assert house.stored_order(placed.order_id).status == "filled"


async def test_of_two_resumes_at_once_each_accounts_own_is_the_last_word(
    build: Callable[..., House], books: Books, lock: Lock
) -> None:
    books.do(lambda c: ledger.add_account(c, Account("second"), START))
    house = build(threaded=True)
    await house.open()
    lock.hold()
    await house.send(house.order(BUY, "1"))
    lock.release()
    assert has_failed(house)
    both_wait = threading.Event()
    held = house.writer.submit(lambda _connection: both_wait.wait(10))
    resumes = asyncio.gather(house.resume("main"), house.resume("second"))
    await asyncio.sleep(0)  # both are in the writer's queue: one commit stores the two
    both_wait.set()
    events = [event for found in await resumes for event in found]
    await held
    for account in ("main", "second"):
        said = [event for event in events if isinstance(event, HaltChanged) and event.account == account]
        last = max(said, key=lambda change: change.order)
        assert (last.halted, last.by) == (False, "manual:ann")
        assert [change.order for change in said].count(last.order) == 1


async def test_a_fill_that_died_with_the_process_is_found_again_at_the_next_start(
    house: House, lock: Lock, build: Callable[..., House]
) -> None:
    await house.candle(bar(0, "100"))
    placed = await house.buy("1", decided=1, triggered_by="bot:a")
    candle = bar(1, "101")
    from execution import candles

    await house.writer.submit(lambda c: candles.store(c, [candle]))
    lock.hold()
    await house.service.on_candle(candle)
    lock.release()
    house.close()
    second = build()
    events = await second.open()
    (answer,) = answers(events)
    assert (answer.status, answer.order_id) == ("filled", placed.order_id)
    assert [trade.price for trade in second.trades()] == [101]


async def test_a_full_disk_stops_everything_before_the_venue_and_resume_ends_it(
    build: Callable[..., House], books: Books
) -> None:
    books.do(lambda c: ledger.add_account(c, Account("live", kind=AccountKind.LIVE, venue="broker"), START))
    books.record(flow("opening-live", "1000000", account="live"))
    broker = ScriptedVenue()

    def at_once(order: Any) -> list[VenueReport]:
        return [filled(order), VenueClosed(order.id, OrderStatus.FILLED)]

    broker.when_placed = at_once
    house = build(venues=[broker], threaded=True)
    await house.open()
    await house.price("100")

    def pragma(sql: str) -> Callable[[Connection], Any]:
        return lambda connection: connection.exec_driver_sql(f"PRAGMA {sql}").scalar_one()

    pages = await house.writer.submit(pragma("page_count"))
    await house.writer.submit(pragma(f"max_page_count = {pages}"))
    number, seen = 0, []
    while house.service.storage_failure is None:
        number += 1
        assert number < 500, "the disk never became full"
        wish = house.order(BUY, "1", account="live", note="x" * 500)
        seen += await house.send(wish)
    assert "full" in house.service.storage_failure
    assert any(isinstance(event, AlertRaised) for event in seen)
    sent = len(broker.placed)
    assert reason(await house.buy("1", account="live")).code == "storage_unavailable"
    assert len(broker.placed) == sent, "nothing is sent"
    await house.writer.submit(pragma("max_page_count = 1000000"))
    await house.resume("live")
    await house.service.on_timer()
    assert (await house.buy("1", account="live")).status == "filled"
    assert len(house.trades()) == len(broker.placed), "every fill is recorded once"
    assert books.count("orders") == len(broker.placed)


async def test_a_loss_that_cannot_be_measured_for_the_storage_halts_like_a_fill_that_cannot_be_stored(
    build: Callable[..., House], lock: Lock
) -> None:
    house = build(limits=RiskLimits(max_daily_loss=Decimal(50)))
    await house.open()
    await house.price("100")
    await house.buy("10")
    lock.hold()
    events = await house.price("90")
    assert {halt.by for halt in events if isinstance(halt, HaltChanged)} == {"storage"}
    assert has_failed(house)
    assert await house.price("89") == [], "said once"
    lock.release()
    await house.resume()
    assert house.state.halt_of("main") is None, "whoever resumes knows of the loss"
    assert [halt.by for halt in await house.price("80") if isinstance(halt, HaltChanged)] == ["limit:daily_loss"]
