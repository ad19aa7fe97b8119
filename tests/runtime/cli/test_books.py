"""Commands on the books without a daemon."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.integration.brokers import PATIENCE
from tests.runtime.cli.terminal import SMA_CROSS, candle_file, fillbook, process


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books with trades in the usual place of a data folder."""
    folder = tmp_path_factory.mktemp("books")
    file = candle_file(folder / "btc.csv")
    data = folder / "data"
    data.mkdir()
    found = fillbook(
        "replay", "--data-dir", data, "--bots", SMA_CROSS, "--candles", f"BTC-USD={file}",
        "--set", "bots.sma-cross.quantity=0.01", "--db", data / "fillbook.db", "--json",
    )  # fmt: skip
    assert found.code == 0
    (data / "replay.json").write_text(found.out, encoding="utf-8")
    return data


@pytest.fixture
def data(replayed: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(replayed, tmp_path / "data")


def test_without_books_every_reading_command_says_how_to_start_and_makes_nothing(tmp_path: Path) -> None:
    for command in ("portfolio", "trades", "orders", "status", "verify", "bots", "letters"):
        found = fillbook(command, "--data-dir", tmp_path / "none")
        assert found.code == 3, command
        assert "there are no books" in found.err
        assert "fillbook demo" in found.err
    assert not (tmp_path / "none").exists()


def test_portfolio_prints_the_promised_shape(data: Path) -> None:
    found = fillbook("portfolio", "--data-dir", data, "--json").json
    replayed = json.loads((data / "replay.json").read_text(encoding="utf-8"))
    for key in ("account", "cash", "market_value", "equity", "realized_pnl", "unrealized_pnl", "fees", "positions"):
        assert found[key] == replayed[key]
    position = {"symbol", "quantity", "cost_basis", "average_cost", "mark_price", "market_value", "unrealized_pnl"}
    assert position | {"realized_pnl", "open_lots"} <= found["positions"][0].keys()
    shown = fillbook("portfolio", "--data-dir", data)
    assert "equity" in shown.out
    assert shown.code == 0


@pytest.mark.parametrize(
    "command",
    [
        ["portfolio"],
        ["trades"],
        ["orders"],
        ["export", "trades"],
        ["export", "allocations"],
        ["export", "cash-flows"],
    ],
    ids=" ".join,
)
def test_an_unknown_account_is_named_with_the_known_ones(data: Path, command: list[str]) -> None:
    found = fillbook(*command, "--data-dir", data, "--account", "nobody")
    assert (found.code, found.out) == (2, "")
    assert "there is no account 'nobody'; there are: main" in found.err


@pytest.mark.parametrize(
    "arguments",
    [["trades", "--cursor", "x"], ["orders", "--cursor", "x"], ["orders", "--status", "x"], ["db", "downgrade", "x"]],
    ids=" ".join,
)
def test_a_refused_option_names_what_was_given(data: Path, arguments: list[str]) -> None:
    found = fillbook(*arguments, "--data-dir", data)
    assert found.code == 2
    assert "not 'x'" in found.err


@pytest.mark.parametrize("command", ["trades", "orders"])
def test_pages_join_to_the_whole_list(data: Path, command: str) -> None:
    whole = fillbook(command, "--data-dir", data, "--json").json
    assert whole["next"] is None
    items, cursor = [], None
    while True:
        more: list[str] = [] if cursor is None else ["--cursor", cursor]
        page = fillbook(command, "--data-dir", data, "--limit", "3", "--json", *more).json
        items += page["items"]
        cursor = page["next"]
        if cursor is None:
            break
    assert items == whole["items"]
    assert len(items) > 3


def test_trades_can_be_filtered(data: Path) -> None:
    def count(*filters: str) -> int:
        return len(fillbook("trades", "--data-dir", data, "--json", *filters).json["items"])

    assert count("--triggered-by", "bot:sma-cross") == count() > 0
    assert count("--triggered-by", "manual") == 0
    assert count("--symbol", "AAPL") == 0
    assert fillbook("trades", "--data-dir", data, "--cursor", "x").code == 2
    assert fillbook("orders", "--data-dir", data, "--status", "x").code == 2


def test_a_deposit_under_one_request_id_is_booked_once(data: Path) -> None:
    def cash() -> str:
        return str(fillbook("portfolio", "--data-dir", data, "--json").json["cash"])

    before = cash()
    first = fillbook("deposit", "100.25", "--data-dir", data, "--request-id", "d-1", "--json")
    again = fillbook("deposit", "100.25", "--data-dir", data, "--request-id", "d-1", "--json")
    assert first.code == again.code == 0
    assert first.json == again.json
    assert first.json["status"] == "done"
    other = fillbook("deposit", "7", "--data-dir", data, "--request-id", "d-1")
    assert other.code == 1
    assert "idempotency_conflict: request_id = d-1" in other.err
    back = fillbook("withdraw", "100.25", "--data-dir", data)
    assert back.code == 0
    assert cash() == before
    assert fillbook("verify", "--data-dir", data).code == 0


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "1e999", "-5", "0", "١٢", "1_000"])
def test_what_is_no_amount_is_refused_by_name(data: Path, amount: str) -> None:
    found = fillbook("deposit", "--data-dir", data, "--", amount)
    assert found.code == 1
    assert "deposit refused" in found.err
    assert "amount" in found.err
    assert found.out == ""


def test_more_than_there_is_cannot_be_withdrawn(data: Path) -> None:
    found = fillbook("withdraw", "99999999", "--data-dir", data)
    assert found.code == 1
    assert "insufficient_cash: amount = 99999999: expected at most" in found.err


def test_accounts_and_instruments_are_added_once(tmp_path: Path) -> None:
    data = tmp_path / "new"
    assert fillbook("account", "add", "savings", "--data-dir", data, "--mode", "margin").code == 0
    again = fillbook("account", "add", "savings", "--data-dir", data)
    assert (again.code, again.out) == (1, "")
    assert "exists already" in again.err
    listed = fillbook("account", "list", "--data-dir", data, "--json").json
    assert listed["next"] is None
    assert [(item["name"], item["mode"]) for item in listed["items"]] == [("main", "spot"), ("savings", "margin")]
    assert fillbook("portfolio", "--data-dir", data, "--json").json["cash"] == "10000"
    assert fillbook("portfolio", "--account", "savings", "--data-dir", data, "--json").json["cash"] == "10000"
    assert fillbook("account", "add", "empty", "--deposit", "0", "--data-dir", data).code == 0
    assert fillbook("portfolio", "--account", "empty", "--data-dir", data, "--json").json["cash"] == "0"
    assert fillbook("account", "add", "x", "--deposit", "-1", "--data-dir", data).code == 2
    assert fillbook("deposit", "5", "--account", "savings", "--data-dir", data).code == 0
    for reserved in ("market", "Main", "a b"):
        assert fillbook("account", "add", reserved, "--data-dir", data).code == 2
    added = fillbook("instruments", "add", "BRK.B", "--data-dir", data, "--quantity-increment", "0.5")
    assert added.code == 0
    found = fillbook("instruments", "list", "--data-dir", data, "--json").json["items"]
    assert next(item for item in found if item["symbol"] == "BRK.B")["quantity_increment"] == "0.5"
    assert fillbook("instruments", "add", "BRK.B", "--data-dir", data).code == 1
    assert fillbook("instruments", "add", "brk b", "--data-dir", data).code == 2


def test_commands_that_need_a_daemon_say_so(data: Path) -> None:
    commands = (
        ("trade", "BTC-USD", "BUY", "--notional", "50"),
        ("cancel", "x"),
        ("halt",),
        ("resume",),
        ("signals",),
    )
    for command in commands:
        found = fillbook(*command, "--data-dir", data)
        assert found.code == 3, command
        assert "no daemon is running" in found.err
        assert f"fillbook run --data-dir {data}" in found.err


def test_a_trade_needs_exactly_one_size_and_a_side(data: Path) -> None:
    assert fillbook("trade", "BTC-USD", "BUY", "--data-dir", data).code == 2
    assert fillbook("trade", "BTC-USD", "BUY", "--close", "--quantity", "1", "--data-dir", data).code == 2
    assert fillbook("trade", "BTC-USD", "HOLD", "--quantity", "1", "--data-dir", data).code == 2


def test_verify_numbers_its_checks(data: Path) -> None:
    found = fillbook("verify", "--data-dir", data)
    assert found.code == 0
    lines = found.out.splitlines()
    assert lines[0].startswith("[1/11] ✓ each sell is allocated exactly")
    assert lines[-1] == "All checks passed (11/11)"
    wire = fillbook("verify", "--data-dir", data, "--json").json
    assert wire["ok"] is True
    assert [check["number"] for check in wire["checks"]] == list(range(1, 12))


def test_verify_narrows_to_an_account_and_a_symbol_that_exist(data: Path) -> None:
    wire = fillbook("verify", "--account", "main", "--symbol", "BTC-USD", "--data-dir", data, "--json").json
    assert wire["ok"] is True
    assert fillbook("verify", "--account", "nobody", "--data-dir", data).code == 2
    assert fillbook("verify", "--symbol", "NO-USD", "--data-dir", data).code == 2


def test_verify_finds_a_changed_trade_and_restores_the_guards(data: Path) -> None:
    connection = sqlite3.connect(data / "fillbook.db")
    triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (name,) in triggers:
        connection.execute(f'DROP TRIGGER "{name}"')
    connection.execute("UPDATE trades SET price = '1' WHERE sequence = 3")
    connection.commit()
    found = fillbook("verify", "--data-dir", data)
    assert found.code == 1
    assert "[9/11] ✗ the chain of facts is unbroken" in found.out
    assert "(sequence 3): the hash does not follow" in found.out
    assert "--restore-guards" in found.out
    assert "All checks passed" not in found.out
    assert "checks failed" in found.err
    assert fillbook("verify", "--data-dir", data, "--json").json["ok"] is False

    again = fillbook("verify", "--restore-guards", "--data-dir", data)
    assert "restored: cash_flows_refuse_delete" in again.err
    assert "[10/11] ✓" in again.out
    with pytest.raises(sqlite3.DatabaseError, match="compensating"):
        connection.execute("UPDATE trades SET price = '1' WHERE sequence = 3")
    connection.close()


def test_status_without_a_daemon_tells_of_the_books(data: Path) -> None:
    found = fillbook("status", "--data-dir", data, "--json").json
    assert found["daemon"]["running"] is False
    assert found["ledger"]["sequence"] > 3
    assert found["ledger"]["announced"] == 0, "no daemon has run: all of it is to be announced"
    assert found["candles"][0]["symbol"] == "BTC-USD"
    assert found["open_orders"] == []
    assert found["dead_letters"] == 0
    shown = fillbook("status", "--data-dir", data).out
    assert "not running" in shown
    assert f"{found['ledger']['sequence']} to be announced" in shown


def test_a_file_that_is_no_database_is_a_message(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "fillbook.db").write_text("this is no database " * 100, encoding="utf-8")
    found = fillbook("portfolio", "--data-dir", data)
    assert found.code == 3
    assert "fillbook.db" in found.err
    assert "Traceback" not in found.err


def test_a_reader_that_goes_away_is_no_error(data: Path) -> None:
    with process("topics", "--json") as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr is not None
        assert running.stderr.read() == ""
        assert running.wait(PATIENCE) == 0


def test_bots_lists_files_and_states(data: Path) -> None:
    found = fillbook("bots", "--data-dir", data, "--json").json["items"]
    assert {item["bot"] for item in found} >= {"sma-cross", "weighted"}
    assert not any(item["running"] for item in found)


def test_damaged_books_are_said_to_be_damaged_and_point_to_verify(data: Path, tmp_path: Path) -> None:
    with sqlite3.connect(data / "fillbook.db", isolation_level=None) as books:
        books.execute("DROP TRIGGER trades_refuse_delete")
        books.execute("DELETE FROM trades WHERE sequence = 2")
        books.execute("DELETE FROM followers")
    for command in (("portfolio",), ("report", "pnl"), ("allocations", "list")):
        found = fillbook(*command, "--data-dir", data)
        assert found.code == 1, command
        assert "the fact of sequence 2 is missing" in found.err
        assert "fillbook verify" in found.err
        assert "Traceback" not in found.err


@pytest.mark.parametrize("command", [["portfolio"], ["deposit", "5"]], ids=" ".join)
def test_books_on_a_read_only_disk_say_what_is_the_matter(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fillbook("account", "add", "ann", "--data-dir", tmp_path).code == 0
    (tmp_path / "fillbook.db-wal").mkdir()  # what SQLite cannot make there, seen from here: the same error
    monkeypatch.setattr("os.access", lambda *_: False)

    found = fillbook(*command, "--data-dir", tmp_path)

    assert (found.code, found.out) == (3, "")
    assert "unable to open database file" in found.err
    assert f"{tmp_path} cannot be written" in found.err
