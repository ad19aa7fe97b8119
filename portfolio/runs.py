"""One computation of a scope, from its trades to its rows: what `allocations compute` and the daemon share.

A run is logged before it begins, in a transaction of its own; everything else happens in one transaction,
so that a reader sees the old version or the new one, and a run that died is found in the log.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from config.times import stored_time
from execution import raw
from execution.ledger import derived_id
from execution.model import Account
from portfolio import allocations, batch, reviews
from portfolio.allocations import CONTENT, Counts, Run, ScopeKey
from portfolio.books import SymbolBook
from portfolio.fifo import Allocation
from portfolio.lots import Method, Selections
from portfolio.reviews import Review
from portfolio.tables import RunMode


class _Rows:
    """Takes the allocations of a computation in order; writes those from the first one on that the current
    version does not have."""

    def __init__(self, connection: Connection, run: Run, since: datetime | None) -> None:
        self._connection = connection
        self._run = run
        self._since = since
        self._stored = _current(connection, run.key, since)
        self._instant: list[Allocation] = []  # what was equal at the instant that is being compared
        self._changed = False
        self.counts = Counts()

    def take(self, found: list[Allocation]) -> None:
        """The next allocations."""
        self.counts.add(found)
        if self._changed:
            self._insert(found)
            return
        for index, piece in enumerate(found):
            stored = next(self._stored, None)
            if stored == allocations.content(piece):
                if self._instant and self._instant[0].closed_at != piece.closed_at:
                    self._instant = []
                self._instant.append(piece)
                continue
            self._part(piece.closed_at, stored)
            self._insert([*self._again(piece), *found[index:]])
            return

    def finish(self) -> None:
        """There are no more: stored rows that are left have lost their reason."""
        if not self._changed and (stored := next(self._stored, None)) is not None:
            closed_at = datetime.fromisoformat(stored[-1])
            self._part(closed_at, None)
            self._insert([piece for piece in self._instant if piece.closed_at >= closed_at])

    def _part(self, closed_at: datetime, stored: Sequence[Any] | None) -> None:
        """From here on the versions differ: end the current rows from the earlier of the two instants on."""
        self._changed = True
        if stored is not None:
            closed_at = min(closed_at, datetime.fromisoformat(stored[-1]))
        self._parted_at = closed_at
        allocations.close(self._connection, self._run.key, self._run.version, closed_at)

    def _again(self, piece: Allocation) -> list[Allocation]:
        """Equal ones of the instant at which rows were ended: they go in again."""
        return [equal for equal in self._instant if equal.closed_at >= self._parted_at]

    def _insert(self, found: list[Allocation]) -> None:
        allocations.insert(self._connection, self._run.key, self._run.version, self._run.batch_id, found)


def _current(connection: Connection, key: ScopeKey, since: datetime | None) -> Iterator[Sequence[Any]]:
    """The current rows of a scope in the order in which they were matched."""
    sql = (
        f"SELECT {CONTENT} FROM fifo_allocations WHERE account = ? AND symbol = ? AND method = ?"
        " AND to_version IS NULL"
    )
    parameters: list[Any] = list(key)
    if since is not None:
        sql += " AND closed_at >= ?"
        parameters.append(stored_time(since))
    # Read whole: rows of the same table are ended and added meanwhile.
    yield from raw.execute(connection, f"{sql} ORDER BY closed_at, id", parameters).fetchall()


def perform(
    connection: Connection,
    run: Run,
    account: Account,
    up_to: int,
    *,
    since: datetime | None = None,
    selections: Selections | None = None,
    progress: batch.Progress | None = None,
) -> tuple[SymbolBook, Counts]:
    """Compute a scope and make the run's version its current one, inside the caller's transaction.

    `since`: what was closed before is known to be right and stays; otherwise everything is compared with the
    current version. Rows are ended and added only from the first difference on. The caller logs the end
    (`allocations.finish`) in the same transaction. Raises FifoError.
    """
    rows = _Rows(connection, run, since)
    computed = batch.compute(
        connection,
        account,
        run.key.symbol,
        up_to,
        method=run.key.method,
        selections=selections,
        sink=rows.take,
        since=since,
        progress=progress,
    )
    rows.finish()
    counts = rows.counts
    counts.buys, counts.sells = computed.buys, computed.sells
    allocations.point(connection, run.key, run.version, up_to)
    return computed.book, counts


class Runner:
    """The steps of a run as works of the writer; between the two a kill leaves a run that is found in the log.

    `now` tells the wall clock; `fence` raises when the portfolio role belongs to another process.
    """

    def __init__(
        self,
        account: Account,
        key: ScopeKey,
        up_to: int,
        now: Callable[[], datetime],
        *,
        fence: Callable[[Connection], None] = lambda _connection: None,
        batch_id: str | None = None,
    ) -> None:
        self._account = account
        self._key = key
        self._up_to = up_to
        self._now = now
        self._fence = fence
        self._batch_id = batch_id

    def begin(self, connection: Connection, mode: RunMode, reason: str, *, since: datetime | None = None) -> Run:
        """Log the run."""
        self._fence(connection)
        now = self._now()
        batch_id = self._batch_id or derived_id("batch", *map(str, self._key), now.isoformat())
        return allocations.begin(
            connection, self._key, batch_id=batch_id, mode=mode, reason=reason, now=now, since=since
        )

    def perform(
        self,
        connection: Connection,
        run: Run,
        *,
        since: datetime | None = None,
        selections: Selections | None = None,
        progress: batch.Progress | None = None,
    ) -> list[Review]:
        """Compute, point to the new version, log the end; returns the new entries of the review queue."""
        self._fence(connection)
        _, counts = perform(
            connection, run, self._account, self._up_to, since=since, selections=selections, progress=progress
        )
        allocations.finish(connection, run, counts, self._up_to, self._now())
        if self._key.method is not Method.FIFO:
            return []
        return reviews.sync(connection, [(self._key.account, self._key.symbol)], self._now())
