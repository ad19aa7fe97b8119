"""One batch of venue reports while it is applied inside the write transaction, and what came of it."""

from dataclasses import dataclass, field

from config.quick import quickly_made
from execution.model import AlertRaised, Fact, Order, Trade


@dataclass(slots=True)
class Progress:
    """An order while a batch is applied to it; `had_fills`: it may have fills from before."""

    order: Order
    had_fills: bool
    fills: list[Trade] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """What a batch has changed so far."""

    touched: dict[str, Progress] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    alerts: list[AlertRaised] = field(default_factory=list)
    adopted: list[Order] = field(default_factory=list)
    reopened: list[str] = field(default_factory=list)


@quickly_made
@dataclass(frozen=True, slots=True)
class Applied:
    """What one batch changed: facts, and orders with ALL their fills.

    `adopted`: new orders that nobody here asked for. `reopened`: ids of orders that were filled at the venue after
    they had been closed here.
    """

    facts: tuple[Fact, ...]
    orders: tuple[tuple[Order, tuple[Trade, ...]], ...]
    alerts: tuple[AlertRaised, ...] = ()
    adopted: tuple[Order, ...] = ()
    reopened: tuple[str, ...] = ()
