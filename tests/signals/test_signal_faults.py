"""What is wrong with a signal, told with file, line, key, value and what was expected."""

from pathlib import Path

import pytest

from config.toml_errors import ConfigurationInvalid, Fault
from signals.loading import load_bots
from signals.weighted_file import WeightedFile
from tests.signals.market import one_signal
from tests.signals.stage import bot

HEAD = 'name = "a"\nsymbol = "BTC-USD"\n\n[[signals]]\nweight = 1\n'


def fault_of(folder: Path, entry: str) -> Fault:
    """The only fault of a bot file with one signal; the entry starts on line 6."""
    (folder / "a.toml").write_text(HEAD + entry, encoding="utf-8")
    with pytest.raises(ConfigurationInvalid) as raised:
        load_bots([folder])
    (fault,) = raised.value.faults
    return fault


@pytest.mark.parametrize(
    ("entry", "line", "key", "value", "expected"),
    [
        ('function = "RSII"', 6, "function", '"RSII"', 'a TA-Lib function such as "RSI"'),
        ('function = "macd"', 6, "function", '"macd"', "did you mean MACD or"),
        ("function = 7", 6, "function", "7", "a TA-Lib function"),
        ('function = "OBV"', 4, "mapper", None, "a mapper for OBV: one of band, price_vs, slope, zscore"),
        ('function = "RSI"\nmapper = "cross"', 7, "mapper", '"cross"', "a mapper for RSI: one of band,"),
        ('function = "OBV"\nmapper = "band"', 4, "params", None, "floor, lo, hi, ceil among the params"),
        ('function = "OBV"\nmapper = "band"\nparams = {lo = 1}', 8, "params", None, "floor, hi, ceil among"),
        ('function = "RSI"\nparams = {period = 9}', 7, "params.period", "9", "did you mean timeperiod?"),
        ('function = "RSI"\nparams = {timeperiod = 1}', 7, "params.timeperiod", "1", "a whole number from 2 to 100"),
        ('function = "RSI"\nparams = {timeperiod = 9.5}', 7, "params.timeperiod", "9.5", "a whole number from 2"),
        ('function = "RSI"\nparams = {timeperiod = true}', 7, "params.timeperiod", "true", "a whole number from 2"),
        ('function = "RSI"\nparams = {timeperiod = "x"}', 7, "params.timeperiod", '"x"', "a whole number from 2"),
        ('function = "BBANDS"\nparams = {nbdevup = "2,5"}', 7, "params.nbdevup", '"2,5"', "a number from 0 to 1000"),
        ('function = "BBANDS"\nparams = {matype = 14}', 7, "params.matype", "14", "a whole number from 0 to 13"),
        ('function = "MACD"\nparams = {scale = 0}', 7, "params.scale", "0", "a number above 0"),
        ('function = "MACD"\nparams = {fastperiod = 30}', 7, "params.fastperiod", "30", "slowperiod (26) above"),
        ('function = "SMA"\nparams = {fast = 9, slow = 9}', 7, "params.slow", "9", "slow (9) above fast (9)"),
        ('function = "SMA"\nparams = {timeperiod = 9}', 7, "params.timeperiod", "9", "a parameter of SMA"),
        ('function = "RSI"\nparams = {hi = 20}', 7, "params.hi", "20", "hi (20) above lo (30)"),
        ('function = "CDLDOJI"\nparams = {timeperiod = 9}', 7, "params.timeperiod", "9", "no parameters"),
        ('function = "RSI"\nparams = 14', 7, "params", "14", "a table such as { timeperiod = 14 }"),
        ('function = "STOCH"\noutput = "slowx"', 7, "output", '"slowx"', "one of slowk, slowd"),
        ('function = "MACD"\noutput = "macd"', 7, "output", '"macd"', "no output (the mapper macd chooses itself)"),
        ('function = "RSI"\ninput = "typical"', 7, "input", '"typical"', "one of open, high, low, close, volume"),
        ('function = "RSI"\ninput = ["high", "low"]', 7, "input", None, "one of open, high, low, close, volume"),
        ('function = "ATR"\nmapper = "zscore"\ninput = "close"', 8, "input", '"close"', "always reads high, low"),
        ('function = "SMA"\ninput = "volume"', 7, "input", '"volume"', "a series of prices"),
        ('function = "BETA"\nmapper = "zscore"\ninput = "close"', 8, "input", '"close"', "a list of 2 of open,"),
        ('function = "RSI"\ninvert = 1', 7, "invert", "1", "true or false"),
        ('function = "RSI"\nwindow = 1', 7, "window", "1", "a known key"),
    ],
)  # fmt: skip
def test_a_fault_names_line_key_value_and_expectation(
    tmp_path: Path, entry: str, line: int, key: str, value: str | None, expected: str
) -> None:
    fault = fault_of(tmp_path, entry)
    assert (fault.line, fault.key, fault.value) == (line, f"signals[0].{key}", value)
    assert expected in fault.expected


def test_all_faults_of_an_entry_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        HEAD + 'function = "STOCH"\noutput = "x"\nparams = {fastk_period = 0, slowk = 3, lo = 90}\ninvert = 2\n'
    )
    with pytest.raises(ConfigurationInvalid) as raised:
        load_bots([tmp_path])
    assert {(fault.line, (fault.key or "").removeprefix("signals[0].")) for fault in raised.value.faults} == {
        (7, "output"), (8, "params.fastk_period"), (8, "params.slowk"), (8, "params.lo"), (9, "invert"),
    }  # fmt: skip


def test_an_entry_is_complete_after_loading() -> None:
    file = bot(one_signal('function = "STOCH", params = {lo = 25}'))
    assert isinstance(file, WeightedFile)
    (entry,) = file.signals
    assert entry.mapper == "band"
    assert entry.params == {
        "fastk_period": 5, "slowk_period": 3, "slowk_matype": 0, "slowd_period": 3, "slowd_matype": 0,
        "floor": 0.0, "lo": 25.0, "hi": 80.0, "ceil": 100.0,
    }  # fmt: skip
    assert (entry.output, entry.input, entry.invert) == ("slowk", (), False)


def test_parameters_from_the_command_line_are_checked_too() -> None:
    text = one_signal('function = "RSI"')
    given = {"params.timeperiod": "21", "params.lo": "25.5", "invert": "true"}
    file = bot(text, **{f"signals.0.{key}": value for key, value in given.items()})
    assert isinstance(file, WeightedFile)
    assert (file.signals[0].params["timeperiod"], file.signals[0].params["lo"]) == (21, 25.5)
    assert file.signals[0].invert
