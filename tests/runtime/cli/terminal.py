"""Commands as a person types them: in this process, or as a process of their own."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from typer.testing import CliRunner

from config.exact import plain
from config.times import time_text
from runtime.cli.app import app
from signals.feeds.synthetic import SyntheticFeed
from tests.integration.brokers import PATIENCE, free_port

SAID: list[str] = []
"""What the commands of the test that runs have said so far: see conftest.py."""


def keep(arguments: Sequence[object], code: int | None, **streams: str) -> None:
    """Keep what a command said, in case that the test fails."""
    lines = [f"$ fillbook {' '.join(map(str, arguments))}", f"exit code: {code}"]
    SAID.append("\n".join([*lines, *(f"{name}: {text}" for name, text in streams.items() if text)]))


ROOT = Path(__file__).resolve().parents[3]
SMA_CROSS = ROOT / "config" / "bots" / "sma-cross.toml"


@dataclass(frozen=True)
class Result:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)


def fillbook(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="fillbook")
    keep(arguments, found.exit_code, stdout=found.stdout, stderr=found.stderr)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return Result(found.exit_code, found.stdout, found.stderr)


def candle_file(path: Path, count: int = 400, symbol: str = "BTC-USD") -> Path:
    """A file of invented 1-minute candles."""
    feed = SyntheticFeed([symbol], seed=3, seeded=random.Random)
    rows = (feed.candle(symbol, index) for index in range(count))
    lines = [",".join([time_text(row.time), *map(plain, row[3:])]) for row in rows]
    path.write_text("\n".join(["time,open,high,low,close,volume", *lines]) + "\n", encoding="utf-8")
    return path


@contextmanager
def process(*arguments: str | Path, measured: bool = True, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """A command as a process of its own; killed at the end if it still runs.

    Not to be `measured` is one that gets a Ctrl-C while it computes: coverage takes a lock at each call of
    a function, and what is raised in there leaves it locked, so that the process would wait for itself.
    """
    environment = {key: os.environ[key] for key in os.environ if measured or not key.startswith("COVERAGE_PROCESS")}
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "runtime.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        **options,
    )
    try:
        yield running
    finally:
        code = running.poll()
        if code is None:
            running.kill()
        keep(arguments, code, **{f"rest of {name}": _rest(running, name) for name in ("stdout", "stderr")})
        running.wait()


def _rest(running: "subprocess.Popen[str]", name: str) -> str:
    """What nobody has read of a stream, which is closed."""
    stream = getattr(running, name)
    assert stream is not None
    if stream.closed:
        return ""
    with stream:
        os.set_blocking(stream.fileno(), False)  # a process of its own may have it open still
        try:
            return str(stream.buffer.read(65_536) or b"", "utf-8", "replace")
        except BlockingIOError:
            return ""


def until(running: "subprocess.Popen[str]", *texts: str) -> str:
    """The next line of its stdout with all of these texts."""
    for line in stdout_of(running):
        if all(text in line for text in texts):
            return line
    raise AssertionError(f"ended without {texts!r}")


def until_trade(running: "subprocess.Popen[str]", side: str = "") -> str:
    """The demo's next line of a trade. There are prices then, and what the daemon says at its start has been said."""
    return until(running, f" {side} " if side else " ", " @ ")


T = TypeVar("T")


def eventually(look: Callable[[], T], is_so: Callable[[T], object]) -> T:
    """Look again and again until it is so; there is no event to wait for beside a daemon."""
    deadline = time.monotonic() + PATIENCE
    while not is_so(seen := look()):
        assert time.monotonic() < deadline, seen
    return seen


def stdout_of(running: "subprocess.Popen[str]") -> IO[str]:
    """The pipe of its stdout."""
    assert running.stdout is not None
    return running.stdout


@contextmanager
def demo(data_dir: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A running demo, up and ready."""
    port = f"broker.port={free_port()}"
    with process("demo", "--data-dir", data_dir, "--set", port, *arguments) as running:
        first = stdout_of(running).readline()
        assert first.startswith("Fillbook demo"), first + (running.stderr.read() if running.stderr else "")
        yield running


def interrupt(running: "subprocess.Popen[str]", patience: float = PATIENCE) -> tuple[int, str, str]:
    """Ctrl-C; the exit code and the rest of stdout and stderr."""
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=patience)
    return running.returncode, out, err
