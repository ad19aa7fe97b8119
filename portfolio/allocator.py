"""From what fills meant to stored allocations: collected in memory, written in batches.

Writing is idempotent by ledger sequence: what is stored is known by a follower's position and by each
scope's pointer, so that facts which are booked again after a restart store nothing twice. Everything of a
batch, and the snapshot that goes with it, is one transaction.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from execution import followers, raw
from execution.ledger import derived_id
from execution.model import Side
from portfolio import allocations, history, reviews
from portfolio.allocations import Counts, Pointer, Run, ScopeKey
from portfolio.books import FillOutcome, Scope
from portfolio.fifo import ENGINE_VERSION
from portfolio.matches import Allocation
from portfolio.reviews import Review
from portfolio.tables import RunMode

BACK_DATED = "back-dated trade or correction"
"""The reason, in the log of runs, of a scope that was computed anew for what came late."""

FOLLOWER = "allocations"
"""The follower whose position says up to where all scopes' allocations are stored."""


@dataclass(slots=True)
class _Fills:
    """Fills that extend the current version of a scope."""

    allocations: list[Allocation] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def end_at(self, instant: datetime) -> None:
        """Keep only what was closed before an instant."""
        self.allocations = [piece for piece in self.allocations if piece.closed_at < instant]
        self.counts = Counts(self.counts.buys, self.counts.sells)
        self.counts.add(self.allocations)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A scope computed anew from an instant on: these are all allocations closed from there on."""

    since: datetime
    reason: str
    allocations: list[Allocation]
    counts: Counts


@dataclass(slots=True)
class _Work:
    """What waits for one scope; fills that came after a rewrite follow it."""

    before: _Fills = field(default_factory=_Fills)
    rewrite: Rewrite | None = None
    after: _Fills = field(default_factory=_Fills)


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be stored, complete up to ledger `sequence`."""

    sequence: int
    work: Mapping[Scope, _Work]


class Allocator:
    """Collects allocations and writes them. Its methods that get a connection run as works of the writer."""

    def __init__(self) -> None:
        self._stored = 0
        self._pointers: dict[Scope, Pointer] = {}
        self._runs: dict[tuple[Scope, int], int] = {}
        self._work: dict[Scope, _Work] = {}
        self._unsure = False
        """Whether a transaction began whose end is not known: what it set may have been rolled back."""

    # ---- what is stored -----------------------------------------------------------------------------------

    def load(self, connection: Connection) -> None:
        """How far the stored allocations go."""
        self._stored = followers.position(connection, FOLLOWER)
        self._pointers = allocations.pointers(connection)

    @property
    def stored(self) -> int:
        """The ledger sequence up to which everything is stored."""
        return self._stored

    def outdated(self, scopes: Iterable[Scope]) -> list[Scope]:
        """Scopes whose stored allocations are missing or of another algorithm version."""
        return [scope for scope in scopes if not self._is_usable(scope)]

    def _is_usable(self, scope: Scope) -> bool:
        pointer = self._pointers.get(scope)
        return pointer is not None and pointer.engine_version == ENGINE_VERSION

    def stored_up_to(self, scope: Scope) -> int:
        """The ledger sequence up to which a scope is stored."""
        pointer = self._pointers.get(scope)
        return self._stored if pointer is None else max(self._stored, pointer.sequence)

    # ---- collecting ---------------------------------------------------------------------------------------

    def add(self, outcome: FillOutcome) -> None:
        """A fill was booked. One that is stored already, or waits for a recomputation, adds nothing."""
        trade, result = outcome.trade, outcome.result
        scope = (trade.account, trade.symbol)
        if result is None or trade.sequence <= self.stored_up_to(scope):
            return
        work = self._work.get(scope)
        if work is None:
            work = self._work[scope] = _Work()
        fills = work.before if work.rewrite is None else work.after
        counts = fills.counts
        if trade.side is Side.BUY:
            counts.buys += 1
        else:
            counts.sells += 1
        if result.allocations:
            fills.allocations += result.allocations
            counts.add(result.allocations)

    def rewrite(self, scope: Scope, rewrite: Rewrite) -> None:
        """A scope was computed anew; what waits from its instant on is part of that."""
        work = self._work.setdefault(scope, _Work())
        earlier = work.rewrite
        if earlier is not None and earlier.since < rewrite.since:
            waiting = (*earlier.allocations, *work.after.allocations)
            kept = [piece for piece in waiting if piece.closed_at < rewrite.since]
            rewrite = Rewrite(earlier.since, rewrite.reason, kept + rewrite.allocations, rewrite.counts)
        work.rewrite = rewrite
        work.before.end_at(rewrite.since)
        work.after = _Fills()

    def forget(self, scope: Scope) -> None:
        """A run over all of a scope's trades was stored: what waits for it is part of that."""
        self._work.pop(scope, None)

    @property
    def has_work(self) -> bool:
        """Whether anything waits."""
        return bool(self._work)

    @property
    def waiting(self) -> int:
        """How many allocations wait."""
        return sum(
            len(part)
            for work in self._work.values()
            for part in (
                work.before.allocations,
                work.rewrite.allocations if work.rewrite else (),
                work.after.allocations,
            )
        )

    def take(self, sequence: int) -> Batch:
        """All that waits, with the sequence that the books are at."""
        work, self._work = self._work, {}
        return Batch(sequence, work)

    def give_back(self, batch: Batch) -> None:
        """The transaction failed: all of it waits again, before what came since."""
        since, self._work = self._work, dict(batch.work)
        for scope, later in since.items():
            known = self._work.get(scope)
            if known is None:
                self._work[scope] = later
                continue
            self._append(known, later.before)
            if later.rewrite is not None:
                self.rewrite(scope, later.rewrite)
                self._append(self._work[scope], later.after)

    @staticmethod
    def _append(work: _Work, fills: _Fills) -> None:
        target = work.before if work.rewrite is None else work.after
        target.allocations += fills.allocations
        counts = target.counts
        counts.buys += fills.counts.buys
        counts.sells += fills.counts.sells
        counts.allocations += fills.counts.allocations
        counts.pnl_units += fills.counts.pnl_units

    # ---- writing ------------------------------------------------------------------------------------------

    def write(self, connection: Connection, batch: Batch, runs: Mapping[Scope, Run], now: datetime) -> list[Review]:
        """Store a batch; `runs` are the logged runs of its rewrites. Returns new entries of the review queue."""
        if self._unsure:
            self._runs.clear()
            self.load(connection)
        self._unsure = True
        batch_id = derived_id("batch", str(batch.sequence), now.isoformat())
        questionable: list[Scope] = []
        for scope, work in batch.work.items():
            key = ScopeKey(*scope)
            if work.rewrite is None or scope in self._pointers:
                self._extend(connection, key, work.before, batch_id, batch.sequence, now)
            else:  # nothing is stored yet: all of it belongs to the run's version
                allocations.insert(connection, key, runs[scope].version, batch_id, work.before.allocations)
            if work.rewrite is not None:
                self._replace(connection, runs[scope], work.rewrite, batch.sequence, now)
                self._extend(connection, key, work.after, batch_id, batch.sequence, now)
            if work.rewrite is not None or _has_unmatched(work):
                questionable.append(scope)
        followers.advance(connection, FOLLOWER, batch.sequence)
        return reviews.sync(connection, questionable, now) if questionable else []

    def _extend(
        self, connection: Connection, key: ScopeKey, fills: _Fills, batch_id: str, sequence: int, now: datetime
    ) -> None:
        """Append to the current version of a scope."""
        counts = fills.counts
        if not counts.buys and not counts.sells:
            return
        pointer = self._pointers.get((key.account, key.symbol))
        version, run_id = self._run_of(connection, key, pointer, batch_id, now)
        if fills.allocations:
            allocations.insert(connection, key, version, batch_id, fills.allocations)
        self._point(connection, key, version, sequence)
        allocations.extend_log(connection, run_id, counts, sequence, now)

    def _replace(self, connection: Connection, run: Run, rewrite: Rewrite, sequence: int, now: datetime) -> None:
        """A new version of a scope: the current rows end from the instant on, the new ones begin."""
        allocations.close(connection, run.key, run.version, rewrite.since)
        allocations.insert(connection, run.key, run.version, run.batch_id, rewrite.allocations)
        self._point(connection, run.key, run.version, sequence)
        allocations.finish(connection, run, rewrite.counts, sequence, now)
        history.keep(connection, run.key, rewrite.since, run.version, now)

    def _run_of(
        self, connection: Connection, key: ScopeKey, pointer: Pointer | None, batch_id: str, now: datetime
    ) -> tuple[int, int]:
        """The current version and the log row that its fills share."""
        version = None if pointer is None else pointer.version
        if version is not None:
            known = self._runs.get(((key.account, key.symbol), version)) or _incremental_row(connection, version)
            if known is not None:
                self._runs[(key.account, key.symbol), version] = known
                return version, known
        reason = "first fill" if version is None else "fills"
        run = allocations.begin(
            connection, key, batch_id=batch_id, mode=RunMode.INCREMENTAL, reason=reason, now=now, version=version
        )
        self._runs[(key.account, key.symbol), run.version] = run.id
        return run.version, run.id

    def _point(self, connection: Connection, key: ScopeKey, version: int, sequence: int) -> None:
        allocations.point(connection, key, version, sequence)
        self._pointers[key.account, key.symbol] = Pointer(version, sequence, ENGINE_VERSION)

    def committed(self, batch: Batch) -> None:
        """The batch is durable."""
        self._stored = batch.sequence
        self._unsure = False


def rewrites(batch: Batch) -> Iterable[tuple[Scope, Rewrite]]:
    """The rewrites of a batch; each needs a logged run before it is written."""
    return ((scope, work.rewrite) for scope, work in batch.work.items() if work.rewrite is not None)


def _incremental_row(connection: Connection, version: int) -> int | None:
    sql = "SELECT id FROM fifo_computation_log WHERE version = ? AND mode = ?"
    row = raw.execute(connection, sql, (version, str(RunMode.INCREMENTAL))).fetchone()
    return None if row is None else int(row[0])


def _has_unmatched(work: _Work) -> bool:
    pieces = itertools.chain(work.before.allocations, work.after.allocations)
    return any(piece.buy_trade is None for piece in pieces)
