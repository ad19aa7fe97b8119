"""`fillbook watch` as a person starts it: beside a real daemon, in a real terminal, and where there is none."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runtime.rundir import read_daemon_file
from tests.integration.brokers import PATIENCE
from tests.runtime.cli.terminal import ROOT, demo, eventually, fillbook, until_trade

SERVICES = {"execution", "portfolio", "signals"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The books of a running demo that has said all there is to say at a start."""
    folder = tmp_path_factory.mktemp("watch") / "data"
    with demo(folder) as running:
        until_trade(running)
        yield folder


def test_without_a_terminal_it_says_what_to_use_instead() -> None:
    found = fillbook("watch")
    assert found.code == 2
    for command in ("fillbook watch --once", "fillbook status --json", "fillbook portfolio --json"):
        assert command in found.err


def test_without_a_daemon_it_ends_as_every_command_that_needs_one() -> None:
    found = fillbook("watch", "--once")
    assert found.code == 3
    assert "no daemon is running on the books in" in found.err


def test_json_is_for_one_snapshot() -> None:
    found = fillbook("watch", "--json")
    assert found.code == 2
    assert "--json needs --once" in found.err


def test_an_account_that_cannot_be_one_is_refused() -> None:
    assert fillbook("watch", "--once", "--account", "no/slash").code == 2


def test_once_json_is_the_state_of_the_running_daemon(data: Path) -> None:
    found = eventually(
        lambda: fillbook("watch", "--once", "--json", "--data-dir", data),
        lambda found: found.code or (found.json["services"].keys() >= SERVICES and len(found.json["markets"]) >= 3),
    )
    assert found.code == 0, found.err
    seen = found.json
    assert seen["daemon"]["online"]
    assert set(seen["services"]) == SERVICES
    (account,) = seen["accounts"]
    assert account["account"] == "main"
    assert account["portfolio"]["currency"] == "USD"
    assert isinstance(account["portfolio"]["equity"], str)
    running = fillbook("bots", "--json", "--data-dir", data).json["items"]
    assert {bot["bot"] for bot in seen["bots"]} == {bot["bot"] for bot in running if bot["running"]}
    assert {market["symbol"] for market in seen["markets"]} == {"BTC-USD", "ETH-USD", "SOL-USD"}
    assert seen["ledger_sequence"] >= 1
    assert seen["dead_letters"] == 0
    assert seen["not_understood"] == 0  # every message of a real daemon is understood


def test_an_account_that_does_not_exist_is_named_with_those_that_do(data: Path) -> None:
    found = fillbook("watch", "--once", "--account", "nope", "--data-dir", data)
    assert (found.code, found.out) == (2, "")
    assert "there is no account 'nope'; there are: main" in found.err


def test_an_account_that_a_daemon_elsewhere_does_not_have_is_named_too(data: Path, tmp_path: Path) -> None:
    running = read_daemon_file(data)
    assert running is not None
    elsewhere = (
        "--data-dir",
        tmp_path,
        "--set",
        "broker.embedded=false",
        "--set",
        f"broker.port={running.broker_port}",
    )
    found = eventually(
        lambda: fillbook("watch", "--once", "--account", "nope", *elsewhere), lambda found: bool(found.err)
    )
    assert (found.code, found.out) == (2, "")
    assert "there is no account 'nope'; there are: main" in found.err
    assert fillbook("watch", "--once", "--account", "main", *elsewhere).code == 0


def test_once_is_readable_text(data: Path) -> None:
    found = fillbook("watch", "--once", "--data-dir", data)
    assert found.code == 0, found.err
    for title in ("Fillbook fillbook/v1", "equity", "POSITIONS", "BOTS", "TRADES", "HEALTH", "SYNTHETIC"):
        assert title in found.out
    assert "\x1b" not in found.out


# ---- in a terminal --------------------------------------------------------------------------------------


@dataclass
class Terminal:
    """A pseudo-terminal with the screen in it."""

    file: int
    process: "subprocess.Popen[bytes]"
    before: list[object]
    said: bytes = b""
    closed: set[int] = field(default_factory=set)
    _slave: int = field(default=-1)

    def until(self, text: bytes) -> None:
        """Read until a text was painted."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.said:
            assert time.monotonic() < deadline, f"{text!r} was not painted:\n{self.said[-3000:]!r}"
            assert self.read(), f"ended before {text!r}:\n{self.said[-3000:]!r}"

    def read(self) -> bool:
        """What there is to read, for at most a tenth of a second; False at its end."""
        if not select.select([self.file], [], [], 0.1)[0]:
            return self.process.poll() is None
        try:
            found = os.read(self.file, 65_536)
        except OSError:  # Linux: nobody has the other end any more
            return False
        self.said += found
        return bool(found)

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self.file, keys)

    def resize(self, columns: int, lines: int) -> None:
        """Give it another size, as a window manager would."""
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def close(self) -> None:
        """Close the window."""
        os.close(self.file)
        self.closed.add(self.file)

    def end(self) -> int:
        """The exit code."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read()
        while select.select([self.file], [], [], 0)[0] and self.read():
            pass
        return self.process.wait(timeout=PATIENCE)

    @property
    def is_restored(self) -> bool:
        """Whether the modes of the line, the cursor and the first screen are as they were."""
        shown = self.said.rfind(b"\x1b[?25h") > self.said.rfind(b"\x1b[?25l")
        first = self.said.rfind(b"\x1b[?1049l") > self.said.rfind(b"\x1b[?1049h")
        return shown and first and termios.tcgetattr(self._slave)[:4] == self.before[:4]


@contextmanager
def watching(data: Path, columns: int = 100, lines: int = 30, term: str = "xterm-256color") -> Iterator[Terminal]:
    """`fillbook watch` in a terminal of its own."""
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    before = termios.tcgetattr(slave)
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "runtime.cli", "watch", "--data-dir", str(data)],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env={**environment, "PYTHONPATH": str(ROOT), "TERM": term},
    )  # fmt: skip
    terminal = Terminal(master, process, list(before), _slave=slave)
    try:
        yield terminal
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for end in {master, slave} - terminal.closed:
            os.close(end)


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_the_screen_starts_paints_the_bots_and_leaves_the_terminal_as_it_was(data: Path, key: bytes) -> None:
    with watching(data) as terminal:
        terminal.until(b"sol-cross")
        terminal.press(key)
        assert terminal.end() == 0
        assert terminal.is_restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_the_terminal_as_it_was(data: Path, number: signal.Signals) -> None:
    with watching(data) as terminal:
        terminal.until(b"sol-cross")
        terminal.process.send_signal(number)
        assert terminal.end() == 0
        assert terminal.is_restored


def test_it_ends_with_its_terminal(data: Path) -> None:
    with watching(data) as terminal:
        terminal.until(b"sol-cross")
        terminal.close()
        terminal.process.send_signal(signal.SIGHUP)  # as the kernel does
        assert terminal.process.wait(timeout=PATIENCE) == -signal.SIGHUP


def test_a_halt_by_key_is_a_halt_and_resume_ends_it(data: Path) -> None:
    with watching(data) as terminal:
        terminal.until(b"sol-cross")
        terminal.press(b"h")
        terminal.until(b"Halt account main?")
        terminal.press(b"y")
        terminal.until(b"halt main: done")
        (halt,) = fillbook("status", "--json", "--data-dir", data).json["halts"]
        assert halt["reason"] == "asked for in fillbook watch"
        terminal.press(b"ry")
        terminal.until(b"resume main: done")
        assert fillbook("status", "--json", "--data-dir", data).json["halts"] == []
        terminal.press(b"q")
        assert terminal.end() == 0


def test_another_size_is_taken_while_it_runs(data: Path) -> None:
    with watching(data, 80, 24) as terminal:
        terminal.until(b"sol-cross")
        terminal.resize(40, 10)
        terminal.until(b"are needed")
        terminal.said = b""
        terminal.resize(150, 45)
        terminal.until(b"sol-cross")
        terminal.press(b"q")
        assert terminal.end() == 0


def test_where_the_terminal_cannot_move_its_cursor_it_does_not_begin(data: Path) -> None:
    with watching(data, term="dumb") as terminal:
        assert terminal.end() == 2
        assert b"fillbook watch --once" in terminal.said
