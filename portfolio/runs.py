"""One computation of a scope, from its trades to its rows: what `allocations compute` and the daemon share.

A run is logged before it begins, in a transaction of its own; everything else happens in one transaction,
so that a reader sees the old version or the new one, and a run that died is found in the log.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection

from config.exact import plain
from config.times import stored_time, time_text
from execution import raw
from execution.ledger import derived_id
from execution.model import Account, Json
from portfolio import allocations, batch, history, reviews
from portfolio.allocations import CONTENT, Content, Counts, Run, ScopeKey
from portfolio.fifo import ENGINE_VERSION
from portfolio.lots import Method, Selections
from portfolio.matches import Row
from portfolio.reviews import Review
from portfolio.tables import RunMode
from portfolio.units import money_of


@dataclass(slots=True)
class Changes:
    """What a run changed in the stored rows of its scope."""

    ended: int = 0
    added: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """A completed run. `counts` are of what it computed: everything, or what was closed from `since` on."""

    run: Run
    mode: RunMode
    since: datetime | None
    counts: Counts
    changes: Changes
    sequence: int
    finished_at: datetime
    reviews: Sequence[Review] = ()

    @property
    def unchanged(self) -> int:
        """The rows that the version before had as well."""
        return self.counts.allocations - self.changes.added

    @property
    def differs(self) -> bool:
        """Whether the stored rows were not what the trades give."""
        return bool(self.changes.ended or self.changes.added)

    def to_wire(self) -> dict[str, Json]:
        """The JSON form."""
        key = self.run.key
        return {
            "account": key.account,
            "symbol": key.symbol,
            "method": str(key.method),
            "version": self.run.version,
            "mode": str(self.mode),
            "since": None if self.since is None else time_text(self.since),
            "sequence": self.sequence,
            "buys": self.counts.buys,
            "sells": self.counts.sells,
            "allocations": self.counts.allocations,
            "unchanged": self.unchanged,
            "ended": self.changes.ended,
            "added": self.changes.added,
            "realized_pnl": plain(money_of(self.counts.pnl_units)),
            "duration_ms": int((self.finished_at - self.run.started_at).total_seconds() * 1000),
        }


class Target(Protocol):
    """Where a computation's differences from the current version go."""

    def end(self, instant: datetime) -> None:
        """From this instant on the current rows are no longer right."""
        ...

    def add(self, rows: list[Content]) -> None:
        """Rows of the new version."""
        ...


class _Written:
    """Differences written as they are found."""

    def __init__(self, connection: Connection, run: Run) -> None:
        self._connection = connection
        self._run = run
        self.changes = Changes()

    def end(self, instant: datetime) -> None:
        self.changes.ended += allocations.close(self._connection, self._run.key, self._run.version, instant)

    def add(self, rows: list[Content]) -> None:
        self.changes.added += len(rows)
        allocations.insert_contents(self._connection, self._run.key, self._run.version, self._run.batch_id, rows)


@dataclass(slots=True)
class Plan:
    """What a computation found: from `since` on the stored rows are replaced by `rows`; None: nothing is to be
    changed."""

    since: datetime | None = None
    rows: list[Content] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def end(self, instant: datetime) -> None:
        """See `Target.end`."""
        self.since = instant

    def add(self, rows: list[Content]) -> None:
        """See `Target.add`."""
        self.rows += rows


class _Rows:
    """Takes the allocations of a computation in order; hands on those from the first one on that the current
    version does not have."""

    def __init__(self, stored: Generator[Sequence[Any]], target: Target) -> None:
        self._target = target
        self._stored = stored
        self._instant: list[Content] = []  # what was equal at the instant that is being compared
        self._changed = False
        self.counts = Counts()

    def take(self, found: list[Row]) -> None:
        """The next allocations."""
        self.counts.add(found)
        rows = allocations.contents(found)
        if self._changed:
            self._target.add(rows)
            return
        for index, row in enumerate(rows):
            stored = next(self._stored, None)
            if stored == row:
                if self._instant and self._instant[0][-1] != row[-1]:
                    self._instant = []
                self._instant.append(row)
                continue
            self._part(row[-1] if stored is None else min(row[-1], stored[-1]), rows[index:])
            return

    def finish(self) -> None:
        """There are no more: stored rows that are left have lost their reason."""
        if not self._changed and (stored := next(self._stored, None)) is not None:
            self._part(stored[-1], [])

    def _part(self, closed_at: str, rest: list[Content]) -> None:
        """From an instant on (in its stored form, which sorts as time does) the versions differ: what was equal at
        that very instant goes in again."""
        self._changed = True
        self._stored.close()  # before the rows that it reads are ended
        self._target.end(datetime.fromisoformat(closed_at))
        self._target.add([row for row in self._instant if row[-1] >= closed_at] + rest)


def _current(connection: Connection, key: ScopeKey, since: datetime | None) -> Generator[Sequence[Any]]:
    """The current rows of a scope in the order in which they were matched."""
    sql = (
        f"SELECT {CONTENT} FROM fifo_allocations WHERE account = ? AND symbol = ? AND method = ?"
        " AND to_version IS NULL"
    )
    parameters: list[Any] = list(key)
    if since is not None:
        sql += " AND closed_at >= ?"
        parameters.append(stored_time(since))
    cursor = raw.execute(connection, f"{sql} ORDER BY closed_at, id", parameters)
    try:
        while rows := cursor.fetchmany(batch.CHUNK):
            yield from rows
    finally:
        cursor.close()


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be computed: a scope's trades up to ledger sequence `up_to`.

    `since`: what was closed before is known to be right and stays; without it everything is compared with the
    current version.
    """

    account: Account
    key: ScopeKey
    up_to: int
    since: datetime | None = None
    selections: Selections | None = None
    progress: batch.Progress | None = None


Differences = Callable[[Order, Target], Counts]
"""See `find_differences`."""


def plan(connection: Connection, order: Order) -> Plan:
    """Compute a scope and compare it with its current version; writes nothing. Raises FifoError."""
    found = Plan()
    found.counts = find_differences(connection, order, found)
    return found


def apply(
    connection: Connection, run: Run, order: Order, planned: Plan, mode: RunMode, now: Callable[[], datetime]
) -> Finished:
    """Make what was planned the current version; nothing of the scope may have been stored in between."""
    target = _Written(connection, run)
    if planned.since is not None:
        target.end(planned.since)
        target.add(planned.rows)
    return _end(connection, run, order, mode, planned.counts, target.changes, now())


def perform(
    connection: Connection,
    run: Run,
    order: Order,
    mode: RunMode,
    now: Callable[[], datetime],
    differences: Differences | None = None,
) -> Finished:
    """`plan` and `apply` in one transaction, writing on the way: memory grows with the open lots only.

    `differences`: who finds them, if not `find_differences` over this very connection.
    """
    target = _Written(connection, run)
    counts = find_differences(connection, order, target) if differences is None else differences(order, target)
    return _end(connection, run, order, mode, counts, target.changes, now())


def find_differences(connection: Connection, order: Order, target: Target) -> Counts:
    """Compute a scope and tell `target` how its current version differs. Raises FifoError."""
    key = order.key
    rows = _Rows(_current(connection, key, order.since), target)
    computed = batch.compute(
        connection,
        order.account,
        key.symbol,
        order.up_to,
        method=key.method,
        selections=order.selections,
        sink=rows.take,
        since=order.since,
        progress=order.progress,
    )
    rows.finish()
    rows.counts.buys, rows.counts.sells = computed.buys, computed.sells
    return rows.counts


def _end(
    connection: Connection, run: Run, order: Order, mode: RunMode, counts: Counts, changes: Changes, now: datetime
) -> Finished:
    """Move the pointer, log the end, bring the review queue up to date; say it when late trades changed history."""
    key = order.key
    if key.method is Method.FIFO:
        _tell_of_late_trades(connection, run, order.up_to, now)
    allocations.point(connection, key, run.version, order.up_to)
    allocations.finish(connection, run, counts, order.up_to, now)
    found: list[Review] = []
    if key.method is Method.FIFO:
        found = reviews.sync(connection, [(key.account, key.symbol)], now)
    return Finished(run, mode, order.since, counts, changes, order.up_to, now, found)


def _tell_of_late_trades(connection: Connection, run: Run, up_to: int, now: datetime) -> None:
    pointer = allocations.pointers(connection).get((run.key.account, run.key.symbol))
    if pointer is not None:
        since = history.changed_from(connection, run.key, pointer.sequence, up_to)
        if since is not None:
            history.keep(connection, run.key, since, run.version, now)


def behind(connection: Connection, method: Method) -> set[tuple[str, str]]:
    """The accounts and symbols whose current version misses trades, or is of another algorithm version."""
    pointers = allocations.pointers(connection, method)
    sql = "SELECT account, symbol, MAX(sequence) FROM trades GROUP BY account, symbol"
    found = set()
    for account, symbol, last in raw.execute(connection, sql).fetchall():
        pointer = pointers.get((account, symbol))
        if pointer is None or pointer.sequence < last or pointer.engine_version != ENGINE_VERSION:
            found.add((account, symbol))
    return found


def log(
    connection: Connection, order: Order, mode: RunMode, reason: str, now: datetime, batch_id: str | None = None
) -> Run:
    """Log a run as running, in a transaction of its own: one that dies is found in the log."""
    named = batch_id or derived_id("batch", *map(str, order.key), now.isoformat())
    return allocations.begin(
        connection, order.key, batch_id=named, mode=mode, reason=reason, now=now, since=order.since
    )
