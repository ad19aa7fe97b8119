"""Keeps a live venue reconciled: for each account a round every few seconds, and a stream of trades.

What a round does is in `execution.reconcile`; here is when, and what becomes of it when the venue is away. Accounts
do not wait for each other: the calls for one may hang.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog

from execution.errors import StorageUnavailable
from execution.reconcile import Reconciler

log = structlog.get_logger(__name__)

_FIRST_PAUSE = 0.5
"""Seconds before a lost stream is opened again; doubled each time until one lasts."""


class Reconciling:
    """One live venue. `longest_pause`: seconds, for opening a lost stream again."""

    def __init__(self, reconciler: Reconciler, longest_pause: float) -> None:
        self._reconciler = reconciler
        self._longest_pause = longest_pause
        self._works: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled. Raises LeaseLost."""
        try:
            while True:
                for account in self._reconciler.accounts:  # one may have been added meanwhile
                    self._begin(account, self._look)
                    self._begin(account, self._listen)
                if self._works:
                    await asyncio.wait(
                        self._works.values(),
                        timeout=self._reconciler.venue.times.poll,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                else:
                    await asyncio.sleep(self._reconciler.venue.times.poll)  # noqa: TID251 - the loop's time, which is simulated
        finally:
            for work in self._works.values():
                work.cancel()
            await asyncio.gather(*self._works.values(), return_exceptions=True)

    def _begin(self, account: str, work: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        """Begin a work for an account, once. Raises what it ended with."""
        key = (work.__name__, account)
        task = self._works.get(key)
        if task is None:
            self._works[key] = asyncio.create_task(work(account))
        elif task.done():
            task.result()

    async def _look(self, account: str) -> None:
        """Round after round."""
        venue = self._reconciler.venue
        woken = venue.line(account).woken
        while True:
            woken.clear()
            try:
                await self._reconciler.round(account)
            except StorageUnavailable as error:
                log.error("what a venue says waits for the storage", venue=venue.name, error=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(venue.times.poll):
                    await woken.wait()

    async def _listen(self, account: str) -> None:
        """Open the stream again and again; what was missed meanwhile is fetched by the rounds."""
        loop = asyncio.get_running_loop()
        first = min(_FIRST_PAUSE, self._longest_pause)
        pause = first
        while True:
            began = loop.time()
            with suppress(StorageUnavailable):  # the rounds say so; the trade is fetched later
                await self._reconciler.listen(account)
            if loop.time() - began > self._longest_pause:
                pause = first
            await asyncio.sleep(pause)  # noqa: TID251 - the loop's time, which is simulated
            pause = min(pause * 2, self._longest_pause)
