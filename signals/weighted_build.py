"""From the entries of a weighted bot's file to its signals, their names and what explains them."""

from collections.abc import Callable, Mapping

from signals.functions import Function, Params, function, lookback
from signals.guards import FlowGuard, Guard, RangeGuard, StillGuard
from signals.indicators import Stream, seed_length
from signals.mappers import Band, Mapper, Pattern, PerAtr, PriceVs, Slope, ZScore
from signals.mappers_file import ADX, BAND, BAND_SHIFT, BOLLINGER, CROSS, default_mapper
from signals.model import How
from signals.signal_kinds import (
    BollingerSignal,
    CrossSignal,
    DirectionSignal,
    FunctionSignal,
    Inverted,
    Memory,
    Signal,
)
from signals.weighted import ATR_PERIOD, Voter, Weighted
from signals.weighted_file import SignalEntry, WeightedFile

_SHORT = 4
"""A function that looks back on fewer candles than this is judged flat by the ATR's window instead."""

_MAPPERS: Mapping[str, Callable[[Params, float], Mapper]] = {
    "band": lambda p, shift: Band(p["floor"], p["lo"], p["hi"], p["ceil"], shift),
    "macd": lambda p, _: PerAtr(p["scale"]),
    "zscore": lambda p, _: ZScore(int(p["window"]), p["scale"]),
    "slope": lambda p, _: Slope(int(p["bars"]), p["scale"]),
    "price_vs": lambda p, _: PriceVs(p["scale"]),
    "pattern": lambda _p, _s: Pattern(),
}
_RANGED: Mapping[str, str] = {
    "STOCH": "fastk_period",
    "STOCHF": "fastk_period",
    "KDJ": "fastk_period",
    "SMI": "timeperiod",
    "WILLR": "timeperiod",
    "CCI": "timeperiod",
    "ULTOSC": "timeperiod1",
}
"""Functions that divide by the range of a window: the parameter that says how long it is."""


def build_weighted(file: WeightedFile) -> Weighted:
    """A fresh, cold bot as its file describes it."""
    names = _unique([name_of(entry) for entry in file.signals])
    voters = [
        Voter(name, build_signal(entry), entry.weight, how_of(entry))
        for name, entry in zip(names, file.signals, strict=True)
    ]
    return Weighted(voters, file.threshold, file.max_gap_candles)


def build_signal(entry: SignalEntry) -> Signal:
    """A cold signal."""
    signal = _signal(entry)
    return Inverted(signal) if entry.invert else signal


def _signal(entry: SignalEntry) -> Signal:
    chosen, params = function(entry.function), entry.params
    inputs = _inputs(chosen, entry.input)
    own = {rule.name: params[rule.name] for rule in chosen.rules if rule.name in params}
    if entry.mapper == CROSS:
        return _cross(chosen, inputs, own, params)
    memory = _memory(chosen, own)
    if entry.mapper == ADX:
        return DirectionSignal(int(params["timeperiod"]), params["full"], memory)
    stream = Stream(chosen.name, **own)
    if entry.mapper == BOLLINGER:
        upper, lower = (chosen.outputs.index(name) for name in ("upperband", "lowerband"))
        return BollingerSignal(stream, inputs, upper, lower, memory)
    wanted = entry.output or chosen.main_output
    output = chosen.outputs.index(wanted) if len(chosen.outputs) > 1 else None
    mapper = _MAPPERS[entry.mapper](params, BAND_SHIFT.get(chosen.name, 0.0))
    return FunctionSignal(stream, inputs, output, mapper, memory, _guard(chosen, own, memory))


def _cross(chosen: Function, inputs: tuple[str, ...], own: Params, params: Params) -> Signal:
    fast, slow = int(params["fast"]), int(params["slow"])
    averages = (Stream(chosen.name, timeperiod=fast, **own), Stream(chosen.name, timeperiod=slow, **own))
    memory = Memory(0 if chosen.forgets(own) else seed_length(slow), slow)
    return CrossSignal(averages, inputs, memory, params["scale"], int(params["bars"]), params["strength"])


def _memory(chosen: Function, own: Params) -> Memory:
    """The window is what the function looks back on, MACD's the slow period."""
    past = lookback(chosen.name, own)
    window = past if past >= _SHORT else ATR_PERIOD
    if chosen.forgets(own):
        return Memory(0, window)
    return Memory(max(seed_length(chosen.longest(own)), past + 1), int(own.get("slowperiod", window)))


def _inputs(chosen: Function, given: tuple[str, ...]) -> tuple[str, ...]:
    inputs = list(chosen.inputs)
    for place, series in zip(chosen.free, given, strict=True):
        inputs[place] = series
    return tuple(inputs)


def _guard(chosen: Function, own: Params, memory: Memory) -> Guard | None:
    if chosen.name == "MFI":
        return FlowGuard(int(own["timeperiod"]))
    if chosen.name == "STOCHRSI":
        return StillGuard(int(own["fastk_period"]), lookback(chosen.name, own) + 1)
    if chosen.name not in _RANGED:
        return None
    window = int(own[_RANGED[chosen.name]])
    smoothing = lookback(chosen.name, own) + 2 - window
    return RangeGuard(window, max(smoothing, memory.seed, 1))


# ---- what people read ---------------------------------------------------------------------------------


def name_of(entry: SignalEntry) -> str:
    """What people read beside a score: RSI(14), MACD(12,26,9), SMA(10,30), OBV slope, STOCH(5,3,3) slowd."""
    chosen = function(entry.function)
    params = dict(entry.params)
    if entry.mapper == CROSS:
        numbers = [params["fast"], params["slow"]]
    else:
        numbers = [params[rule.name] for rule in chosen.rules if "matype" not in rule.name]
    words = [entry.function + (f"({','.join(f'{number:g}' for number in numbers)})" if numbers else "")]
    if entry.output and entry.output != chosen.main_output:
        words.append(entry.output)
    if entry.mapper != default_mapper(chosen):
        words.append(entry.mapper)
    if entry.input != tuple(chosen.inputs[place] for place in chosen.free):
        words.append(f"of {', '.join(entry.input)}")
    if entry.invert:
        words.append("inverted")
    return " ".join(words)


def how_of(entry: SignalEntry) -> How:
    """The mapper and the numbers of it that an explanation needs."""
    how: How = {"mapper": entry.mapper}
    if entry.mapper == BAND:
        shift = BAND_SHIFT.get(entry.function, 0.0)
        how["zones"] = [entry.params[key] - shift for key in ("floor", "lo", "hi", "ceil")]
    for key in ("scale", "window", "bars", "full"):
        if key in entry.params and key not in _own_names(entry):
            how[key] = entry.params[key]
    if entry.invert:
        how["inverted"] = True
    return how


def _own_names(entry: SignalEntry) -> set[str]:
    return {rule.name for rule in function(entry.function).rules}


def _unique(names: list[str]) -> list[str]:
    """The same name twice gets a number: RSI(14), RSI(14) #2."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return result
