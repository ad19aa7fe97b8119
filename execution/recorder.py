"""What the venue reports, inside the write transaction: fills become trades, orders get their status."""

from collections.abc import Sequence

from sqlalchemy import Connection

from config.exact import ZERO, plain
from execution import alerts, ledger, orders
from execution.answers import UNTOUCHED
from execution.batch import Applied, Batch, Progress
from execution.doubts import doubted
from execution.fills import new_trade
from execution.ledger import LedgerTail
from execution.live_recorder import LiveRecorder
from execution.model import AccountMode, AlertRaised, Order, OrderStatus, Reason, Side, Trade
from execution.ports import Clock
from execution.state import TradingState
from execution.venue import INSUFFICIENT_FUND, VenueClosed, VenueFill, VenueOrder, VenueReport, VenueTrade


class Recorder:
    """Applies batches of venue reports; a batch is one work of the writer."""

    def __init__(self, state: TradingState, tail: LedgerTail, clock: Clock) -> None:
        self.state = state
        self._tail = tail
        self._clock = clock
        self._live = LiveRecorder(state, tail, clock)

    def apply(self, connection: Connection, reports: Sequence[VenueReport]) -> Applied:
        """Record one batch of reports, in their order."""
        self.state.catch_up(connection)
        batch = Batch()
        for report, following in zip(reports, (*reports[1:], None), strict=True):
            progress = self._take(connection, batch, report, following)
            if progress is not None and progress.order.status.is_final:
                # Now, not at the end: the next order of this batch may need what this one held back.
                self.state.changed(progress.order, None)
        changed = tuple([self._store_progress(connection, progress) for progress in batch.touched.values()])
        raised = tuple(self._kept(connection, alert) for alert in batch.alerts)
        return Applied(tuple(batch.facts), changed, raised, tuple(batch.adopted), tuple(batch.reopened))

    def _kept(self, connection: Connection, alert: AlertRaised) -> AlertRaised:
        lasting = alert.code in alerts.LASTING
        return alerts.keep(connection, alert, self._clock.recorded_now()) if lasting else alert

    def _take(
        self, connection: Connection, batch: Batch, report: VenueReport, following: VenueReport | None
    ) -> Progress | None:
        """One report; the order that it changed."""
        if isinstance(report, VenueTrade):
            return self._live.tell(connection, batch, report)
        if isinstance(report, VenueOrder):
            return self._live.show(connection, batch, report)
        progress = self._progress(report, batch.touched)
        if progress is None:
            return None  # reported again, or closed by ourselves
        if isinstance(report, VenueFill):
            trade = self._apply_fill(connection, progress, report)
            if trade is not None:
                batch.facts.append(trade)
                if not _closes(following, report.order_id):
                    self.state.spent(report.order_id, trade)
        elif report.status is OrderStatus.UNKNOWN:
            progress.order = doubted(progress.order, report.reason)
        else:
            progress.order = progress.order.with_status(report.status, report.reason)
        return progress

    def _progress(self, report: VenueFill | VenueClosed, touched: dict[str, Progress]) -> Progress | None:
        progress = touched.get(report.order_id)
        if progress is None:
            order = self.state.open_order(report.order_id)
            if order is None:
                return None
            had_fills = order.status not in UNTOUCHED
            progress = touched[report.order_id] = Progress(order, had_fills)
        return None if progress.order.status.is_final else progress

    def _store_progress(self, connection: Connection, progress: Progress) -> tuple[Order, tuple[Trade, ...]]:
        order = progress.order
        if progress.fills and order.status in UNTOUCHED:
            order = order.with_status(OrderStatus.PARTIALLY_FILLED, order.reason)
        orders.update_status(connection, order, self._clock.now())
        fills = ledger.fills(connection, order.account, order.id) if progress.had_fills else progress.fills
        if not order.status.is_final:
            self.state.changed(order, self.state.reservation_of(order, fills))
        return order, tuple(fills)

    def _apply_fill(self, connection: Connection, progress: Progress, fill: VenueFill) -> Trade | None:
        order = progress.order
        if fill.if_funded:
            reason = self._unfunded(order, fill)
            if reason is not None:
                partly = bool(progress.fills) or order.status is OrderStatus.PARTIALLY_FILLED
                status = OrderStatus.CANCELLED if partly else OrderStatus.REJECTED
                progress.order = order.with_status(status, reason)
                return None
        # The paper venue numbers the fills of an order: an order without any cannot have this one.
        first = fill.if_funded and not progress.had_fills and not progress.fills
        new = new_trade(self.state.accounts[order.account], order, fill)
        trade = self._tail.append_trade(connection, new, self._clock.recorded_now(), surely_new=first)
        if trade is None:
            return None
        self.state.fold(trade)
        progress.fills.append(trade)
        if order.status is OrderStatus.UNKNOWN:
            progress.order = order.with_status(OrderStatus.PARTIALLY_FILLED)
        return trade

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
                return Reason(INSUFFICIENT_FUND, "cash", plain(free), f"at least {plain(cost)} {account.currency}")
            return None
        free = self.state.free_quantity(order.account, order.symbol) + (own.quantity if own else ZERO)
        if fill.quantity > free:
            return Reason(INSUFFICIENT_FUND, "quantity", plain(free), f"at least {plain(fill.quantity)}")
        return None


def _closes(report: VenueReport | None, order_id: str) -> bool:
    """Whether a report ends the order, so that everything it holds back is released at once."""
    return isinstance(report, VenueClosed) and report.order_id == order_id and report.status.is_final
