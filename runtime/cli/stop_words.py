"""Where the protective stops of a bot stand, in words: prices beside what they come from."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from config.exact import divide, plain
from runtime.cli.output import number, price, to_decimal
from signals.bot_file import BotFile


def stops_text(levels: Mapping[str, Any] | None, file: BotFile | None) -> str:
    """Of the stops in a bot's state: the levels while there is a position; without one, or without a daemon, the
    distances of its file."""
    if levels is not None and levels.get("triggered") is not None:
        return f"{str(levels['triggered']).replace('_', ' ')} closes the position"
    found = [] if levels is None else _levels(levels)
    return ", ".join(found or _distances(file))


def _levels(levels: Mapping[str, Any]) -> list[str]:
    cost, best = to_decimal(levels.get("average_cost")), to_decimal(levels.get("high_water_mark"))
    found = []
    if (stop := to_decimal(levels.get("stop_loss"))) is not None:
        found.append(f"stop {price(stop)}{_from_cost(stop, cost)}")
    if (trailing := to_decimal(levels.get("trailing_stop"))) is not None:
        found.append(f"trailing {price(trailing)}" + ("" if best is None else f" from {price(best)}"))
    if (target := to_decimal(levels.get("take_profit"))) is not None:
        found.append(f"target {price(target)}{_from_cost(target, cost)}")
    return found


def _from_cost(level: Decimal, cost: Decimal | None) -> str:
    """How far from the average cost, in percent of it."""
    if not cost:
        return ""
    percent = divide((level - cost) * 100, cost, 4)
    return f" ({'+' if percent > 0 else ''}{number(percent, most=2)} %)"


def _distances(file: BotFile | None) -> list[str]:
    if file is None:
        return []
    stops = {"stop": file.stop_loss_pct, "trailing": file.trailing_stop_pct, "target": file.take_profit_pct}
    return [f"{name} {plain(percent)} %" for name, percent in stops.items() if percent is not None]
