"""What live venues tell, inside the write transaction: every trade is recorded once, whatever was thought before.

Fills are the venue's truth: recorded whether or not the account could pay, also for an order that had been closed
here, and for one that nobody here placed. An order closes when the ledger has all that the venue says it filled.
"""

from dataclasses import replace
from decimal import Decimal

from sqlalchemy import Connection

from config.exact import ZERO, plain
from execution import adoption, fees, ledger, orders
from execution.answers import UNTOUCHED
from execution.batch import Batch, Progress
from execution.fills import new_trade
from execution.importers.common import instrument_of
from execution.ledger import LedgerTail, NewTrade
from execution.model import Account, Order, OrderStatus, Reason, Severity, Trade
from execution.ports import Clock
from execution.state import TradingState
from execution.venue import VenueOrder, VenueTrade


class LiveRecorder:
    """See the module. Part of the `Recorder`, for reports of live venues."""

    def __init__(self, state: TradingState, tail: LedgerTail, clock: Clock) -> None:
        self.state = state
        self._tail = tail
        self._clock = clock

    # ---- orders ---------------------------------------------------------------------------------------

    def show(self, connection: Connection, batch: Batch, report: VenueOrder) -> Progress | None:
        """The venue shows an order: it closes, or it is known to be there. Returns it if that is new."""
        progress = batch.touched.get(report.order_id)
        order = self.state.open_order(report.order_id) if progress is None else progress.order
        if order is None or order.status.is_final:
            return None
        progress = progress or Progress(order, order.status not in UNTOUCHED)
        changed = self._as_shown(order, report, self._filled(connection, progress))
        if changed is order:
            return None
        progress.order = changed
        batch.touched[order.id] = progress
        return progress

    @staticmethod
    def _as_shown(order: Order, report: VenueOrder, filled: Decimal) -> Order:
        if report.status.is_final and filled == report.filled:
            return order.with_status(report.status, report.reason)
        status = OrderStatus.PARTIALLY_FILLED if filled else OrderStatus.PENDING
        return order if order.status is status else order.with_status(status, _kept(order))

    def _filled(self, connection: Connection, progress: Progress) -> Decimal:
        """What the ledger has of an order, in base units."""
        order = progress.order
        fills = ledger.fills(connection, order.account, order.id) if progress.had_fills else progress.fills
        return sum((trade.quantity for trade in fills), ZERO)

    # ---- trades ---------------------------------------------------------------------------------------

    def tell(self, connection: Connection, batch: Batch, report: VenueTrade) -> Progress | None:
        """The venue tells a trade, perhaps again. Returns the order of ours that it filled."""
        account, trade = self.state.accounts[report.account], report.trade
        known = ledger.find_trade(
            connection, ledger.trade_id(account.venue, account.name, trade.symbol, trade.venue_trade_id)
        )
        words = adoption.in_words(account, trade)
        if known is not None:
            if not trade.is_told_by(known):
                message = f"{words} was told again with other content than recorded ({known.id}); nothing was changed"
                batch.alerts.append(adoption.alert("conflicting_trade", Severity.HIGH, message, account, trade))
            return None
        problem = adoption.unrecordable(account, trade, self.state.instruments.get(trade.symbol))
        if problem is not None:
            message = f"{words} cannot be recorded: {problem}"
            batch.alerts.append(adoption.alert("unrecordable_trade", Severity.HIGH, message, account, trade))
            return None
        self._register(connection, account, trade.symbol)
        order = adoption.own_order(connection, account.name, trade)
        if order is not None:
            return self._add(connection, batch, report, account, order)
        self._add_external(connection, batch, report, account)
        return None

    def _register(self, connection: Connection, account: Account, symbol: str) -> None:
        """Enter a symbol into the catalogue that it does not have yet."""
        if symbol not in self.state.instruments:
            self.state.reload_catalogue(connection)
        if symbol not in self.state.instruments:
            ledger.add_instrument(connection, instrument_of(symbol, account.currency))
            self.state.reload_catalogue(connection)

    def _add_external(self, connection: Connection, batch: Batch, report: VenueTrade, account: Account) -> None:
        """A trade that nobody here ordered."""
        trade = report.trade
        order = adoption.external_order(account, trade)
        if orders.find(connection, order.id) is None:
            orders.insert(connection, order)
            batch.adopted.append(order)
            message = (
                f"order {trade.venue_order_id} of {account.venue} was not placed here; its trades are recorded as"
                f" external, the first is {adoption.in_words(account, trade)}"
            )
            batch.alerts.append(adoption.alert("external_order", Severity.WARNING, message, account, trade))
        self._append(connection, batch, new_trade(account, order, trade), account)

    def _add(
        self, connection: Connection, batch: Batch, report: VenueTrade, account: Account, stored: Order
    ) -> Progress:
        """A trade of one of our orders, open or not."""
        progress = batch.touched.get(stored.id)
        if progress is None:
            order = self.state.open_order(stored.id) or stored
            progress = batch.touched[stored.id] = Progress(order, order.status not in UNTOUCHED)
        recorded = self._append(connection, batch, new_trade(account, progress.order, report.trade), account)
        progress.fills.append(recorded)
        self.state.spent(stored.id, recorded)
        before = progress.order
        filled = self._filled(connection, progress)
        progress.order = _after_fill(before, filled)
        words = adoption.in_words(account, report.trade)
        if before.status.is_final:
            if not progress.order.status.is_final:
                batch.reopened.append(stored.id)
            message = f"{words} is of order {stored.id}, which was {before.status} here already: it is recorded"
            batch.alerts.append(
                adoption.alert(adoption.FILLED_AFTER_CLOSE, Severity.HIGH, message, account, report.trade)
            )
        if before.quantity is not None and filled > before.quantity:
            message = f"{words} makes {plain(filled)} of order {stored.id}, which asked for {plain(before.quantity)}"
            batch.alerts.append(adoption.alert("overfilled", Severity.HIGH, message, account, report.trade))
        return progress

    def _append(self, connection: Connection, batch: Batch, new: NewTrade, account: Account) -> Trade:
        """Record a trade that is not there yet, and what its fee in a third asset comes to."""
        trade, disposal = fees.settled(connection, new, account.currency)
        recorded = self._store(connection, batch, trade)
        if disposal is not None:
            self._register(connection, account, disposal.symbol)
            # Not a fill of the order: it counts what was filled by its order id.
            self._store(connection, batch, replace(disposal, order_id=None, order_type=None))
        return recorded

    def _store(self, connection: Connection, batch: Batch, new: NewTrade) -> Trade:
        trade = self._tail.append_trade(connection, new, self._clock.recorded_now(), surely_new=True)
        assert trade is not None
        self.state.fold(trade)
        batch.facts.append(trade)
        return trade


def _after_fill(order: Order, filled: Decimal) -> Order:
    """The order after one more fill. One that had been closed is open again, unless it is full now."""
    if order.quantity is not None and filled >= order.quantity:
        return order.with_status(OrderStatus.FILLED)
    if order.status.is_final:
        reason = Reason(adoption.FILLED_AFTER_CLOSE, "status", str(order.status), "no fill after it was closed")
        return order.with_status(OrderStatus.PARTIALLY_FILLED, reason)
    return order.with_status(OrderStatus.PARTIALLY_FILLED, _kept(order))


def _kept(order: Order) -> Reason | None:
    """An order's reason, unless it only said why nothing was known of it."""
    return None if order.status is OrderStatus.UNKNOWN else order.reason
