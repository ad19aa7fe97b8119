"""The audit of one scope: its trades in their order, and the rows that each of them closes, by plain addition."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from config.times import stored_time
from execution.model import Account, AccountMode, Side, Trade
from portfolio.fills import FeeIn, make_fill
from portfolio.lots import Method
from portfolio.units import MONEY_DIGITS, text_of_units
from portfolio.validation.findings import Check, Report, Totals
from portfolio.validation.rows import Row, TradeRow, amount, money, name_of, shown
from portfolio.validation.scopes import Scope

_KNOWS_FLAGGED = 3
"""The first version of the engine that leaves the P&L beside a fee without a value unknown."""

_NO_TIME = datetime.min.replace(tzinfo=UTC)
"""Of fills whose time nobody looks at."""


@dataclass(slots=True)
class Taken:
    """A trade and how much of it and of its fee rows have taken."""

    trade: TradeRow
    quantity: int
    fee: int
    grain: int
    cost: int
    flagged: bool = False
    """Its fee could not be valued: no P&L that has a part of it is known."""
    taken: int = 0
    fee_taken: int = 0

    @property
    def rest(self) -> int:
        """What no row has taken yet."""
        return self.quantity - self.taken

    @property
    def fee_due(self) -> int:
        """The share of the fee that the taken part must have: parts are cut by cumulative flooring."""
        return self.fee * self.taken // self.quantity * self.grain


@dataclass(slots=True)
class ScopeAudit:
    """Follows the trades of a scope in their order, takes the rows that each of them closes."""

    scope: Scope
    account: Account
    report: Report
    totals: Totals
    find: Callable[[str], Trade | None]
    lots: dict[str, Taken] = field(default_factory=dict)
    pool: int = 0
    """What the open lots cost together, fees included: average cost has no other way to add up."""
    pool_flagged: bool = False
    """Whether a fee that could not be valued is in the pool: it is a part of every average until all is closed."""

    def apply(self, trade: TradeRow, rows: list[Row]) -> list[Row]:
        """Take the rows that a trade closes; those of its instant that are left."""
        is_sell = trade.is_sell
        self.totals.trades += 1
        self.totals.sells += is_sell
        own = self._taken(trade)
        left: list[Row] = []
        mine: list[Row] = []
        for row in rows:
            closes = (row.sell_trade if is_sell else row.buy_trade) == trade.id
            opening = row.buy_trade if is_sell else row.sell_trade
            (mine if closes and (opening is None or opening in self.lots) else left).append(row)
        for row in mine:
            try:
                self._close(own, row, is_sell=is_sell)
            except ValueError as error:
                self._fault(Check.SUMS, row, f"cannot be read: {error}")
        self._keep(own)
        return left

    def _taken(self, trade: TradeRow) -> Taken:
        if trade.fee_asset == self.account.currency:
            fee_in = FeeIn.QUOTE
        else:
            base = self.scope.key.symbol.removesuffix(f"-{self.account.currency}")
            fee_in = FeeIn.BASE if trade.fee_asset == base else FeeIn.OTHER
        sign = -1 if trade.is_sell else 1
        cash = 0 if fee_in is FeeIn.QUOTE else money(trade.cash_effect)
        quantity, price, fee = amount(trade.quantity), amount(trade.price), amount(trade.fee)
        fill = make_fill(trade.id, sign, quantity, price, fee, fee_in, cash, _NO_TIME)
        value = fill.quantity * fill.price + fill.sign * fill.fee * fill.grain
        return Taken(trade, fill.quantity, fill.fee, fill.grain, value, fill.flagged)

    def _close(self, own: Taken, row: Row, *, is_sell: bool) -> None:
        self.totals.allocations += 1
        quantity = amount(row.quantity)
        if quantity <= 0:
            self._fault(Check.SUMS, row, f"quantity {row.quantity}, expected above 0")
        self._check_sums(row, quantity)
        own.taken += quantity
        fees = (row.sell_fee, row.buy_fee) if is_sell else (row.buy_fee, row.sell_fee)
        own.fee_taken += money(fees[0] or "0")
        if own.taken > own.quantity:
            self._fault(Check.SELLS, row, f"takes more of {name_of(own.trade)} than its {shown(own.quantity)}")
        self._check_trade(row, own.trade)
        opening = row.buy_trade if is_sell else row.sell_trade
        self._check_pnl(row, own, None if opening is None else self.lots[opening])
        if opening is None:
            self.totals.unmatched += 1
            if self.account.mode is AccountMode.MARGIN:
                self._fault(Check.SELLS, row, "without a buy, in a margin account")
            return
        lot = self.lots[opening]
        self._check_trade(row, lot.trade)
        lot.taken += quantity
        lot.fee_taken += money(fees[1] or "0")
        self.pool -= money((row.cost_basis if is_sell else row.net_proceeds) or "0")
        if lot.taken > lot.quantity:
            self._fault(Check.LOTS, row, f"takes more of {name_of(lot.trade)} than its {shown(lot.quantity)}")
        if lot.rest <= 0:
            self._check_lot_fee(lot)
            del self.lots[opening]
            self._check_pool(row)

    def _check_sums(self, row: Row, quantity: int) -> None:
        proceeds, net = money(row.proceeds), money(row.net_proceeds)
        average = self.scope.key.method is Method.AVERAGE
        if net != proceeds - money(row.sell_fee):
            self._fault(Check.SUMS, row, f"net proceeds {row.net_proceeds}, expected proceeds less the sell's fee")
        # Of a short average lot the proceeds are a part of the pool, as the cost of a long one is.
        if not average and proceeds != quantity * amount(row.sell_price):
            self._fault(Check.SUMS, row, f"proceeds {row.proceeds}, expected quantity x {row.sell_price}")
        if row.buy_trade is None:
            if row.cost_basis is not None:
                self._fault(Check.SUMS, row, "a cost without a buy, expected unknown")
            return
        if row.cost_basis is None:
            self._fault(Check.SUMS, row, "no cost beside a buy")
            return
        cost = money(row.cost_basis)
        if row.pnl is not None and money(row.pnl) != net - cost:
            expected = text_of_units(net - cost, MONEY_DIGITS)
            self._fault(Check.SUMS, row, f"P&L {row.pnl}, expected net proceeds less cost: {expected}")
        if row.buy_price is not None and cost != quantity * amount(row.buy_price) + money(row.buy_fee or "0"):
            self._fault(Check.SUMS, row, f"cost {row.cost_basis}, expected quantity x {row.buy_price} and the fee")

    def _check_pnl(self, row: Row, own: Taken, lot: Taken | None) -> None:
        """Unknown exactly where there is no buy, or where a fee on one of the two sides could not be valued."""
        if lot is None:
            if row.pnl is not None:
                self._fault(Check.SUMS, row, "a P&L without a buy, expected unknown")
            return
        average = self.scope.key.method is Method.AVERAGE
        flagged = own.flagged or (self.pool_flagged if average else lot.flagged)
        if row.pnl is None and not flagged:
            self._fault(Check.SUMS, row, "no P&L, although the fees of both trades have a value")
        # Which trades an older version's average knew cannot be told; an older engine gave a number without the fee.
        is_sure = self.scope.engine_version >= _KNOWS_FLAGGED and (self.scope.is_current or not average)
        if row.pnl is not None and flagged and is_sure:
            self._fault(Check.SUMS, row, f"P&L {row.pnl} beside a fee that could not be valued, expected unknown")

    def _check_trade(self, row: Row, trade: TradeRow) -> None:
        """What the row repeats of a trade."""
        price, at = (row.sell_price, row.sell_at) if trade.is_sell else (row.buy_price, row.buy_at)
        if price is not None and price != trade.price and amount(price) != amount(trade.price):
            self._fault(Check.ORPHANS, row, f"{trade.side} price {price}, that of {name_of(trade)} is {trade.price}")
        if at != trade.executed_at:
            when = trade.executed_at
            self._fault(Check.ORPHANS, row, f"{trade.side} at {at}, {name_of(trade)} was executed at {when}")

    def _keep(self, own: Taken) -> None:
        """What the rows left of a trade: a lot, or it must be nothing."""
        trade = own.trade
        can_open = not trade.is_sell or self.account.mode is AccountMode.MARGIN
        if own.rest > 0 and can_open:
            first = next(iter(self.lots.values()), own)
            if first.trade.side != trade.side and self.scope.is_current:
                missing = shown(own.rest)
                self._say(Check.SELLS, f"{name_of(trade)}: {missing} of it is not allocated, although lots are open")
            self.lots[trade.id] = own
            self.pool += self._open_cost(own)
            self.pool_flagged |= own.flagged
            return
        unknown_yet = not own.taken and not self.scope.is_current
        if own.rest > 0 and not unknown_yet:
            allocated, whole = shown(own.taken), shown(own.quantity)
            self._say(Check.SELLS, f"{name_of(trade)}: {allocated} of {whole} is allocated")
        elif own.rest <= 0:
            self._check_fee(own)

    @staticmethod
    def _open_cost(own: Taken) -> int:
        """The value of what is left of a trade, with its share of the fee."""
        sign = -1 if own.trade.is_sell else 1
        fee = own.fee * own.grain
        value = own.cost - sign * fee
        return value * own.rest // own.quantity + sign * (fee - own.fee_due)

    def _check_pool(self, row: Row) -> None:
        """A closed position leaves no cost behind."""
        if self.lots:
            return
        self.pool_flagged = False
        if self.pool:
            rest = text_of_units(self.pool, MONEY_DIGITS)
            self._fault(Check.SUMS, row, f"closes the position, but {rest} of what it cost was never allocated")
            self.pool = 0

    def _check_lot_fee(self, lot: Taken) -> None:
        if self.scope.key.method is not Method.AVERAGE:  # it shows no fees of lots: they are in the pool
            self._check_fee(lot)

    def _check_fee(self, taken: Taken) -> None:
        """The parts of a trade's fee."""
        if taken.fee_taken != taken.fee_due:
            parts, due = (text_of_units(units, MONEY_DIGITS) for units in (taken.fee_taken, taken.fee_due))
            self._say(Check.SUMS, f"{name_of(taken.trade)}: the parts of its fee are {parts}, expected {due}")

    def strays(self, rows: Sequence[Row]) -> None:
        """Rows that no trade of their instant closes."""
        for row in rows:
            self.totals.allocations += 1
            if not self._explain(row):
                text = f"no trade of {row.closed_at} closes it (taken back, or at another time)"
                self._fault(Check.ORPHANS, row, text)

    def _explain(self, row: Row) -> bool:
        """Name what is wrong with a stray row; whether that was found."""
        closed = row.closed_at
        for trade_id, side in ((row.sell_trade, Side.SELL), (row.buy_trade, Side.BUY)):
            if trade_id is None or trade_id in self.lots:
                continue
            trade = self.find(trade_id)
            if trade is None:
                self._fault(Check.ORPHANS, row, f"there is no trade {trade_id}")
                return True
            if (trade.account, trade.symbol, trade.side) != (self.scope.key.account, self.scope.key.symbol, side):
                self._fault(Check.ORPHANS, row, f"{trade_id} is no {side} of {self.scope.name}")
                return True
            if stored_time(trade.executed_at) > closed:
                self._fault(Check.ORDER, row, f"closed at {closed}, before {name_of(trade)} was executed")
                return True
            if stored_time(trade.executed_at) < closed:
                self._fault(Check.LOTS, row, f"nothing is left of {name_of(trade)}, or it was taken back")
                return True
        return False

    def finish(self) -> None:
        """What is open at the end."""
        for lot in self.lots.values():
            self._check_lot_fee(lot)
        self.totals.open_lots += len(self.lots)

    def _fault(self, check: Check, row: Row, text: str) -> None:
        pair = f"sell {row.sell_trade}, buy {row.buy_trade or 'none'}"
        self._say(check, f"allocation {row.id} ({pair}): {text}")

    def _say(self, check: Check, text: str) -> None:
        self.report(check, f"{self.scope.name}: {text}")
