"""Calls that wait for each other."""

import asyncio
import gc

import pytest

from signals.turns import TakesTurns, in_turn


class Desk(TakesTurns):
    """Works until it is told."""

    def __init__(self) -> None:
        super().__init__(one_caller=False)
        self.done = asyncio.Event()
        self.began: list[str] = []

    @in_turn
    async def work(self, name: str) -> str:
        """Until told."""
        self.began.append(name)
        await self.done.wait()
        return name


async def test_whoever_is_cancelled_before_its_turn_has_not_begun_and_holds_up_nobody() -> None:
    """A coroutine that is never awaited fails a test, and is a warning in a daemon's log."""
    desk = Desk()
    calls = [asyncio.create_task(desk.work(name)) for name in "abc"]
    unborn = asyncio.create_task(desk.work("d"))
    unborn.cancel()
    await asyncio.sleep(0)
    calls[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls[1]
    with pytest.raises(asyncio.CancelledError):
        await unborn
    gc.collect()
    desk.done.set()
    assert [await calls[0], await calls[2]] == ["a", "c"]
    assert desk.began == ["a", "c"]
