"""Where the books are kept: allocations by version and snapshots of the lots, written by the portfolio role.

All of it are caches of the ledger. A batch of fills is one transaction with its snapshot, so that a snapshot
never knows of fills whose allocations are not stored; a failed transaction is tried again with the next.
"""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection

from execution.errors import StorageUnavailable
from execution.ledger import derived_id
from execution.model import Account, AlertRaised
from execution.ports import Clock, Reader, Writer
from portfolio import allocations, checkpoint, recompute, runs, selections
from portfolio.allocations import Run, ScopeKey
from portfolio.allocator import BACK_DATED, Allocator, Batch, Rewrite, rewrites
from portfolio.books import Books, FillOutcome, Scope
from portfolio.errors import FifoError
from portfolio.lots import Method
from portfolio.recompute import Opened
from portfolio.reviews import Review, unmatched_alert
from portfolio.runs import Finished
from portfolio.tables import RunMode

T = TypeVar("T")
Fence: TypeAlias = Callable[[Connection], None]
"""Raises LeaseLost when the portfolio role belongs to another process by now."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A run on its way; `planned` once its long part is done."""

    run: Run
    order: runs.Order
    mode: RunMode
    planned: runs.Plan | None = None


class BooksStorage:
    """See the module. Its owner calls it one at a time.

    `keep_allocations` false: only snapshots are written. `problem` says why the last snapshot could not be read
    or written; None when it could. `raised` are alerts that wait to be published.
    """

    def __init__(
        self, writer: Writer, reader: Reader, clock: Clock, fence: Fence, *, keep_allocations: bool = True
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._now = clock.recorded_now
        self._fence = fence
        self._allocator = Allocator() if keep_allocations else None
        self._digests: dict[Scope, str] | None = None
        self._needed: dict[Scope, str] = {}
        """Scopes that need a run over all their trades before anything else of them is stored."""
        self._abandoned: list[int] = []
        """Runs that were logged and then failed with the storage."""
        self.sequence = 0
        """The ledger sequence of the stored snapshot."""
        self.problem: str | None = None
        self.raised: list[AlertRaised] = []
        self.holds_back = False
        """While true nothing is stored: a run is being planned, and what it compares itself with must stay."""

    # ---- start ----------------------------------------------------------------------------------------

    async def open(self) -> Books:
        """The books at the ledger's head; what is missing of the allocations waits to be stored."""
        if self._allocator is not None:
            await self._reader.read(self._allocator.load)
        opened, outcomes = await self._reader.read(self._open)
        self._digests = opened.digests
        self.sequence = opened.stored_sequence
        self.problem = opened.problem
        if self._allocator is not None:
            self._needed = self._runs_needed(opened, self._allocator)
            for outcome in outcomes:
                if (outcome.trade.account, outcome.trade.symbol) not in self._needed:
                    self._allocator.add(outcome)
        return opened.books

    def _open(self, connection: Connection) -> tuple[Opened, list[FillOutcome]]:
        """The books, and what the facts beyond the stored allocations meant."""
        outcomes: list[FillOutcome] = []
        allocator = self._allocator

        def booked(outcome: FillOutcome) -> None:
            trade = outcome.trade
            if allocator is not None and trade.sequence > allocator.stored_up_to((trade.account, trade.symbol)):
                outcomes.append(outcome)

        return recompute.open_books(connection, outcomes=booked), outcomes

    @staticmethod
    def _runs_needed(opened: Opened, allocator: Allocator) -> dict[Scope, str]:
        """The scopes of which nothing usable is stored, or whose trades came out of order, each with the reason."""
        scopes = opened.books.symbols
        reasons: dict[Scope, str] = dict.fromkeys(opened.recomputed, BACK_DATED)
        reasons |= dict.fromkeys(allocator.outdated(scopes), "no usable version is stored")
        if opened.digests is None:
            head = opened.books.sequence
            unsure = [scope for scope in scopes if opened.problem or allocator.stored_up_to(scope) < head]
            reasons |= dict.fromkeys(unsure, f"snapshot: {opened.problem or 'there is none'}")
        return reasons

    async def settle(self, books: Books) -> None:
        """Once after `open`: end what a killed process left behind, store what is missing. A storage that fails is
        tried again with the next flush: these are only caches."""
        if self._allocator is None:
            return
        problem = self.problem
        try:
            await self._submit(lambda connection: allocations.fail_interrupted(connection, self._now()))
            await self.flush(books, snapshot=self._digests is None)
            self.problem = problem
        except StorageUnavailable as error:
            self.problem = str(error)

    # ---- what fills meant -----------------------------------------------------------------------------

    def add(self, outcome: FillOutcome) -> None:
        """A fill was booked."""
        if self._allocator is not None:
            self._allocator.add(outcome)

    def rewrite(self, scope: Scope, rewrite: Rewrite) -> None:
        """A scope was computed anew from an instant on."""
        if self._allocator is not None:
            self._allocator.rewrite(scope, rewrite)

    # ---- storing --------------------------------------------------------------------------------------

    def is_current(self, books: Books) -> bool:
        """Whether the stored snapshot is of this moment."""
        return books.sequence == self.sequence and self._digests is not None

    async def flush(self, books: Books, *, snapshot: bool = False) -> None:
        """Store the allocations that wait and, if asked for, a snapshot. Raises StorageUnavailable (they wait on)
        or LeaseLost."""
        if self.holds_back:
            return
        for scope, reason in sorted(self._needed.items()):
            await self.run(books, ScopeKey(*scope), RunMode.FULL, reason)
            del self._needed[scope]
        allocator = self._allocator
        if not snapshot and (allocator is None or not allocator.has_work):
            return
        await _to_its_end(self._flush(books, snapshot))

    async def _flush(self, books: Books, snapshot: bool) -> None:
        allocator = self._allocator
        state = checkpoint.take(books, self._digests) if snapshot else None
        waiting = None if allocator is None else allocator.take(books.sequence)
        try:
            await self._write(waiting, state)
        except BaseException:
            if allocator is not None and waiting is not None:
                allocator.give_back(waiting)
            raise
        if state is not None:
            self.sequence = state.sequence
            books.changed.clear()
            books.changed_cash.clear()
            self.problem = None

    async def _write(self, waiting: Batch | None, state: checkpoint.Snapshot | None) -> None:
        allocator = self._allocator
        begun: dict[Scope, Run] = {}
        if waiting is not None and any(rewrites(waiting)):
            begun = await self._submit(lambda connection: self._log_rewrites(connection, waiting))
            self._abandoned += [run.id for run in begun.values()]

        def work(connection: Connection) -> tuple[list[Review], dict[Scope, str] | None]:
            found: list[Review] = []
            if allocator is not None and waiting is not None:
                self._fail_abandoned(connection, begun)
                found = allocator.write(connection, waiting, begun, self._now())
            return found, None if state is None else checkpoint.store(connection, state)

        found, digests = await self._submit(work)
        self._abandoned.clear()
        if allocator is not None and waiting is not None:
            allocator.committed(waiting)
        if state is not None:
            self._digests = digests
        self.raised += map(unmatched_alert, found)

    def _fail_abandoned(self, connection: Connection, begun: Mapping[Scope, Run]) -> None:
        for run_id in set(self._abandoned) - {run.id for run in begun.values()}:
            allocations.fail(connection, run_id, "the storage failed", None, self._now())

    def _log_rewrites(self, connection: Connection, waiting: Batch) -> dict[Scope, Run]:
        """Log what is about to be computed anew, in a transaction of its own: a run that dies stays in the log."""
        now = self._now()
        batch_id = derived_id("batch", str(waiting.sequence), now.isoformat())
        return {
            scope: allocations.begin(
                connection,
                ScopeKey(*scope),
                batch_id=batch_id,
                mode=RunMode.SYMBOL,
                reason=rewrite.reason,
                now=now,
                since=rewrite.since,
            )
            for scope, rewrite in rewrites(waiting)
        }

    async def run(self, books: Books, key: ScopeKey, mode: RunMode, reason: str) -> Finished:
        """Compute a scope from its trades and make that its current version, in one go. Raises FifoError (logged),
        StorageUnavailable, LeaseLost."""
        return await self.apply(await self.plan(await self.begin(books, key, mode, reason)))

    async def begin(
        self,
        books: Books,
        key: ScopeKey,
        mode: RunMode,
        reason: str,
        *,
        since: datetime | None = None,
        batch_id: str | None = None,
    ) -> "Begun":
        """Log a run of a scope, over its trades up to where the books are now."""
        order = await self._order(books.accounts[key.account], key, books.sequence, since)
        run = await self._submit(lambda c: runs.log(c, order, mode, reason, self._now(), batch_id))
        self._abandoned.append(run.id)
        return Begun(run, order, mode)

    async def plan(self, begun: "Begun") -> "Begun":
        """The long part of a run: it only reads. Raises FifoError (logged), StorageUnavailable."""
        run = begun.run
        try:
            planned = await self._reader.read(lambda connection: runs.plan(connection, begun.order))
        except FifoError as error:
            said, trace = str(error), traceback.format_exc()
            await self._submit(lambda connection: allocations.fail(connection, run.id, said, trace, self._now()))
            self._abandoned.remove(run.id)
            raise
        return replace(begun, planned=planned)

    async def apply(self, begun: "Begun", *, keep_waiting: bool = False) -> Finished:
        """Make what a run found the current version. `keep_waiting`: all that waits for the scope came after the
        run had begun, and is stored behind it."""
        return await _to_its_end(self._apply(begun, keep_waiting))

    async def _apply(self, begun: "Begun", keep_waiting: bool) -> Finished:
        run, order, planned, key = begun.run, begun.order, begun.planned, begun.run.key
        assert planned is not None
        finished = await self._submit(
            lambda connection: runs.apply(connection, run, order, planned, begun.mode, self._now)
        )
        self._abandoned.remove(run.id)
        if self._allocator is not None and key.method is Method.FIFO:
            if not keep_waiting:
                self._allocator.forget((key.account, key.symbol))
            await self._reader.read(self._allocator.load)
        self.raised += map(unmatched_alert, finished.reviews)
        return finished

    async def _order(self, account: Account, key: ScopeKey, up_to: int, since: datetime | None) -> runs.Order:
        chosen = await self._reader.read(selections.stored) if key.method is Method.SPECIFIC else None
        return runs.Order(account, key, up_to, since, chosen)

    def _submit(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        """A work of the writer that only the role's holder may do."""

        def fenced(connection: Connection) -> T:
            self._fence(connection)
            return work(connection)

        return self._writer.submit(fenced)


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Cancelled or not, what was begun is brought to its end before its caller goes on: a transaction that is under
    way commits whatever becomes of whoever waits for it, and what it stored must not wait to be stored again."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # seen: whoever cancelled does not ask for it
        raise
