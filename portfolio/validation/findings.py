"""What a validation says: the invariants, the problems, what was looked at."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class Check(StrEnum):
    """What a problem is about: the invariants of the stored allocations."""

    SELLS = "each sell is allocated exactly"
    LOTS = "no lot is over-allocated"
    SUMS = "P&L, costs and fees add up"
    ORPHANS = "each row names trades of its scope as they are"
    ORDER = "nothing is closed before it was opened"
    VERSIONS = "each scope has one current version"
    FULL = "stored rows equal a full recomputation"
    OUTDATED = "stored rows are of this version of the engine"
    """Not wrong, but to be computed anew."""


Report: TypeAlias = Callable[[Check, str], None]
"""Told each problem in words."""


@dataclass(slots=True)
class Totals:
    """What was looked at."""

    scopes: int = 0
    trades: int = 0
    sells: int = 0
    allocations: int = 0
    unmatched: int = 0
    """Rows without a buy."""
    open_lots: int = 0
