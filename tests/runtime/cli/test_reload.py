"""What a person sees of changed bot files: the demo's lines, `bots`, the hangup signal."""

import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from config.settings import SHIPPED_BOTS
from tests.integration.brokers import PATIENCE, free_port
from tests.runtime.cli.terminal import ROOT, demo, fillbook, until


def test_the_demo_says_what_its_changed_files_led_to_and_bots_shows_the_fault(tmp_path: Path) -> None:
    folder, data = tmp_path / "bots", tmp_path / "data"
    shutil.copytree(SHIPPED_BOTS.with_name("demo"), folder)
    file = folder / "btc-momentum.toml"
    good = file.read_text()
    with demo(data, "--bots", str(folder), "--set", "signals.reload_settle_ms=50") as running:
        file.write_text(good.replace("threshold = 0.30", "threshold = 30"))
        line = until(running, "ALERT  bot_file_invalid")
        assert "bot btc-momentum runs on as it was" in line
        assert "threshold = 30: expected a number from 0 to 1" in line
        found = fillbook("bots", "--bots", folder, "--data-dir", data, "--json")
        assert found.code == 0
        assert "threshold = 30" in found.err
        items = {item["bot"]: item for item in found.json["items"]}
        assert items["btc-momentum"]["status"] == "RUNNING"
        assert "threshold = 30" in items["btc-momentum"]["file_error"]
        assert items["btc-reversion"]["file_error"] is None
        assert "file not taken: " in fillbook("bots", "--bots", folder, "--data-dir", data).out
        twin = folder / "twin.toml"
        twin_text = 'name = "btc-momentum"\nclass = "sma-cross"\nsymbol = "BTC-USD"\n'
        twin.write_text(twin_text)
        file.write_text(good.replace("threshold = 0.30", "threshold = 0.26"))
        until(running, "bot:btc-momentum", "changed by its file")
        items = fillbook("bots", "--bots", folder, "--data-dir", data, "--json").json["items"]
        assert [item["class"] for item in items if item["bot"] == "btc-momentum"] == ["weighted"]
        twin.rename(folder / "a-twin.toml").write_text(twin_text.replace("BTC-USD", "ETH-USD"))
        until(running, "ALERT  bot_file_invalid", "a-twin.toml")
        (item,) = [
            item
            for item in fillbook("bots", "--bots", folder, "--data-dir", data, "--json").json["items"]
            if item["bot"] == "btc-momentum"
        ]
        assert (item["symbol"], item["class"]) == ("BTC-USD", "weighted")  # what runs, whichever file comes first
        (folder / "a-twin.toml").unlink()
        file.write_text(good.replace("threshold = 0.30", "threshold = 0.25"))
        until(running, "bot:btc-momentum", "changed by its file")
        (folder / "sol-cross.toml").unlink()
        until(running, "bot:sol-cross", "removed by its file")
        items = fillbook("bots", "--bots", folder, "--data-dir", data, "--json").json["items"]
        assert "sol-cross" not in [item["bot"] for item in items]


def test_a_hangup_looks_at_the_files_but_a_closed_terminal_is_an_end(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = ["run", "--data-dir", tmp_path / "data", "--set", f"broker.port={free_port()}"]
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "runtime.cli", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        shown = ""
        while "started" not in shown:
            shown += os.read(ours, 65536).decode(errors="replace")
        running.send_signal(signal.SIGHUP)
        while "looking at all files again" not in shown:
            shown += os.read(ours, 65536).decode(errors="replace")
        os.close(ours)
        running.send_signal(signal.SIGHUP)
        assert running.wait(PATIENCE) == 0
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
