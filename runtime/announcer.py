"""Facts on the bus: each announced in the order of the ledger, at least once, and none of them in anybody's way.

A fact that was just recorded goes out at once, before the answer to whoever asked for it. Facts of which there
are many (an import, a long absence of the broker) stay in the ledger and are read from there a page at a time;
only a few of them are under way at once, behind everything else that is to be said. What is recorded meanwhile
waits for its turn: a subscriber sees the sequence without a hole.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from execution import ledger
from execution.errors import StorageUnavailable
from execution.model import Fact, FactsRecorded
from execution.ports import Reader
from runtime.publisher import Publisher

log = structlog.get_logger(__name__)

_PAGE = 250
_AT_ONCE = 100
"""Facts recorded together that go out without the detour over the ledger."""

_SHOWN = 100
"""Of many older facts, so many of the last are shown to whoever watches the process."""

_MANY = 1000
"""A backlog of so many facts is told in the log, with its progress."""

_PROGRESS_SECONDS = 5.0
_STORAGE_PAUSE = 1.0


class Announcer:
    """A consumer of the ledger follower. `sequence`: up to here everything is known to be announced; `on_fact` is
    shown facts as they are."""

    def __init__(self, publisher: Publisher, reader: Reader, sequence: int, on_fact: Callable[[Fact], None]) -> None:
        self._publisher = publisher
        self._reader = reader
        self._on_fact = on_fact
        self._known = sequence
        self._sequence = sequence
        self._wake = asyncio.Event()

    @property
    def confirmed(self) -> int:
        """The broker has every fact up to this sequence."""
        first = self._publisher.first_unconfirmed
        return self._sequence if first is None else first - 1

    def expect(self, sequence: int) -> None:
        """There are facts up to this sequence; those that were not announced yet are read from the ledger."""
        self._known = max(self._known, sequence)
        self._go_back()
        if self._sequence < self._known:
            self._wake.set()

    async def __call__(self, recorded: FactsRecorded) -> None:
        """Announce what was just recorded, or leave it to `run`."""
        facts = recorded.facts
        if not facts:
            return
        if self._is_next(facts):
            for fact in facts:
                if fact.sequence > self._sequence:
                    self._publisher.announce(fact)
                    self._on_fact(fact)
                    self._sequence = fact.sequence
        self.expect(facts[-1].sequence)

    def _is_next(self, facts: Sequence[Fact]) -> bool:
        at_once = self._publisher.takes_facts and len(facts) <= _AT_ONCE
        return at_once and self._known == self._sequence and facts[0].sequence <= self._sequence + 1

    def _go_back(self) -> None:
        """Announce again from the first fact on that the publisher had to drop."""
        lost = self._publisher.take_lost()
        if lost is not None:
            self._sequence = min(self._sequence, lost - 1)

    async def run(self) -> None:
        """Announce what waits in the ledger, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._catch_up()

    async def _catch_up(self) -> None:
        loop = asyncio.get_running_loop()
        began, many = self._sequence, self._known - self._sequence >= _MANY
        say_at = loop.time()
        while self._sequence < self._known:
            if many and loop.time() >= say_at:
                say_at = loop.time() + _PROGRESS_SECONDS
                log.info("announcing older facts", at=self._sequence, of=self._known)
            for fact in await self._next_page():
                await self._announce(fact)
            self._go_back()
        if many:
            log.info("all facts are announced", facts=self._sequence - began)

    async def _next_page(self) -> Sequence[Fact]:
        while True:
            try:
                return await self._reader.read(partial(ledger.facts_since, sequence=self._sequence, limit=_PAGE))
            except StorageUnavailable as error:
                log.error("facts wait to be announced", error=str(error))
                await asyncio.sleep(_STORAGE_PAUSE)  # noqa: TID251 - the loop's time, which is simulated

    async def _announce(self, fact: Fact) -> None:
        await self._publisher.room()
        if fact.sequence != self._sequence + 1:
            return  # a page that began before the publisher dropped something
        self._publisher.announce(fact, later=True)
        if self._known - fact.sequence < _SHOWN:
            self._on_fact(fact)
        self._sequence = fact.sequence
