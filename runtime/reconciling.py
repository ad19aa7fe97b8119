"""Keeps a live venue reconciled: a round every few seconds, and a stream of trades for each account.

What a round does is in `execution.reconcile`; here is when, and what becomes of it when the venue is away.
"""

import asyncio
from contextlib import suppress

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
        self._streams: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled. Raises LeaseLost."""
        venue = self._reconciler.venue
        try:
            while True:
                venue.woken.clear()
                try:
                    self._open_streams()
                    await self._reconciler.round()
                except StorageUnavailable as error:
                    log.error("what a venue says waits for the storage", venue=venue.name, error=str(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(venue.woken.wait(), venue.times.poll)
        finally:
            for stream in self._streams.values():
                stream.cancel()
            await asyncio.gather(*self._streams.values(), return_exceptions=True)

    def _open_streams(self) -> None:
        """One for each account, also for one that was added meanwhile. Raises what a stream ended with."""
        for account in self._reconciler.accounts:
            stream = self._streams.get(account)
            if stream is None:
                self._streams[account] = asyncio.create_task(self._listen(account))
            elif stream.done():
                stream.result()

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
