"""Recomputation of allocations inside the daemon: on request, and now and then by itself.

One run at a time, beside everything else: fills are booked and answered meanwhile. A request is known by its
id for as long as the process lives; after that a repetition computes again, which changes nothing that is
right.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection

from config.times import time_text
from execution import raw
from execution.errors import StorageUnavailable
from execution.model import AlertRaised, Reason, Responded, ResponseStatus, Severity
from execution.ports import Clock, Reader
from portfolio.errors import FifoError
from portfolio.lots import Method
from portfolio.runs import Finished
from portfolio.service import PortfolioService
from portfolio.tables import RunStatus
from runtime.messages import RecomputeRequest

log = structlog.get_logger(__name__)

SCHEDULED = "scheduled"
"""The reason in the log of computations."""

_REMEMBERED = 1000
"""Requests whose answers are kept for a repetition."""

_MOST_WAITING = 100

_FIRST_AFTER = timedelta(minutes=1)
"""A run that fell due while nothing was running waits until the start is over."""


@dataclass(slots=True)
class _Known:
    """A request that came; `answer` once it is done."""

    body_hash: str
    answer: Responded | None = None


class Recomputer:
    """See the module. `publish` takes answers and alerts; `poll` brings the books to the ledger's head."""

    def __init__(
        self,
        portfolio: PortfolioService,
        reader: Reader,
        clock: Clock,
        publish: Callable[[Responded | AlertRaised], None],
        poll: Callable[[], Awaitable[None]],
        *,
        every: timedelta | None,
    ) -> None:
        self._portfolio = portfolio
        self._reader = reader
        self._clock = clock
        self._publish = publish
        self._poll = poll
        self._every = every
        self._waiting: asyncio.Queue[RecomputeRequest] = asyncio.Queue(_MOST_WAITING)
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()

    # ---- requests ---------------------------------------------------------------------------------------

    async def take(self, request: RecomputeRequest, body_hash: str) -> None:
        """Accept or refuse a request; a repetition gets the answer again. Raises StorageUnavailable."""
        await self._poll()
        # No waiting from here on: of two that come together, one is the repetition.
        key = (request.account, request.request_id)
        known = self._known.get(key)
        if known is not None:
            self._publish(self._repeated(request, known, body_hash))
            return
        reason = self._refusal(request)
        if reason is not None:
            self._publish(_refused(request, reason))
            return
        self._known[key] = _Known(body_hash)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        self._waiting.put_nowait(request)
        self._publish(_accepted(request))

    @staticmethod
    def _repeated(request: RecomputeRequest, known: _Known, body_hash: str) -> Responded:
        if known.body_hash != body_hash:
            expected = "the body that this request_id came with first, or another request_id"
            return _refused(request, Reason("idempotency_conflict", "request_id", request.request_id, expected))
        return known.answer or _accepted(request)

    def _refusal(self, request: RecomputeRequest) -> Reason | None:
        symbols = self._portfolio.traded(request.account)
        if symbols is None:
            return Reason("unknown_account", "account", request.account, "an account of these books")
        if request.symbol is not None and request.symbol not in symbols:
            expected = f"a symbol that {request.account} traded: {', '.join(symbols[:20]) or 'there is none yet'}"
            return Reason("unknown_symbol", "symbol", request.symbol, expected)
        if self._waiting.full():
            return Reason("busy", None, None, f"at most {_MOST_WAITING} recomputations waiting")
        return None

    async def _answer(self, request: RecomputeRequest) -> None:
        try:
            done = await self._compute(request)
        except FifoError as error:
            answer = _refused(request, Reason("cannot_compute", None, None, str(error)))
        except StorageUnavailable as error:
            answer = _refused(request, Reason("storage_unavailable", None, None, str(error)))
        else:
            answer = Responded(
                request.account,
                request.request_id,
                ResponseStatus.DONE,
                final=True,
                sequence=self._portfolio.sequence,
                result={"runs": [run.to_wire() for run in done]},
            )
        known = self._known.get((request.account, request.request_id))
        if known is not None:
            # What could not be done may be tried again under the same id.
            if answer.status is ResponseStatus.REFUSED:
                del self._known[request.account, request.request_id]
            else:
                known.answer = answer
        self._publish(answer)

    async def _compute(self, request: RecomputeRequest) -> list[Finished]:
        why = "requested" if request.note is None else f"requested: {request.note}"
        done, alerts = await self._portfolio.compute(
            account=request.account,
            symbol=request.symbol,
            method=request.method,
            since=request.since,
            only_behind=not request.full and request.since is None,
            reason=why,
        )
        self._tell(done, alerts)
        return done

    # ---- the schedule -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled. Raises LeaseLost when another process took the role."""
        due = await self._first_due()
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(due):
                    request = await self._waiting.get()
            except TimeoutError:
                await self._scheduled()
                assert self._every is not None
                due = loop.time() + self._every.total_seconds()
                continue
            await self._answer(request)

    async def _first_due(self) -> float | None:
        """When the first run is due, in the loop's time: so long after the last one, of whichever process."""
        if self._every is None:
            return None
        wait = self._every
        try:
            last = await self._reader.read(last_scheduled)
        except StorageUnavailable:
            last = None
        if last is not None:
            wait = max(last + self._every - self._clock.recorded_now(), min(_FIRST_AFTER, self._every))
        return asyncio.get_running_loop().time() + wait.total_seconds()

    async def _scheduled(self) -> None:
        try:
            done, alerts = await self._portfolio.compute(reason=SCHEDULED)
        except StorageUnavailable as error:
            log.warning("allocations not recomputed", error=str(error))
            return
        except FifoError as error:
            message = f"the allocations cannot be computed: {error} (`fillbook allocations validate`)"
            self._publish(AlertRaised(Severity.HIGH, "recompute_failed", message))
            return
        log.info("allocations recomputed", scopes=len(done), differed=sum(run.differs for run in done))
        self._tell(done, alerts)

    def _tell(self, done: list[Finished], alerts: list[AlertRaised]) -> None:
        for alert in alerts:
            self._publish(alert)
        for run in done:
            if run.differs and run.run.key.method is Method.FIFO:
                log.error("stored allocations differed", scope="/".join(run.run.key[:2]), version=run.run.version)
                self._publish(differed_alert(run))


def differed_alert(finished: Finished) -> AlertRaised:
    """What was stored is not what the trades give: it was changed by somebody, or booked wrongly."""
    key = finished.run.key
    changes = finished.changes
    message = (
        f"{key.account}/{key.symbol}: the stored allocations were not what the trades give: {changes.ended} rows were"
        f" replaced by {changes.added}. Version {finished.run.version} is right;"
        f" `fillbook allocations compare` shows what differed"
    )
    about = {"symbol": key.symbol, "version": str(finished.run.version), "at": time_text(finished.finished_at)}
    return AlertRaised(Severity.HIGH, "allocations_differed", message, key.account, about)


def last_scheduled(connection: Connection) -> datetime | None:
    """When the last scheduled run was finished."""
    sql = "SELECT MAX(finished_at) FROM fifo_computation_log WHERE reason = ? AND status = ?"
    row = raw.execute(connection, sql, (SCHEDULED, str(RunStatus.COMPLETED))).fetchone()
    return None if row is None or row[0] is None else datetime.fromisoformat(row[0])


def _accepted(request: RecomputeRequest) -> Responded:
    return Responded(request.account, request.request_id, ResponseStatus.ACCEPTED, final=False)


def _refused(request: RecomputeRequest, reason: Reason) -> Responded:
    return Responded(request.account, request.request_id, ResponseStatus.REFUSED, final=True, reason=reason)
