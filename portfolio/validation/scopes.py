"""The scopes of the stored allocations, and whether their versions fit the log and the pointers."""

from dataclasses import dataclass

from sqlalchemy import Connection

from execution import followers, raw
from portfolio.allocations import ScopeKey
from portfolio.allocator import FOLLOWER
from portfolio.lots import Method
from portfolio.tables import RunStatus
from portfolio.validation.findings import Check, Report


@dataclass(frozen=True, slots=True)
class Scope:
    """What is validated: the rows of a scope as they were at `version`, against its trades up to `sequence`.

    `is_current` false: it has been replaced. Which trades it knew cannot be told to the last one then, so
    that only what it says is checked, not that it says everything.
    """

    key: ScopeKey
    version: int
    sequence: int
    engine_version: int
    is_current: bool = True

    @property
    def name(self) -> str:
        """How problems name it."""
        return f"{self.key.account}/{self.key.symbol} {self.key.method}"


def current_scopes(connection: Connection, method: Method | None = None) -> list[Scope]:
    """All scopes with a current version (of one method), in order."""
    sql = "SELECT account, symbol, method, version, sequence, engine_version FROM fifo_pointers"
    rows = raw.execute(connection, f"{sql} ORDER BY account, symbol, method").fetchall()
    followed = followers.position(connection, FOLLOWER)
    scopes = []
    for account, symbol, name, version, sequence, engine in rows:
        key = ScopeKey(account, symbol, Method(name))
        if method in (None, key.method):
            # Between its fills a FIFO scope is as current as the follower is; other methods run on request.
            known = max(sequence, followed) if key.method is Method.FIFO else sequence
            scopes.append(Scope(key, version, known, engine))
    return scopes


def scope_of_version(connection: Connection, version: int) -> Scope | None:
    """The scope that a version belongs to, as it was then; None when no run began such a version."""
    for scope in current_scopes(connection):
        if scope.version == version:
            return scope
    sql = (
        "SELECT account, symbol, method, MAX(sequence), MAX(engine_version) FROM fifo_computation_log"
        " WHERE version = ? AND status IN (?, ?) GROUP BY account, symbol, method"
    )
    row = raw.execute(connection, sql, (version, str(RunStatus.COMPLETED), str(RunStatus.PARTIAL))).fetchone()
    if row is None:
        return None
    account, symbol, method, sequence, engine = row
    return Scope(ScopeKey(account, symbol, Method(method)), version, sequence or 0, engine, is_current=False)


def check_versions(connection: Connection, report: Report) -> None:
    """Pointers, the log and the versions of rows fit each other; every scope with trades has a pointer."""
    pointers = {scope.key: scope for scope in current_scopes(connection)}
    began: dict[ScopeKey, set[int]] = {}
    sql = "SELECT DISTINCT account, symbol, method, version FROM fifo_computation_log WHERE status IN (?, ?)"
    known = raw.execute(connection, sql, (str(RunStatus.COMPLETED), str(RunStatus.PARTIAL))).fetchall()
    for account, symbol, method, version in known:
        began.setdefault(ScopeKey(account, symbol, Method(method)), set()).add(version)
    for scope in pointers.values():
        if scope.version not in began.get(scope.key, ()):
            report(Check.VERSIONS, f"{scope.name}: the pointer names version {scope.version}, which no run made")
    sql = (
        "SELECT account, symbol, method, from_version, to_version, MIN(id) FROM fifo_allocations"
        " GROUP BY account, symbol, method, from_version, to_version"
    )
    for account, symbol, method, first, last, row_id in raw.execute(connection, sql).fetchall():
        key = ScopeKey(account, symbol, Method(method))
        problem = _version_problem(pointers.get(key), began.get(key, set()), first, last)
        if problem is not None:
            name = f"{account}/{symbol} {method}"
            report(Check.VERSIONS, f"{name}: allocation {row_id} (versions {first} to {last or 'now'}): {problem}")
    _check_missing(connection, pointers, report)


def _version_problem(pointer: Scope | None, began: set[int], first: int, last: int | None) -> str | None:
    if pointer is None:
        return "its scope has no current version"
    if first not in began:
        return f"no run made version {first}"
    if last is None:
        return None if first <= pointer.version else f"current, but the pointer names version {pointer.version}"
    if last >= pointer.version:
        return f"ended, but the pointer names version {pointer.version}"
    return None if last + 1 in began else f"ended for version {last + 1}, which no run made"


def _check_missing(connection: Connection, pointers: dict[ScopeKey, Scope], report: Report) -> None:
    sql = "SELECT account, symbol, MIN(sequence) FROM trades GROUP BY account, symbol"
    stored = followers.position(connection, FOLLOWER)
    for account, symbol, sequence in raw.execute(connection, sql).fetchall():
        if sequence <= stored and ScopeKey(account, symbol) not in pointers:
            report(Check.VERSIONS, f"{account}/{symbol} fifo: has trades, but no current version")
