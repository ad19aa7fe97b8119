"""Candles with bodies, wicks and volume, and their columns for TA-Lib's batch API."""

import os
import random
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from config.exact import ZERO
from execution.model import Candle
from signals.bot import PositionView, Verdict
from signals.classes import build_bot
from signals.feeds.candle_file import CandleFile
from signals.runner import bars
from tests.signals.stage import MINUTE, START, WEIGHTED, bot

FLAT = PositionView(ZERO, False)
REAL = {"BTC-USD": "btc_usd_coinbase_1h.csv", "AAPL": "aapl_daily.csv"}
"""Files of real candles in the folder that REAL_CANDLES names, if it does."""


def market(count: int, seed: int = 1, *, first: int = 0) -> list[Candle]:
    """A random walk whose candles have bodies, wicks and volume; one close in eight repeats the last."""
    dice = random.Random(seed)
    price, found = 100.0, []
    for minute in range(first, first + count):
        opened = price
        if dice.random() > 0.125:
            price = max(5.0, price + dice.gauss(0, 1))
        high = max(opened, price) + abs(dice.gauss(0, 0.5))
        low = min(opened, price) - abs(dice.gauss(0, 0.5))
        volume = dice.expovariate(0.2) + 0.01
        numbers = (Decimal(str(round(number, 2))) for number in (opened, high, low, price, volume))
        found.append(Candle("BTC-USD", "1m", START + minute * MINUTE, *numbers))
        price = float(found[-1].close)
    return found


@cache
def real(symbol: str, count: int = 2000) -> tuple[Candle, ...]:
    """The first real candles of a symbol; none when the folder is not there."""
    folder = os.environ.get("REAL_CANDLES")
    path = None if folder is None else Path(folder) / REAL[symbol]
    if path is None or not path.exists():
        return ()
    return tuple(islice(CandleFile.open(path, symbol).candles(), count))


def columns(candles: Sequence[Candle]) -> dict[str, Any]:
    """The candles as arrays of floats, as TA-Lib's batch API takes them."""
    names = ("open", "high", "low", "close", "volume")
    return {name: np.array([float(getattr(one, name)) for one in candles]) for name in names}


def one_signal(entry: str, *, threshold: str = "0.3") -> str:
    """The text of a bot with one signal; `entry` is the inside of its table."""
    return f'name = "one"\nsymbol = "BTC-USD"\nthreshold = {threshold}\nsignals = [{{weight = 1, {entry}}}]\n'


def verdicts(candles: Sequence[Candle], text: str = WEIGHTED) -> list[Verdict]:
    """The verdict after each candle, one by one."""
    brain = build_bot(bot(text))
    found = []
    for bar in bars(candles):
        brain.update(bar)
        found.append(brain.decide(FLAT))
    return found


def scores(candles: Sequence[Candle], entry: str) -> list[float | None]:
    """The score of one signal after each candle."""
    return [verdict.parts[0].score for verdict in verdicts(candles, one_signal(entry))]
