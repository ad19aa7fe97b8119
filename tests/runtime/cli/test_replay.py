"""`fillbook replay`."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest

from config.exact import round_to
from tests.integration.brokers import PATIENCE
from tests.runtime.cli.terminal import ROOT, SMA_CROSS, candle_file, fillbook, keep, process

QUANTITY = ("--set", "bots.sma-cross.quantity=0.01")


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Candles enough that a replay of them can be interrupted."""
    return candle_file(tmp_path_factory.mktemp("long") / "btc.csv", 60_000)


def test_replay_prints_the_promised_json_and_twice_the_same_hash(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv")
    command = ("replay", "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}", "--cash", "1000", *QUANTITY, "--json")
    first, second = fillbook(*command), fillbook(*command)
    assert first.code == second.code == 0
    found = first.json
    assert {
        "candles", "recommendations", "orders", "fills", "cash", "market_value", "equity", "realized_pnl",
        "unrealized_pnl", "fees", "positions", "trades", "state_hash", "seconds", "candles_per_second",
    } <= found.keys()  # fmt: skip
    assert found["candles"] == 400
    assert found["fills"] == len(found["trades"]) > 2
    assert set(found["trades"][0]) == {
        "account", "executed_at", "symbol", "side", "quantity", "price", "fee", "triggered_by", "realized_pnl",
    }  # fmt: skip
    assert found["trades"][0]["triggered_by"] == "bot:sma-cross"
    spent = sum(
        Decimal(t["quantity"]) * Decimal(t["price"]) * (1 if t["side"] == "BUY" else -1) for t in found["trades"]
    )
    assert Decimal(found["cash"]) == 1000 - spent - Decimal(found["fees"])
    assert found["state_hash"] == second.json["state_hash"]
    assert found["trades"] == second.json["trades"]


def test_bots_of_several_accounts_each_trade_with_the_cash_of_their_own(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv")
    bots = tmp_path / "bots"
    bots.mkdir()
    text = Path(SMA_CROSS).read_text(encoding="utf-8")
    for name, account in (("mine", "main"), ("yours", "second")):
        changed = text.replace('name = "sma-cross"', f'name = "{name}"').replace('"main"', f'"{account}"')
        assert f'account = "{account}"' in changed
        (bots / f"{name}.toml").write_text(changed, encoding="utf-8")
    command = ("replay", "--candles", f"BTC-USD={file}", "--cash", "5000", "--json", "--bots")
    sizes = ("--set", "bots.mine.quantity=0.01", "--set", "bots.yours.quantity=0.02")
    found = fillbook(*command, bots, *sizes).json
    assert [one["account"] for one in found["accounts"]] == ["main", "second"]
    for one, quantity in zip(found["accounts"], ("0.01", "0.02"), strict=True):
        mine = [trade for trade in found["trades"] if trade["account"] == one["account"]]
        assert {trade["quantity"] for trade in mine} == {quantity}
        spent = sum(Decimal(t["quantity"]) * Decimal(t["price"]) * (1 if t["side"] == "BUY" else -1) for t in mine)
        assert Decimal(one["cash"]) == 5000 - spent - Decimal(one["fees"])
    alone = fillbook(*command, bots / "mine.toml", *sizes[:2]).json
    assert alone["accounts"] == found["accounts"][:1]


def test_set_reaches_settings_and_bots_before_and_after_the_command(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv")
    command = ("replay", "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}", "--json", *QUANTITY)
    usual = fillbook(*command).json
    free = fillbook("--set", "paper.taker_fee_bps=0", *command).json
    slower = fillbook(*command, "--set", "bots.sma-cross.slow=60").json
    assert usual["fees"] != "0"
    assert free["fees"] == "0"
    assert slower["state_hash"] != usual["state_hash"]


def test_of_two_bots_that_sell_one_position_at_once_the_second_is_refused_and_nothing_is_sold_twice(
    tmp_path: Path,
) -> None:
    file = candle_file(tmp_path / "btc.csv")
    text = 'name = "{}"\nclass = "sma-cross"\nsymbol = "BTC-USD"\nfast = 3\nslow = 8\nquantity = 0.05\n'
    bots = tmp_path / "bots"
    bots.mkdir()
    for name in ("one", "two"):
        (bots / f"{name}.toml").write_text(text.format(name), encoding="utf-8")
    found = fillbook("replay", "--bots", bots, "--candles", f"BTC-USD={file}", "--json").json
    sales = [trade for trade in found["trades"] if trade["side"] == "SELL"]
    assert sales
    assert {trade["triggered_by"] for trade in sales} == {"bot:one"}
    bought = sum(Decimal(trade["quantity"]) for trade in found["trades"] if trade["side"] == "BUY")
    held = sum(Decimal(position["quantity"]) for position in found["positions"])
    assert sum(Decimal(trade["quantity"]) for trade in sales) == bought - held
    assert held >= 0
    assert any(warning.startswith("bot:two was refused") for warning in found["warnings"])


def test_the_opening_cash_is_the_accounts_initial_deposit_unless_given(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv", 20)
    command = ("replay", "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}", "--json")
    assert fillbook(*command).json["cash"] == "10000"
    assert fillbook(*command, "--cash", "5.50").json["cash"] == "5.5"


def test_a_person_gets_a_table(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv")
    found = fillbook("replay", "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}", *QUANTITY)
    assert found.code == 0
    assert "realized P&L" in found.out
    assert "bot:sma-cross" in found.out
    assert "\x1b" not in found.out
    assert found.err == ""


def test_a_bot_without_candles_is_a_warning_on_stderr(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "eth.csv", 20, "ETH-USD")
    found = fillbook("replay", "--bots", SMA_CROSS, "--candles", f"ETH-USD={file}", "--json")
    assert found.code == 0
    assert "bot sma-cross saw no candle" in found.err
    assert found.json["trades"] == []


def test_the_books_of_a_replay_can_be_kept_and_read(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv")
    kept = tmp_path / "kept.db"
    found = fillbook("replay", "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}", "--db", kept, "--json", *QUANTITY)
    url = f"database_url=sqlite:///{kept}"
    trades = fillbook("trades", "--json", "--set", url).json
    assert [item["price"] for item in reversed(trades["items"])] == [item["price"] for item in found.json["trades"]]
    assert fillbook("verify", "--set", url).code == 0


def test_every_fault_of_every_input_is_named_at_once_and_nothing_starts(tmp_path: Path) -> None:
    bad_bot = tmp_path / "bad.toml"
    bad_bot.write_text('name = "bad"\nclass = "sma-cross"\nsymbol = "btc"\nfast = 40\nslow = 30\n', encoding="utf-8")
    bad_candles = tmp_path / "bad.csv"
    bad_candles.write_text(
        "time,open,high,low,close,volume\n2026-01-01T00:00:00Z,1,1,1,1,1\n2026-01-01T00:01:00Z,1,1,1,NaN,1\n",
        encoding="utf-8",
    )
    kept = tmp_path / "kept.db"
    found = fillbook(
        "replay", "--bots", bad_bot, "--candles", f"BTC-USD={bad_candles}", "--candles", "nonsense",
        "--set", "paper.taker_fee_bps=-1", "--db", kept,
    )  # fmt: skip
    assert found.code == 2
    assert found.out == ""
    assert not kept.exists()
    for expected in (
        f"{bad_bot}:3: symbol",
        f"{bad_bot}:5: slow",
        f"{bad_candles}:3: close",
        '--candles: "nonsense": expected SYM=FILE',
        "--set: paper.taker_fee_bps",
    ):
        assert expected in found.err, found.err
    assert "Traceback" not in found.err


def test_cash_that_is_no_amount_is_a_usage_error(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv", 20)
    for text in ("NaN", "1e5", "-3"):
        found = fillbook("replay", "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}", "--cash", text)
        assert found.code == 2
        assert "--cash" in found.err


def test_ctrl_c_ends_a_replay_with_130_and_without_a_traceback(tmp_path: Path, long_file: Path) -> None:
    command = ("replay", "--bots", SMA_CROSS, "--candles", f"BTC-USD={long_file}", "--db", tmp_path / "kept.db")
    with process(*command, measured=False) as running:
        while not (tmp_path / "kept.db").exists():  # the file appears when the run begins
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, err) == (130, "")


# ---- --compare ------------------------------------------------------------------------------------------


def second_bot(folder: Path) -> Path:
    path = folder / "quick.toml"
    path.write_text(
        'name = "quick"\nclass = "sma-cross"\nsymbol = "BTC-USD"\nfast = 2\nslow = 5\nquantity = 0.01\n',
        encoding="utf-8",
    )
    return path


def test_compare_prints_a_row_for_each_bot_and_for_holding_as_json(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv")
    command = (
        "--bots",
        SMA_CROSS,
        "--bots",
        second_bot(tmp_path),
        "--candles",
        f"BTC-USD={file}",
        *QUANTITY,
        "--json",
    )
    found = fillbook("replay", "--compare", *command).json
    assert set(found) == {"items", "next"}
    assert found["next"] is None
    rows = {row["name"]: row for row in found["items"]}
    assert set(rows) == {"sma-cross", "quick", "hold BTC-USD"}
    alone = fillbook("replay", "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}", *QUANTITY, "--json").json
    row = rows["sma-cross"]
    for key in ("state_hash", "fills", "equity", "fees", "realized_pnl", "unrealized_pnl", "candles"):
        assert row[key] == alone[key], key
    assert Decimal(row["return_pct"]) == round_to((Decimal(alone["equity"]) - 10_000) / 100, 6)
    assert 0 < Decimal(row["max_drawdown_pct"]) < 100
    assert 0 < Decimal(row["time_in_market_pct"]) < 100
    assert Decimal(rows["hold BTC-USD"]["time_in_market_pct"]) > 99
    assert isinstance(row["return_pct"], str)


def test_compare_shows_a_table_without_a_progress_bar_on_a_pipe(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv")
    found = fillbook(
        "replay", "--compare", "--together", "--bots", SMA_CROSS, "--bots", second_bot(tmp_path),
        "--candles", f"BTC-USD={file}", *QUANTITY, "--jobs", "2",
    )  # fmt: skip
    assert found.code == 0
    assert found.err == ""
    lines = found.out.splitlines()
    assert lines[0].split()[0] == "run"
    assert {line.split("  ")[0] for line in lines[1:5]} == {"sma-cross", "quick", "all together", "hold BTC-USD"}
    assert "\x1b" not in found.out


def test_compare_warns_of_a_bot_without_candles_and_goes_on(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "eth.csv", 50, "ETH-USD")
    found = fillbook("replay", "--compare", "--bots", SMA_CROSS, "--candles", f"ETH-USD={file}")
    assert found.code == 0
    assert "bot sma-cross saw no candle: no file of BTC-USD" in found.err
    assert "no candles" in found.out
    assert "hold ETH-USD" in found.out


def test_options_that_do_not_go_together_are_usage_errors(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv", 20)
    command = ("replay", "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}")
    for wrong in (("--compare", "--db", tmp_path / "kept.db"), ("--together",), ("--jobs", "2")):
        assert fillbook(*command, *wrong).code == 2
    assert not (tmp_path / "kept.db").exists()
    broken = tmp_path / "broken.toml"
    broken.write_text("name = 1\n", encoding="utf-8")
    found = fillbook("replay", "--compare", "--bots", broken, "--candles", f"BTC-USD={file}")
    assert found.code == 2
    assert "broken.toml:1: name" in found.err


def on_a_terminal(*arguments: str | Path, until: str | None = None) -> tuple[int, str, str]:
    """The command with a terminal as its stderr: exit code, stdout, what the terminal got.

    `until`: Ctrl-C as soon as this pattern was seen on the terminal.
    """
    here, there = pty.openpty()
    measured = until is None  # see `process`
    environment = {key: os.environ[key] for key in os.environ if measured or not key.startswith("COVERAGE_PROCESS")}
    environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "120"}
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "runtime.cli", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=there, text=True, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(there)
    seen = ""
    interrupted = False
    try:
        while True:
            try:
                block = os.read(here, 65_536)
            except OSError:  # what Linux says when nobody has the other end open any more
                break
            if not block:
                break
            seen += block.decode(errors="replace")
            if until is not None and not interrupted and re.search(until, seen):
                interrupted = True
                os.killpg(running.pid, signal.SIGINT)  # as the terminal does: to the whole group
        out, _ = running.communicate(timeout=PATIENCE)
    finally:
        os.close(here)
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
        keep(arguments, running.returncode, terminal=seen)
    return running.returncode, out, seen


def test_a_terminal_gets_a_progress_bar_over_all_runs(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv", 4_000)
    code, out, seen = on_a_terminal(
        "replay", "--compare", "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}", *QUANTITY, "--jobs", "2", "--json"
    )
    assert code == 0
    assert "2 runs" in seen
    assert "/8000" in seen
    assert json.loads(out)["items"]


@pytest.mark.parametrize("moment", ["3 runs", r" [1-9][0-9]*/180000"], ids=["at the start", "in the middle"])
def test_ctrl_c_ends_a_comparison_and_its_processes_with_130_and_without_a_traceback(
    tmp_path: Path, moment: str, long_file: Path
) -> None:
    code, out, seen = on_a_terminal(
        "replay", "--compare", "--bots", SMA_CROSS, "--bots", second_bot(tmp_path),
        "--candles", f"BTC-USD={long_file}", *QUANTITY, "--jobs", "2", until=moment,
    )  # fmt: skip
    assert (code, out) == (130, ""), seen
    assert "Traceback" not in seen
