"""The weighted bot: several signals, each with a score and a weight, combined into one score.

S = sum(w s) / sum(w of the voters); the side is the sign of S once |S| reaches the threshold.
"""

from collections.abc import Sequence
from typing import NamedTuple

from execution.model import Side
from signals.bot import Bar, BaseBot, Floats, PositionView, Verdict
from signals.indicators import Activity, Stream, number, seed_length
from signals.model import How, Part
from signals.scores import CROSS_EPSILON, combine
from signals.signal_kinds import Signal

ATR_PERIOD = 14
MAX_GAP = 250
"""A hole of more missing candles than this reopens every indicator: nothing before it still counts."""


class Voter(NamedTuple):
    """A signal with its name, its weight, and how its value becomes its score."""

    name: str
    signal: Signal
    weight: float
    how: How


class Weighted(BaseBot):
    """The bot behind `class = "weighted"`: named signals with weights, and a threshold for acting."""

    __slots__ = ("_activity", "_atr", "_atr_seed", "_max_gap", "_threshold", "_verdict", "_voters")

    def __init__(self, voters: Sequence[Voter], threshold: float, max_gap: int = MAX_GAP) -> None:
        self._voters = tuple(voters)
        self._threshold = threshold
        self._max_gap = max_gap
        self._atr = Stream("ATR", timeperiod=ATR_PERIOD)
        self._atr_seed = seed_length(ATR_PERIOD)
        self._activity = Activity()
        self._verdict = self._silent("no candle yet")

    def update(self, bar: Bar) -> None:
        """Feed every signal and combine their scores."""
        if bar.missing > self._max_gap:
            self._reopen()
        floats = bar.floats
        if not floats.are_finite:
            self._verdict = self._silent("a candle beyond the numbers that indicators take")
            return
        activity = self._activity
        activity.update(floats)
        atr = self._usable_atr(floats)
        found = []
        for name, signal, weight, how in self._voters:
            score = signal.update(floats, atr, activity)
            why = None if score is not None else signal.why(activity)
            found.append(Part(name, score, weight, signal.value, why, how))
        parts = tuple(found)
        score = combine(parts)
        side = None
        if score is not None and abs(score) >= self._threshold and score != 0:
            side = Side.BUY if score > 0 else Side.SELL
        self._verdict = Verdict(side, score, parts)

    def decide(self, position: PositionView) -> Verdict:
        """The combined opinion; what is held makes no difference to it."""
        return self._verdict

    def _usable_atr(self, floats: Floats) -> float | None:
        """The ATR, None while it is cold or so small that dividing by it would shout about nothing."""
        atr = number(self._atr.update(floats.high, floats.low, floats.close))
        if atr is None or not self._activity.is_warm(self._atr_seed) or atr <= CROSS_EPSILON * floats.close:
            return None
        return atr

    def _reopen(self) -> None:
        self._atr.reopen()
        self._activity.reopen()
        for voter in self._voters:
            voter.signal.reopen()

    def _silent(self, why: str) -> Verdict:
        parts = (Part(name, None, weight, None, why, how) for name, _, weight, how in self._voters)
        return Verdict(None, None, tuple(parts))
