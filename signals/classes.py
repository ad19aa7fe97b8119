"""From a checked bot file to a bot."""

from signals.bot import Bot
from signals.bot_file import BotFile
from signals.custom_file import CustomFile
from signals.errors import SignalsError
from signals.isolation.client import IsolatedBot
from signals.isolation.limits import BotLimits
from signals.sma_cross import SmaCross
from signals.sma_cross_file import SmaCrossFile
from signals.weighted import CrossSignal, MacdSignal, RsiSignal, Signal, Weighted
from signals.weighted_file import AnySignal, CrossEntry, MacdEntry, RsiEntry, WeightedFile


def build_bot(file: BotFile, limits: BotLimits | None = None) -> Bot:
    """A fresh, cold bot as its file describes it; a user-written class gets a process of its own.

    Raises SignalsError when nothing can be made of a user-written class.
    """
    if isinstance(file, CustomFile):
        return IsolatedBot(file.name, file.target, file.params, file.folder, limits or BotLimits())
    if isinstance(file, WeightedFile):
        names = _unique([_name(entry) for entry in file.signals])
        entries = zip(names, file.signals, strict=True)
        signals = [(name, _signal(entry), entry.weight) for name, entry in entries]
        return Weighted(signals, file.threshold, file.max_gap_candles)
    if isinstance(file, SmaCrossFile):
        return SmaCross(file.fast, file.slow)
    raise SignalsError(f"no bot class for {file.kind!r}")


def _signal(entry: AnySignal) -> Signal:
    match entry:
        case RsiEntry(params=p):
            return RsiSignal(p.timeperiod, p.floor, p.lo, p.hi, p.ceil)
        case MacdEntry(params=p):
            return MacdSignal(p.fastperiod, p.slowperiod, p.signalperiod, p.scale)
        case CrossEntry(params=p):
            return CrossSignal(entry.function, p.fast, p.slow, p.scale, p.bars, p.strength)


def _name(entry: AnySignal) -> str:
    """What people read beside a score: RSI(14), MACD(12,26,9), SMA(10,30)."""
    match entry:
        case RsiEntry(params=p):
            return f"RSI({p.timeperiod})"
        case MacdEntry(params=p):
            return f"MACD({p.fastperiod},{p.slowperiod},{p.signalperiod})"
        case CrossEntry(params=p):
            return f"{entry.function}({p.fast},{p.slow})"


def _unique(names: list[str]) -> list[str]:
    """The same name twice gets a number: RSI(14), RSI(14) #2."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return result
