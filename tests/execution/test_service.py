"""The service: one answer per request, whatever is repeated, in flight together or unreadable."""

import asyncio
from collections.abc import Callable
from decimal import Decimal

from execution import orders
from execution.model import CashFlowKind, Reason, ResponseStatus, Side
from execution.orders import DeadLetter
from tests.execution.house import FREE, START, Books, House, answer_to, reason

BUY = Side.BUY


class TestIdempotency:
    """A request id names one request, for ever."""

    async def test_the_same_request_again_gets_the_same_answer_and_no_second_trade(self, house: House) -> None:
        await house.price("100")
        wish = house.order(BUY, "1")
        first = await house.ask(wish)
        await house.price("200")
        again = await house.send(wish)
        assert again == [first]
        assert first.trades == tuple(house.trades())

    async def test_another_body_under_the_same_id_is_a_conflict(self, house: House) -> None:
        await house.price("100")
        await house.buy("1", request_id="r")
        answer = await house.ask(house.order(BUY, "2", request_id="r"), body="other")
        expected = "a new request_id for a new request; this one was used with another body"
        assert reason(answer) == Reason("idempotency_conflict", "request_id", "r", expected)
        assert len(house.trades()) == 1
        assert (await house.ask(house.order(BUY, "1", request_id="r"))).status == "filled"

    async def test_another_tag_under_the_same_id_is_a_conflict(self, house: House) -> None:
        await house.price("100")
        await house.buy("1", request_id="r")
        answer = await house.buy("1", request_id="r", triggered_by="bot:a")
        assert reason(answer).code == "idempotency_conflict"
        assert len(house.trades()) == 1

    async def test_the_same_id_in_another_account_is_another_request(self, house: House) -> None:
        await house.price("100")
        assert (await house.buy("1", request_id="r")).status == "filled"
        assert (await house.buy("1", request_id="r", account="margin")).status == "filled"

    async def test_a_refusal_is_remembered_even_if_it_would_be_accepted_now(self, house: House) -> None:
        wish = house.order(BUY, "1")
        first = await house.ask(wish)
        await house.price("100")
        assert await house.ask(wish) == first
        assert reason(first).code == "no_price"

    async def test_a_repeated_request_of_an_open_order_is_told_its_present_state(self, house: House) -> None:
        await house.price("100")
        wish = house.order(BUY, "1", limit="90")
        assert (await house.ask(wish)).status == "accepted"
        await house.price("89")
        again = await house.ask(wish)
        assert (again.status, again.final, len(again.trades)) == ("filled", True, 1)

    async def test_deposits_halts_and_cancels_repeat_their_answer(self, house: House) -> None:
        await house.price("100")
        resting = await house.buy("1", limit="90")
        from execution.model import CancelRequest

        assert resting.order_id is not None
        for request in (
            house.cash_request(CashFlowKind.DEPOSIT, "5"),
            house.halt_request(),
            CancelRequest("c", "main", resting.order_id, "manual"),
        ):
            first = answer_to(request, await house.send(request))
            again = await house.send(request)
            assert again == [first]
            assert first.final
        assert house.state.cash("main") == 10_005

    async def test_the_answer_survives_a_restart(self, house: House, build: Callable[..., House]) -> None:
        await house.price("100")
        wish = house.order(BUY, "1", signal_context={"rsi": 0.25})
        first = await house.ask(wish)
        house.close()
        second = build()
        await second.open()
        assert await second.ask(wish) == first


async def test_requests_in_flight_together_are_each_answered_and_the_books_agree(build: Callable[..., House]) -> None:
    house = build(threaded=True, costs=FREE)
    await house.open()
    await house.price("100")
    results = await asyncio.gather(*(house.buy("1") for _ in range(120)))
    statuses = [result.status for result in results]
    assert statuses.count(ResponseStatus.FILLED) == 100, "10,000 pays for exactly a hundred"
    assert {reason(r).code for r in results if r.status == "refused"} <= {"insufficient_cash"}
    assert house.state.cash("main") == 0
    assert sum((trade.quantity for trade in house.trades()), Decimal(0)) == 100


async def test_a_message_that_could_not_be_taken_is_kept_once(house: House, books: Books) -> None:
    letter = DeadLetter("d1", START, "fillbook/v1/main/request/trade", b"\xff{", 300_000, Reason("not_json"), True)
    await house.service.bury(letter)
    await house.service.bury(letter)
    assert books.ask(orders.dead_letters) == [letter]
