"""The simulated live venue: it loses, delays, repeats and hides, and keeps its own rules."""

import asyncio
import random
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar

import pytest

from execution.exchange import ExchangeOrder, ExchangeRefused, ExchangeTimeout, ExchangeTrade
from execution.model import Order, OrderStatus, OrderType, Side, TimeInForce
from tests.simulation.daemon import BEGINNING
from tests.simulation.exchange import ODD, SimExchange
from tests.simulation.loop import OUTSIDE, Process, SimLoop, in_process
from tests.simulation.venue_book import Stream
from tests.simulation.venue_faults import (
    CALL_SECONDS,
    LONGEST_FORGETTING,
    LONGEST_HANG,
    LONGEST_HIDDEN,
    Deduplication,
    VenueFaults,
)

T = TypeVar("T")
LONG_AGO = BEGINNING - timedelta(hours=1)


def an_order(number: int = 1, **changes: Any) -> Order:
    """A market order to buy two."""
    made = Order(
        id=f"order-{number}",
        request_id=f"request-{number}",
        client_order_id=f"fb-{number}",
        account="live",
        symbol="BTC-USD",
        side=Side.BUY,
        type=OrderType.MARKET,
        time_in_force=TimeInForce.IOC,
        status=OrderStatus.PENDING,
        triggered_by="manual",
        created_at=BEGINNING,
        expires_at=None,
        quantity=Decimal(2),
    )
    return replace(made, **changes)


_made: list["Scene"] = []


@pytest.fixture(autouse=True)
def _disposed() -> Iterator[None]:
    yield
    while _made:
        _made.pop().loop.dispose()


class Scene:
    """A venue and its market, and somebody who calls it."""

    def __init__(self, faults: VenueFaults | None = None, seed: int = 1) -> None:
        self.loop = SimLoop(seed)
        self.prices = {"BTC-USD": Decimal(100), "ETH-USD": Decimal(50)}
        self.broken: list[str] = []
        self.venue = SimExchange(
            self.loop,
            random.Random(seed),
            faults or VenueFaults(),
            self.prices.__getitem__,
            symbols=["BTC-USD", "ETH-USD"],
            violated=self.broken.append,
            is_shown=lambda _client: True,
        )
        self.caller = Process("caller")
        _made.append(self)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something as the caller."""
        done: T = self.loop.run_until_complete(self.loop.create_task(work, context=in_process(self.caller)))
        return done

    async def wait(self, seconds: float) -> None:
        """Let time pass, also when the caller is dead."""
        future = self.loop.create_future()
        self.loop.call_later(seconds, future.set_result, None, context=OUTSIDE)
        await future

    async def place(self, order: Order, seconds: float | None = None) -> ExchangeOrder | None:
        """None: no answer."""
        with suppress(ExchangeTimeout, TimeoutError):
            return await asyncio.wait_for(self.venue.place(order, seconds), 2 * CALL_SECONDS)
        return None

    async def hear(self, stream: Stream, found: list[ExchangeTrade]) -> None:
        """Until the stream ends."""
        async for trade in stream:
            found.append(trade)  # noqa: PERF401 - what was heard before the stream breaks counts

    def listen(self) -> list[ExchangeTrade]:
        """What a stream tells."""
        found: list[ExchangeTrade] = []

        async def hear() -> None:
            await self.hear(self.venue.stream("live"), found)

        self.loop.create_task(hear(), context=in_process(self.caller))
        self.run(self.wait(1.0))
        return found

    @property
    def trades(self) -> list[ExchangeTrade]:
        """Every trade there is."""
        return [one.trade for one in self.venue.happened]


def test_on_a_good_day_an_order_fills_in_pieces_that_everybody_sees() -> None:
    scene = Scene()
    heard = scene.listen()
    told = scene.run(scene.place(an_order()))
    assert told is not None
    assert told.client_order_id == "fb-1"
    scene.run(scene.wait(15))
    found = scene.run(scene.venue.find(an_order()))
    assert found is not None
    assert (found.status, found.filled) == (OrderStatus.FILLED, Decimal(2))
    seen = scene.run(scene.venue.trades("live", LONG_AGO))
    assert list(seen) == sorted(scene.trades, key=lambda trade: trade.executed_at)
    assert sum(trade.quantity for trade in seen) == 2
    assert sorted(trade.venue_trade_id for trade in heard) == sorted(trade.venue_trade_id for trade in seen)
    assert scene.run(scene.venue.trades("other", LONG_AGO)) == []


def test_orders_fill_in_one_to_three_pieces() -> None:
    counts = set()
    for seed in range(20):
        scene = Scene(seed=seed)
        scene.run(scene.place(an_order()))
        scene.run(scene.wait(15))
        counts.add(len(scene.trades))
    assert counts == {1, 2, 3}


def test_an_order_in_money_spends_no_more() -> None:
    scene = Scene()
    scene.run(scene.place(an_order(quantity=None, notional=Decimal(250))))
    scene.run(scene.wait(15))
    spent = sum(trade.quantity * trade.price + trade.fee for trade in scene.trades)
    assert Decimal(249) < spent < Decimal("250.1")


def test_trade_ids_are_unique_per_symbol_only() -> None:
    scene = Scene()
    scene.run(scene.place(an_order(1)))
    scene.run(scene.place(an_order(2, symbol="ETH-USD")))
    scene.run(scene.wait(15))
    ids = [trade.venue_trade_id for trade in scene.trades]
    assert len(set(ids)) < len(ids)
    assert len({(trade.symbol, trade.venue_trade_id) for trade in scene.trades}) == len(ids)


def test_a_lost_request_does_nothing_and_a_lost_reply_all() -> None:
    lost = Scene(VenueFaults(lost_request=1.0))
    assert lost.run(lost.place(an_order())) is None
    assert lost.loop.time() == pytest.approx(CALL_SECONDS)
    lost.run(lost.wait(15))
    assert lost.venue.orders == []
    deaf = Scene(VenueFaults(lost_reply=1.0))
    assert deaf.run(deaf.place(an_order())) is None
    deaf.run(deaf.wait(15))
    assert [booked.status for booked in deaf.venue.orders] == [OrderStatus.FILLED]


def test_a_call_arrives_although_its_caller_died() -> None:
    scene = Scene()
    scene.loop.create_task(scene.place(an_order()), context=in_process(scene.caller))
    scene.loop.call_later(0.001, setattr, scene.caller, "dead", True, context=OUTSIDE)
    work = scene.loop.create_task(scene.wait(15), context=in_process(Process("other")))
    scene.loop.run_until_complete(work)
    assert [booked.client_order_id for booked in scene.venue.orders] == ["fb-1"]


def test_a_slow_call_arrives_after_its_caller_gave_up() -> None:
    arrived = 0
    for seed in range(20):
        scene = Scene(VenueFaults(slow=1.0), seed)
        answer = scene.run(scene.place(an_order()))
        early = len(scene.venue.orders)
        scene.run(scene.wait(15))
        assert len(scene.venue.orders) == 1
        arrived += answer is None and early == 0
    assert arrived


def test_an_order_that_comes_after_its_deadline_is_dropped_where_deadlines_are_honoured() -> None:
    for honours in (True, False):
        scene = Scene(VenueFaults(slow=1.0, honours_deadline=honours))
        assert scene.run(scene.place(an_order(), 0.1)) is None or not honours
        scene.run(scene.wait(15))
        assert len(scene.venue.orders) == (0 if honours else 1)


@pytest.mark.parametrize(("rule", "open_again", "closed_again"), [("all", 1, 1), ("open", 1, 2), ("none", 2, 3)])
def test_client_ids_are_deduplicated_by_the_venues_rule(
    rule: Deduplication, open_again: int, closed_again: int
) -> None:
    scene = Scene(VenueFaults(deduplicates=rule))
    assert scene.venue.deduplicates is (rule == "all")
    rests = an_order(type=OrderType.LIMIT, limit_price=Decimal(50), time_in_force=TimeInForce.GTC)
    scene.run(scene.place(rests))
    scene.run(scene.place(rests))
    assert len(scene.venue.orders) == open_again
    scene.run(scene.venue.cancel(rests))
    scene.run(scene.place(rests))
    assert len(scene.venue.orders) == closed_again
    assert bool(scene.broken) is (closed_again > 1)


def test_a_refused_order_does_not_exist() -> None:
    scene = Scene(VenueFaults(refused=1.0))
    with pytest.raises(ExchangeRefused, match="BUSY"):
        scene.run(scene.venue.place(an_order(), None))
    poor = Scene()
    with pytest.raises(ExchangeRefused, match="INSUFFICIENT_FUND"):
        poor.run(poor.venue.place(an_order(side=Side.SELL), None))
    assert scene.venue.orders == poor.venue.orders == []


def test_orders_and_trades_become_visible_late() -> None:
    scene = Scene(VenueFaults(hidden=LONGEST_HIDDEN), seed=3)
    scene.run(scene.place(an_order()))
    assert scene.run(scene.venue.find(an_order())) is None
    seen_late = 0
    while len(scene.run(scene.venue.trades("live", LONG_AGO))) < len(scene.trades) or not scene.trades:
        seen_late += bool(scene.trades)
        scene.run(scene.wait(0.1))
    assert seen_late
    scene.run(scene.wait(LONGEST_HIDDEN))
    assert scene.run(scene.venue.find(an_order())) is not None


def test_a_stream_repeats_and_loses_and_breaks() -> None:
    def heard(faults: VenueFaults) -> tuple[int, int]:
        scene = Scene(faults)
        found = scene.listen()
        scene.run(scene.place(an_order()))
        scene.run(scene.wait(15))
        return len(found), len(scene.trades)

    told, existing = heard(VenueFaults(repeated=1.0))
    assert told == 2 * existing
    told, existing = heard(VenueFaults(unheard=1.0))
    assert told == 0 < existing
    scene = Scene()
    stream = scene.venue.stream("live")
    scene.run(scene.wait(1.0))
    scene.venue.go_down()
    with suppress(ExchangeTimeout):
        scene.run(scene.hear(stream, []))
    assert not stream.is_open


def test_a_fill_may_lie_in_the_past() -> None:
    scene = Scene(VenueFaults(back_dated=1.0))
    scene.run(scene.place(an_order()))
    scene.run(scene.wait(15))
    assert all(trade.executed_at < BEGINNING for trade in scene.trades)
    assert all(trade.executed_at > BEGINNING - timedelta(seconds=60) for trade in scene.trades)


def test_a_venue_that_is_down_answers_nobody() -> None:
    scene = Scene()
    scene.venue.go_down()
    with pytest.raises(ExchangeTimeout, match="refused"):
        scene.run(scene.venue.place(an_order(), None))
    scene.run(scene.wait(5))
    assert scene.run(scene.place(an_order())) is not None


def test_a_limit_order_rests_until_the_market_reaches_it() -> None:
    scene = Scene()
    rests = an_order(type=OrderType.LIMIT, limit_price=Decimal(90), time_in_force=TimeInForce.GTC)
    scene.run(scene.place(rests))
    scene.run(scene.wait(15))
    assert scene.trades == []
    scene.prices["BTC-USD"] = Decimal("89.5")
    scene.venue.on_price("BTC-USD")
    scene.run(scene.wait(15))
    assert sum(trade.quantity for trade in scene.trades) == 2
    assert all(trade.price <= 90 for trade in scene.trades)


def test_a_fill_may_be_faster_than_a_cancel() -> None:
    results = set()
    for seed in range(40):
        scene = Scene(seed=seed)
        scene.run(scene.place(an_order()))
        scene.run(scene.venue.cancel(an_order()))
        (booked,) = scene.venue.orders
        results.add((booked.status, booked.filled > 0))
    assert results >= {(OrderStatus.CANCELLED, True), (OrderStatus.CANCELLED, False), (OrderStatus.FILLED, True)}


def test_others_trade_on_the_account_and_take_back_what_rests() -> None:
    scene = Scene(VenueFaults(strangers=1.0))
    scene.venue.plan(20.0)
    scene.run(scene.wait(20))
    scene.venue.calm()
    scene.run(scene.wait(15))
    assert scene.trades
    assert all(booked.stranger and booked.status.is_final for booked in scene.venue.orders)
    assert {trade.client_order_id is None for trade in scene.trades} == {True, False}
    assert {trade.side for trade in scene.trades} == {Side.BUY, Side.SELL}
    for symbol in (*scene.prices, ODD):
        moved = [trade.side.sign * trade.quantity for trade in scene.trades if trade.symbol == symbol]
        coins = [trade.fee for trade in scene.trades if trade.fee_asset == symbol.split("-")[0]]
        assert sum(moved) >= sum(coins)


@pytest.mark.parametrize("deaf", [False, True])
def test_a_hanging_venue_takes_calls_and_never_answers_them(deaf: bool) -> None:
    scene = Scene()
    scene.venue.hang()
    scene.venue._deaf = deaf
    asking = scene.loop.create_task(scene.venue.find(an_order()), context=in_process(scene.caller))
    scene.run(scene.wait(0.1))
    asking.cancel()
    scene.run(scene.wait(0.1))
    assert asking.done() is not deaf, "some do not even hear that nobody waits any more"
    scene.run(scene.wait(LONGEST_HANG))
    assert asking.done()
    assert scene.run(scene.place(an_order())) is not None


def test_an_order_that_is_forgotten_is_neither_found_nor_cancelled_and_may_fill_until_it_is_found_again() -> None:
    scene = Scene(VenueFaults(forgets=1.0))
    order = an_order(limit_price=Decimal(90), type=OrderType.LIMIT, time_in_force=TimeInForce.GTC)
    assert scene.run(scene.place(order)) is not None
    scene.run(scene.wait(1.5))
    (booked,) = scene.venue.orders
    assert booked.forgotten_until > scene.loop.time()
    assert scene.run(scene.venue.find(order)) is None
    assert len(booked.missed["caller"]) == 1
    scene.run(scene.venue.cancel(order))
    scene.prices["BTC-USD"] = Decimal(80)
    scene.venue.on_price("BTC-USD")
    scene.run(scene.wait(LONGEST_FORGETTING))
    found = scene.run(scene.venue.find(order))
    assert found is not None
    assert (found.status, found.filled) == (OrderStatus.FILLED, 2)


def test_the_same_seed_is_the_same_day() -> None:
    def day(seed: int) -> list[ExchangeTrade]:
        scene = Scene(VenueFaults.drawn(random.Random(seed)), seed)
        scene.venue.plan(20.0)
        for number in range(5):
            with suppress(ExchangeRefused):
                scene.run(scene.place(an_order(number)))
        scene.run(scene.wait(30))
        return scene.trades

    assert day(5) == day(5)
    assert day(5) != day(6)
