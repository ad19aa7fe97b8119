"""Deposits and withdrawals."""

from decimal import Decimal

from execution.model import CashFlowKind, Reason
from tests.execution.house import Books, House, answers, at, facts_in, reason


class TestCash:
    """Deposits and withdrawals."""

    async def test_a_deposit_and_a_withdrawal_change_the_cash_and_are_facts(self, house: House) -> None:
        events = await house.send(house.cash_request(CashFlowKind.DEPOSIT, "0.10", note="wire"))
        (fact,) = facts_in(events)
        assert (fact.cash_effect, fact.sequence) == (Decimal("0.1"), 2)
        assert answers(events)[0].sequence == 2
        assert (await house.withdraw("10000.1")).status == "done"
        assert house.state.cash("main") == 0

    async def test_cash_can_never_become_negative(self, house: House) -> None:
        found = reason(await house.withdraw("10000.01"))
        assert found == Reason("insufficient_cash", "amount", "10000.01", "at most 10000")
        await house.price("100")
        await house.buy("50", limit="90")
        assert reason(await house.withdraw("5500.01")).expected == "at most 5500"
        assert (await house.withdraw("5500")).status == "done"
        charge = await house.ask(house.cash_request(CashFlowKind.FEE, "5000"))
        assert reason(charge).code == "insufficient_cash"

    async def test_a_flow_in_the_future_is_refused(self, house: House) -> None:
        found = reason(await house.deposit("1", effective_at=at(1)))
        expected = Reason("in_future", "effective_at", "2026-01-01T10:01:00Z", "not after 2026-01-01T10:00:00Z")
        assert found == expected
        assert (await house.deposit("1", effective_at=at(-1000))).status == "done"

    async def test_the_same_deposit_twice_is_one_flow_and_other_content_a_conflict(
        self, house: House, books: Books
    ) -> None:
        await house.deposit("5", request_id="wire")
        await house.deposit("5", request_id="wire")
        assert books.count("cash_flows") == 2
        answer = await house.ask(house.cash_request(CashFlowKind.DEPOSIT, "6", request_id="wire"), "other")
        assert reason(answer).code == "idempotency_conflict"

    async def test_a_deposit_whose_id_an_import_used_is_the_same_flow_or_a_conflict_never_a_crash(
        self, house: House, books: Books
    ) -> None:
        from tests.execution.house import flow

        books.record(flow("wire", "5"))
        same = await house.deposit("5", request_id="wire")
        assert (same.status, same.sequence) == ("done", 2)
        books.record(flow("cheque", "5"))
        other = await house.deposit("6", request_id="cheque")
        assert reason(other).code == "idempotency_conflict"
        assert house.state.cash("main") == 10_010
