"""A venue whose calls never return: what is said, what is refused, what goes on."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from execution.exchange import ExchangeTimeout
from execution.live import LiveTimes
from execution.model import AlertRaised, Order, OrderStatus
from tests.execution.exchanges import LiveHouse, ScriptedExchange, alerts
from tests.execution.house import House, answers, at, reason

QUICK = LiveTimes(timeout=0.01)


@pytest.fixture
async def quick(make: Callable[..., LiveHouse]) -> LiveHouse:
    house = make(times=QUICK)
    await house.open()
    return house


async def test_a_venue_that_does_not_answer_is_told_of_once_and_again_when_it_does(
    quick: LiveHouse, exchange: ScriptedExchange
) -> None:
    await quick.round()
    exchange.hangs = True
    (alert,) = [event for event in await quick.round() if isinstance(event, AlertRaised)]
    assert (alert.code, alert.account) == ("venue_silent", "live")
    assert "no answer within 0.01 s" in alert.message
    assert await quick.round() == []
    exchange.hangs = False
    assert alerts(await quick.round()) == ["venue_answers"]
    assert await quick.round() == []
    assert [(line.account, line.venue, line.answers) for line in quick.lines] == [
        ("live", "broker", True), ("live", "broker", False), ("live", "broker", True),
    ]  # fmt: skip
    assert [line.since for line in quick.lines] == [at(0)] * 3
    assert [line.reason for line in quick.lines] == [None, "broker gave no answer within 0.01 s", None]


async def test_orders_are_refused_by_name_while_the_venue_does_not_answer(
    quick: LiveHouse, exchange: ScriptedExchange
) -> None:
    exchange.hangs = True
    assert (await quick.buy("1", limit="90")).status == "unknown"
    answer = await quick.buy("1", limit="90", symbol="ETH-USD")
    assert (answer.status, answer.final, reason(answer).code) == ("refused", True, "venue_silent")
    assert "none since 2026-01-01T10:00:00" in (reason(answer).expected or "")
    assert len(exchange.sent) == 1
    assert (await quick.buy("1", account="main")).status == "filled"
    exchange.hangs = False
    await quick.round()
    assert (await quick.buy("1", limit="90", symbol="ETH-USD")).status == "accepted"


async def test_one_lost_call_does_not_make_a_venue_silent(live: LiveHouse, exchange: ScriptedExchange) -> None:
    exchange.lose_requests = True
    assert await live.round() == []
    exchange.lose_requests = False
    assert (await live.buy("1", limit="90")).status == "accepted"


async def test_no_more_orders_than_allowed_are_on_their_way_at_once(
    make: Callable[..., LiveHouse], exchange: ScriptedExchange
) -> None:
    house = make(max_in_flight=2)
    await house.open()
    exchange.hangs = True
    sending = [asyncio.create_task(house.buy("1", limit="90")) for _ in range(2)]
    while len(exchange.sent) < 2:
        await asyncio.sleep(0)
    answer = await house.buy("1", limit="90")
    assert (answer.status, reason(answer).code) == ("refused", "venue_busy")
    assert (await house.buy("1", account="main")).status == "filled"
    for task in sending:
        task.cancel()
    await asyncio.gather(*sending, return_exceptions=True)


async def test_a_cancel_is_sent_while_another_call_hangs(live: LiveHouse, exchange: ScriptedExchange) -> None:
    placed = live.placed(await live.buy("2", limit="90"))
    asked = asyncio.Event()

    async def hang(_order: Order) -> None:
        asked.set()
        await asyncio.get_running_loop().create_future()

    exchange.while_asked = hang
    under_way = asyncio.create_task(live.round())
    await asked.wait()
    await live.cancel(placed.id, account="live")
    await live.venue.line("live").woken.wait()
    assert exchange.orders[placed.client_order_id].status is OrderStatus.CANCELLED
    under_way.cancel()
    await asyncio.gather(under_way, return_exceptions=True)
    exchange.while_asked = None
    assert [answer.status for answer in answers(await live.round())] == ["cancelled"]
    assert len(exchange.cancelled) == 1


class Deaf(ScriptedExchange):
    """A venue whose client does not let itself be cancelled, until the test lets go."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()
        self.calls = 0

    async def _arrive(self) -> None:
        if not self.hangs:
            return
        self.calls += 1
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                continue


async def test_calls_that_cannot_be_cancelled_are_left_behind_and_no_more_than_so_many(
    make: Callable[..., LiveHouse], books: Any, build: Callable[..., House]
) -> None:
    deaf = Deaf()
    make()
    house = LiveHouse(books, deaf, times=QUICK, max_in_flight=3)
    await house.open()
    deaf.hangs = True
    for _ in range(5):
        await house.round()
    assert deaf.calls == 3
    with pytest.raises(ExchangeTimeout, match="3 calls to broker have not come back"):
        await house.venue.ask("live", deaf.trades("live", at(0)))
    deaf.hangs = False
    deaf.release.set()
    while house.venue.line("live")._left:
        await asyncio.sleep(0)
    assert alerts(await house.round()) == ["venue_answers"]
    house.close()


async def test_a_client_that_fails_in_another_way_has_not_answered(
    live: LiveHouse, exchange: ScriptedExchange
) -> None:
    def break_down(_order: Order) -> None:
        raise KeyError("no such field")

    exchange.on_place = break_down
    answer = await live.buy("1", limit="90")
    assert (answer.status, reason(answer).code) == ("unknown", "venue_out_of_reach")
    assert "KeyError" in (reason(answer).expected or "")

    exchange.broken = True
    assert await live.round() == []
    assert await live.listen() == []
