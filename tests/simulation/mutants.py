"""Planted bugs: each breaks one promise on purpose, and the simulation must find it out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection

from execution import orders
from execution.leases import Fence

Mutant = Callable[[], Any]
"""Makes a context manager that plants the bug."""


def _no_inbox() -> Any:
    """Every repetition is taken for a new request."""
    return patch.object(orders, "recall", lambda *_: None)


def _no_fencing() -> Any:
    """A daemon that lost its lease goes on writing."""

    def check(self: Fence, connection: Connection) -> None:
        """Nothing is checked."""

    return patch.object(Fence, "check", check)


MUTANTS: dict[str, Mutant] = {
    "no-inbox": _no_inbox,
    "no-fencing": _no_fencing,
}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Run with a bug; None: with none."""
    if name is None:
        yield
    else:
        with MUTANTS[name]():
            yield
