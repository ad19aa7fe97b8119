"""TA-Lib's functions as bot files may name them: parameters with their ranges, inputs, outputs, memory.

Names, parameters, inputs and outputs are TA-Lib's own (`talib.abstract`); what it does not tell (ranges of
parameters, which functions forget) is written down here and tested against its answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import talib
from talib import abstract

LONGEST = 10_000
"""The longest period that a bot file may name, in candles."""

SERIES = ("open", "high", "low", "close", "volume")
"""The series of a candle that a function can read, in the order of `signals.bot.Floats`."""

MOVING_AVERAGE = "A period of 1 performs no smoothing"
_PATTERN = "Output is a candlestick"
_SWAPPED = frozenset({"MACD", "MACDEXT", "APO", "PPO", "PVO", "AC", "AO", "ADOSC", "MAVP"})
_ORDER = {"slowperiod": "fastperiod", "maxperiod": "minperiod"}
"""Parameters that TA-Lib silently swaps in the functions of `_SWAPPED`: the first must be above the second."""
_FLOAT_RANGES: Mapping[str, tuple[float, float]] = {
    "nbdev": (0.0, 1000.0),
    "nbdevup": (0.0, 1000.0),
    "nbdevdn": (0.0, 1000.0),
    "multiplier": (0.0, 1000.0),
    "penetration": (0.0, 100.0),
    "percentile": (0.0, 100.0),
    "vfactor": (0.0, 1.0),
    "fastlimit": (0.01, 0.99),
    "slowlimit": (0.01, 0.99),
    "startvalue": (-1e9, 1e9),
}
_ACCELERATION = (0.0, 100.0)
"""The range of the parameters of SAR and SAREXT, all others that are not whole."""
_MOVING_AVERAGES = 13
"""The highest `matype`: SMA 0, EMA 1, WMA 2, DEMA 3, TEMA 4, TRIMA 5, KAMA 6, MAMA 7, T3 8, HMA 9, none 10,
the function's own 11, ZLEMA 12, Wilder's 13."""
_FORGETTING_AVERAGES = frozenset({0, 2, 5, 9, 10})
_FORGETTING = frozenset(
    {
        "AC", "ACCBANDS", "ACOS", "ADD", "ADR", "AO", "AROON", "AROONOSC", "ASIN",
        "ATAN", "AVGDEV", "AVGPRICE", "BBANDS", "BETA", "BOP", "CCI", "CEIL", "CMF",
        "CMOU", "COPPOCK", "CORREL", "COS", "COSH", "DIV", "DONCHIAN", "DPO", "ER",
        "EXP", "FLOOR", "FOSC", "FRACTAL", "HMA", "IMI", "LINEARREG", "LINEARREG_ANGLE", "LINEARREG_INTERCEPT",
        "LINEARREG_SLOPE", "LN", "LOG10", "MA", "MACDEXT", "MARKETFI", "MAVP", "MAX", "MEDPRICE",
        "MFI", "MIDPOINT", "MIDPRICE", "MIN", "MINMAX", "MOM", "MULT", "PERCENTILE", "PERCENTRANK",
        "QSTICK", "ROC", "ROCP", "ROCR", "ROCR100", "RVOL", "SIN", "SINH", "SMA",
        "SQRT", "STDDEV", "STOCH", "STOCHF", "SUB", "SUM", "TAN", "TANH", "TRANGE",
        "TRIMA", "TSF", "TYPPRICE", "ULTOSC", "VAR", "VHF", "VORTEX", "VWMA", "WCLPRICE",
        "WILLR", "WMA",
    }
)  # fmt: skip
"""Functions whose output depends on the last `lookback` + 1 candles only. The CDL* patterns do so as well."""

_MIDDLE = {"BBANDS": "middleband", "KC": "middleband", "DONCHIAN": "middleband", "ACCBANDS": "middleband"}
_MAIN_OUTPUT = _MIDDLE | {"MACD": "macdhist", "MACDEXT": "macdhist", "MACDFIX": "macdhist", "HA": "haclose"}

Number = int | float
Params = Mapping[str, Number]


@dataclass(frozen=True, slots=True)
class Rule:
    """One number in a signal's `params`: from `low` to `high`; `default` None: it must be given.

    `above` names the parameter that it must exceed; `positive`: `low` itself is not allowed.
    """

    name: str
    default: Number | None
    whole: bool
    low: Number
    high: Number
    above: str | None = None
    positive: bool = False

    @property
    def expected(self) -> str:
        """ "a whole number from 2 to 10000"."""
        kind = "a whole number" if self.whole else "a number"
        if self.positive:
            return f"{kind} above {self.low:g} and up to {self.high:.15g}"
        return f"{kind} from {self.low:.15g} to {self.high:.15g}"


@dataclass(frozen=True, slots=True)
class Function:
    """One of TA-Lib's functions.

    `inputs` are the series that it reads, in order; those at `free` may be replaced by the file's `input`.
    """

    name: str
    title: str
    group: str
    rules: tuple[Rule, ...]
    inputs: tuple[str, ...]
    free: tuple[int, ...]
    outputs: tuple[str, ...]
    flags: frozenset[str]

    @property
    def is_pattern(self) -> bool:
        """Whether it finds candlestick patterns."""
        return _PATTERN in self.flags

    @property
    def is_average(self) -> bool:
        """Whether it is a moving average of one output with a `timeperiod`."""
        return MOVING_AVERAGE in self.flags

    @property
    def can_cross(self) -> bool:
        """Whether a fast and a slow one can be compared."""
        has_period = any(rule.name == "timeperiod" for rule in self.rules)
        return self.group == "Overlap Studies" and len(self.outputs) == 1 and has_period

    @property
    def has_bands(self) -> bool:
        """Whether it has an upper and a lower band."""
        return {"upperband", "lowerband"} <= set(self.outputs)

    @property
    def main_output(self) -> str:
        """The output that a file means when it names none."""
        return _MAIN_OUTPUT.get(self.name, self.outputs[0])

    def forgets(self, params: Params) -> bool:
        """Whether nothing but the last `lookback` + 1 candles shows in the output."""
        averages = {int(value) for name, value in params.items() if "matype" in name}
        return (self.name in _FORGETTING and averages <= _FORGETTING_AVERAGES) or self.is_pattern

    def longest(self, params: Params) -> int:
        """The longest period among the parameters, 1 without any."""
        return max([1, *(int(value) for name, value in params.items() if "period" in name)])


def function_names() -> list[str]:
    """All names, sorted."""
    return sorted(_names())


def is_function(name: object) -> bool:
    """Whether TA-Lib has a function of this name."""
    return isinstance(name, str) and name in _names()


@cache
def _names() -> frozenset[str]:
    return frozenset(talib.get_functions())


@cache
def function(name: str) -> Function:
    """A function by its name. Raises KeyError."""
    if name not in _names():
        raise KeyError(name)
    info = _abstract(name).info
    inputs, free = _inputs(info["input_names"])
    return Function(
        name,
        info["display_name"],
        info["group"],
        tuple(_rule(name, parameter, default) for parameter, default in info["parameters"].items()),
        inputs,
        free,
        tuple(info["output_names"]),
        frozenset(info["function_flags"] or ()),
    )


def lookback(name: str, params: Params) -> int:
    """Candles before the first output; below 0: TA-Lib does not take these parameters."""
    return _lookback(name, tuple(params.items()))


@lru_cache(maxsize=1000)  # TA-Lib makes a function anew for each question, and every start of a bot asks
def _lookback(name: str, params: tuple[tuple[str, Number], ...]) -> int:
    handle = _abstract(name)
    handle.set_parameters(dict(params))
    found: int = handle.lookback
    return found


def _abstract(name: str) -> Any:
    return abstract.Function(name)  # type: ignore[attr-defined]  # made by talib at import


def _inputs(names: Mapping[str, str | list[str]]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    series: list[str] = []
    free: list[int] = []
    for key, value in names.items():
        if isinstance(value, str):
            free.append(len(series))
            # MAVP's `periods`: how long each average is. Of a candle's series only the volume makes sense there.
            series.append("volume" if key == "periods" else value)
        else:
            series += value
    return tuple(series), tuple(free)


def _rule(function_name: str, parameter: str, default: Number) -> Rule:
    above = _ORDER.get(parameter) if function_name in _SWAPPED else None
    if not isinstance(default, int):
        low, high = _FLOAT_RANGES.get(parameter, _ACCELERATION)
        return Rule(parameter, default, False, low, high, above)
    if "matype" in parameter:
        return Rule(parameter, default, True, 0, _MOVING_AVERAGES)
    return Rule(parameter, default, True, _least(function_name, parameter), LONGEST, above)


def _least(function_name: str, parameter: str) -> int:
    """The lowest whole number that TA-Lib takes: 1 or 2."""
    return 1 if lookback(function_name, {parameter: 1}) >= 0 else 2
