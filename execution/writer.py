"""The one writer of a process: group commit over a single connection.

`GroupCommitWriter` runs in a thread and commits everything that is waiting in one transaction, so that 64
requests in flight share one fsync. `InlineWriter` runs in the caller, for replay and simulation: a run is
then deterministic.
"""

import asyncio
import queue
import threading  # noqa: TID251 - the one writer's thread, which the simulation replaces
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from execution import raw
from execution.errors import ExecutionError, StorageUnavailable
from execution.ports import TransactionParticipant

T = TypeVar("T")


class _Item(Generic[T]):
    """One work with the future that waits for its commit."""

    __slots__ = ("error", "future", "loop", "result", "work")

    def __init__(
        self, work: Callable[[Connection], T], future: "asyncio.Future[T]", loop: asyncio.AbstractEventLoop
    ) -> None:
        self.work = work
        self.future = future
        self.loop = loop
        self.result: T
        self.error: BaseException | None = None

    def settle(self) -> None:
        """Runs in the event loop, after the group's fate is known."""
        if self.future.cancelled():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Group:
    """Runs works inside one transaction together with the in-memory state that belongs to it."""

    def __init__(self, participants: Sequence[TransactionParticipant]) -> None:
        self.participants = list(participants)

    def begin(self) -> None:
        """A transaction begins."""
        for participant in self.participants:
            participant.begin()

    def before_commit(self, connection: Connection) -> None:
        """The last word of each before the commit."""
        for participant in self.participants:
            participant.before_commit(connection)

    def committed(self) -> None:
        """The transaction is durable."""
        for participant in self.participants:
            participant.committed()

    def rolled_back(self) -> None:
        """The transaction is undone: the last to join forgets first."""
        for participant in reversed(self.participants):
            participant.rolled_back()


def storage_error(error: DBAPIError) -> ExecutionError | DBAPIError:
    """A failure of the storage itself as StorageUnavailable; a broken constraint as it is."""
    if isinstance(error, IntegrityError):
        return error
    return StorageUnavailable(f"the database could not commit: {error.orig}")


class GroupCommitWriter:
    """One thread, one connection; whatever is waiting is committed together."""

    _STOP = None

    def __init__(
        self, engine: Engine, *, group_max: int = 256, participants: Sequence[TransactionParticipant] = ()
    ) -> None:
        self._engine = engine
        self._group_max = group_max
        self._group = Group(participants)
        self._queue: queue.SimpleQueue[_Item[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fillbook-writer", daemon=True)
        self._closed = False

    def join(self, participant: TransactionParticipant) -> None:
        """Add state that takes part in every transaction; before `start`."""
        self._group.participants.append(participant)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Commit what was submitted, then end the thread."""
        if not self._closed:
            self._closed = True
            self._queue.put(self._STOP)
            if self._thread.is_alive():
                self._thread.join()

    def submit(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        """See `Writer.submit`."""
        if self._closed:
            raise StorageUnavailable("the writer is stopped")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Item(work, future, loop))
        return future

    def _run(self) -> None:
        connection: Connection | None = None
        try:
            while True:
                item = self._queue.get()
                if item is self._STOP:
                    return
                items, stopping = self._gather(item)
                connection = self._commit(connection, items)
                self._settle(items)
                if stopping:
                    return
        finally:
            if connection is not None:
                connection.close()

    def _gather(self, first: "_Item[Any] | None") -> "tuple[list[_Item[Any]], bool]":
        assert first is not None
        items = [first]
        while len(items) < self._group_max:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is self._STOP:
                return items, True
            assert item is not None
            items.append(item)
        return items, False

    def _commit(self, connection: Connection | None, items: "list[_Item[Any]]") -> Connection | None:
        """Commit all items in one transaction; if one of them fails, each in its own.

        Returns the connection for the next group; None when there is none and one has to be made.
        """
        try:
            connection = connection or self._engine.connect()
            self._transaction(connection, items)
        except DBAPIError as error:
            failure = storage_error(error)
            if isinstance(failure, StorageUnavailable):
                # Never item by item: twenty of them would wait for twenty lock timeouts.
                for item in items:
                    item.error = failure
                return self._unless_gone(connection, error)
            assert connection is not None, "only a connected transaction breaks a constraint"
            self._one_by_one(connection, items)
        except StorageUnavailable as error:
            for item in items:
                item.error = error
        except Exception as error:  # noqa: BLE001 - whatever a work raises belongs to who submitted it
            if len(items) == 1 or connection is None:
                for item in items:
                    item.error = error
            else:
                self._one_by_one(connection, items)
        return connection

    def _one_by_one(self, connection: Connection, items: "list[_Item[Any]]") -> None:
        for item in items:
            try:
                self._transaction(connection, [item])
            except DBAPIError as error:
                item.error = storage_error(error)
            except Exception as error:  # noqa: BLE001 - as above
                item.error = error

    def _transaction(self, connection: Connection, items: "list[_Item[Any]]") -> None:
        self._group.begin()
        try:
            with raw.Transaction(connection):
                for item in items:
                    item.result = item.work(connection)
                self._group.before_commit(connection)
        except BaseException:
            self._group.rolled_back()
            raise
        self._group.committed()

    @staticmethod
    def _unless_gone(connection: Connection | None, error: DBAPIError) -> Connection | None:
        """The connection, or None when the database closed it (PostgreSQL restarted)."""
        if connection is not None and error.connection_invalidated:
            connection.close()
            return None
        return connection

    @staticmethod
    def _settle(items: "list[_Item[Any]]") -> None:
        def settle_all() -> None:
            for item in items:
                item.settle()

        loop = items[0].loop
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle_all)


class _Done(Generic[T]):
    """An awaitable that is already there: awaiting it never gives up the loop."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, Any, T]:
        return self  # type: ignore[return-value]  # an iterator is all that `await` asks for

    def __iter__(self) -> "_Done[T]":
        return self

    def __next__(self) -> Any:
        raise StopIteration(self._value)


class InlineWriter:
    """Runs works in the caller, at once; `flush` commits. For replay and simulation.

    With `commit_each` every work is its own durable transaction; without it, works share one that `flush`
    commits (replay has nobody to answer to before it ends).
    """

    def __init__(
        self, engine: Engine, *, commit_each: bool = False, participants: Sequence[TransactionParticipant] = ()
    ) -> None:
        self._connection = engine.connect()
        self._commit_each = commit_each
        self._group = Group(participants)
        self._transaction: Any = None

    def join(self, participant: TransactionParticipant) -> None:
        """Add state that takes part in every transaction; before the first work."""
        self._group.participants.append(participant)

    def submit(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        """See `Writer.submit`. A work that raises rolls back everything since the last flush."""
        if self._transaction is None:
            self._begin()
        try:
            result = work(self._connection)
        except DBAPIError as error:
            self._rollback()
            raise storage_error(error) from error
        except BaseException:
            self._rollback()
            raise
        if self._commit_each:
            self.flush()
        return _Done(result)

    def flush(self) -> None:
        """Commit what has been done so far."""
        if self._transaction is None:
            return
        try:
            self._group.before_commit(self._connection)
            self._transaction.commit()
        except DBAPIError as error:
            self._rollback()
            raise storage_error(error) from error
        except BaseException:
            self._rollback()
            raise
        self._transaction = None
        self._group.committed()

    def stop(self) -> None:
        """Commit and close."""
        self.flush()
        self._connection.close()

    def _begin(self) -> None:
        try:
            self._transaction = self._connection.begin()
        except DBAPIError as error:
            raise storage_error(error) from error
        self._group.begin()

    def _rollback(self) -> None:
        self._transaction.rollback()
        self._transaction = None
        self._group.rolled_back()


class InlineReader:
    """Reads on the inline writer's own connection: in replay nothing is ever half done between works."""

    def __init__(self, writer: InlineWriter) -> None:
        self._writer = writer

    def read(self, query: Callable[[Connection], T]) -> Awaitable[T]:
        """See `Reader.read`."""
        return self._writer.submit(query)
