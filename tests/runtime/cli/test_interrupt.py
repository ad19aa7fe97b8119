"""Ctrl-C and its kin at a command: before it has begun, while it works, where Python loses it, and after."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.brokers import PATIENCE
from tests.runtime.cli.terminal import ROOT

BEGIN = """
import os, runpy, signal, sqlite3, sys, time, types, weakref
import typer
from runtime.cli import app as program
from runtime.cli.base import command

def ctrl_c(*_):
    signal.raise_signal(signal.SIGINT)

def wait():
    while True:
        time.sleep(60)
"""
RUN = """
command(program.app, "work")(work)
sys.argv = ["fillbook", "work"]
runpy.run_module("runtime.cli", run_name="__main__", alter_sys=True)
"""


def ended(source: str, folder: Path, stderr: int = subprocess.PIPE) -> tuple[int, str, str]:
    """How a process ends, and what it says, of which `work(place)` in `source` is the command."""
    (folder / "program.py").write_text(BEGIN + source + RUN, encoding="utf-8")
    found = subprocess.run(
        [sys.executable, "-P", "-m", "program"],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "TERM": "xterm-256color"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    return found.returncode, found.stdout, found.stderr


IN_A_CALLBACK = """
class Thing:
    pass

def work(place):
    thing = Thing()
    ref = weakref.ref(thing, ctrl_c)
    del thing  # what a callback raises is dropped
    print("dropped", flush=True)
    wait()
"""


def test_a_ctrl_c_that_python_drops_in_a_callback_comes_again(tmp_path: Path) -> None:
    assert ended(IN_A_CALLBACK, tmp_path) == (130, "dropped\n", "")


IN_A_CLASS = """
class Named:
    __set_name__ = ctrl_c

def work(place):
    class Made:
        thing = Named()
"""
IN_SQLITE = """
def work(place):
    books = sqlite3.connect(":memory:")
    books.create_function("called", 0, ctrl_c)
    books.execute("SELECT called()")
"""
IN_SOURCE_TEXT = """
def work(place):
    exec("ctrl_c()", {"ctrl_c": ctrl_c})
"""


@pytest.mark.parametrize(
    "source", [IN_A_CLASS, IN_SQLITE, IN_SOURCE_TEXT], ids=["by a class", "by sqlite", "by what runs source text"]
)
def test_a_ctrl_c_of_which_something_else_is_made_ends_with_130_all_the_same(source: str, tmp_path: Path) -> None:
    assert ended(source, tmp_path) == (130, "", "")


BEFORE = """
def work(place, option: str = typer.Option("", callback=lambda value: ctrl_c())):
    print("at work")
"""
AFTER = """
def work(place):
    print("done")

def main(run=program.main):
    try:
        run()
    finally:
        ctrl_c()

program.main = main
"""
IN_THE_END = """
class Thing:
    def __del__(self, ctrl_c=ctrl_c):
        ctrl_c()  # when Python takes its modules apart

sys.modules["thing"] = types.ModuleType("thing")
sys.modules["thing"].thing = Thing()

def work(place):
    print("done")
"""


@pytest.mark.parametrize(
    ("source", "expected"),
    [(BEFORE, (130, "", "")), (AFTER, (130, "done\n", "")), (IN_THE_END, (0, "done\n", ""))],
    ids=["its arguments are read", "it is done", "Python tidies up"],
)
def test_ctrl_c_when_a_command_has_not_begun_or_is_over_is_an_end_without_a_word(
    source: str, expected: tuple[int, str, str], tmp_path: Path
) -> None:
    assert ended(source, tmp_path) == expected


WITH_A_BAR = """
from rich.console import Console
from runtime.cli.bars import TradeBar

def also_ctrl_c(done):
    def do(self, *values):
        found = done(self, *values)
        ctrl_c()
        return found
    return do

Console.{0} = also_ctrl_c(Console.{0})

def work(place):
    {1}
    wait()
"""
A_COMMANDS = """with TradeBar("computing"):
        pass"""
OF_THE_PROOFS = """from runtime.cli.verifying import _Bar
    bar = _Bar(11)
    try:
        bar.progress(1, 1, 2)
    finally:
        bar.stop()"""


@pytest.mark.parametrize("bar", [A_COMMANDS, OF_THE_PROOFS], ids=["a command's", "of the proofs"])
@pytest.mark.parametrize("moment", ["set_live", "show_cursor", "push_render_hook", "pop_render_hook"])
def test_ctrl_c_at_the_begin_or_the_end_of_a_bar_leaves_the_terminal_with_its_cursor(
    moment: str, bar: str, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    try:
        assert ended(WITH_A_BAR.format(moment, bar), tmp_path, theirs)[:2] == (130, "")
        seen = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert seen.rfind("\x1b[?25h") > seen.rfind("\x1b[?25l") >= 0, seen
    assert "Traceback" not in seen


ASKED = """
def work(place):
    try:
        signal.raise_signal(signal.{})
        wait()
    finally:
        print("closed", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_asked_to_end_closes_what_is_open_and_ends_by_the_signal(
    number: signal.Signals, tmp_path: Path
) -> None:
    assert ended(ASKED.format(number.name), tmp_path) == (-number, "closed\n", "")


def test_whoever_asks_twice_does_not_wait_for_a_command_that_cannot_end(tmp_path: Path) -> None:
    source = """
def work(place):
    try:
        signal.raise_signal(signal.SIGTERM)
        wait()
    finally:
        signal.raise_signal(signal.SIGTERM)
        print("never said", flush=True)
"""
    assert ended(source, tmp_path) == (-signal.SIGTERM, "", "")


def test_a_hangup_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    source = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)

def work(place):
    signal.raise_signal(signal.SIGHUP)
    print("done")
"""
    assert ended(source, tmp_path) == (0, "done\n", "")


def test_ctrl_c_while_modules_are_loaded_ends_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("print('loading', flush=True)\ninput()\n")
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "runtime.cli", "status"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "loading\n"

    running.send_signal(signal.SIGINT)

    out, err = running.communicate()
    assert (running.returncode, out, err) == (130, "", "")
