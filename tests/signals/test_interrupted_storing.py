"""A decision whose task is cancelled while it is stored: what was committed all the same is not stored again."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from execution.errors import StorageUnavailable
from execution.writer import InlineReader
from signals.service import SignalsService
from tests.signals.stage import SMA, Stage, bot, candle


class LateWriter:
    """Commits at once and says so when it is let: like a thread whose caller was cancelled meanwhile."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.let_go = asyncio.Event()
        self.waiting = asyncio.Event()
        self.full = False

    async def submit(self, work: Callable[[Any], Any]) -> Any:
        if self.full:
            self.waiting.set()
            await self.let_go.wait()
            raise StorageUnavailable("disk full")
        done = self._inner.submit(work)
        self.waiting.set()
        await self.let_go.wait()
        return await done


async def interrupted(*, full: bool) -> SignalsService:
    """A service whose task was cancelled in the middle of a commit."""
    stage = Stage([bot(SMA)])
    late = LateWriter(stage.writer)
    service = type(stage.service)(stage.bots, late, InlineReader(stage.writer), stage.clock)
    late.let_go.set()
    await service.start()
    late.let_go.clear()
    late.waiting.clear()
    late.full = full
    task = asyncio.ensure_future(service.on_candle(candle(0, 100)))
    await late.waiting.wait()
    task.cancel()
    await asyncio.sleep(0)
    late.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    late.full = False
    return service


async def test_a_candle_that_was_committed_when_its_task_was_cancelled_is_stored_once() -> None:
    """Found by the simulation, seed 300309: a daemon that was asked to stop refused its last request."""
    service = await interrupted(full=False)
    await service.on_candle(candle(1, 101))
    await service.flush()


async def test_whoever_is_cancelled_while_the_storage_fails_is_cancelled_and_what_waited_waits_on() -> None:
    """Found by the simulation, seed 310033: the failure took the place of the stop, and the daemon never ended."""
    service = await interrupted(full=True)
    await service.on_candle(candle(1, 101))
    await service.flush()
