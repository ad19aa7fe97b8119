"""Child processes: one that dies with its parent, and a loop that starts it again when it dies."""

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from runtime.errors import RuntimeFault

log = logging.getLogger("fillbook.supervisor")

# Run before the child's own program: the kernel ends the process when its parent dies. SIGTERM and not SIGKILL,
# so that a broker still stores what it has delivered: otherwise it would deliver that again as if it was new.
# A second exec and not subprocess's preexec_fn, which runs Python between fork and exec and may deadlock beside
# our threads.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):  # the parent died before the request was in place
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class ChildError(RuntimeFault):
    """A child process could not be started or did not become ready."""


def _dying_with_parent(command: Sequence[str]) -> list[str]:
    """`command`, started so that it does not outlive this process (12 ms on Linux; elsewhere as it is)."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]


class Child:
    """One running process; every line it writes goes to `on_line`."""

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self._process = process
        self._on_line = on_line
        self.last_lines: deque[str] = deque(maxlen=20)
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, command: Sequence[str], *, on_line: Callable[[str], None], pass_fds: Sequence[int] = ()
    ) -> "Child":
        """Start `command`. Raises ChildError. Only from the main thread.

        PR_SET_PDEATHSIG follows the THREAD that forked: a child of a worker thread would be killed when
        that thread ends.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ChildError("children are started from the main thread")
        program = shutil.which(command[0])
        if program is None:
            raise ChildError(f"cannot start {command[0]}: no such program")
        try:
            process = await asyncio.create_subprocess_exec(
                *_dying_with_parent([program, *command[1:]]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=tuple(pass_fds),
                start_new_session=True,  # a Ctrl-C in the terminal reaches the daemon only, which stops it
            )
        except OSError as error:
            raise ChildError(f"cannot start {command[0]}: {error.strerror or error}") from error
        return cls(process, on_line)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    async def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while True:
            try:
                raw = await stream.readline()
            except ValueError:  # a line longer than the stream's limit was dropped
                continue
            if not raw:
                return
            line = raw.decode("utf-8", "replace").rstrip()
            self.last_lines.append(line)
            try:
                self._on_line(line)
            except Exception:
                log.exception("a line was not understood")  # go on: a child that nobody reads stands still

    async def wait(self) -> int:
        """Return the exit code when it has ended and its output is read."""
        code = await self._process.wait()
        await asyncio.wait((self._reader,))  # whoever is cancelled meanwhile must not cancel it for others
        return code

    async def stop(self, grace: float = 5.0) -> int:
        """End it: SIGTERM, and SIGKILL after `grace` seconds."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        return await self.wait()


class Supervisor:
    """Keeps one child running: starts it, waits until it is ready, starts it again when it dies.

    `start_child` returns a running child that is ready, or raises ChildError. The first start's failure is
    the caller's (nothing is supervised then); later failures are tried again with a growing pause.
    """

    def __init__(
        self,
        name: str,
        start_child: Callable[[], Awaitable[Child]],
        *,
        on_restart: Callable[[int], None] | None = None,
        backoff_initial: float = 0.05,
        backoff_maximum: float = 1.0,
        stable_after: float = 0.5,
    ) -> None:
        self._name = name
        self._start_child = start_child
        self._on_restart = on_restart
        self._backoff_initial = backoff_initial
        self._backoff_maximum = backoff_maximum
        self._stable_after = stable_after
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._child.pid if self._child is not None and self._child.is_running else None

    async def start(self) -> None:
        """Start the child and keep it running from then on. Raises ChildError."""
        self._child = await self._start_child()
        self._task = asyncio.create_task(self._keep(self._child), name=f"supervisor {self._name}")

    async def _keep(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        pause = self._backoff_initial
        while True:
            started = loop.time()
            code = await child.wait()
            if loop.time() - started >= self._stable_after:
                pause = self._backoff_initial
            log.warning("%s ended with code %s; starting it again", self._name, code)
            while True:
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._backoff_maximum)
                try:
                    child = self._child = await self._start_child()
                    break
                except (ChildError, OSError) as error:
                    log.error("%s does not start: %s", self._name, error)
            self.restarts += 1
            if self._on_restart is not None:
                self._on_restart(self.restarts)

    async def stop(self, grace: float = 5.0) -> None:
        """Stop supervising, then the child."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._child is not None:
            await self._child.stop(grace)
            self._child = None
