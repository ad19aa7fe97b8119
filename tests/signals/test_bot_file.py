"""Bot files: what they may say, and all that is wrong with them at once."""

from decimal import Decimal
from pathlib import Path

import pytest

from config.toml_errors import ConfigurationInvalid, Fault
from signals.bot_schema import bot_file_schema
from signals.classes import build_bot
from signals.loading import load_bots
from signals.sma_cross_file import SmaCrossFile
from signals.weighted_file import WeightedFile
from tests.signals.stage import SMA, WEIGHTED, bot

CONFIG = Path(__file__).parents[2] / "config"

BAD = """name = "Bad Name"
class = "sma-cross"
symbol = "btc"
fast = 50
quantity = -1
notional = 5
frobnicate = 1
timeframe = "7x"
account = "signals/../x"
cooldown_minutes = "1_5"
enabled = 1
[temperature]
warmth = 3
"""


def faults_of(folder: Path, **overrides: dict[str, object]) -> list[Fault]:
    with pytest.raises(ConfigurationInvalid) as raised:
        load_bots([folder], overrides)
    return list(raised.value.faults)


def test_all_faults_of_all_files_come_at_once_with_file_line_key_and_value(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(BAD)
    (tmp_path / "b.toml").write_text(
        'name = "b"\nsymbol = "BTC-USD"\nsignals = [\n {function = "RSI", weight = -1},\n]'
    )
    (tmp_path / "c.toml").write_text('name = "c\n')
    (tmp_path / "d.toml").write_text('name = "signals"\nsymbol = "X"\nclass = "magic"\n')
    found = {(Path(f.file).name, f.line, f.key) for f in faults_of(tmp_path)}
    assert found >= {
        ("a.toml", 1, "name"),
        ("a.toml", 3, "symbol"),
        ("a.toml", 5, "quantity"),
        ("a.toml", 7, "frobnicate"),
        ("a.toml", 8, "timeframe"),
        ("a.toml", 9, "account"),
        ("a.toml", 10, "cooldown_minutes"),
        ("a.toml", 11, "enabled"),
        ("a.toml", 13, "temperature.warmth"),
        ("b.toml", 4, "signals[0].weight"),
        ("c.toml", 1, None),
        ("d.toml", 3, "class"),
    }
    text = "\n".join(map(str, faults_of(tmp_path)))
    assert 'symbol = "btc": expected a symbol that matches' in text
    assert 'class = "magic": expected one of sma-cross, weighted' in text
    assert "expected slow (30) above fast (50)" in text


def test_an_unknown_function_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "a"\nsymbol = "X"\nsignals = [{function = "XYZ", weight = 1}]\n')
    (fault,) = faults_of(tmp_path)
    assert fault.key == "signals[0].function"
    assert fault.expected == 'a TA-Lib function such as "RSI", "MACD", "SMA", "BBANDS"'


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ('{function = "RSI", weight = 0.4, params = {timeperiod = 1}}', "signals[0].params.timeperiod"),
        ('{function = "RSI", weight = 0.4, params = {period = 14}}', "signals[0].params.period"),
        ('{function = "RSI", weight = 0.4, params = {lo = 80}}', "signals[0].params"),
        ('{function = "MACD", weight = 1, params = {slowperiod = 9}}', "signals[0].params.slowperiod"),
        ('{function = "MACD", weight = 0.4, mapper = "cross"}', "signals[0].mapper"),
        ('{function = "XYZ", weight = 0.4}', "signals[0]"),
        ('{function = "RSI"}', "signals[0].weight"),
        ('{function = "RSI", weight = 0}', "signals"),
        ("", "signals"),
    ],
)  # fmt: skip
def test_a_fault_inside_a_signal_is_named(tmp_path: Path, change: str, key: str) -> None:
    (tmp_path / "a.toml").write_text(f'name = "a"\nsymbol = "BTC-USD"\nsignals = [\n{change}\n]\n')
    (fault,) = faults_of(tmp_path)
    assert (fault.key or "").startswith(key)


def test_a_name_belongs_to_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(SMA)
    (tmp_path / "b.toml").write_text("\n" + SMA)
    (fault,) = faults_of(tmp_path)
    assert (Path(fault.file).name, fault.line, fault.key) == ("b.toml", 2, "name")


@pytest.mark.parametrize("name", ["signals", "-a", "a" * 33, "a/b", "Ä"])
def test_a_name_must_fit_into_a_topic(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.toml").write_text(SMA.replace('"sma"', f'"{name}"'))
    (fault,) = faults_of(tmp_path)
    assert fault.key == "name"


def test_the_command_line_reaches_every_key(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(SMA)
    (tmp_path / "b.toml").write_text(WEIGHTED)
    overrides: dict[str, dict[str, object]] = {
        "sma": {"symbol": "AAPL", "fast": "4", "enabled": "false", "notional": "50"},
        "weighted": {"signals.0.params.timeperiod": 21, "temperature.hot": "0.5"},
    }
    sma, weighted = load_bots([tmp_path], overrides)
    assert isinstance(sma, SmaCrossFile)
    assert (sma.symbol, sma.fast, sma.enabled, sma.notional, sma.quantity) == ("AAPL", 4, False, Decimal(50), None)
    assert isinstance(weighted, WeightedFile)
    assert (weighted.signals[0].params["timeperiod"], weighted.temperature.hot) == (21, 0.5)


def test_faults_of_the_command_line_point_there(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(SMA)
    overrides: dict[str, dict[str, object]] = {
        "sma": {"symbl": "AAPL", "quantity": "٣", "signals.7.weight": 1, "name": "x"},
        "nobody": {"symbol": "AAPL"},
    }
    found = faults_of(tmp_path, **overrides)
    assert {f.file for f in found} == {"--set"}
    assert {f.key for f in found} >= {"bots.sma.symbl", "bots.sma.quantity", "bots.sma.name", "bots.nobody"}


def test_a_missing_file_and_an_empty_folder_are_faults(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid) as raised:
        load_bots([tmp_path / "nowhere.toml", tmp_path])
    assert len(raised.value.faults) == 2


def test_defaults_are_those_of_the_manual() -> None:
    weighted = bot(WEIGHTED.replace("confirmation_minutes = 2", "").replace("cooldown_minutes = 3", ""))
    assert (weighted.confirmation_minutes, weighted.cooldown_minutes, weighted.account) == (
        Decimal(5),
        Decimal(15),
        "main",
    )
    sma = bot('name = "s"\nclass = "sma-cross"\nsymbol = "AAPL"\n')
    assert isinstance(sma, SmaCrossFile)
    assert (sma.fast, sma.slow, sma.quantity, sma.exit) == (10, 30, Decimal(100), "close")
    assert (sma.confirmation_minutes, sma.cooldown_minutes, sma.timeframe) == (Decimal(0), Decimal(0), None)


def test_the_shipped_bots_are_as_documented() -> None:
    shipped = {bot.name: bot for bot in load_bots([CONFIG / "bots"])}
    assert len(shipped) >= 6
    assert not [name for name, bot in shipped.items() if bot.enabled]  # nobody trades because of a default
    sma, weighted = shipped["sma-cross"], shipped["weighted"]
    assert isinstance(sma, SmaCrossFile)
    assert (sma.name, sma.symbol, sma.timeframe, sma.enabled) == ("sma-cross", "BTC-USD", None, False)
    assert (sma.fast, sma.slow, sma.quantity) == (10, 30, Decimal(100))
    assert isinstance(weighted, WeightedFile)
    assert [(s.function, s.weight) for s in weighted.signals] == [("RSI", 0.4), ("MACD", 0.3), ("SMA", 0.3)]
    assert weighted.threshold == 0.30


def test_the_demo_bots_can_be_built_and_trade_small() -> None:
    demo = load_bots([CONFIG / "demo"])
    assert 3 <= len(demo) <= 4
    assert len({file.symbol for file in demo}) == 3
    for file in demo:
        build_bot(file)
        assert file.enabled


def test_the_schema_describes_both_classes() -> None:
    schema = bot_file_schema()
    assert {"WeightedFile", "SmaCrossFile"} <= set(schema["$defs"])
    assert "class" in schema["$defs"]["SmaCrossFile"]["required"]
