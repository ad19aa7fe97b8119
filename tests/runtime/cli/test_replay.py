"""`fillbook replay`."""

import signal
from decimal import Decimal
from pathlib import Path

from tests.runtime.cli.terminal import SMA_CROSS, candle_file, fillbook, process

QUANTITY = ("--set", "bots.sma-cross.quantity=0.01")


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
        "executed_at", "symbol", "side", "quantity", "price", "fee", "triggered_by", "realized_pnl",
    }  # fmt: skip
    assert found["trades"][0]["triggered_by"] == "bot:sma-cross"
    spent = sum(
        Decimal(t["quantity"]) * Decimal(t["price"]) * (1 if t["side"] == "BUY" else -1) for t in found["trades"]
    )
    assert Decimal(found["cash"]) == 1000 - spent - Decimal(found["fees"])
    assert found["state_hash"] == second.json["state_hash"]
    assert found["trades"] == second.json["trades"]


def test_set_reaches_settings_and_bots_before_and_after_the_command(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv")
    command = ("replay", "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}", "--json", *QUANTITY)
    usual = fillbook(*command).json
    free = fillbook("--set", "paper.taker_fee_bps=0", *command).json
    slower = fillbook(*command, "--set", "bots.sma-cross.slow=60").json
    assert usual["fees"] != "0"
    assert free["fees"] == "0"
    assert slower["state_hash"] != usual["state_hash"]


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


def test_ctrl_c_ends_a_replay_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv", 60_000)
    with process(
        "replay", "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}", "--db", tmp_path / "kept.db"
    ) as running:
        while not (tmp_path / "kept.db").exists():  # the file appears when the run begins
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "Traceback" not in err
