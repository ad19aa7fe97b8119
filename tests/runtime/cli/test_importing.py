"""`import`, `export`, `correct`: as a person types them, with and without a daemon, killed in the middle."""

import json
import signal
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.cli.terminal import Result, candle_file, demo, fillbook, process, until_trade

HEADER = "executed_at,symbol,side,quantity,price,fee,fee_asset,order_id,venue_trade_id,triggered_by"
EXAMPLE = (
    "2026-01-01T10:00:00Z,BTC-USD,BUY,0.5,30000,,,o1,a,",
    "2026-01-01T10:05:00Z,BTC-USD,BUY,0.3,31000,,,o2,b,",
    "2026-01-01T10:10:00Z,BTC-USD,SELL,0.7,32000,,,,,bot:rsi",
)


def fills(path: Path, lines: Sequence[str] = EXAMPLE) -> Path:
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return path


def many(path: Path, count: int) -> Path:
    lines = (
        f"2026-01-{1 + n // 86400:02}T{n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02}Z,BTC-USD,"
        f"{'SELL' if n % 2 else 'BUY'},1,{100 + n % 7},,,,,"
        for n in range(count)
    )
    return fills(path, list(lines))


class Here:
    """Commands in one data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str | Path, code: int = 0) -> Result:
        found = fillbook(*arguments, "--data-dir", self.folder)
        assert found.code == code, found.err + found.out
        return found

    def bring(self, file: Path, *options: str, code: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = self("import", file, "--format", "fillbook", "--json", *options, code=code).json
        assert found["read"] == found["added"] + found["duplicate"] + found["rejected"]
        return found

    def trades(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self("trades", "--json", "--limit", "1000").json["items"]
        return items

    def allocations(self, *columns: str) -> list[list[str]]:
        lines = self("export", "allocations", "--format", "jsonl").out.splitlines()
        return [[row[column] for column in columns] for row in map(json.loads, lines)]


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path / "books")


def test_the_worked_example_comes_out_to_the_cent(here: Here, tmp_path: Path) -> None:
    here.bring(fills(tmp_path / "fills.csv"))
    assert here.allocations("quantity", "cost_basis", "proceeds", "pnl") == [
        ["0.5", "15000", "16000", "1000"],
        ["0.2", "6200", "6400", "200"],
    ]
    found = here("portfolio", "--json").json
    assert (found["cash"], found["realized_pnl"]) == ("8100", "1200")
    assert found["positions"][0]["quantity"] == "0.1"
    here("verify")


def test_an_import_into_nothing_makes_the_first_account_as_run_does_and_again_adds_nothing(
    here: Here, tmp_path: Path
) -> None:
    file = fills(tmp_path / "My Fills (2026).csv")
    first = here.bring(file)
    assert (first["account"], first["added"], first["cash"]) == ("main", 3, "8100")
    assert here.bring(file)["duplicate"] == 3
    assert {trade["triggered_by"] for trade in here.trades()} == {"import:my-fills-2026", "bot:rsi"}
    assert [trade["order_id"] for trade in here.trades()] == [None, "o2", "o1"]


def test_rejected_rows_are_named_and_the_others_are_added(here: Here, tmp_path: Path) -> None:
    file = fills(tmp_path / "fills.csv", [*EXAMPLE, "2026-01-01T10:10:00,NEW-USD,BUY,1,1,,,,,", "x"])
    found = here.bring(file, code=1)
    assert (found["added"], found["rejected"]) == (3, 2)
    assert found["errors"][0]["line"] == 5
    assert found["errors"][0]["field"] == "executed_at"
    said = here("import", file, code=1)
    assert "line 5: executed_at: a time with its zone" in said.err
    assert "duplicate  3" in said.out


def test_a_file_that_cannot_be_read_at_all_changes_nothing(here: Here, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n", encoding="utf-8")
    for arguments in (
        (wrong,),
        (tmp_path / "none.csv",),
        (tmp_path,),
        (fills(tmp_path / "x.csv"), "--format", "ibkr"),
    ):
        here("import", *arguments, code=2)
    here("import", fills(tmp_path / "x.csv"), "--account", "nobody", code=2)
    assert not here.folder.exists()


def test_an_unknown_account_is_told_how_to_be_made(here: Here, tmp_path: Path) -> None:
    here.bring(fills(tmp_path / "x.csv"))
    assert "fillbook account add ann" in here("import", tmp_path / "x.csv", "--account", "ann", code=2).err
    here("account", "add", "ann", "--deposit", "0")
    found = here.bring(tmp_path / "x.csv", "--account", "ann")
    assert (found["added"], found["cash"]) == (3, "-1900")
    assert "-1900 USD" in found["warnings"][-1]


def test_an_unmatched_sell_is_a_warning(here: Here, tmp_path: Path) -> None:
    found = here.bring(fills(tmp_path / "x.csv", EXAMPLE[2:]))
    assert "sold 0.7 BTC-USD more than there was" in found["warnings"][0]


def test_what_is_exported_makes_the_same_books_elsewhere_and_nothing_here(here: Here, tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv")
    here.folder.mkdir()
    sma = Path(__file__).resolve().parents[3] / "config" / "bots" / "sma-cross.toml"
    here("replay", "--bots", sma, "--candles", f"BTC-USD={file}", "--set", "bots.sma-cross.quantity=0.01",
         "--db", here.folder / "fillbook.db")  # fmt: skip
    here.bring(fills(tmp_path / "mine.csv", [*EXAMPLE, *EXAMPLE[2:]]))
    out = tmp_path / "out.csv"
    here("export", "trades", "--output", out)
    assert here.bring(out)["added"] == 0
    other = Here(tmp_path / "other")
    assert other.bring(out)["rejected"] == 0
    numbers = ("symbol", "quantity", "cost_basis", "proceeds", "fees", "pnl", "buy_at", "sell_at")
    assert sorted(other.allocations(*numbers), key=str) == sorted(here.allocations(*numbers), key=str)
    assert here.allocations("pnl")
    # Ids of another venue name its trades there; a second journey changes no byte but those.
    again = tmp_path / "again.csv"
    other("export", "trades", "--output", again)
    assert other.bring(again)["added"] == 0
    assert again.read_text(encoding="utf-8") == out.read_text(encoding="utf-8")


def test_rejected_rows_are_named_in_the_order_of_the_file(here: Here, tmp_path: Path) -> None:
    of_the_books = EXAMPLE[0].replace("BTC-USD", "BTC-EUR")  # nothing is wrong with the row itself
    of_the_row = EXAMPLE[1].replace("BUY", "HOLD")
    found = here.bring(fills(tmp_path / "fills.csv", [of_the_books, of_the_row]), code=1)
    assert [fault["line"] for fault in found["errors"]] == [2, 3]


@pytest.mark.parametrize("what", ["trades", "allocations", "cash-flows"])
def test_export_takes_json_for_json_lines(here: Here, tmp_path: Path, what: str) -> None:
    here.bring(fills(tmp_path / "fills.csv"))
    assert here("export", what, "--json").out == here("export", what, "--format", "jsonl").out


def test_json_lines_travel_as_well(here: Here, tmp_path: Path) -> None:
    here.bring(fills(tmp_path / "x.csv"))
    out = tmp_path / "out.jsonl"
    here("export", "trades", "--format", "jsonl", "--output", out)
    assert here.bring(out)["duplicate"] == 3
    assert Here(tmp_path / "other").bring(out)["added"] == 3


def test_a_correction_takes_back_replaces_and_shows_both(here: Here, tmp_path: Path) -> None:
    here.bring(fills(tmp_path / "x.csv"))
    sell = here.trades()[0]
    found = here("correct", sell["id"], "--reason", "typo", "--quantity", "0.6", "--by", "ann", "--json").json
    assert (found["before"]["realized_pnl"], found["after"]["realized_pnl"]) == ("1200", "1100")
    replacement, entry, original = here.trades()[:3]
    assert (entry["corrects"], original["corrected_by"]) == (original["id"], entry["id"])
    assert replacement["signal_context"]["correction"] == {
        "reason": "typo",
        "by": "manual:ann",
        "replaces": sell["id"],
    }
    assert "was taken back already" in here("correct", sell["id"], "--reason", "again", "--void", code=1).err
    here("verify")

    right = Here(tmp_path / "right")
    right.bring(fills(tmp_path / "right.csv", [*EXAMPLE[:2], EXAMPLE[2].replace("0.7", "0.6")]))
    numbers = ("quantity", "cost_basis", "proceeds", "pnl", "buy_at", "sell_at")
    assert here.allocations(*numbers) == right.allocations(*numbers)
    assert [row.split(",")[3] for row in here("export", "trades").out.splitlines()[1:]] == ["0.5", "0.3", "0.6"]
    assert len(here("export", "trades", "--all").out.splitlines()) == 6


@pytest.mark.parametrize(
    "options", [(), ("--void", "--price", "1"), ("--quantity", "0"), ("--price", "-1"), ("--executed-at", "now")]
)
def test_a_correction_says_exactly_one_thing(here: Here, tmp_path: Path, options: tuple[str, ...]) -> None:
    here.bring(fills(tmp_path / "x.csv"))
    here("correct", here.trades()[0]["id"], "--reason", "x", *options, code=2)
    assert len(here.trades()) == 3


def test_killed_in_the_middle_the_rest_is_added_and_nothing_twice(tmp_path: Path) -> None:
    for count in (12_000, 40_000, 120_000):  # a longer one, should it have been over before somebody looked
        file = many(tmp_path / "many.csv", count)
        here = Here(tmp_path / f"books-{count}")
        here.bring(fills(tmp_path / "x.csv"))
        added = _kill_an_import(here, file)
        if added < count:
            break
    assert 2000 <= added < count
    assert added % 2000 == 0, "whole transactions"
    found = here.bring(file)
    assert (found["added"], found["duplicate"]) == (count - added, added)
    here("verify")


def _kill_an_import(here: Here, file: Path) -> int:
    """Kill it when something of it is stored; how much that is."""
    before = _count(here.folder)
    with process("import", file, "--data-dir", here.folder) as running:
        while _count(here.folder) == before and running.poll() is None:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.wait()
    return _count(here.folder) - before


def _count(folder: Path) -> int:
    connection = sqlite3.connect(folder / "fillbook.db")
    try:
        return int(connection.execute("SELECT COUNT(*) FROM trades").fetchone()[0])
    finally:
        connection.close()


def test_beside_a_running_daemon_which_learns_of_new_symbols_and_goes_on_trading(here: Here, tmp_path: Path) -> None:
    mine = [line.replace("BTC-USD", "OWN-USD") for line in EXAMPLE]  # the demo's bot trades BTC-USD
    file = fills(tmp_path / "x.csv", [*mine, "2026-01-01T10:11:00Z,NEW-USD,BUY,5,2,,,,,"])
    with demo(here.folder) as running:
        until_trade(running)
        found = here.bring(file)
        assert (found["added"], found["symbols_registered"]) == (4, ["OWN-USD", "NEW-USD"])
        stored = [pnl for symbol, pnl in here.allocations("symbol", "pnl") if symbol == "OWN-USD"]
        assert stored == ["1000", "200"], "by the daemon, before the command ended"
        sold = next(trade for trade in here.trades() if (trade["symbol"], trade["side"]) == ("OWN-USD", "SELL"))
        here("correct", sold["id"], "--reason", "never happened", "--void")
        here("deposit", "50000")  # without that sell the imported buys leave no cash
        assert here("trade", "BTC-USD", "BUY", "--notional", "50", "--json").json["status"] == "filled"
        answer = here("trade", "NEW-USD", "SELL", "--quantity", "1", "--json", code=1).json
        assert answer["reason"]["code"] not in ("unknown_symbol", "insufficient_quantity"), answer
    here("verify")
