"""The execution service: a request comes in, facts and an answer go out.

Bot-agnostic: a bot's request and a person's take the same path, and nothing here looks at who asked except
to record it. Two transactions an order: the order with its client order id is committed before anything is
sent, its fills are committed before anything is said about them.
"""

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection

from config.exact import ZERO
from execution import alerts, candles, endings, ledger, orders, raw
from execution.adoption import FILLED_AFTER_CLOSE
from execution.answers import answer, refused
from execution.batch import Applied
from execution.errors import StorageUnavailable, VenueError
from execution.ledger import LedgerTail
from execution.limits import LIMIT, RiskLimits
from execution.losses import LimitHalt, LossWatch, halted_alert
from execution.model import (
    AlertRaised,
    Candle,
    Event,
    FactsRecorded,
    Halt,
    HaltChanged,
    HaltRequest,
    Order,
    OrderChanged,
    OrderStatus,
    Price,
    Reason,
    Responded,
    Severity,
)
from execution.paper import PaperVenue
from execution.ports import Clock, Reader, Writer
from execution.recorder import Recorder
from execution.requests import Accepted, Envelope, Intake, Repeated, RequestDesk
from execution.state import TradingState
from execution.totals import read_totals, store_totals, stored_totals
from execution.venue import AbsentVenue, Venue, VenueClosed, VenueReport

__all__ = ["Envelope", "ExecutionService"]


STORAGE = "storage"
"""Who halted trading when the database could not commit. Not stored, for want of a storage."""


class Unsent(NamedTuple):
    """An order that is committed and not sent yet; `began`: when its request was taken up, by the event loop."""

    order: Order
    began: float


class ExecutionService:
    """See the module. One instance per process holds the execution role."""

    def __init__(
        self,
        *,
        writer: Writer,
        reader: Reader,
        state: TradingState,
        tail: LedgerTail,
        clock: Clock,
        limits: RiskLimits,
        paper: PaperVenue,
        venues: Mapping[str, Venue] | None = None,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self.state = state
        self._clock = clock
        self._losses = LossWatch(state, clock, limits)
        self._recorder = Recorder(state, tail, clock)
        self._paper = paper
        self._venues: dict[str, Venue] = {**(venues or {}), paper.name: paper}
        self._desk = RequestDesk(state, tail, clock, limits, self._losses, self._venues)
        self._seen: dict[tuple[str, str], datetime] = {}
        self._unrecorded: list[VenueReport] = []
        self._unsent: list[Unsent] = []
        self._alerted: set[tuple[str, ...]] = set()
        self.storage_failure: str | None = None
        self._kept_totals = 0

    # ---- start ----------------------------------------------------------------------------------------

    async def start(self) -> list[Event]:
        """Load the state, then find out what became of every open order."""
        latest = await self._reader.read(candles.latest)
        bars: dict[str, Candle] = {}
        for (symbol, timeframe), candle in latest.items():
            self._seen[symbol, timeframe] = candle.time
            newest = bars.get(symbol)
            if newest is None or (candle.close_time, candle.time) > (newest.close_time, newest.time):
                bars[symbol] = candle
                self.state.prices.note_candle(candle)
        kept = await self._reader.read(stored_totals)
        self._kept_totals = 0 if kept is None else kept.sequence
        await self._writer.submit(self.state.load)  # after the prices: reservations of market orders need them
        await self._writer.submit(self._desk.start)
        self._paper.start(await self._reader.read(_last_venue_sequence), bars)
        events: list[Event] = list(self._halted_by_limits())
        open_orders = self.state.open_orders()
        unwanted = await self._reader.read(orders.unwanted) if open_orders else frozenset()
        for order in open_orders:
            events += await self._resume(order)
            if order.id in unwanted or (order.reason is not None and order.reason.code == FILLED_AFTER_CLOSE):
                events += await self._cancel(order)
        return events

    def _halted_by_limits(self) -> list[AlertRaised]:
        """Said again at each start: the process that halted them may have died before it could."""
        halts = ((name, self.state.halt_of(name)) for name in sorted(self.state.accounts))
        return [halted_alert(name, halt) for name, halt in halts if halt is not None and halt.by.startswith(LIMIT)]

    async def _resume(self, order: Order) -> list[Event]:
        fills = await self._reader.read(lambda c: ledger.fills(c, order.account, order.id))
        filled = sum((trade.quantity for trade in fills), ZERO)
        last = max((trade.executed_at for trade in fills), default=None)
        if self.state.halt_of(order.account) is not None:
            return await self._cancel(order)
        try:
            reports = await self._venue(order).resume(order, filled, last, len(fills))
        except VenueError as error:
            return await self._record([VenueClosed(order.id, OrderStatus.UNKNOWN, _venue_reason(error))])
        return await self._record(reports)

    # ---- requests -------------------------------------------------------------------------------------

    async def handle(self, envelope: Envelope) -> list[Event]:
        """Take one request to its end; the events are to be published after this returns (all is committed)."""
        taken = await self.take(envelope)
        return await self.send(taken) if isinstance(taken, Unsent) else taken

    async def take(self, envelope: Envelope) -> "list[Event] | Unsent":
        """Commit one request. Returns what is to be said; or an order that is to be sent now."""
        request = envelope.request
        began = asyncio.get_running_loop().time()
        resuming = isinstance(request, HaltRequest) and not request.halted
        if self.storage_failure is not None and not resuming:
            return [await self._answer_without_storage(envelope, self.storage_failure)]
        try:
            intake, halts = await self._writer.submit(lambda connection: self._take_in(connection, envelope))
        except StorageUnavailable as error:
            return [*self._storage_failed(error), refused(request, _storage_reason(error))]
        if isinstance(intake, Repeated):
            return [intake.answer]
        if isinstance(intake, Accepted):
            return Unsent(intake.order, began)
        events = list(intake.events)
        if resuming and isinstance(events[0], HaltChanged):
            if self.storage_failure is not None:
                self.storage_failure = None
                events += halts
            events += await self._record(())
        for order in intake.cancel:
            events += await self._cancel(order)
        return events

    def _take_in(self, connection: Connection, envelope: Envelope) -> tuple[Intake, list[HaltChanged]]:
        """A request, and with one to resume the halts of all other accounts as they are stored then: read here, for
        after the commit nothing may fail, and what is stored after it is newer."""
        request = envelope.request
        intake = self._desk.take_in(connection, envelope)
        resuming = isinstance(request, HaltRequest) and not request.halted
        return intake, self._other_halts(connection, request.account) if resuming else []

    def _other_halts(self, connection: Connection, resumed: str) -> list[HaltChanged]:
        """Whether every other account is halted, to be said when the storage works again."""
        stored = {change.account: change for change in orders.halt_changes(connection)}
        others = sorted(set(self.state.accounts) - {resumed})
        now, order = self._clock.now(), self.state.halt_order
        found = [stored.get(name) or HaltChanged(name, False, STORAGE, None, now) for name in others]
        return [replace(change, order=order) for change in found]

    async def _answer_without_storage(self, envelope: Envelope, failure: str) -> Responded:
        """Nothing new is taken after a storage failure; what is known already is still answered truly."""

        def known(connection: Connection) -> Responded | None:
            row = orders.recall(connection, envelope.request.account, envelope.request.request_id)
            return None if row is None else self._desk.answer_again(connection, row, envelope)

        try:
            answer = await self._reader.read(known)
        except StorageUnavailable:
            answer = None
        return answer or refused(envelope.request, Reason("storage_unavailable", None, None, failure))

    # ---- orders ---------------------------------------------------------------------------------------

    async def send(self, unsent: "Unsent") -> list[Event]:
        """Send a committed order. Between commit and sending, a halt or the expiry may have come.

        An order that the venue could not take for want of the storage is sent later, see `on_timer`. The wait
        is counted in seconds of the event loop: the clock of a feed may run on by minutes between two candles,
        which says nothing about how long the sender has waited.
        """
        order, began = unsent
        reports: list[VenueReport]
        waited = asyncio.get_running_loop().time() - began
        halt = self.state.halt_of(order.account)
        if halt is not None:
            reports = [VenueClosed(order.id, OrderStatus.CANCELLED, endings.halted(order.account, halt))]
        elif order.expires_at is not None and waited >= (order.expires_at - order.created_at).total_seconds():
            reports = [VenueClosed(order.id, OrderStatus.EXPIRED, endings.expired(order))]
        else:
            try:
                reports = await self._venue(order).place(order, waited)
            except VenueError as error:
                reports = [VenueClosed(order.id, OrderStatus.UNKNOWN, _venue_reason(error))]
            except StorageUnavailable:
                self._unsent.append(unsent)
                reports = []
        if reports:
            return await self._record(reports)
        now = self.state.open_order(order.id)
        is_news = now is not None and now.status is order.status  # else more was said while it was being sent
        return [OrderChanged(order), answer(order, ())] if is_news else []

    async def _send_again(self) -> list[Event]:
        """Committed orders that the venue could not take before."""
        unsent, self._unsent = self._unsent, []
        events: list[Event] = []
        for one in unsent:
            if self.state.open_order(one.order.id) is not None:  # nobody cancelled it meanwhile
                events += await self.send(one)
        return events

    async def _cancel(self, order: Order) -> list[Event]:
        if self.state.open_order(order.id) is None:
            return []
        try:
            reports = await self._venue(order).cancel(order)
        except VenueError as error:
            reports = [VenueClosed(order.id, OrderStatus.UNKNOWN, _venue_reason(error))]
        halt = self.state.halt_of(order.account)
        if halt is not None:
            reports = [_because_of_the_halt(report, order, halt) for report in reports]
        return await self._record(reports)

    def _venue(self, order: Order) -> Venue:
        name = self.state.accounts[order.account].venue
        venue = self._venues.get(name)
        return AbsentVenue(name) if venue is None else venue

    # ---- the market -----------------------------------------------------------------------------------

    async def on_candle(self, candle: Candle) -> Sequence[Event]:
        """A closed candle. Older or repeated ones of the same symbol and timeframe are ignored."""
        key = (candle.symbol, candle.timeframe)
        seen = self._seen.get(key)
        if seen is not None and candle.time <= seen:
            return ()
        self._seen[key] = candle.time
        self.state.prices.note_candle(candle)
        reports = self._paper.on_candle(candle)
        events = await self._record(reports) if reports else ()
        return [*events, *await self._watch_losses(candle.symbol)] if self._losses.on else events

    async def on_price(self, price: Price) -> Sequence[Event]:
        """A last price. Older ones are ignored."""
        if not self.state.prices.note_price(price):
            return ()
        reports = self._paper.on_price(price)
        events = await self._record(reports) if reports else ()
        return [*events, *await self._watch_losses(price.symbol)] if self._losses.on else events

    async def on_timer(self) -> Sequence[Event]:
        """Now and then: record what could not be recorded, send what could not be sent, expire orders."""
        if self._unrecorded:
            return await self._record(())
        if self._unsent and self.storage_failure is None:
            return await self._send_again()
        reports = self._paper.expire()
        return await self._record(reports) if reports else ()

    async def keep_up(self, sequence: int) -> None:
        """Learn of facts that other processes appended, up to `sequence` or further: an order that comes much later
        would have to wait for all of them. Raises StorageUnavailable."""
        if self.storage_failure is None and self.state.sequence < sequence:
            await self._writer.submit(self.state.catch_up)

    async def keep_totals(self, every: int) -> None:
        """Store the sums over the ledger when at least `every` facts came since the last time: the next start reads
        only what comes after them. Raises StorageUnavailable: it is tried again."""
        if self.storage_failure is not None or self.state.sequence - self._kept_totals < every:
            return
        totals = await self._reader.read(read_totals)
        await self._writer.submit(lambda connection: store_totals(connection, totals))
        self._kept_totals = totals.sequence

    async def _watch_losses(self, symbol: str) -> list[Event]:
        """The price of `symbol` moved: did an account that holds it lose too much?"""
        holders = self._losses.holders(symbol)
        if not holders or self.storage_failure is not None:
            return []
        try:
            halts = await self._writer.submit(lambda connection: self._losses.watch(connection, holders))
        except StorageUnavailable as error:
            return self._storage_failed(error)
        return await self._halted(halts)

    async def _halted(self, halts: Sequence[LimitHalt]) -> list[Event]:
        """Accounts were halted by a limit: say so, and cancel what they have open."""
        events: list[Event] = []
        for halt in halts:
            events += halt.events()
            for order in halt.cancel:
                events += await self._cancel(order)
        return events

    # ---- recording ------------------------------------------------------------------------------------

    async def _record(self, reports: Sequence[VenueReport]) -> list[Event]:
        """Commit what the venue reported, then say so. What could not be committed before goes first."""
        reports = [*self._unrecorded, *reports]
        if not reports:
            return []
        self._unrecorded = []
        try:
            return await self._commit(reports)
        except StorageUnavailable as error:
            self._unrecorded = [*reports, *self._unrecorded]
            return self._storage_failed(error)

    async def told(self, reports: Sequence[VenueReport], closing: AlertRaised | None = None) -> list[Event]:
        """Commit what a live venue tells by itself, then say so. Without the storage it is not kept: the venue
        tells it again. `closing`: what a person should know if an order closes by it."""
        try:
            return await self._commit(reports, closing)
        except StorageUnavailable as error:
            return self._storage_failed(error)

    async def may_send(self, order: Order) -> bool:
        """Whether an order may be sent again, by a commit: a process that lost its lease fails here (LeaseLost), as
        does one without a storage (StorageUnavailable)."""

        def is_wanted(_connection: Connection) -> bool:
            return self.state.open_order(order.id) is not None and self.state.halt_of(order.account) is None

        if not await self._writer.submit(is_wanted) or self.storage_failure is not None:
            return False
        return self.state.halt_of(order.account) is None

    async def _commit(self, reports: Sequence[VenueReport], closing: AlertRaised | None = None) -> list[Event]:
        applied, halts = await self._writer.submit(lambda connection: self._apply(connection, reports, closing))
        events: list[Event] = [FactsRecorded(applied.facts)] if applied.facts else []
        for order, fills in applied.orders:
            events += [OrderChanged(order), answer(order, fills)]
            if order.status.is_final:
                self._venue(order).forget(order.id)
        events += [OrderChanged(order) for order in applied.adopted]
        events += [alert for alert in applied.alerts if self._is_new(alert)]
        for order, _ in applied.orders:
            if order.id in applied.reopened:
                events += await self._cancel(order)  # nobody waits for it any more
        return [*events, *await self._halted(halts)] if halts else events

    def _is_new(self, alert: AlertRaised) -> bool:
        """A venue tells the same again and again; who is told of it needs it once."""
        key = (alert.code, alert.account or "", *alert.about.values())
        if key in self._alerted:
            return False
        self._alerted.add(key)
        return True

    def _apply(
        self, connection: Connection, reports: Sequence[VenueReport], closing: AlertRaised | None
    ) -> tuple[Applied, list[LimitHalt]]:
        applied = self._recorder.apply(connection, reports)
        if closing is not None and any(order.status.is_final for order, _ in applied.orders):
            kept = alerts.keep(connection, closing, self._clock.recorded_now())
            applied = replace(applied, alerts=(*applied.alerts, kept))
        if not (applied.facts and self._losses.on):
            return applied, []
        return applied, self._losses.watch(connection, {fact.account for fact in applied.facts})

    # ---- storage failures -----------------------------------------------------------------------------

    def _storage_failed(self, error: StorageUnavailable) -> list[Event]:
        """Latch: after a full disk the next small write may succeed, so only a person's resume ends it."""
        if self.storage_failure is not None:
            return []
        self.storage_failure = str(error)
        now = self._clock.now()
        order = self.state.halt_order
        shown = [HaltChanged(name, True, STORAGE, self.storage_failure, now, order) for name in self.state.accounts]
        message = f"HALTED: {error}. Nothing is sent until trading is resumed (`fillbook resume`)"
        return [*shown, AlertRaised(Severity.HIGH, "storage_unavailable", message)]

    async def bury(self, letter: orders.DeadLetter) -> None:
        """Keep a message that could not be taken."""
        await self._writer.submit(lambda connection: orders.bury(connection, letter))

    async def bury_with(self, letter: orders.DeadLetter, alert: AlertRaised) -> AlertRaised:
        """Keep a message that nobody will send again, and with it the alert that says so."""

        def work(connection: Connection) -> AlertRaised:
            orders.bury(connection, letter)
            return alerts.keep(connection, alert, letter.received_at)

        return await self._writer.submit(work)

    async def keep(self, alert: AlertRaised) -> AlertRaised:
        """Store an alert until the broker has it. Raises StorageUnavailable."""
        now = self._clock.recorded_now()
        return await self._writer.submit(lambda connection: alerts.keep(connection, alert, now))

    def delivered(self, delivery: orders.Delivery, window: int, taken: Collection[str]) -> Awaitable[str | None]:
        """See `orders.delivered`."""
        return self._reader.read(lambda connection: orders.delivered(connection, delivery, window, taken))


def _venue_reason(error: VenueError) -> Reason:
    return Reason("venue_out_of_reach", None, None, str(error))


def _because_of_the_halt(report: VenueReport, order: Order, halt: Halt) -> VenueReport:
    """Whose order is gone wants to know why."""
    if isinstance(report, VenueClosed) and report.status is OrderStatus.CANCELLED and report.reason is None:
        return replace(report, reason=endings.halted(order.account, halt))
    return report


def _storage_reason(error: StorageUnavailable) -> Reason:
    return Reason("storage_unavailable", None, None, str(error))


def _last_venue_sequence(connection: Connection) -> int:
    row = raw.execute(connection, "SELECT MAX(venue_sequence) FROM trades WHERE venue = 'paper'").fetchone()
    return int(row[0] or 0)
