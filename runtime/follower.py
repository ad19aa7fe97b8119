"""Follows the ledger by sequence and hands every fact, once and in order, to whoever needs it.

A `FactsRecorded` from execution is the fast path; a hole in front of it, facts that another process
appended, or a poll are read from the database. Consumers therefore see a stream without holes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from execution import ledger
from execution.model import Fact, FactsRecorded
from execution.ports import Reader

Consumer = Callable[[FactsRecorded], Awaitable[None]]
_PAGE = 1000


class LedgerFollower:
    """See the module. `sequence` is the last fact that every consumer has been given."""

    def __init__(self, reader: Reader, sequence: int = 0) -> None:
        self.reader = reader
        self._consumers: list[Consumer] = []
        self._lock = asyncio.Lock()
        self.sequence = sequence

    def add(self, consumer: Consumer) -> None:
        """Hand facts to `consumer` too, after those added before it."""
        self._consumers.append(consumer)

    async def offer(self, recorded: FactsRecorded) -> None:
        """Facts that were just committed."""
        async with self._lock:
            facts = recorded.facts
            if facts and facts[0].sequence == self.sequence + 1:
                await self._hand_out(facts)
            elif facts and facts[-1].sequence > self.sequence:
                await self._read_on()

    async def poll(self) -> None:
        """Look whether anybody appended facts."""
        async with self._lock:
            await self._read_on()

    async def _read_on(self) -> None:
        while facts := await self.reader.read(partial(ledger.facts_since, sequence=self.sequence, limit=_PAGE)):
            await self._hand_out(facts)

    async def _hand_out(self, facts: Sequence[Fact]) -> None:
        recorded = FactsRecorded(tuple(facts))
        for consumer in self._consumers:
            await consumer(recorded)
        self.sequence = facts[-1].sequence
