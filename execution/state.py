"""What execution knows while it runs: cash, quantities, reservations, open orders, halts, last prices.

All of it follows from the facts and orders in the database and can be loaded again at any time. The part
that belongs to the write transaction changes only inside works of the writer, and is undone when a
transaction is rolled back; last prices are written by the event loop and only read by works.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy import Connection

from config.exact import ZERO
from config.instruments import Instrument
from config.quick import quickly_made
from execution import ledger, marks, orders, raw
from execution.errors import LedgerDamaged
from execution.limits import RATE_WINDOW
from execution.marks import LossMarks
from execution.model import Account, Fact, Halt, Order, OrderStatus, Side, Trade
from execution.prices import LastPrices
from execution.totals import quantity_effect, read_totals

K = TypeVar("K")
V = TypeVar("V")


@quickly_made
@dataclass(frozen=True, slots=True)
class Reservation:
    """What an open order may still take: cash for a BUY, base quantity for a SELL."""

    account: str
    symbol: str
    cash: Decimal = ZERO
    quantity: Decimal = ZERO


class TradingState:
    """See the module. Works call `catch_up` first, so that facts of other processes are seen too."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.instruments: dict[str, Instrument] = {}
        self.prices = LastPrices()
        self.sequence = 0
        self._cash: dict[str, Decimal] = {}
        self._held: dict[tuple[str, str], Decimal] = {}
        self._reserved_cash: dict[str, Decimal] = {}
        self._reserved_quantity: dict[tuple[str, str], Decimal] = {}
        self._reservations: dict[str, Reservation] = {}
        self._open: dict[str, Order] = {}
        self._unknown: dict[str, Order] = {}
        self._halts: dict[str, Halt] = {}
        self.halt_order = 0
        self._deposited: dict[str, Decimal] = {}
        self._accepted: dict[str, tuple[datetime, ...]] = {}
        self._marks: dict[str, LossMarks] = {}
        self._unsaved_marks: dict[str, datetime] = {}
        self._last_pnl: dict[str, Decimal] = {}
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        self._sequence_before = 0
        self._catalogue_before: tuple[dict[str, Account], dict[str, Instrument]] | None = None
        self._caught_up = False

    # ---- taking part in the transaction ---------------------------------------------------------------

    def begin(self) -> None:
        """A transaction starts: others may have appended facts since the last one."""
        self._undo.clear()
        self._catalogue_before = None
        self._caught_up = False
        self._sequence_before = self.sequence
        self._unsaved_marks.clear()

    def before_commit(self, connection: Connection) -> None:
        """Only the marks of losses are stored, once a transaction however often they moved; all else follows
        from facts and orders."""
        for account, at in self._unsaved_marks.items():
            marks.store(connection, account, self._marks.get(account), at)
        self._unsaved_marks.clear()

    def committed(self) -> None:
        """What changed is durable."""
        self._undo.clear()

    def rolled_back(self) -> None:
        """Undo every change since `begin`, last first."""
        for mapping, key, old in reversed(self._undo):
            if old is None:
                mapping.pop(key, None)
            else:
                mapping[key] = old
        self._undo.clear()
        if self._catalogue_before is not None:  # it may have been read with what is rolled back
            self.accounts, self.instruments = self._catalogue_before
            self._catalogue_before = None
        self._unsaved_marks.clear()
        self.sequence = self._sequence_before

    # ---- loading --------------------------------------------------------------------------------------

    def load(self, connection: Connection) -> None:
        """Everything from the database; called once at start."""
        self.accounts = ledger.accounts(connection)
        self.instruments = ledger.instruments(connection)
        for mapping in (self._reserved_cash, self._reserved_quantity):
            mapping.clear()
        totals = read_totals(connection)
        self.sequence, self._cash, self._held = totals.sequence, totals.cash, totals.quantities
        self._deposited = totals.deposited
        self._marks = marks.read(connection)
        self._last_pnl.clear()
        self._accepted.clear()
        self._reservations.clear()
        self._open.clear()
        self._unknown.clear()
        self._halts = orders.halts(connection)
        for order in orders.open_orders(connection):
            self.opened(order, self.reservation_of(order, ledger.fills(connection, order.account, order.id)))
        self._undo.clear()

    def load_accepted(self, connection: Connection, since: datetime) -> None:
        """The orders accepted after an instant, for the limit on their rate."""
        for account, instant in orders.accepted_after(connection, since):
            self.counted(account, instant)

    def reload_catalogue(self, connection: Connection) -> None:
        """Accounts and instruments that another process added, or this transaction."""
        if self._catalogue_before is None:
            self._catalogue_before = (self.accounts, self.instruments)
        self.accounts = ledger.accounts(connection)
        self.instruments = ledger.instruments(connection)

    def catch_up(self, connection: Connection) -> None:
        """Fold the facts that were appended after `sequence`, by anybody.

        Once per transaction: from then on this process holds the write lock and folds its own facts. Raises
        LedgerDamaged when facts are missing.
        """
        if self._caught_up:
            return
        self._caught_up = True
        row = raw.execute(connection, "SELECT sequence FROM ledger_head WHERE id = 1").fetchone()
        while row is not None and self.sequence < row[0]:
            facts = ledger.facts_since(connection, self.sequence, 5000)
            if not facts:
                raise LedgerDamaged(f"there is no fact after sequence {self.sequence}, the head is at {row[0]}")
            if any(isinstance(fact, Trade) and fact.symbol not in self.instruments for fact in facts):
                self.reload_catalogue(connection)  # who appended them registered their symbols
            for fact in facts:
                self.fold(fact)

    def fold(self, fact: Fact) -> None:
        """Take one fact, the next by sequence, into cash and quantities."""
        if fact.sequence != self.sequence + 1:
            raise LedgerDamaged(f"the fact of sequence {self.sequence + 1} is missing, before {fact.sequence}")
        self.sequence = fact.sequence
        self._add(self._cash, fact.account, fact.cash_effect)
        if isinstance(fact, Trade):
            base_asset = self.instruments[fact.symbol].base_asset
            self._add(self._held, (fact.account, fact.symbol), quantity_effect(fact, base_asset))
        elif fact.kind.is_external:
            self._add(self._deposited, fact.account, fact.cash_effect)

    # ---- reading --------------------------------------------------------------------------------------

    def cash(self, account: str) -> Decimal:
        """Cash of an account, reservations not taken off."""
        return self._cash.get(account, ZERO)

    def free_cash(self, account: str) -> Decimal:
        """Cash that no open order has reserved."""
        return self.cash(account) - self._reserved_cash.get(account, ZERO)

    def held(self, account: str, symbol: str) -> Decimal:
        """Signed quantity held."""
        return self._held.get((account, symbol), ZERO)

    def positions(self, account: str) -> dict[str, Decimal]:
        """Signed quantities of everything that an account holds."""
        return {symbol: held for (owner, symbol), held in list(self._held.items()) if held and owner == account}

    def deposited(self, account: str) -> Decimal:
        """What was paid in, less what was paid out."""
        return self._deposited.get(account, ZERO)

    def accepted_after(self, account: str, instant: datetime) -> tuple[datetime, ...]:
        """When orders were accepted after an instant, in time order; counted only while a limit asks for it."""
        times = self._accepted.get(account, ())
        return times[bisect_right(times, instant) :]

    def marks_of(self, account: str) -> LossMarks | None:
        """What losses are compared with; None before the first measurement."""
        return self._marks.get(account)

    def last_pnl(self, account: str) -> Decimal | None:
        """The P&L of the last measurement."""
        return self._last_pnl.get(account)

    def free_quantity(self, account: str, symbol: str) -> Decimal:
        """Quantity that no open SELL has reserved."""
        return self.held(account, symbol) - self._reserved_quantity.get((account, symbol), ZERO)

    def reserved_by(self, order_id: str) -> Reservation | None:
        """What an open order holds back."""
        return self._reservations.get(order_id)

    def open_order(self, order_id: str) -> Order | None:
        """An open order by id."""
        return self._open.get(order_id)

    def open_orders(self, account: str | None = None) -> list[Order]:
        """Open orders, oldest first."""
        return [o for o in list(self._open.values()) if account is None or o.account == account]

    def on_their_way(self, account: str) -> int:
        """How many orders of an account are sent, or just before it, and not shown by their venue yet."""
        orders_ = list(self._open.values())
        return sum(order.account == account and order.status is OrderStatus.REQUESTED for order in orders_)

    def frozen_by(self, account: str, symbol: str) -> str | None:
        """The order of this symbol whose outcome is unknown, if there is one."""
        if not self._unknown:
            return None
        for order in list(self._unknown.values()):
            if order.account == account and order.symbol == symbol:
                return order.id
        return None

    def halt_of(self, account: str) -> Halt | None:
        """The halt of an account, if its trading is halted."""
        return self._halts.get(account)

    def reservation_of(self, order: Order, fills: Sequence[Trade] = ()) -> Reservation:
        """What `order` needs in the worst case that can be known now; `fills` are done already."""
        filled = sum([trade.quantity for trade in fills], ZERO) if fills else ZERO
        if order.side is Side.SELL:
            quantity = ZERO if order.quantity is None else max(order.quantity - filled, ZERO)
            return Reservation(order.account, order.symbol, quantity=quantity)
        if order.notional is not None:
            rest = order.notional + sum((trade.cash_effect for trade in fills), ZERO)
            return Reservation(order.account, order.symbol, cash=max(rest, ZERO))
        price = order.limit_price
        if price is None:
            last = self.prices.get(order.symbol)
            price = last.price if last is not None else ZERO
        assert order.quantity is not None
        return Reservation(order.account, order.symbol, cash=max(order.quantity - filled, ZERO) * price)

    # ---- changes inside a transaction ------------------------------------------------------------------

    def opened(self, order: Order, reservation: Reservation) -> None:
        """An order became open and reserves what it needs."""
        self._put_open(order)
        self._reserve(order.id, reservation)

    def changed(self, order: Order, reservation: Reservation | None) -> None:
        """An open order changed; when it is final, or `reservation` is None, nothing stays reserved."""
        self._release(order.id)
        if order.status.is_final:
            self._remove(self._open, order.id)
            if order.id in self._unknown:
                self._remove(self._unknown, order.id)
        else:
            self._put_open(order)
            if reservation is not None:
                self._reserve(order.id, reservation)

    def spent(self, order_id: str, fill: Trade) -> None:
        """A fill took its part of what its order holds back."""
        held = self._reservations.get(order_id)
        if held is None:
            return
        self._release(order_id)
        if fill.side is Side.BUY:
            rest = Reservation(held.account, held.symbol, cash=max(held.cash + fill.cash_effect, ZERO))
        else:
            rest = Reservation(held.account, held.symbol, quantity=max(held.quantity - fill.quantity, ZERO))
        self._reserve(order_id, rest)

    def halted(self, account: str, halt: Halt | None) -> int:
        """Trading of an account was halted, or resumed with None; the order of this change among all."""
        self.halt_order += 1  # never undone: an order that was given out and rolled back is only a gap
        if halt is None:
            self._remove(self._halts, account)
        else:
            self._replace(self._halts, account, halt)
        return self.halt_order

    def counted(self, account: str, at: datetime) -> None:
        """An order was accepted."""
        recent = self.accepted_after(account, at - RATE_WINDOW)
        if recent:
            at = max(at, recent[-1])  # in time order, also when the machine's clock is set back
        self._replace(self._accepted, account, (*recent, at))

    def marked(self, account: str, found: LossMarks | None, at: datetime) -> None:
        """Losses are compared with this from now on; None: with what the next measurement finds."""
        if found is None:
            self._remove(self._marks, account)
            self._remove(self._last_pnl, account)
        else:
            self._replace(self._marks, account, found)
        self._unsaved_marks[account] = at

    def noted_pnl(self, account: str, pnl: Decimal) -> None:
        """The P&L as it was measured now."""
        self._replace(self._last_pnl, account, pnl)

    def _put_open(self, order: Order) -> None:
        self._replace(self._open, order.id, order)
        if order.status is OrderStatus.UNKNOWN:
            self._replace(self._unknown, order.id, order)
        elif order.id in self._unknown:
            self._remove(self._unknown, order.id)

    def _reserve(self, order_id: str, reservation: Reservation) -> None:
        self._replace(self._reservations, order_id, reservation)
        self._add(self._reserved_cash, reservation.account, reservation.cash)
        self._add(self._reserved_quantity, (reservation.account, reservation.symbol), reservation.quantity)

    def _release(self, order_id: str) -> None:
        reservation = self._reservations.get(order_id)
        if reservation is None:
            return
        self._remove(self._reservations, order_id)
        self._add(self._reserved_cash, reservation.account, -reservation.cash)
        self._add(self._reserved_quantity, (reservation.account, reservation.symbol), -reservation.quantity)

    # ---- undo journal ---------------------------------------------------------------------------------

    # Each remembers by itself what there was: an order makes fifteen such changes.

    def _add(self, mapping: dict[K, Decimal], key: K, amount: Decimal) -> None:
        if amount:
            old = mapping.get(key)
            self._undo.append((mapping, key, old))
            mapping[key] = amount if old is None else old + amount

    def _replace(self, mapping: dict[K, V], key: K, value: V) -> None:
        self._undo.append((mapping, key, mapping.get(key)))
        mapping[key] = value

    def _remove(self, mapping: dict[K, V], key: K) -> None:
        self._undo.append((mapping, key, mapping.pop(key, None)))
