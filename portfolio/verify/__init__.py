"""`fillbook verify`: numbered checks over the stored books, each proving one promise.

Every check streams; memory grows with the open lots only, time with the facts. Run them on one read transaction,
so that all see the same ledger. On a database of an older schema, what it has is checked.
"""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from execution.errors import ExecutionError
from portfolio.errors import PortfolioError
from portfolio.verify import computed, facts, matching, orphans, upkeep
from portfolio.verify.computed import differences
from portfolio.verify.results import CheckResult, Progress
from portfolio.verify.scope import Run

__all__ = ["CHECKS", "CheckResult", "Progress", "checks", "differences", "verify"]

T = TypeVar("T")

CHECKS = 11
"""How many checks there are; they are numbered from 1."""

_UNREADABLE = (PortfolioError, ExecutionError, DBAPIError, ArithmeticError, ValueError, KeyError)
"""What rows raise that cannot be read or followed."""


def _no_progress(_number: int, _done: int, _total: int) -> None:
    """The progress of whoever does not ask."""


class _Once(Generic[T]):
    """A pass that several checks share: made when the first one asks; a failure is each one's failure."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []
        self._error: Exception | None = None

    def __call__(self) -> T:
        if self._error is not None:
            raise self._error
        if not self._made:
            try:
                self._made.append(self._make())
            except _UNREADABLE as error:
                self._error = error
                raise
        return self._made[0]


def verify(
    connection: Connection,
    progress: Progress = _no_progress,
    *,
    account: str | None = None,
    symbol: str | None = None,
) -> list[CheckResult]:
    """Run all checks; `account` and `symbol` narrow those that go by account and symbol."""
    return list(checks(connection, progress, account=account, symbol=symbol))


def checks(
    connection: Connection,
    progress: Progress = _no_progress,
    *,
    account: str | None = None,
    symbol: str | None = None,
) -> Iterator[CheckResult]:
    """Run the checks one after another, each result as soon as it is known."""
    run = Run(connection, progress, account, symbol)
    matched = _Once(lambda: matching.match(run))
    scanned = _Once(lambda: facts.scan(run))
    books = _Once(lambda: computed.compute(run, scanned()))
    for number in (1, 2, 3):
        yield _matching(run, number, matched)
    yield _guarded(4, orphans.NAME, lambda: orphans.check(run, matched()))
    yield _matching(run, 5, matched)
    yield _guarded(6, facts.CASH, lambda: facts.check_cash(run, scanned()))
    yield _guarded(7, computed.POSITIONS, lambda: computed.check_positions(run, scanned(), books()))
    yield _guarded(8, computed.INCREMENTAL, lambda: computed.check_incremental(run, books(), matched()))
    yield _guarded(9, facts.CHAIN, lambda: facts.check_chain(run, scanned()))
    yield _guarded(10, upkeep.GUARDED, lambda: upkeep.check_guards(run))
    yield _guarded(11, upkeep.REVIEWED, lambda: upkeep.check_reviews(run))


def _matching(run: Run, number: int, matched: _Once[matching.Matching]) -> CheckResult:
    return _guarded(number, str(matching.NUMBERS[number]), lambda: matching.result(run, number, matched()))


def _guarded(number: int, name: str, check: Callable[[], CheckResult]) -> CheckResult:
    """A check on rows that cannot even be read or followed fails; it does not stop the others."""
    try:
        return check()
    except _UNREADABLE as error:
        return CheckResult(number, name, False, {}, [f"cannot be computed: {type(error).__name__}: {error}"])
