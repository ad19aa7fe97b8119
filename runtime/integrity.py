"""Whether the books of each account are sound: known at any time, said on the bus, and a halt when they are not.

What the check after each fill finds comes by `failed`; now and then everything that is stored is proven in a
thread of its own. A failed check halts the account through execution, so the halt is stored and outlives a
restart; only a person resumes. Whoever resumes takes on the problems that are known by then: they are said
again, but do not halt again in this process.
"""

import asyncio
import threading  # noqa: TID251 - to stop a proof that runs in the reader's thread
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import structlog
from sqlalchemy import Connection

from config.times import time_text
from execution import alerts, ledger
from execution.errors import StorageUnavailable
from execution.ledger import derived_id
from execution.model import AlertRaised, HaltChanged, HaltRequest, Severity
from execution.ports import Clock, Reader
from portfolio import verify as proofs
from portfolio.verify import CheckResult
from portfolio.watchdog import IntegrityFailed
from runtime.messages import Integrity

log = structlog.get_logger(__name__)

INTEGRITY = "integrity"
"""Who halts, and the code of the alert."""

_MOST_PROBLEMS = 20
"""Problems named in one message; `fillbook verify` names more."""

_REST = 3.0
"""Seconds of rest for each second of proving: a full check takes its time, so that fills do not notice it."""


class Books(Protocol):
    """What is asked of the portfolio service."""

    @property
    def sequence(self) -> int:
        """The ledger sequence that the books are at."""
        ...

    @property
    def accounts(self) -> list[str]:
        """The names of all accounts."""
        ...

    def take_failures(self) -> list[IntegrityFailed]:
        """What the check after each fill found since the last call."""
        ...


class _Stopped(Exception):
    """The process ends: no need to go on proving."""


class IntegrityKeeper:
    """See the module. `halt` carries out (or sends on) a request to halt; `publish` takes states and alerts."""

    def __init__(
        self,
        books: Books,
        clock: Clock,
        publish: Callable[[Integrity | AlertRaised], None],
        halt: Callable[[HaltRequest], Awaitable[None]],
    ) -> None:
        self._books = books
        self._clock = clock
        self._publish = publish
        self._halt = halt
        self._states: dict[str, Integrity] = {}
        self._checked, self._checked_at = 0, clock.recorded_now()  # how far the check after each fill has come
        self._accepted: dict[str, set[str]] = {}
        self._look_now = asyncio.Event()
        self._stopped = threading.Event()

    @property
    def states(self) -> list[Integrity]:
        """What is known of each account."""
        checked, at = self._checked, self._checked_at
        return [
            replace(state, checked_at=at, sequence=checked) if state.ok and state.sequence < checked else state
            for state in self._states.values()
        ]

    def start(self, halts: Iterable[HaltChanged]) -> None:
        """Say that the books are sound, but for accounts that a failed check halted before."""
        broken = {halt.account: halt.reason or "" for halt in halts if halt.halted and halt.by == INTEGRITY}
        for account in self._books.accounts:
            self._say(account, (broken[account],) if account in broken else ())
        for account, reason in sorted(broken.items()):
            self._publish(halted_alert(account, reason))  # who halted it may have died before it could say so

    async def look(self) -> None:
        """Act on what the check after each fill found, if anything; `states` say how far sound books were checked."""
        failures = self._books.take_failures()
        if failures:
            await self.failed(failures)
        if self._checked != self._books.sequence:
            self._checked, self._checked_at = self._books.sequence, self._clock.recorded_now()

    async def failed(self, failures: Sequence[IntegrityFailed]) -> None:
        """Checks failed: say so, and halt the accounts."""
        by_account: dict[str, list[str]] = {}
        for failure in failures:
            by_account.setdefault(failure.account, []).append(failure.problem)
        for account, problems in by_account.items():
            known = self._states.get(account)
            before = known.problems if known is not None else ()
            self._say(account, tuple(dict.fromkeys([*before, *problems])))
            if not self._accepted.get(account, set()).issuperset(problems):
                await self._stop_trading(account, problems)

    async def on_halt(self, change: HaltChanged) -> None:
        """Somebody resumed trading: the problems known by now are theirs, and everything is proven again."""
        state = self._states.get(change.account)
        if change.halted or state is None or state.ok:
            return
        self._accepted.setdefault(change.account, set()).update(state.problems)
        self._say(change.account, ())
        self._look_now.set()

    def _say(self, account: str, problems: tuple[str, ...]) -> None:
        now = self._clock.recorded_now()
        state = Integrity(account, not problems, now, self._books.sequence, problems[:_MOST_PROBLEMS])
        self._states[account] = state
        self._publish(state)

    async def _stop_trading(self, account: str, problems: Sequence[str]) -> None:
        reason = f"the books failed a check: {problems[0]}"
        if len(problems) > 1:
            reason += f" (and {len(problems) - 1} more)"
        log.error("integrity", account=account, problems=list(problems[:_MOST_PROBLEMS]))
        reason = reason[:500]
        self._publish(halted_alert(account, reason))
        # With the time: what was found before, taken on by somebody, and found again is another request.
        request_id = derived_id(INTEGRITY, account, time_text(self._clock.recorded_now()), *problems)
        await self._halt(HaltRequest(request_id, account, True, INTEGRITY, reason))

    # ---- everything that is stored ----------------------------------------------------------------------

    async def run(self, reader: Reader, every_seconds: float | None) -> None:
        """Prove everything that is stored every so often, and after somebody resumed; None: never."""
        if every_seconds is None:
            return
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(every_seconds):
                    await self._look_now.wait()
            self._look_now.clear()
            try:
                await self.prove(reader)
            except StorageUnavailable as error:
                log.error("the books could not be proven", error=str(error))

    async def prove(self, reader: Reader) -> list[CheckResult]:
        """One full check. Raises StorageUnavailable."""
        rest = _Rest(self._stopped)
        sequence, results = await reader.read(lambda connection: _prove(connection, rest))
        problems = [problem for result in results for problem in result.problems]
        log.info("books proven", sequence=sequence, problems=len(problems))
        accounts = self._books.accounts
        failures = []
        for account in accounts:
            mine = [problem for problem in problems if _concerns(problem, account, accounts)]
            failures += [IntegrityFailed(account, sequence, problem) for problem in mine]
            if not mine and (state := self._states.get(account)) is not None and state.ok:
                self._say(account, ())
        if failures:
            await self.failed(failures)
        return results

    def stop(self) -> None:
        """End a proof that is under way."""
        self._stopped.set()


def halted_alert(account: str, reason: str) -> AlertRaised:
    """A failed check halted an account. Said again at each start while that lasts, under the same id."""
    message = f"{account} is HALTED: {reason}. `fillbook verify` says what is wrong; `fillbook resume` trades again"
    return alerts.named(AlertRaised(Severity.HIGH, INTEGRITY, message, account), reason)


def _prove(connection: Connection, rest: "_Rest") -> tuple[int, list[CheckResult]]:
    return ledger.head(connection).sequence, proofs.verify(connection, rest)


def _concerns(problem: str, account: str, accounts: Sequence[str]) -> bool:
    """Whether a problem is this account's: one that names no account is everybody's."""
    owners = [name for name in accounts if problem.startswith((f"{name}/", f"{name}:", f"account {name}:"))]
    return not owners or account in owners


class _Rest:
    """A progress callback that lets the rest of the process work: low priority for a thread."""

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped = stopped
        self._since = time.monotonic()  # noqa: TID251 - how long a proof rests decides nothing

    def __call__(self, *_progress: Any) -> None:
        if self._stopped.wait(min(1.0, (time.monotonic() - self._since) * _REST)):  # noqa: TID251 - how long a proof rests decides nothing
            raise _Stopped
        self._since = time.monotonic()  # noqa: TID251 - how long a proof rests decides nothing
