"""The tutorial, followed to the letter: every file saved, every command typed, every line looked for."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.brokers import PATIENCE, free_port

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, what stands behind it, its text."""

    language: str
    rest: str
    text: str


class Command(NamedTuple):
    """A line typed, and what the answer must contain."""

    line: str
    wanted: list[str]


def blocks() -> list[Block]:
    return [Block(*match) for match in _BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))]


def commands(text: str) -> Iterator[Command]:
    found: Command | None = None
    for line in text.splitlines():
        if line.startswith("$ "):
            if found is not None:
                yield found
            found = Command(line.removeprefix("$ "), [])
        elif line.strip():
            assert found is not None, f"an answer before a command: {line!r}"
            found.wanted.append(line)
    if found is not None:
        yield found


class Terminal:
    """A person's terminal: the project's commands from a folder of their own, with their own data and ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("run", "config"):
            (folder / name).symlink_to(ROOT / name)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "FILLBOOK_DATA_DIR": str(folder / "data"),
            "FILLBOOK_BROKER__PORT": str(free_port()),
            "COLUMNS": "300",
        }

    def type(self, line: str) -> tuple[int, str]:
        """Exit code and everything that was printed, spaces made one."""
        done = subprocess.run(
            self._words(line), cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120
        )
        return done.returncode, squeezed(done.stdout + done.stderr)

    @contextmanager
    def background(self, line: str, wanted: list[str]) -> Iterator[None]:
        """A command in a second terminal, until the end."""
        output = self.folder / "second-terminal.txt"
        with output.open("w") as file:
            process = subprocess.Popen(
                self._words(line), cwd=self.folder, env=self.environment, stdout=file, stderr=subprocess.STDOUT
            )
            try:
                eventually(lambda: (0, squeezed(output.read_text())), wanted, 0)
                yield
            finally:
                process.terminate()
                process.wait(timeout=PATIENCE)

    @staticmethod
    def _words(line: str) -> list[str]:
        assert line.startswith("./run fillbook "), f"not a command of this project: {line}"
        return ["sh", "-c", line.replace("./run fillbook", f"exec {sys.executable} -P -m runtime.cli", 1)]


def squeezed(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text)


def check(line: str, code: int, output: str, wanted: list[str], expected_code: int) -> None:
    assert code == expected_code, f"{line}: exit code {code}\n{output}"
    for text in wanted:
        assert squeezed(text) in output, f"{line}: {text!r} is not in\n{output}"


def eventually(ask, wanted: list[str], expected_code: int) -> None:  # type: ignore[no-untyped-def]  # a callable
    deadline = time.monotonic() + PATIENCE
    while True:
        code, output = ask()
        if code == expected_code and all(squeezed(text) in output for text in wanted):
            return
        assert time.monotonic() < deadline, f"{wanted} did not come within {PATIENCE} s:\n{output}"
        time.sleep(0.2)  # a person looking again; there is no event to wait for in a terminal


@pytest.mark.timeout(900)  # twenty commands, each a process of its own
def test_a_person_who_follows_the_tutorial_gets_what_it_says(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    typed = 0
    with ExitStack() as stack:
        for block in blocks():
            if block.language == "toml":
                save(tmp_path, block)
                continue
            assert block.language == "console", block.language
            for command in commands(block.text):
                typed += 1
                if block.rest == "background":
                    stack.enter_context(terminal.background(command.line, command.wanted))
                elif block.rest == "eventually":
                    eventually(lambda line=command.line: terminal.type(line), command.wanted, 0)
                else:
                    expected = int(block.rest.removeprefix("exit=") or 0)
                    code, output = terminal.type(command.line)
                    check(command.line, code, output, command.wanted, expected)
    assert typed >= 15


def save(folder: Path, block: Block) -> None:
    """A whole file, or (`change FILE`) lines of one in the place of those with the same key."""
    change, _, name = block.rest.rpartition(" ")
    path = folder / name
    if not change:
        path.parent.mkdir(exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    for line in block.text.splitlines():
        key = line.partition("=")[0]
        text, times = re.subn(rf"^{re.escape(key)}=.*$", line, text, flags=re.MULTILINE)
        assert times == 1, f"{key!r} stands {times} times in {name}"
    path.write_text(text, encoding="utf-8")
