"""A daemon whose bots are all disabled says so, and how to enable one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from runtime.cli.daemon import nobody_trades
from tests.integration.brokers import PATIENCE, free_port
from tests.runtime.cli.terminal import ROOT
from tests.signals.stage import SMA, bot

FOLDER = [Path("my-bots")]


def test_nothing_is_said_when_a_bot_is_enabled() -> None:
    assert nobody_trades([bot(SMA, enabled=False), bot(SMA)], FOLDER) is None


def test_what_is_said_fits_the_number_of_files() -> None:
    one = nobody_trades([bot(SMA, enabled=False)], FOLDER)
    assert one is not None
    assert "the only bot file in my-bots says enabled = false" in one
    assert nobody_trades([], FOLDER) == (
        "there is no bot in my-bots: put a bot file there, or name other folders with --bots"
    )


def _log_until_started(folder: Path, *arguments: str) -> str:
    running = subprocess.Popen(
        [
            sys.executable, "-P", "-m", "runtime.cli", "run", "--data-dir", str(folder),
            "--set", f"broker.port={free_port()}", *arguments,
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert running.stderr is not None
    shown = ""
    for line in running.stderr:
        shown += line
        if '"started"' in line:
            break
    running.send_signal(signal.SIGTERM)
    shown += running.communicate(timeout=PATIENCE)[1]
    assert running.returncode == 0, shown
    return shown


def test_run_with_the_shipped_bots_says_that_none_is_enabled_and_how_to_enable_one(tmp_path: Path) -> None:
    shown = _log_until_started(tmp_path / "data")
    assert "no bot is enabled, so none will trade: all " in shown
    assert "--set bots.adx-trend.enabled=true" in shown
    assert "`fillbook bot start adx-trend`" in shown
    assert shown.index("no bot is enabled") < shown.index('"started"')


def test_run_says_nothing_of_it_with_an_enabled_bot(tmp_path: Path) -> None:
    assert "no bot is enabled" not in _log_until_started(tmp_path / "one", "--set", "bots.sma-cross.enabled=true")
