"""The benchmarks by name. A benchmark is imported only in the process that runs it."""

import importlib
from collections.abc import Callable

from tests.bench.measure import Effort, Row

Benchmark = Callable[[Effort], list[Row]]

_WHERE = {
    "broker": ("over_broker", "request -> commit -> published over the embedded broker"),
    "durable": ("durable", "durable fills without the broker, 1, 8 and 64 in flight"),
    "fills": ("in_memory", "fills in memory"),
    "growth": ("in_memory", "the cost of a fill in a large ledger"),
    "replay": ("in_memory", "candles/s of the SMA cross"),
    "replay_trading": ("in_memory", "candles/s of a bot that trades on every candle"),
    "many_bots": ("many_bots", "replay of 5 to 100 bots on 20 symbols: speed, cost per bot, memory"),
    "fifo": ("in_memory", "the matching engine, streaming and batch"),
    "imports": ("books", "fills from a CSV into the ledger, 10,000 to 1,000,000"),
    "recompute": ("books", "all allocations from 10,000 to 1,000,000 trades; the engine alone"),
    "late_trade": ("books", "a late trade at 90 % of 50,000"),
    "reads": ("books", "commands and the daemon's start over 1,000,000 trades"),
    "fill_growth": ("books", "a fill after 1,000 and after 1,000,000 others, allocations stored"),
    "start": ("start", "seconds until the daemon is up, with and without history"),
    "memory": ("memory", "peak memory of replay, books and daemon"),
}
_FUNCTIONS = {"broker": "over_broker", "memory": "peak_memory"}
NAMES = tuple(_WHERE)


def descriptions() -> dict[str, str]:
    """What each benchmark measures."""
    return {name: about for name, (_, about) in _WHERE.items()}


def load(name: str) -> Benchmark:
    """A benchmark by name."""
    module = importlib.import_module(f"tests.bench.{_WHERE[name][0]}")
    found: Benchmark = getattr(module, _FUNCTIONS.get(name, name))
    return found
