"""Ctrl-C before a command has begun."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.runtime.cli.terminal import ROOT


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
