"""The ports: what the services ask of the world. Adapters live in runtime, fakes in the simulation."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")


class Clock(Protocol):
    """Where time comes from: the wall with live prices, the feed with a candle file."""

    def now(self) -> datetime:
        """The time that decisions use."""
        ...

    def recorded_now(self) -> datetime:
        """The wall clock, for `recorded_at` only; no decision may depend on it."""
        ...


class Writer(Protocol):
    """The one writer of a process. Work is a plain function over a sync connection.

    Works are run one after another in the order of submission; the awaitable is done when the work is
    COMMITTED (group commit). If it raises, nothing of that work is stored and the error is raised here.
    A work may run a second time after the group it was in failed: it must only touch the database and
    state that takes part in the transaction.
    """

    def submit(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        """Run `work` inside the next write transaction."""
        ...


class Reader(Protocol):
    """Consistent reads of committed data, on connections of their own."""

    def read(self, query: Callable[[Connection], T]) -> Awaitable[T]:
        """Run `query` inside one read transaction."""
        ...


class TransactionParticipant(Protocol):
    """In-memory state that belongs to the write transaction and must follow its fate."""

    def begin(self) -> None:
        """A group of works starts."""
        ...

    def before_commit(self, connection: Connection) -> None:
        """The last chance to write inside the transaction."""
        ...

    def committed(self) -> None:
        """The group is durable."""
        ...

    def rolled_back(self) -> None:
        """The group failed: forget what it changed."""
        ...
