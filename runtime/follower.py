"""Follows the ledger by sequence and hands every fact, once and in order, to whoever needs it.

A `FactsRecorded` from execution is the fast path; a hole in front of it, facts that another process
appended, or a poll are read from the database. Consumers therefore see a stream without holes.

While another process appends more than a page can hold (an import), nobody but `poll` waits until all of it is
handed out: what is offered meanwhile comes in its turn, from the ledger.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from execution import ledger
from execution.model import Fact, FactsRecorded
from execution.ports import Reader

Consumer = Callable[[FactsRecorded], Awaitable[None]]

PAGE = 250
"""Facts handed out in one step, for which the rest of the process waits."""

WIDEST = 16 * PAGE
"""The most, of facts whose price is by the page."""


class LedgerFollower:
    """See the module. `sequence` is the last fact that every consumer has been given."""

    def __init__(self, reader: Reader, sequence: int = 0) -> None:
        self.reader = reader
        self._consumers: list[Consumer] = []
        self._lock = asyncio.Lock()
        self.sequence = sequence
        self._behind = False
        self._size = PAGE
        self._wider = PAGE

    def add(self, consumer: Consumer) -> None:
        """Hand facts to `consumer` too, after those added before it."""
        self._consumers.append(consumer)

    def widen(self) -> None:
        """Said by a consumer of the page that it has: it was dear as a page, not by its facts. If more wait, the next
        one is twice as large.

        Trades of long ago that another process imports are matched again with all that follow them, once a page.
        """
        self._wider = min(2 * self._size, WIDEST)

    def is_behind(self) -> bool:
        """Whether there are more facts than were read last: `poll` has to be called, or is at it."""
        return self._behind

    async def offer(self, recorded: FactsRecorded) -> None:
        """Facts that were just committed: handed out when this returns, unless the follower is behind."""
        facts = recorded.facts
        if self.is_behind() or not facts:
            return
        async with self._lock:
            if self.is_behind():
                return
            if facts[0].sequence == self.sequence + 1:
                await self._hand_out(facts)
            elif facts[-1].sequence > self.sequence:
                await self._page()

    async def poll(self) -> None:
        """Look whether anybody appended facts; all are handed out when this returns."""
        while True:
            async with self._lock:
                await self._page()
            if not self.is_behind():
                return

    async def _page(self) -> None:
        size, self._wider = self._size, PAGE
        facts = await self.reader.read(partial(ledger.facts_since, sequence=self.sequence, limit=size))
        self._behind = len(facts) == size
        if facts:
            await self._hand_out(facts)
        self._size = self._wider if self._behind else PAGE

    async def _hand_out(self, facts: Sequence[Fact]) -> None:
        recorded = FactsRecorded(tuple(facts))
        for consumer in self._consumers:
            await consumer(recorded)
        self.sequence = facts[-1].sequence
