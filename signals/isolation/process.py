"""The process of one bot, seen from the daemon: start it, talk to it within a budget, end it."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from signals.isolation.errors import BadReply, BotDied, BotHung, BotRaised, BotUnusable, WorkerTraceback
from signals.isolation.limits import MAX_REPLY
from signals.isolation.output import Output
from signals.isolation.wire import HEADER, parsed

_ROOT = Path(__file__).resolve().parents[2]
_OWN_SETTINGS = "FILLBOOK_"
_LAST_WORDS = 5.0
"""Seconds that a process which is ending has for it, and for saying where it hangs; on a busy machine they count."""
_FAREWELL = 2.0
"""Seconds until a process that was told to end is killed."""

log = structlog.get_logger(__name__)


class Deadline:
    """A budget of real time that has begun to run."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = _now() + seconds

    def left(self) -> float:
        """Seconds left; 0 when they are over."""
        return max(self._end - _now(), 0.0)


class WorkerProcess:
    """A worker and the socket to it. After any error it has ended."""

    def __init__(self, bot: str) -> None:
        """Start it. From the main thread when it is to stay: Linux ends it with the THREAD that started it."""
        self._name = bot
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        try:
            command = [sys.executable, "-P", "-B", "-X", "faulthandler", "-m", "signals.isolation.worker"]
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*command, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                pass_fds=(theirs.fileno(),),
                env=_environment(),
                start_new_session=True,  # a Ctrl-C in the terminal reaches the daemon only, which ends its bots
            )
        except BaseException:
            ours.close()
            os.close(reading)
            raise
        finally:
            theirs.close()
            os.close(writing)
        self._socket = ours
        self._output = Output(reading, bot)
        self._ended = False
        self._farewell: Deadline | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    # ---- talking ------------------------------------------------------------------------------------

    def ask(self, messages: Iterable[object], seconds: float, what: str) -> Any:
        """Send messages and wait for the one answer to them; the budget runs anew with each message.

        Raises BotHung, BotDied, BotRaised, BadReply, BotUnusable; the process has ended then. `what` says what
        it was doing: "decide", "the start".
        """
        deadline = Deadline(seconds)
        try:
            for message in messages:
                deadline = Deadline(seconds)
                self._send(message, deadline)
            return self._answer(deadline)
        except (TimeoutError, BlockingIOError):
            hung = self._hung(deadline, what)  # before the cause: it makes the process say where it hangs
            raise hung from self._cause()
        except (ConnectionError, EOFError):
            died = self._died(what)
            raise died from self._cause()
        except Exception:
            self.kill()
            raise

    def _send(self, message: object, deadline: Deadline) -> None:
        body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        self._socket.settimeout(deadline.left())
        self._socket.sendall(HEADER.pack(len(body)) + body)

    def _answer(self, deadline: Deadline) -> Any:
        data = self._receive(deadline)
        while len(data) < HEADER.size:
            data += self._receive(deadline)
        (length,) = HEADER.unpack_from(data)
        if length > MAX_REPLY:
            raise BadReply(f"an answer of {length} bytes, expected at most {MAX_REPLY}")
        end = HEADER.size + length
        while len(data) < end:
            data += self._receive(deadline)
        if len(data) > end:
            raise BadReply("the worker's answer is longer than it says")
        kind, body = data[HEADER.size : HEADER.size + 1], data[HEADER.size + 1 :]
        if kind == b"+":
            return parsed(body)
        raise _reported(parsed(body))

    def _receive(self, deadline: Deadline) -> bytes:
        self._socket.settimeout(deadline.left())
        try:
            data = self._socket.recv(65_536)
        except TimeoutError:
            # What has come by now still counts: this process itself may have stood still (Ctrl-Z).
            self._socket.settimeout(0)
            data = self._socket.recv(65_536)
        if not data:
            raise EOFError
        return data

    # ---- the end ------------------------------------------------------------------------------------

    def _hung(self, deadline: Deadline, what: str) -> BotHung:
        """End the process, which first says where it hangs (into its output)."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGABRT)  # faulthandler writes the traceback, whatever code runs
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS)
        self.kill()
        return BotHung(f"{what} took longer than {deadline.seconds:g} s; its process was killed")

    def _died(self, what: str) -> BotDied:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS)
        code = self._process.poll()
        self.kill()
        if code is None:
            return BotDied(f"its process closed the connection during {what}")
        how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        return BotDied(f"its process {how} during {what}")

    def _cause(self) -> WorkerTraceback | None:
        """What the process said last: of a crash or a hang that is where it was."""
        said = list(self._output.tail)
        return WorkerTraceback("\n".join(["the last it printed:", *said])) if said else None

    def dismiss(self) -> None:
        """Tell it to end, and wait for nothing: the worker sees the end of its socket and goes."""
        if self._farewell is None:
            self._socket.close()
            self._farewell = Deadline(_FAREWELL)

    def close(self) -> None:
        """The regular end; of one that was told before only what is left of its time is waited for."""
        if self._ended:
            return
        self.dismiss()
        assert self._farewell is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self._farewell.left())
        self.kill()

    def kill(self) -> None:
        """End the process and what it started, at once. May be called twice."""
        if self._ended:
            return
        self._ended = True
        self._socket.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.finish(_LAST_WORDS)


def _reported(report: Any) -> Exception:
    """The error that a worker reports. Its texts are the user's: cut, never interpreted."""
    if not isinstance(report, dict):
        return BadReply("the worker's report of an error cannot be read")
    kind, text = report.get("kind"), str(report.get("text"))[:1000]
    error: Exception
    if kind == "reply":
        error = BadReply(text)
    elif kind in ("module", "class", "params"):
        params = report.get("params")
        named = {str(key): str(value)[:300] for key, value in params.items()} if isinstance(params, dict) else {}
        error = BotUnusable(kind, text, named)
    else:
        error = BotRaised(text)
    error.__cause__ = WorkerTraceback(str(report.get("traceback")))
    return error


def _environment() -> dict[str, str]:
    """Ours, without the settings (a password may be among them), and with our packages on the path.

    The order of a set of texts must not differ between two runs, or a replay would. One thread for linear
    algebra: a pool for every bot would take the memory and the cores, and change the order of sums.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_OWN_SETTINGS)}
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**threads, **inherited, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _now() -> float:
    return time.monotonic()  # noqa: TID251 - a hang is a matter of real time, whatever the candles' time is
