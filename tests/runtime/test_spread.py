"""What execution did is told to everybody, also when the storage fails on the way (simulation, seeds 97 and 5167)."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from execution.errors import StorageUnavailable
from execution.model import CashFlow, CashFlowKind, FactsRecorded, Responded, ResponseStatus
from runtime.core import Core, Published
from runtime.follower import LedgerFollower

T = TypeVar("T")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Broken:
    """A reader whose disk does not answer."""

    def read(self, query: Callable[[Connection], T]) -> Awaitable[T]:
        """Fail."""
        raise StorageUnavailable("disk I/O error")


async def test_an_answer_is_said_although_the_facts_before_it_cannot_be_told_now() -> None:
    said: list[Published] = []
    core = Core(said.append, LedgerFollower(Broken(), sequence=3), None, None, None)
    flow = CashFlow(
        id="flow-1",
        account="main",
        kind=CashFlowKind.DEPOSIT,
        amount=Decimal(1),
        currency="USD",
        effective_at=NOON,
        recorded_at=NOON,
        triggered_by="manual",
        idempotency_key="one",
        note=None,
        sequence=5,
        hash="0" * 64,
    )
    answer = Responded("main", "one", ResponseStatus.DONE, final=True, sequence=5)
    with pytest.raises(StorageUnavailable):
        await core.spread([FactsRecorded((flow,)), answer])
    assert said == [answer]
    assert core.follower.sequence == 3, "the next poll must hand the facts out"
