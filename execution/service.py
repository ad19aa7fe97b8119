"""The execution service: a request comes in, facts and an answer go out.

Bot-agnostic: a bot's request and a person's take the same path, and nothing here looks at who asked except
to record it. Two transactions an order: the order with its client order id is committed before anything is
sent, its fills are committed before anything is said about them.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Connection

from config.exact import ZERO, plain
from config.times import time_text
from execution import candles, ledger, orders, raw
from execution.errors import ConflictingFact, StorageUnavailable, VenueError
from execution.ledger import LedgerTail, NewCashFlow, NewTrade
from execution.model import (
    AccountMode,
    AlertRaised,
    CancelRequest,
    Candle,
    CashRequest,
    Event,
    Fact,
    FactsRecorded,
    Halt,
    HaltChanged,
    HaltRequest,
    Order,
    OrderChanged,
    OrderRequest,
    OrderStatus,
    Price,
    Reason,
    Request,
    Responded,
    ResponseStatus,
    Severity,
    Side,
    Source,
    Trade,
    trade_cash_effect,
)
from execution.orders import InboxRow
from execution.paper import PaperVenue
from execution.ports import Clock, Reader, Writer
from execution.risk import RiskLimits, RiskRefused, check
from execution.state import TradingState
from execution.tables import JsonDocument
from execution.venue import Venue, VenueClosed, VenueFill, VenueReport


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request as it came in: `body_hash` of what the sender wrote, `delivery` names the broker's
    delivery when the sender gave no request id."""

    request: Request
    body_hash: str
    delivery: str | None = None


@dataclass(frozen=True, slots=True)
class _Repeated:
    """The request is known: this is its answer."""

    answer: Responded


@dataclass(frozen=True, slots=True)
class _Accepted:
    """The order is committed and may be sent."""

    order: Order


@dataclass(frozen=True, slots=True)
class _Done:
    """The request needed nothing but its own transaction."""

    events: list[Event]
    cancel: tuple[Order, ...] = ()


_Intake: TypeAlias = _Repeated | _Accepted | _Done


@dataclass(slots=True)
class _Progress:
    """An order while one batch of venue reports is applied to it."""

    order: Order
    had_fills: bool
    fills: list[Trade] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Applied:
    """What one batch of venue reports changed: facts, and orders with ALL their fills."""

    facts: tuple[Fact, ...]
    orders: tuple[tuple[Order, tuple[Trade, ...]], ...]


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
        self._tail = tail
        self._clock = clock
        self._limits = limits
        self._paper = paper
        self._venues: dict[str, Venue] = {**(venues or {}), paper.name: paper}
        self._seen: dict[tuple[str, str], datetime] = {}
        self._unrecorded: list[VenueReport] = []
        self.storage_failure: str | None = None

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
        await self._writer.submit(self.state.load)  # after the prices: reservations of market orders need them
        self._paper.start(await self._reader.read(_last_venue_sequence), bars)
        events: list[Event] = []
        for order in self.state.open_orders():
            events += await self._resume(order)
        return events

    async def _resume(self, order: Order) -> list[Event]:
        fills = await self._reader.read(lambda c: ledger.trades(c, order_id=order.id))
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
        """Take one request; the events are to be published after this returns (all is committed)."""
        request = envelope.request
        resuming = isinstance(request, HaltRequest) and not request.halted
        if self.storage_failure is not None and not resuming:
            return [await self._answer_without_storage(envelope, self.storage_failure)]
        try:
            intake = await self._writer.submit(lambda connection: self._take_in(connection, envelope))
        except StorageUnavailable as error:
            return [*self._storage_failed(error), self._refused(request, _storage_reason(error))]
        if isinstance(intake, _Repeated):
            return [intake.answer]
        if isinstance(intake, _Accepted):
            return await self._send(intake.order)
        events = list(intake.events)
        if resuming and isinstance(events[0], HaltChanged):
            self.storage_failure = None
            events += await self._record(())
        for order in intake.cancel:
            events += await self._cancel(order)
        return events

    async def _answer_without_storage(self, envelope: Envelope, failure: str) -> Responded:
        """Nothing new is taken after a storage failure; what is known already is still answered truly."""

        def known(connection: Connection) -> Responded | None:
            row = orders.recall(connection, envelope.request.account, envelope.request.request_id)
            return None if row is None else self._answer_again(connection, row, envelope)

        try:
            answer = await self._reader.read(known)
        except StorageUnavailable:
            answer = None
        return answer or self._refused(envelope.request, Reason("storage_unavailable", None, None, failure))

    def _take_in(self, connection: Connection, envelope: Envelope) -> _Intake:
        """Inside the transaction: a repeated request gets its answer, a new one is checked and stored."""
        request = envelope.request
        known = orders.recall(connection, request.account, request.request_id)
        if known is not None:
            return _Repeated(self._answer_again(connection, known, envelope))
        self.state.catch_up(connection)
        if request.account not in self.state.accounts:
            self.state.reload_catalogue(connection)
        if request.account not in self.state.accounts:
            expected = f"one of: {', '.join(sorted(self.state.accounts))}"
            return _Done([self._refused(request, Reason("unknown_account", "account", request.account, expected))])
        handlers: dict[type, Callable[[Connection, Any, Envelope], _Intake]] = {
            OrderRequest: self._take_order,
            CashRequest: self._take_cash,
            HaltRequest: self._take_halt,
            CancelRequest: self._take_cancel,
        }
        return handlers[type(request)](connection, request, envelope)

    def _take_order(self, connection: Connection, request: OrderRequest, envelope: Envelope) -> _Intake:
        now = self._clock.now()
        if request.symbol not in self.state.instruments:
            self.state.reload_catalogue(connection)
        verdict = check(request, self.state, self._limits, now)
        if isinstance(verdict, RiskRefused):
            return self._remember_refusal(connection, envelope, verdict.reason)
        order = Order(
            id=orders.order_id(request.account, request.request_id),
            request_id=request.request_id,
            client_order_id=orders.client_order_id(request.account, request.request_id),
            account=request.account,
            symbol=request.symbol,
            side=request.side,
            type=verdict.type,
            time_in_force=verdict.time_in_force,
            status=OrderStatus.PENDING,
            triggered_by=request.triggered_by,
            created_at=now,
            expires_at=verdict.expires_at,
            quantity=verdict.quantity,
            notional=verdict.notional,
            close=request.close,
            limit_price=request.limit_price,
            decided_at=request.decided_at,
            signal_context=None if request.signal_context is None else JsonDocument(request.signal_context),
            note=request.note,
        )
        orders.insert(connection, order)
        self._remember(connection, envelope, order_id=order.id)
        self.state.opened(order, self.state.reservation_of(order))
        return _Accepted(order)

    def _take_cash(self, connection: Connection, request: CashRequest, envelope: Envelope) -> _Intake:
        now = self._clock.now()
        effective_at = request.effective_at or now
        reason = self._cash_reason(request, effective_at, now)
        if reason is not None:
            return self._remember_refusal(connection, envelope, reason)
        new = NewCashFlow(
            account=request.account,
            kind=request.kind,
            amount=request.amount,
            currency=self.state.accounts[request.account].currency,
            effective_at=effective_at,
            triggered_by=request.triggered_by,
            idempotency_key=request.request_id,
            note=request.note,
        )
        try:
            flow = self._tail.append_flow(connection, new, self._clock.recorded_now())
        except ConflictingFact:
            return self._remember_refusal(connection, envelope, _conflict(request))
        events: list[Event] = []
        if flow is not None:
            self.state.fold(flow)
            events.append(FactsRecorded((flow,)))
        else:  # the same flow came into the ledger another way, such as an import
            flow = ledger.find_flow(connection, request.account, request.request_id)
            assert flow is not None
        self._remember(connection, envelope, outcome={"status": "done", "sequence": flow.sequence})
        answer = Responded(
            request.account, request.request_id, ResponseStatus.DONE, final=True, sequence=flow.sequence
        )
        return _Done([*events, answer])

    def _cash_reason(self, request: CashRequest, effective_at: datetime, now: datetime) -> Reason | None:
        if effective_at > now:
            return Reason("in_future", "effective_at", time_text(effective_at), f"not after {time_text(now)}")
        free = self.state.free_cash(request.account)
        if request.kind.sign < 0 and request.amount > free:
            return Reason("insufficient_cash", "amount", plain(request.amount), f"at most {plain(free)}")
        return None

    def _take_halt(self, connection: Connection, request: HaltRequest, envelope: Envelope) -> _Intake:
        now = self._clock.now()
        orders.store_halt(connection, request.account, request.halted, request.triggered_by, request.note, now)
        halt = Halt(request.triggered_by, request.note, now) if request.halted else None
        self.state.halted(request.account, halt)
        self._remember(connection, envelope, outcome={"status": "done"})
        changed = HaltChanged(request.account, request.halted, request.triggered_by, request.note, now)
        answer = Responded(request.account, request.request_id, ResponseStatus.DONE, final=True)
        cancel = self.state.open_orders(request.account) if request.halted else []
        return _Done([changed, answer], tuple(cancel))

    def _take_cancel(self, connection: Connection, request: CancelRequest, envelope: Envelope) -> _Intake:
        order = orders.find(connection, request.order_id) or orders.find(
            connection, orders.order_id(request.account, request.order_id)
        )
        if order is None or order.account != request.account:
            expected = f"the id of an order of account {request.account}, or of the request that made it"
            return self._remember_refusal(
                connection, envelope, Reason("unknown_order", "order_id", request.order_id, expected)
            )
        if order.status.is_final:
            reason = Reason("order_final", "order_id", order.id, f"an open order; this one is {order.status}")
            return self._remember_refusal(connection, envelope, reason)
        self._remember(connection, envelope, order_id=order.id, outcome={"status": "done"})
        answer = Responded(request.account, request.request_id, ResponseStatus.DONE, final=True, order_id=order.id)
        return _Done([answer], (order,))

    # ---- answers --------------------------------------------------------------------------------------

    def _remember(
        self, connection: Connection, envelope: Envelope, *, order_id: str | None = None, outcome: Any = None
    ) -> None:
        request = envelope.request
        orders.remember(
            connection,
            InboxRow(
                request.account,
                request.request_id,
                envelope.body_hash,
                type(request).__name__,
                request.triggered_by,
                self._clock.recorded_now(),
                order_id,
                outcome,
                envelope.delivery,
            ),
        )

    def _remember_refusal(self, connection: Connection, envelope: Envelope, reason: Reason) -> _Done:
        outcome = {"status": "refused", "reason": orders.reason_row(reason)}
        self._remember(connection, envelope, outcome=outcome)
        return _Done([self._refused(envelope.request, reason)])

    @staticmethod
    def _refused(request: Request, reason: Reason) -> Responded:
        return Responded(request.account, request.request_id, ResponseStatus.REFUSED, final=True, reason=reason)

    def _answer_again(self, connection: Connection, known: InboxRow, envelope: Envelope) -> Responded:
        """Same id and body: the same answer. Same id, other body: a conflict, and nothing is done."""
        if known.body_hash != envelope.body_hash or known.triggered_by != envelope.request.triggered_by:
            return self._refused(envelope.request, _conflict(envelope.request))
        if known.outcome is not None:
            return Responded(
                known.account,
                known.request_id,
                ResponseStatus(known.outcome["status"]),
                final=True,
                reason=orders.reason_of(known.outcome.get("reason")),
                order_id=known.order_id,
                sequence=known.outcome.get("sequence"),
            )
        assert known.order_id is not None
        order = orders.find(connection, known.order_id)
        assert order is not None
        return _answer(order, ledger.trades(connection, order_id=order.id))

    # ---- orders ---------------------------------------------------------------------------------------

    async def _send(self, order: Order) -> list[Event]:
        """Send a committed order. Between commit and sending, a halt or the expiry may have come."""
        reports: list[VenueReport]
        if self.state.halt_of(order.account) is not None:
            reports = [VenueClosed(order.id, OrderStatus.CANCELLED, Reason("trading_halted"))]
        elif order.expires_at is not None and self._clock.now() >= order.expires_at:
            reports = [VenueClosed(order.id, OrderStatus.EXPIRED, Reason("expired"))]
        else:
            try:
                reports = await self._venue(order).place(order)
            except VenueError as error:
                reports = [VenueClosed(order.id, OrderStatus.UNKNOWN, _venue_reason(error))]
        if not reports:
            return [OrderChanged(order), _answer(order, ())]
        return await self._record(reports)

    async def _cancel(self, order: Order) -> list[Event]:
        if self.state.open_order(order.id) is None:
            return []
        try:
            reports = await self._venue(order).cancel(order)
        except VenueError as error:
            reports = [VenueClosed(order.id, OrderStatus.UNKNOWN, _venue_reason(error))]
        return await self._record(reports)

    def _venue(self, order: Order) -> Venue:
        return self._venues[self.state.accounts[order.account].venue]

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
        return await self._record(reports) if reports else ()

    async def on_price(self, price: Price) -> Sequence[Event]:
        """A last price. Older ones are ignored."""
        if not self.state.prices.note_price(price):
            return ()
        reports = self._paper.on_price(price)
        return await self._record(reports) if reports else ()

    async def on_timer(self) -> Sequence[Event]:
        """Now and then: record what could not be recorded, expire orders."""
        if self._unrecorded:
            return await self._record(())
        reports = self._paper.expire()
        return await self._record(reports) if reports else ()

    # ---- recording ------------------------------------------------------------------------------------

    async def _record(self, reports: Sequence[VenueReport]) -> list[Event]:
        """Commit what the venue reported, then say so. What could not be committed before goes first."""
        reports = [*self._unrecorded, *reports]
        if not reports:
            return []
        self._unrecorded = []
        try:
            applied = await self._writer.submit(lambda connection: self._apply(connection, reports))
        except StorageUnavailable as error:
            self._unrecorded = [*reports, *self._unrecorded]
            return self._storage_failed(error)
        events: list[Event] = [FactsRecorded(applied.facts)] if applied.facts else []
        for order, fills in applied.orders:
            events += [OrderChanged(order), _answer(order, fills)]
            if order.status.is_final:
                self._venue(order).forget(order.id)
        return events

    def _apply(self, connection: Connection, reports: Sequence[VenueReport]) -> _Applied:
        self.state.catch_up(connection)
        touched: dict[str, _Progress] = {}
        facts: list[Fact] = []
        for report in reports:
            progress = self._progress(report, touched)
            if progress is None:
                continue  # reported again, or closed by ourselves
            if isinstance(report, VenueFill):
                trade = self._apply_fill(connection, progress, report)
                if trade is not None:
                    facts.append(trade)
            else:
                progress.order = replace(progress.order, status=report.status, reason=report.reason)
            if progress.order.status.is_final:
                # Now, not at the end: the next order of this batch may need what this one held back.
                self.state.changed(progress.order, None)
        changed = tuple(self._store_progress(connection, progress) for progress in touched.values())
        return _Applied(tuple(facts), changed)

    def _progress(self, report: VenueReport, touched: dict[str, _Progress]) -> _Progress | None:
        progress = touched.get(report.order_id)
        if progress is None:
            order = self.state.open_order(report.order_id)
            if order is None:
                return None
            had_fills = order.status not in _OPEN
            progress = touched[report.order_id] = _Progress(order, had_fills)
        return None if progress.order.status.is_final else progress

    def _store_progress(self, connection: Connection, progress: _Progress) -> tuple[Order, tuple[Trade, ...]]:
        order = progress.order
        if progress.fills and order.status in _OPEN:
            order = replace(order, status=OrderStatus.PARTIALLY_FILLED)
        orders.update_status(connection, order, self._clock.now())
        fills = ledger.trades(connection, order_id=order.id) if progress.had_fills else progress.fills
        if not order.status.is_final:
            self.state.changed(order, self.state.reservation_of(order, fills))
        return order, tuple(fills)

    def _apply_fill(self, connection: Connection, progress: _Progress, fill: VenueFill) -> Trade | None:
        order = progress.order
        if fill.if_funded:
            reason = self._unfunded(order, fill)
            if reason is not None:
                partly = bool(progress.fills) or order.status is OrderStatus.PARTIALLY_FILLED
                status = OrderStatus.CANCELLED if partly else OrderStatus.REJECTED
                progress.order = replace(order, status=status, reason=reason)
                return None
        # The paper venue numbers the fills of an order: an order without any cannot have this one.
        first = fill.if_funded and not progress.had_fills and not progress.fills
        trade = self._tail.append_trade(
            connection, self._new_trade(order, fill), self._clock.recorded_now(), surely_new=first
        )
        if trade is None:
            return None
        self.state.fold(trade)
        self.state.spent(order.id, trade)
        progress.fills.append(trade)
        if order.status is OrderStatus.UNKNOWN:
            progress.order = replace(order, status=OrderStatus.PARTIALLY_FILLED, reason=None)
        return trade

    def _new_trade(self, order: Order, fill: VenueFill) -> NewTrade:
        account = self.state.accounts[order.account]
        fee_in_cash = fill.fee if fill.fee_asset == account.currency else ZERO
        return NewTrade(
            id=ledger.trade_id(account.venue, order.account, order.symbol, fill.venue_trade_id),
            account=order.account,
            symbol=order.symbol,
            side=order.side,
            quantity=fill.quantity,
            price=fill.price,
            executed_at=fill.executed_at,
            fee=fill.fee,
            fee_asset=fill.fee_asset,
            cash_effect=trade_cash_effect(order.side, fill.quantity, fill.price, fee_in_cash),
            venue=account.venue,
            source=Source.EXCHANGE,
            triggered_by=order.triggered_by,
            order_id=order.id,
            venue_trade_id=fill.venue_trade_id,
            venue_sequence=fill.venue_sequence,
            order_type=order.type,
            signal_context=order.signal_context,
        )

    def _unfunded(self, order: Order, fill: VenueFill) -> Reason | None:
        """The paper exchange settles a fill only if the account can pay for it (spot)."""
        account = self.state.accounts[order.account]
        if account.mode is not AccountMode.SPOT:
            return None
        own = self.state.reserved_by(order.id)
        if order.side is Side.BUY:
            cost = fill.quantity * fill.price + fill.fee
            free = self.state.free_cash(order.account) + (own.cash if own else ZERO)
            if cost > free:
                return Reason("INSUFFICIENT_FUND", "cash", plain(free), f"at least {plain(cost)} {account.currency}")
            return None
        free = self.state.free_quantity(order.account, order.symbol) + (own.quantity if own else ZERO)
        if fill.quantity > free:
            return Reason("INSUFFICIENT_FUND", "quantity", plain(free), f"at least {plain(fill.quantity)}")
        return None

    # ---- storage failures -----------------------------------------------------------------------------

    def _storage_failed(self, error: StorageUnavailable) -> list[Event]:
        """Latch: after a full disk the next small write may succeed, so only a person's resume ends it."""
        if self.storage_failure is not None:
            return []
        self.storage_failure = str(error)
        message = f"HALTED: {error}. Nothing is sent until trading is resumed (`fillbook resume`)"
        return [AlertRaised(Severity.HIGH, "storage_unavailable", message)]

    async def bury(self, letter: orders.DeadLetter) -> None:
        """Keep a message that could not be taken."""
        await self._writer.submit(lambda connection: orders.bury(connection, letter))

    def delivered(self, delivery: orders.Delivery, window: int, taken: Collection[str]) -> Awaitable[str | None]:
        """See `orders.delivered`."""
        return self._reader.read(lambda connection: orders.delivered(connection, delivery, window, taken))


def _answer(order: Order, fills: Sequence[Trade]) -> Responded:
    """What an order's sender is told about it now."""
    status = ResponseStatus.ACCEPTED if order.status in _OPEN else ResponseStatus(order.status.value)
    return Responded(
        order.account,
        order.request_id,
        status,
        final=order.status.is_final,
        reason=order.reason,
        order_id=order.id,
        trades=tuple(fills),
        sequence=fills[-1].sequence if fills else None,
    )


_OPEN = (OrderStatus.REQUESTED, OrderStatus.PENDING)


def _conflict(request: Request) -> Reason:
    expected = "a new request_id for a new request; this one was used with another body"
    return Reason("idempotency_conflict", "request_id", request.request_id, expected)


def _venue_reason(error: VenueError) -> Reason:
    return Reason("venue_out_of_reach", None, None, str(error))


def _storage_reason(error: StorageUnavailable) -> Reason:
    return Reason("storage_unavailable", None, None, str(error))


def _last_venue_sequence(connection: Connection) -> int:
    row = raw.execute(connection, "SELECT MAX(venue_sequence) FROM trades WHERE venue = 'paper'").fetchone()
    return int(row[0] or 0)
