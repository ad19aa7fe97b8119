"""Requests inside the write transaction: known ones get their answer, new ones are checked and stored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Connection

from config.exact import plain
from config.quick import quickly_made
from config.times import time_text
from execution import ledger, orders
from execution.answers import answer, conflict, done, refused
from execution.errors import ConflictingFact
from execution.exposure import reduces, unpriced
from execution.ledger import LedgerTail, NewCashFlow
from execution.limits import RATE_WINDOW, RiskLimits
from execution.losses import LossWatch
from execution.model import (
    Account,
    AccountKind,
    CancelRequest,
    CashRequest,
    Event,
    FactsRecorded,
    Halt,
    HaltChanged,
    HaltRequest,
    Order,
    OrderRequest,
    OrderStatus,
    Reason,
    Request,
    Responded,
    ResponseStatus,
)
from execution.orders import InboxRow
from execution.ports import Clock
from execution.risk import RiskApproved, RiskRefused, check
from execution.state import TradingState
from execution.tables import JsonDocument
from execution.venue import Venue


@quickly_made
@dataclass(frozen=True, slots=True)
class Envelope:
    """A request as it came in: `body_hash` of what the sender wrote, `delivery` names the broker's
    delivery when the sender gave no request id."""

    request: Request
    body_hash: str
    delivery: str | None = None


@dataclass(frozen=True, slots=True)
class Repeated:
    """The request is known: this is its answer."""

    answer: Responded


@dataclass(frozen=True, slots=True)
class Accepted:
    """The order is committed and may be sent."""

    order: Order


@dataclass(frozen=True, slots=True)
class Done:
    """The request needed nothing but its own transaction."""

    events: list[Event]
    cancel: tuple[Order, ...] = ()


Intake: TypeAlias = Repeated | Accepted | Done


def _first_status(account: Account) -> OrderStatus:
    """An order is pending once its venue has it; the paper exchange takes every one."""
    return OrderStatus.REQUESTED if account.kind is AccountKind.LIVE else OrderStatus.PENDING


def _order_of(request: OrderRequest, terms: RiskApproved, status: OrderStatus, now: datetime) -> Order:
    """The order that a request makes. By position: twenty names would cost as much as the object."""
    context = None if request.signal_context is None else JsonDocument(request.signal_context)
    return Order(
        orders.order_id(request.account, request.request_id), request.request_id,
        orders.client_order_id(request.account, request.request_id), request.account, request.symbol, request.side,
        terms.type, terms.time_in_force, status, request.triggered_by, now, terms.expires_at, terms.quantity,
        terms.notional, request.close, request.limit_price, request.decided_at, context, request.note,
    )  # fmt: skip


class RequestDesk:
    """Takes requests in. Every method that gets a connection runs as a work of the writer."""

    def __init__(
        self,
        state: TradingState,
        tail: LedgerTail,
        clock: Clock,
        limits: RiskLimits,
        losses: LossWatch,
        venues: Mapping[str, Venue],
    ) -> None:
        self.state = state
        self._tail = tail
        self._clock = clock
        self._limits = limits
        self._losses = losses
        self._venues = venues
        self._handlers: dict[type, Callable[[Connection, Any, Envelope], Intake]] = {
            OrderRequest: self._take_order,
            CashRequest: self._take_cash,
            HaltRequest: self._take_halt,
            CancelRequest: self._take_cancel,
        }

    def start(self, connection: Connection) -> None:
        """After the state was loaded: what the limits need to know of the past."""
        if self._limits.max_orders_per_minute:
            self.state.load_accepted(connection, self._clock.now() - RATE_WINDOW)
        if self._losses.on:
            self._losses.start(connection)

    def take_in(self, connection: Connection, envelope: Envelope) -> Intake:
        """Inside the transaction: a repeated request gets its answer, a new one is checked and stored."""
        request = envelope.request
        known = orders.recall(connection, request.account, request.request_id)
        if known is not None:
            return Repeated(self.answer_again(connection, known, envelope))
        self.state.catch_up(connection)
        if request.account not in self.state.accounts:
            self.state.reload_catalogue(connection)
        if request.account not in self.state.accounts:
            expected = f"one of: {', '.join(sorted(self.state.accounts))}"
            return Done([refused(request, Reason("unknown_account", "account", request.account, expected))])
        return self._handlers[type(request)](connection, request, envelope)

    def _take_order(self, connection: Connection, request: OrderRequest, envelope: Envelope) -> Intake:
        now = self._clock.now()
        if request.symbol not in self.state.instruments:
            self.state.reload_catalogue(connection)
        closed = self._closed(self.state.accounts[request.account])
        if closed is not None:
            return self._remember_refusal(connection, envelope, closed)
        verdict = check(request, self.state, self._limits, now)
        if isinstance(verdict, RiskRefused):
            return self._remember_refusal(connection, envelope, verdict.reason)
        if self._losses.on:
            stopped = self._refuse_by_losses(connection, request, envelope, verdict)
            if stopped is not None:
                return stopped
        order = _order_of(request, verdict, _first_status(self.state.accounts[request.account]), now)
        orders.insert(connection, order)
        self._remember(connection, envelope, order_id=order.id)
        self.state.opened(order, self.state.reservation_of(order))
        if self._limits.max_orders_per_minute:
            self.state.counted(order.account, now)
        return Accepted(order)

    def _closed(self, account: Account) -> Reason | None:
        """Why no order of an account can be sent now, if none can."""
        venue = self._venues.get(account.venue)
        if venue is None:
            names = ", ".join(sorted(self._venues))
            expected = f"an account at a venue that is connected ({names}), not at {account.venue}"
            return Reason("venue_not_connected", "account", account.name, expected)
        if account.kind is not AccountKind.LIVE:
            return None
        return venue.refusal(account.name, self.state.on_their_way(account.name))

    def _refuse_by_losses(
        self, connection: Connection, request: OrderRequest, envelope: Envelope, verdict: RiskApproved
    ) -> Done | None:
        """An order that finds a limit on losses broken halts the account and is refused with the limit's name."""
        account = request.account
        halts = self._losses.watch(connection, [account])
        if halts:
            (halt,) = halts
            refusal = self._remember_refusal(connection, envelope, halt.breach.reason(account))
            return Done([*halt.events(), *refusal.events], halt.cancel)
        missing = self._losses.unpriced(account)
        if missing is None or reduces(request, verdict.quantity, self.state):
            return None
        return self._remember_refusal(connection, envelope, unpriced(missing).reason)

    def _take_cash(self, connection: Connection, request: CashRequest, envelope: Envelope) -> Intake:
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
            return self._remember_refusal(connection, envelope, conflict(request))
        events: list[Event] = []
        if flow is not None:
            self.state.fold(flow)
            if self._losses.on:
                self._losses.measure(request.account)
            events.append(FactsRecorded((flow,)))
        else:  # the same flow came into the ledger another way, such as an import
            flow = ledger.find_flow(connection, request.account, request.request_id)
            assert flow is not None
        self._remember(connection, envelope, outcome={"status": "done", "sequence": flow.sequence})
        return Done([*events, done(request, sequence=flow.sequence)])

    def _cash_reason(self, request: CashRequest, effective_at: datetime, now: datetime) -> Reason | None:
        if effective_at > now:
            return Reason("in_future", "effective_at", time_text(effective_at), f"not after {time_text(now)}")
        free = self.state.free_cash(request.account)
        if request.kind.sign < 0 and request.amount > free:
            return Reason("insufficient_cash", "amount", plain(request.amount), f"at most {plain(free)}")
        return None

    def _take_halt(self, connection: Connection, request: HaltRequest, envelope: Envelope) -> Intake:
        now = self._clock.now()
        if not request.halted:
            self._losses.rearm(request.account)
        orders.store_halt(connection, request.account, request.halted, request.triggered_by, request.note, now)
        halt = Halt(request.triggered_by, request.note, now) if request.halted else None
        order = self.state.halted(request.account, halt)
        self._remember(connection, envelope, outcome={"status": "done"})
        changed = HaltChanged(request.account, request.halted, request.triggered_by, request.note, now, order)
        cancel = self.state.open_orders(request.account) if request.halted else []
        return Done([changed, done(request)], tuple(cancel))

    def _take_cancel(self, connection: Connection, request: CancelRequest, envelope: Envelope) -> Intake:
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
        return Done([done(request, order_id=order.id)], (order,))

    # ---- the inbox -----------------------------------------------------------------------------------

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

    def _remember_refusal(self, connection: Connection, envelope: Envelope, reason: Reason) -> Done:
        outcome = {"status": "refused", "reason": orders.reason_row(reason)}
        self._remember(connection, envelope, outcome=outcome)
        return Done([refused(envelope.request, reason)])

    def answer_again(self, connection: Connection, known: InboxRow, envelope: Envelope) -> Responded:
        """Same id and body: the same answer. Same id, other body: a conflict, and nothing is done."""
        if known.body_hash != envelope.body_hash or known.triggered_by != envelope.request.triggered_by:
            return refused(envelope.request, conflict(envelope.request))
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
        return answer(order, ledger.fills(connection, order.account, order.id))
