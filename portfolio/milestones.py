"""States of a symbol's book on the way through its trades: a late trade costs what follows it, not what came before.

A computation from all trades leaves states behind; the next one begins with the newest that lies before the instant
from which on things are different. They are kept in memory only, beside the book that they led to, and closer to each
other towards its end, where late trades fall. What they are worth is bounded: few states, few open lots in them.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

EVERY = 2_000
"""Trades between two states, before they are thinned out."""
MOST_STATES = 24
MOST_LOTS = 50_000
"""Open lots in all states of a symbol together: about 25 MB."""


class Milestone(NamedTuple):
    """A book after all trades executed up to `executed_at` (as stored): what `SymbolBook.dump` gave, and counts."""

    executed_at: str
    book: dict[str, Any]
    lots: int
    done: int
    buys: int


class Milestones:
    """The states of one symbol, in the order of its trades."""

    def __init__(self, kept: list[Milestone] | None = None) -> None:
        self._kept = kept or []

    def __iter__(self) -> Iterator[Milestone]:
        return iter(self._kept)

    def before(self, instant: datetime | None) -> "Milestones":
        """Those that hold when everything from `instant` on is different (None: nothing may be taken for granted)."""
        if instant is None:
            return Milestones()
        return Milestones([known for known in self._kept if datetime.fromisoformat(known.executed_at) < instant])

    @property
    def last(self) -> Milestone | None:
        """The one with the least way to go."""
        return self._kept[-1] if self._kept else None

    def add(self, reached: Milestone) -> None:
        """One more, behind all others; what is too much goes, the most crowded first."""
        if reached.lots > MOST_LOTS:
            return
        self._kept.append(reached)
        while len(self._kept) > MOST_STATES or sum(known.lots for known in self._kept) > MOST_LOTS:
            self._drop_one()

    def _drop_one(self) -> None:
        """The state whose going makes the smallest gap, measured by how far from the end the gap lies."""
        kept = self._kept
        end = kept[-1].done + EVERY
        if len(kept) < 3:
            del kept[0]
            return

        def loss(index: int) -> float:
            before = kept[index - 1].done if index else 0
            return (kept[index + 1].done - before) / (end - kept[index].done)

        del kept[min(range(len(kept) - 1), key=loss)]
