"""Children: they say what they write, end when asked, and are started again when they die."""

import asyncio
import errno
import os
import signal
import sys

import pytest

from runtime.supervisor import Child, ChildError, Supervisor
from tests.integration.brokers import PATIENCE

ECHO = [sys.executable, "-c", "print('ready', flush=True); import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)",
]


async def started(command: list[str]) -> Child:
    ready = asyncio.Event()
    child = await Child.start(command, on_line=lambda _line: ready.set())
    await asyncio.wait_for(ready.wait(), PATIENCE)
    return child


async def test_a_child_ends_when_asked_and_a_stubborn_one_as_well() -> None:
    child = await started(ECHO)
    assert child.is_running
    assert await child.stop(grace=PATIENCE) == -signal.SIGTERM
    assert list(child.last_lines) == ["ready"]
    stubborn = await started(STUBBORN)
    assert await stubborn.stop(grace=0.1) == -signal.SIGKILL


async def test_a_command_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ChildError, match="cannot start /nowhere"):
        await Child.start(["/nowhere"], on_line=lambda _line: None)


async def test_a_child_is_refused_outside_the_main_thread() -> None:
    def elsewhere() -> None:
        asyncio.run(Child.start(ECHO, on_line=lambda _line: None))

    with pytest.raises(ChildError, match="main thread"):
        await asyncio.to_thread(elsewhere)


async def test_a_dead_child_is_started_again_even_after_failed_starts() -> None:
    starts = 0
    back = asyncio.Event()

    async def start() -> Child:
        nonlocal starts
        starts += 1
        if starts == 2:
            raise ChildError("not this time")
        return await started(ECHO)

    supervisor = Supervisor("a child", start, on_restart=lambda _count: back.set(), backoff_initial=0.01)
    await supervisor.start()
    first = supervisor.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await asyncio.wait_for(back.wait(), PATIENCE)
    assert supervisor.pid not in (None, first)
    assert (starts, supervisor.restarts) == (3, 1)
    await supervisor.stop()
    assert supervisor.pid is None


async def test_the_first_failure_is_the_callers() -> None:
    async def start() -> Child:
        raise ChildError("no")

    supervisor = Supervisor("a child", start)
    with pytest.raises(ChildError, match="no"):
        await supervisor.start()
    await supervisor.stop()


LOUD = [sys.executable, "-c", "print('x' * 1000); [print('y' * 1000) for _ in range(1000)]"]


async def test_a_line_that_is_not_understood_does_not_hold_up_a_child_that_goes_on_writing() -> None:
    read = []

    def fail(line: str) -> None:
        read.append(line)
        raise KeyError("a mistake")

    child = await Child.start(LOUD, on_line=fail)
    async with asyncio.timeout(PATIENCE):
        assert await child.wait() == 0
    assert len(read) == 1001


async def test_whoever_stops_waiting_for_a_child_that_left_its_output_to_another_cancels_nothing() -> None:
    """The child has ended, what it started still writes to its output."""
    heir = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0)"
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", heir, stdin=reading, stdout=asyncio.subprocess.PIPE
    )
    os.close(reading)
    child = Child(process, on_line=lambda _line: None)
    async with asyncio.timeout(PATIENCE):
        while child.is_running:
            await asyncio.sleep(0.01)
    waiting = asyncio.create_task(child.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    os.close(writing)
    async with asyncio.timeout(PATIENCE):
        assert await child.wait() == 0


async def test_a_dead_child_is_started_again_after_the_system_had_no_descriptor_for_it() -> None:
    starts = 0
    back = asyncio.Event()

    async def start() -> Child:
        nonlocal starts
        starts += 1
        if starts == 2:
            raise OSError(errno.EMFILE, "too many open files")
        return await started(ECHO)

    supervisor = Supervisor("a child", start, on_restart=lambda _count: back.set(), backoff_initial=0.01)
    await supervisor.start()
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        await back.wait()
    await supervisor.stop()
