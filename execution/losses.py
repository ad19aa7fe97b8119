"""Losses watched: daily loss and drawdown, tested at each order, fill, candle and price; too much halts an account.

A measurement is a work of the writer: only there do cash and quantities belong together. The marks are stored
in the transaction that changed them, so a restart forgets nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection

from config.exact import ZERO, divide, plain, round_to
from config.times import time_text
from execution import alerts, marks, orders
from execution.limits import LIMIT, RiskLimits
from execution.marks import LossMarks
from execution.model import AlertRaised, Event, Halt, HaltChanged, Order, Reason, Severity
from execution.ports import Clock
from execution.state import TradingState


@dataclass(frozen=True, slots=True)
class Losses:
    """One account now, in its currency."""

    marks: LossMarks
    equity: Decimal
    pnl: Decimal

    @property
    def daily_pnl(self) -> Decimal:
        """Gained since the day began; negative: lost."""
        return self.pnl - self.marks.day_start_pnl

    @property
    def drawdown_pct(self) -> Decimal:
        """How far below the highest equity, in percent of it, to 6 decimals (for display)."""
        peak = self.marks.peak_equity
        return divide((peak - self.equity) * 100, peak, 6) if peak > ZERO else ZERO


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit that is broken: its code, what happened, and what would have been allowed."""

    code: str
    said: str
    expected: str

    def reason(self, account: str) -> Reason:
        """Why an order is refused."""
        return Reason(self.code, "account", account, f"{self.expected}; {self.said}")


@dataclass(frozen=True, slots=True)
class LimitHalt:
    """An account was halted by a limit; `cancel` are its open orders."""

    account: str
    halt: Halt
    breach: Breach
    cancel: tuple[Order, ...]
    order: int

    def events(self) -> list[Event]:
        """What is published about it."""
        return [
            HaltChanged(self.account, True, self.halt.by, self.halt.reason, self.halt.at, self.order),
            halted_alert(self.account, self.halt),
        ]


def halted_alert(account: str, halt: Halt) -> AlertRaised:
    """A limit halted an account. Said again at each start while that lasts, under the same id."""
    message = f"{account} is HALTED: {halt.reason}. `fillbook resume` starts trading again"
    alert = AlertRaised(Severity.HIGH, halt.by.removeprefix(LIMIT), message, account)
    return alerts.named(alert, time_text(halt.at))


class LossWatch:
    """See the module. Every method that gets a connection runs as a work of the writer."""

    def __init__(self, state: TradingState, clock: Clock, limits: RiskLimits) -> None:
        self._state = state
        self._clock = clock
        self._limits = limits
        self.on = limits.on_losses

    def start(self, connection: Connection) -> None:
        """After loading: the P&L by the last known prices, with which a new day would begin."""
        self._state.catch_up(connection)
        for account in self._state.accounts:
            equity = self._equity(account)
            if equity is not None:
                self._state.noted_pnl(account, equity - self._state.deposited(account))

    def holders(self, symbol: str) -> list[str]:
        """Accounts whose equity moves with the price of `symbol`."""
        return [account for account in list(self._state.accounts) if self._state.held(account, symbol)]

    def watch(self, connection: Connection, accounts: Iterable[str]) -> list[LimitHalt]:
        """Measure, and halt those that lost too much."""
        self._state.catch_up(connection)
        halts = (self._watch(connection, account) for account in sorted(accounts))
        return [halt for halt in halts if halt is not None]

    def _watch(self, connection: Connection, account: str) -> LimitHalt | None:
        losses = self.measure(account)
        if losses is None or self._state.halt_of(account) is not None:
            return None
        breach = self.breach(account, losses)
        if breach is None:
            return None
        halt = Halt(f"{LIMIT}{breach.code}", breach.said, self._clock.now())
        orders.store_halt(connection, account, True, halt.by, halt.reason, halt.at)
        order = self._state.halted(account, halt)
        return LimitHalt(account, halt, breach, tuple(self._state.open_orders(account)), order)

    def measure(self, account: str) -> Losses | None:
        """Bring the marks of an account up to now; None when something it holds has no price."""
        equity = self._equity(account)
        if equity is None:
            return None
        state, now = self._state, self._clock.now()
        deposited = state.deposited(account)
        known = state.marks_of(account)
        found = marks.advanced(known, marks.trading_day(now), equity, deposited, state.last_pnl(account))
        if found != known:
            state.marked(account, found, now)
        state.noted_pnl(account, equity - deposited)
        return Losses(found, equity, equity - deposited)

    def unpriced(self, account: str) -> str | None:
        """A symbol that the account holds and whose price is unknown, so that nothing can be measured."""
        return min((s for s in self._state.positions(account) if s not in self._state.prices), default=None)

    def breach(self, account: str, losses: Losses) -> Breach | None:
        """The limit that these losses break, if any."""
        currency = self._state.accounts[account].currency
        cents = self._decimals(currency)
        lost, most = -losses.daily_pnl, self._limits.max_daily_loss
        if most and lost > most:
            told = _beyond(lost, most, cents)
            said = f"lost {told} {currency} on {losses.marks.day} (UTC), more than {plain(most)}"
            return Breach("daily_loss", said, f"a loss of at most {plain(most)} {currency} a day")
        peak, most = losses.marks.peak_equity, self._limits.max_drawdown_pct
        # Multiplied out: exact, and true for an account without any equity.
        if most and (peak - losses.equity) * 100 > most * max(peak, ZERO):
            said = (
                f"equity {plain(round_to(losses.equity, cents))} {currency} is"
                f" {_beyond(losses.drawdown_pct, most, 2)} % below its peak of {plain(round_to(peak, cents))},"
                f" more than {plain(most)} %"
            )
            return Breach("drawdown", said, f"a drawdown of at most {plain(most)} %")
        return None

    def _decimals(self, currency: str) -> int:
        """How finely amounts of a currency are told to people."""
        found = (each.quote_decimals for each in self._state.instruments.values() if each.currency == currency)
        return max(found, default=2)

    def rearm(self, account: str) -> None:
        """Trading is being resumed by a person who knows of the loss: day and peak begin now.

        Only if a limit halted the account or would do so at once; else resuming would forgive a loss that
        nobody looked at. Called before the halt is lifted.
        """
        if not self.on:
            return
        halt = self._state.halt_of(account)
        losses = self.measure(account)
        by_limit = halt is not None and halt.by.startswith(LIMIT)
        if by_limit or (losses is not None and self.breach(account, losses) is not None):
            self._state.marked(account, None, self._clock.now())
            self.measure(account)  # without prices the next measurement begins them

    def _equity(self, account: str) -> Decimal | None:
        equity = self._state.cash(account)
        for symbol, held in self._state.positions(account).items():
            last = self._state.prices.get(symbol)
            if last is None:
                return None
            equity += held * last.price
        return equity


def _beyond(value: Decimal, bound: Decimal, places: int) -> str:
    """`value` (above `bound`) to `places` decimals, or to as many as show that it is above."""
    while (told := round_to(value, places)) != value and told <= bound:
        places += 1
    return plain(told)
