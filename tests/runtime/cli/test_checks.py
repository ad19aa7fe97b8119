"""`config`, `doctor`, `topics`, help: what needs no books."""

import json
import socket
from pathlib import Path

import pytest

from tests.integration.brokers import free_port
from tests.runtime.cli.terminal import candle_file, fillbook


def test_help_lists_every_command() -> None:
    found = fillbook("--help")
    assert found.code == 0
    for name in (
        "run", "demo", "replay", "trade", "cancel", "halt", "resume", "deposit", "withdraw", "portfolio", "trades",
        "orders", "bots", "signals", "status", "account", "instruments", "topics", "verify", "doctor", "config",
        "letters",
    ):  # fmt: skip
        assert f" {name} " in found.out


def test_an_unknown_command_or_option_is_a_usage_error() -> None:
    assert fillbook("trads").code == 2
    assert fillbook("trades", "--colour").code == 2


def test_topics_prints_the_table() -> None:
    found = fillbook("topics", "--json", "--set", "base_topic=mine").json
    assert found["next"] is None
    topics = {item["topic"] for item in found["items"]}
    assert "mine/v1/<account>/request/<command>" in topics
    assert "mine/v1/<account>/portfolio" in fillbook("topics", "--set", "base_topic=mine").out


def test_config_check_names_all_faults_and_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "fillbook.toml").write_text("[broker]\nport = 0\nportt = 1\n", encoding="utf-8")
    (tmp_path / "bots").mkdir()
    (tmp_path / "bots" / "a.toml").write_text('name = "a"\n', encoding="utf-8")
    found = fillbook("config", "check", "--bots", tmp_path / "bots", "--set", "log.level=loud")
    assert found.code == 2
    assert "fillbook.toml:2: broker.port = 0" in found.err
    assert "fillbook.toml:3: broker.portt" in found.err
    assert "--set: log.level" in found.err
    assert "a.toml" in found.err
    assert "symbol" in found.err


def test_config_check_passes_what_is_right(tmp_path: Path) -> None:
    file = candle_file(tmp_path / "btc.csv", 30)
    found = fillbook("config", "check", "--candles", f"BTC-USD={file}", "--json")
    assert found.code == 0
    assert found.json["candle_files"] == [{"symbol": "BTC-USD", "file": str(file), "timeframe": "1m", "candles": 30}]


def test_config_schema_is_json_schema() -> None:
    assert "broker" in fillbook("config", "schema").json["properties"]
    assert "json-schema.org" in fillbook("config", "schema", "bot").json["$schema"]
    assert fillbook("config", "schema", "x").code == 2


def test_config_show_names_the_source_and_hides_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILLBOOK_BROKER__USERNAME", "me")
    monkeypatch.setenv("FILLBOOK_BROKER__PASSWORD", "canary-7")
    found = fillbook("config", "show", "--set", "paper.taker_fee_bps=10", "--json")
    rows = {row["key"]: row for row in found.json["items"]}
    assert rows["paper.taker_fee_bps"] == {"key": "paper.taker_fee_bps", "value": "10", "source": "--set"}
    assert rows["broker.password"]["value"] == "***"
    assert "canary-7" not in found.out + fillbook("config", "show").out


def test_the_data_folder_option_beats_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILLBOOK_DATA_DIR", str(tmp_path / "environment"))

    def data_dir(*options: str) -> str:
        rows = fillbook("config", "show", "--json", *options).json["items"]
        return str(next(json.loads(row["value"]) for row in rows if row["key"] == "data_dir"))

    assert data_dir() == str(tmp_path / "environment")
    assert data_dir("--data-dir", "option") == str(tmp_path / "option")


def test_doctor_is_content_with_a_new_place(tmp_path: Path) -> None:
    found = fillbook("doctor", "--json", "--set", f"broker.port={free_port()}")
    checks = {check["name"]: check for check in found.json["checks"]}
    assert found.code == 0, found.out
    assert checks["port"]["status"] == "ok"
    assert "made at the first start" in checks["database"]["detail"]
    assert not (tmp_path / "fillbook-data").exists()


def test_doctor_says_what_to_do_about_a_taken_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = fillbook("doctor", "--set", f"broker.port={port}")
    assert found.code == 1
    assert "✗ port" in found.out
    assert "--set broker.port=NUMBER" in found.out


def test_doctor_looks_at_what_it_can_with_bad_settings() -> None:
    found = fillbook("doctor", "--set", "broker.port=0")
    assert found.code == 1
    assert "✓ python" in found.out
    assert "broker.port" in found.out


def test_a_bad_configuration_starts_no_daemon(tmp_path: Path) -> None:
    for command in ("run", "demo"):
        found = fillbook(command, "--set", "broker.port=0", "--candles", "BTC-USD=missing.csv")
        assert found.code == 2
        assert "broker.port" in found.err
        assert "missing.csv" in found.err
    assert not (tmp_path / "fillbook-data").exists()
    assert fillbook("run", "--only", "everything").code == 2
    assert fillbook("demo", "--speed", "0").code == 2
