"""Bots of one's own on the command line: the example of the guide as it stands there, and what goes wrong."""

from pathlib import Path

from tests.runtime.cli.terminal import ROOT, candle_file, fillbook
from tests.signals.isolation.bots import write_bot

EXAMPLE = ROOT / "config" / "examples" / "breakout"
FILE = 'name = "bad"\nsymbol = "BTC-USD"\nclass = "bad:Bot"\n'


def test_the_example_runs_in_replay_and_twice_the_same(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv", 1_500)
    command = ("replay", "--bots", EXAMPLE, "--candles", f"BTC-USD={file}", "--json")
    first, second = fillbook(*command), fillbook(*command)
    assert (first.code, second.code) == (0, 0), first.err
    assert first.json["fills"] > 10
    assert {trade["triggered_by"] for trade in first.json["trades"]} == {"bot:breakout"}
    assert first.json["state_hash"] == second.json["state_hash"]
    other = fillbook(*command, "--set", "bots.breakout.params.length=40").json
    assert other["state_hash"] != first.json["state_hash"]


def test_check_finds_what_is_wrong_with_a_class_and_its_parameters() -> None:
    good = fillbook("config", "check", "--bots", EXAMPLE)
    assert good.code == 0, good.err
    bad = fillbook("config", "check", "--bots", EXAMPLE, "--set", "bots.breakout.params.exit_length=30")
    assert bad.code == 2
    assert "ValueError: exit_length (30) from 1 to length (20)" in bad.err


def test_what_a_bot_prints_and_how_it_failed_never_mixes_with_the_data(tmp_path: Path) -> None:
    write_bot(tmp_path, top="print('at import')", decide="print('hello')\nif self.count == 9: 1 / 0")
    (tmp_path / "bad.toml").write_text(FILE)
    file = candle_file(tmp_path / "btc.csv", 50)
    found = fillbook("replay", "--bots", tmp_path / "bad.toml", "--candles", f"BTC-USD={file}", "--json")
    assert found.code == 0
    assert found.json["recommendations"] == 8
    (warning,) = found.json["warnings"]
    assert warning.startswith("bot bad stopped with BotRaised: ZeroDivisionError")
    for text in ("at import", "hello", "Traceback", "fillbook: warning: bot bad stopped"):
        assert text in found.err


def test_a_list_of_bots_imports_nobodys_code(tmp_path: Path) -> None:
    books = tmp_path / "data" / "fillbook.db"
    books.parent.mkdir()
    candles = candle_file(tmp_path / "btc.csv", 5)
    assert fillbook("replay", "--bots", EXAMPLE, "--candles", f"BTC-USD={candles}", "--db", books).code == 0
    (tmp_path / "bad.toml").write_text(FILE)
    found = fillbook("bots", "--data-dir", books.parent, "--bots", tmp_path / "bad.toml", "--json")
    assert found.code == 0, found.err
    assert ("bad", "bad:Bot") in [(item["bot"], item["class"]) for item in found.json["items"]]
