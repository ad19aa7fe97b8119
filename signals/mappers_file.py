"""From a function's output to a score: which mappers there are, which fit a function, and their parameters.

The defaults come from BTC-USD candles of an hour and of a minute; each can be changed in the bot file.
"""

from collections.abc import Mapping

from signals.functions import LONGEST, Function, Rule

BAND, MACD, CROSS, BOLLINGER, ADX, PATTERN = "band", "macd", "cross", "bollinger", "adx", "pattern"
ZSCORE, SLOPE, PRICE_VS = "zscore", "slope", "price_vs"

MAPPERS: Mapping[str, str] = {
    BAND: "an oscillator by its zones: +.5 at lo rising to +1 at floor, -.5 at hi falling to -1 at ceil",
    MACD: "tanh(histogram / (scale x ATR(14)))",
    CROSS: "tanh((fast - slow) / (scale x ATR(14))), at least strength x (1 - age / bars) right after a cross",
    BOLLINGER: "clip(1 - 2 (close - lower) / (upper - lower))",
    ADX: "(+DI - -DI) / (+DI + -DI) x min(1, ADX / full)",
    PATTERN: "clip(value / 100)",
    ZSCORE: "tanh(-(x - mean) / (scale x sd)) of the last `window` values",
    SLOPE: "tanh((x - x `bars` candles ago) / (scale x ATR(14)))",
    PRICE_VS: "tanh((close - x) / (scale x ATR(14)))",
}
"""Mapper -> its formula in one line."""

WHOLE_FUNCTION = frozenset({MACD, CROSS, BOLLINGER, ADX, PATTERN})
"""Mappers that choose the outputs themselves."""
PRICED = frozenset({MACD, CROSS, BOLLINGER, SLOPE, PRICE_VS})
"""Mappers that compare with the price or with its range: a volume makes no sense there."""

_MACDS = frozenset({"MACD", "MACDEXT", "MACDFIX"})
_ZONES: Mapping[str, tuple[float, float, float, float]] = {
    "RSI": (0.0, 30.0, 70.0, 100.0),
    "STOCH": (0.0, 20.0, 80.0, 100.0),
    "WILLR": (0.0, 20.0, 80.0, 100.0),
    "MFI": (0.0, 20.0, 80.0, 100.0),
    "CCI": (-200.0, -100.0, 100.0, 200.0),
}
_ZONE_NAMES = ("floor", "lo", "hi", "ceil")
_FAR = 1e12
BAND_SHIFT: Mapping[str, float] = {"WILLR": 100.0}
"""What is added to an output before `band`: WILLR runs from -100 to 0."""


def default_mapper(function: Function) -> str | None:
    """The mapper of a function whose entry names none; None: it must name one."""
    if function.name in _ZONES:
        return BAND
    if function.name in _MACDS:
        return MACD
    if function.name == "BBANDS":
        return BOLLINGER
    if function.name == "ADX":
        return ADX
    if function.is_pattern:
        return PATTERN
    return CROSS if function.is_average else None


def fitting_mappers(function: Function) -> list[str]:
    """The mappers that a function's entry may name."""
    fits = [BAND, ZSCORE, SLOPE, PRICE_VS]
    if function.name in _MACDS:
        fits.append(MACD)
    if function.can_cross:
        fits.append(CROSS)
    if function.has_bands:
        fits.append(BOLLINGER)
    if function.name == "ADX":
        fits.append(ADX)
    if function.is_pattern:
        fits.append(PATTERN)
    return sorted(fits)


def rules(function: Function, mapper: str) -> tuple[Rule, ...]:
    """All that `params` may hold: the function's own parameters, then the mapper's."""
    own = function.rules
    if mapper == CROSS:  # two averages instead of one
        own = tuple(rule for rule in own if rule.name != "timeperiod")
    return own + _mapper_rules(function, mapper)


def _mapper_rules(function: Function, mapper: str) -> tuple[Rule, ...]:
    match mapper:
        case "band":
            zones = _ZONES.get(function.name, (None, None, None, None))
            lower = (None, *_ZONE_NAMES)
            return tuple(
                Rule(name, zone, False, -_FAR, _FAR, below)
                for name, zone, below in zip(_ZONE_NAMES, zones, lower, strict=False)
            )
        case "macd":
            return (_scale(0.30),)
        case "cross":
            return (
                Rule("fast", 10, True, 2, LONGEST),
                Rule("slow", 30, True, 2, LONGEST, above="fast"),
                _scale(1.5),
                Rule("bars", 5, True, 0, LONGEST),
                Rule("strength", 0.8, False, 0.0, 1.0),
            )
        case "adx":
            return (Rule("full", 50.0, False, 0.0, 100.0, positive=True),)
        case "zscore":
            return (Rule("window", 100, True, 2, 1000), _scale(2.0))
        case "slope":
            return (Rule("bars", 1, True, 1, LONGEST), _scale(0.30))
        case "price_vs":
            return (_scale(1.5),)
        case _:
            return ()


def _scale(default: float) -> Rule:
    return Rule("scale", default, False, 0.0, _FAR, positive=True)
