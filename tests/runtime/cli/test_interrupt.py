"""Ctrl-C before a command has begun, and where Python drops it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.integration.brokers import PATIENCE
from tests.runtime.cli.terminal import ROOT

DROPPED = """
import signal, sys, types, weakref

class Thing:
    pass

def main():
    thing = Thing()
    ref = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing  # what a callback raises is dropped
    print("dropped", flush=True)
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_a_ctrl_c_that_python_drops_in_a_callback_comes_again(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(DROPPED)
    program = (
        "import main, runpy, runtime.cli.app as app; app.main = main.main;"
        " runpy.run_module('runtime.cli', run_name='__main__')"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "dropped\n", "")


def test_ctrl_c_while_modules_are_loaded_ends_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("print('loading', flush=True)\ninput()\n")
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "runtime.cli", "status"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "loading\n"

    running.send_signal(signal.SIGINT)

    out, err = running.communicate()
    assert (running.returncode, out, err) == (130, "", "")
