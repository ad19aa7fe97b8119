"""Commands and a running daemon, each in its own process, over the real embedded broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.brokers import PATIENCE, free_port
from tests.runtime.cli.terminal import (
    candle_file,
    demo,
    eventually,
    fillbook,
    interrupt,
    process,
    stdout_of,
    until,
    until_trade,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running demo whose first bot has traded."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    with demo(folder) as running:
        until_trade(running)
        eventually(lambda: fillbook("signals", "--data-dir", folder), lambda found: found.code == 0)
        yield folder


def test_a_trade_by_hand_is_filled_once_per_request_id(data: Path) -> None:
    command = ("trade", "BTC-USD", "BUY", "--notional", "50", "--request-id", "hand-1", "--data-dir", data, "--json")
    first, again = fillbook(*command), fillbook(*command)
    assert first.code == again.code == 0, first.err
    assert first.json["status"] == "filled"
    assert first.json["trades"] == again.json["trades"]
    other = fillbook("trade", "BTC-USD", "BUY", "--notional", "51", "--request-id", "hand-1", "--data-dir", data)
    assert other.code == 1
    assert "idempotency_conflict: request_id = hand-1" in other.err
    mine = fillbook("trades", "--triggered-by", "manual", "--data-dir", data, "--json").json["items"]
    assert len(mine) == 1


def test_a_refusal_names_code_field_value_and_expectation(data: Path) -> None:
    found = fillbook("trade", "DOGS-USD", "BUY", "--notional", "50", "--data-dir", data)
    assert found.code == 1
    assert found.out == ""
    assert "trade refused" in found.err
    assert "symbol = DOGS-USD" in found.err
    for amount in ("NaN", "1e999", "0"):
        refused = fillbook("trade", "BTC-USD", "BUY", "--notional", amount, "--data-dir", data)
        assert refused.code == 1
        assert f"notional = {amount}" in refused.err


def test_a_resting_order_is_accepted_shown_and_cancelled(data: Path) -> None:
    placed = fillbook(
        "trade", "BTC-USD", "BUY", "--quantity", "0.001", "--limit", "1000", "--data-dir", data, "--json"
    )
    assert placed.code == 0, placed.err
    assert placed.json["status"] == "accepted"
    order = placed.json["order_id"]
    status = fillbook("status", "--data-dir", data, "--json").json
    assert order in [item["id"] for item in status["open_orders"]]
    assert fillbook("cancel", order, "--data-dir", data).code == 0
    again = fillbook("cancel", order, "--data-dir", data)
    assert again.code == 1
    assert "order_final" in again.err


def test_halt_refuses_trades_until_resume(data: Path) -> None:
    assert fillbook("halt", "--note", "lunch", "--data-dir", data).code == 0
    try:
        found = fillbook("trade", "BTC-USD", "BUY", "--notional", "50", "--data-dir", data)
        assert found.code == 1
        assert "halt" in found.err
        assert fillbook("status", "--data-dir", data, "--json").json["halts"][0]["reason"] == "lunch"
    finally:
        assert fillbook("resume", "--data-dir", data).code == 0
    assert fillbook("status", "--data-dir", data, "--json").json["halts"] == []


def test_cash_moves_over_the_bus_once(data: Path) -> None:
    first = fillbook("deposit", "12.5", "--request-id", "cash-1", "--data-dir", data, "--json")
    again = fillbook("deposit", "12.5", "--request-id", "cash-1", "--data-dir", data, "--json")
    assert first.code == 0, first.err
    assert first.json == again.json


def test_status_bots_and_signals_find_the_daemon_from_the_folder_alone(data: Path) -> None:
    status = eventually(
        lambda: fillbook("status", "--data-dir", data, "--json").json,
        lambda found: found["daemon"]["services"].get("execution") == "online",
    )
    assert status["daemon"]["running"] is True
    assert status["daemon"]["broker_reachable"] is True
    assert "SYNTHETIC" in status["daemon"]["feed"]
    bots = {item["bot"]: item for item in fillbook("bots", "--data-dir", data, "--json").json["items"]}
    assert bots["btc-momentum"]["status"] == "RUNNING"
    assert bots["btc-momentum"]["running"] is True
    advice = eventually(
        lambda: fillbook("signals", "--data-dir", data, "--json").json["items"],
        lambda found: any(item.get("time") for item in found),
    )
    assert {item["bot"] for item in advice} >= {"btc-momentum", "sol-cross"}
    port = next(c for c in fillbook("doctor", "--data-dir", data, "--json").json["checks"] if c["name"] == "port")
    assert "running daemon" in port["detail"]


def test_signals_are_explained_in_words(data: Path) -> None:
    name = fillbook("signals", "--data-dir", data, "--json").json["items"][0]["bot"]
    found = fillbook("signals", name, "--explain", "--data-dir", data)
    assert found.code == 0, found.err
    assert f"{name} advises " in found.out or f"{name} holds on " in found.out or "no candle" in found.out
    items = fillbook("signals", name, "--explain", "--data-dir", data, "--json").json["items"]
    assert [item["bot"] for item in items] == [name]
    assert items[0]["explanation"]
    nobody = fillbook("signals", "nobody", "--explain", "--data-dir", data)
    assert nobody.code == 2
    assert "there is no bot 'nobody'" in nobody.err


def test_a_bot_is_stopped_and_started(data: Path) -> None:
    assert fillbook("bot", "stop", "sol-cross", "--data-dir", data).code == 0
    bots = {item["bot"]: item for item in fillbook("bots", "--data-dir", data, "--json").json["items"]}
    assert bots["sol-cross"]["status"] == "STOPPED"
    assert fillbook("bot", "start", "sol-cross", "--data-dir", data).code == 0
    assert fillbook("bot", "stop", "nobody", "--data-dir", data).code == 2


def test_a_second_daemon_on_the_same_books_is_refused(data: Path) -> None:
    sets = ("--set", f"broker.port={free_port()}", "--set", "execution.lease_wait_seconds=0.1")
    with process("run", "--data-dir", data, *sets) as second:
        _, err = second.communicate(timeout=PATIENCE)
    assert second.returncode == 3
    assert "is held by process" in err
    assert "Traceback" not in err
    assert fillbook("status", "--data-dir", data, "--json").json["daemon"]["running"] is True


def newest(data: Path) -> int:
    """The sequence of the trade that was stored last."""
    sequence: int = fillbook("trades", "--data-dir", data, "--json").json["items"][0]["sequence"]
    return sequence


def test_ctrl_c_ends_the_demo_cleanly_and_the_next_one_continues_the_books(tmp_path: Path) -> None:
    data = tmp_path / "data"
    fast = ("--speed", "6000")
    with demo(data, *fast) as running:
        # Two trades that are told together with one portfolio say nothing of the profit.
        lines = [until_trade(running, "BUY"), until(running, " SELL ", " @ ", "P&L")]
        code, out, err = interrupt(running)
    assert code == 0, err
    assert "Stopped after" in out
    assert "Traceback" not in err
    assert "fee" in lines[0]
    assert "equity" in lines[0]
    assert "equity" in lines[1]
    assert "\x1b" not in out
    assert fillbook("status", "--data-dir", data, "--json").json["daemon"]["running"] is False
    before = newest(data)
    with demo(data, *fast) as running:
        until_trade(running)  # may be one that was stored before the Ctrl-C, and is told only now
        eventually(lambda: newest(data), lambda sequence: sequence > before)
        assert interrupt(running)[0] == 0
    after = fillbook("trades", "--data-dir", data, "--limit", "1000", "--json").json["items"]
    assert [item["sequence"] for item in after] == sorted((item["sequence"] for item in after), reverse=True)
    assert fillbook("verify", "--data-dir", data).code == 0


def test_the_demo_says_that_its_candles_are_invented_and_how_to_trade(tmp_path: Path) -> None:
    with demo(tmp_path / "data") as running:
        header = [stdout_of(running).readline() for _ in range(7)]
    text = "".join(header)
    assert "SYNTHETIC" in text
    assert "mosquitto_pub -p " in text
    assert "request/trade" in text
    assert "Ctrl-C" in text


def test_the_demo_plays_files_too(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv", 2000)
    with demo(tmp_path / "data", "--candles", f"BTC-USD={file}", "--speed", "60000") as running:
        line = until(running, "candles ")
        assert "candle files of BTC-USD 1m" in line
        until_trade(running, "SELL")
        assert interrupt(running)[0] == 0


def test_a_taken_port_is_an_error_that_says_how_to_choose_another(data: Path, tmp_path: Path) -> None:
    status = fillbook("status", "--data-dir", data, "--json").json
    taken = f"broker.port={status['daemon']['broker_port']}"
    with process("run", "--data-dir", tmp_path / "other", "--set", taken) as second:
        _, err = second.communicate(timeout=PATIENCE)
    assert second.returncode == 2
    assert "--set broker.port=NUMBER" in err
    assert "Traceback" not in err
