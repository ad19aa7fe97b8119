"""Proof of the stored allocations: the rows of a scope against its trades, by plain addition.

Nothing here matches anything: the rows say what was matched, and it is checked that this is possible and
adds up. Only the last step runs the engine, to compare its rows with the stored ones. Everything streams;
memory grows with the open lots only. Problems name the row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Connection

from config.times import stored_time
from execution import followers, ledger, raw
from execution.model import Account, AccountMode, Side, Trade
from portfolio import allocations, batch, selections
from portfolio.allocations import CONTENT, ScopeKey
from portfolio.allocator import FOLLOWER
from portfolio.errors import PortfolioError
from portfolio.fifo import (
    ENGINE_VERSION,
    MONEY_DIGITS,
    QUANTITY_DIGITS,
    Allocation,
    FeeIn,
    make_fill,
    text_of_units,
)
from portfolio.lots import Method
from portfolio.tables import RunStatus


class Check(StrEnum):
    """What a problem is about: the invariants of the stored allocations."""

    SELLS = "each sell is allocated exactly"
    LOTS = "no lot is over-allocated"
    SUMS = "P&L, costs and fees add up"
    ORPHANS = "each row names trades of its scope as they are"
    ORDER = "nothing is closed before it was opened"
    VERSIONS = "each scope has one current version"
    FULL = "stored rows equal a full recomputation"
    OUTDATED = "stored rows are of this version of the engine"
    """Not wrong, but to be computed anew."""


_KNOWS_FLAGGED = 3
"""The first version of the engine that leaves the P&L beside a fee without a value unknown."""

_NO_TIME = datetime.min.replace(tzinfo=UTC)
"""Of fills whose time nobody looks at."""

Report: TypeAlias = Callable[[Check, str], None]
"""Told each problem in words."""


class Row(NamedTuple):
    """A stored row as the driver gives it; `CONTENT` from `sell_trade` on."""

    id: int
    sell_trade: str
    buy_trade: str | None
    quantity: str
    sell_price: str
    buy_price: str | None
    cost_basis: str | None
    buy_fee: str | None
    proceeds: str
    sell_fee: str
    net_proceeds: str
    pnl: str | None
    buy_at: str | None
    sell_at: str
    closed_at: str


@dataclass(slots=True)
class Totals:
    """What was looked at."""

    scopes: int = 0
    trades: int = 0
    sells: int = 0
    allocations: int = 0
    unmatched: int = 0
    """Rows without a buy."""
    open_lots: int = 0


@dataclass(frozen=True, slots=True)
class Scope:
    """What is validated: the rows of a scope as they were at `version`, against its trades up to `sequence`.

    `is_current` false: it has been replaced. Which trades it knew cannot be told to the last one then, so
    that only what it says is checked, not that it says everything.
    """

    key: ScopeKey
    version: int
    sequence: int
    engine_version: int
    is_current: bool = True

    @property
    def name(self) -> str:
        """How problems name it."""
        return f"{self.key.account}/{self.key.symbol} {self.key.method}"


# ---- scopes -------------------------------------------------------------------------------------------------


def current_scopes(connection: Connection, method: Method | None = None) -> list[Scope]:
    """All scopes with a current version (of one method), in order."""
    sql = "SELECT account, symbol, method, version, sequence, engine_version FROM fifo_pointers"
    rows = raw.execute(connection, f"{sql} ORDER BY account, symbol, method").fetchall()
    followed = followers.position(connection, FOLLOWER)
    scopes = []
    for account, symbol, name, version, sequence, engine in rows:
        key = ScopeKey(account, symbol, Method(name))
        if method in (None, key.method):
            # Between its fills a FIFO scope is as current as the follower is; other methods run on request.
            known = max(sequence, followed) if key.method is Method.FIFO else sequence
            scopes.append(Scope(key, version, known, engine))
    return scopes


def scope_of_version(connection: Connection, version: int) -> Scope | None:
    """The scope that a version belongs to, as it was then; None when no run began such a version."""
    for scope in current_scopes(connection):
        if scope.version == version:
            return scope
    sql = (
        "SELECT account, symbol, method, MAX(sequence), MAX(engine_version) FROM fifo_computation_log"
        " WHERE version = ? AND status IN (?, ?) GROUP BY account, symbol, method"
    )
    row = raw.execute(connection, sql, (version, str(RunStatus.COMPLETED), str(RunStatus.PARTIAL))).fetchone()
    if row is None:
        return None
    account, symbol, method, sequence, engine = row
    return Scope(ScopeKey(account, symbol, Method(method)), version, sequence or 0, engine, is_current=False)


# ---- versions -----------------------------------------------------------------------------------------------


def check_versions(connection: Connection, report: Report) -> None:
    """Pointers, the log and the versions of rows fit each other; every scope with trades has a pointer."""
    pointers = {scope.key: scope for scope in current_scopes(connection)}
    began: dict[ScopeKey, set[int]] = {}
    sql = "SELECT DISTINCT account, symbol, method, version FROM fifo_computation_log WHERE status IN (?, ?)"
    known = raw.execute(connection, sql, (str(RunStatus.COMPLETED), str(RunStatus.PARTIAL))).fetchall()
    for account, symbol, method, version in known:
        began.setdefault(ScopeKey(account, symbol, Method(method)), set()).add(version)
    for scope in pointers.values():
        if scope.version not in began.get(scope.key, ()):
            report(Check.VERSIONS, f"{scope.name}: the pointer names version {scope.version}, which no run made")
    sql = (
        "SELECT account, symbol, method, from_version, to_version, MIN(id) FROM fifo_allocations"
        " GROUP BY account, symbol, method, from_version, to_version"
    )
    for account, symbol, method, first, last, row_id in raw.execute(connection, sql).fetchall():
        key = ScopeKey(account, symbol, Method(method))
        problem = _version_problem(pointers.get(key), began.get(key, set()), first, last)
        if problem is not None:
            name = f"{account}/{symbol} {method}"
            report(Check.VERSIONS, f"{name}: allocation {row_id} (versions {first} to {last or 'now'}): {problem}")
    _check_missing(connection, pointers, report)


def _version_problem(pointer: Scope | None, began: set[int], first: int, last: int | None) -> str | None:
    if pointer is None:
        return "its scope has no current version"
    if first not in began:
        return f"no run made version {first}"
    if last is None:
        return None if first <= pointer.version else f"current, but the pointer names version {pointer.version}"
    if last >= pointer.version:
        return f"ended, but the pointer names version {pointer.version}"
    return None if last + 1 in began else f"ended for version {last + 1}, which no run made"


def _check_missing(connection: Connection, pointers: dict[ScopeKey, Scope], report: Report) -> None:
    sql = "SELECT account, symbol, MIN(sequence) FROM trades GROUP BY account, symbol"
    stored = followers.position(connection, FOLLOWER)
    for account, symbol, sequence in raw.execute(connection, sql).fetchall():
        if sequence <= stored and ScopeKey(account, symbol) not in pointers:
            report(Check.VERSIONS, f"{account}/{symbol} fifo: has trades, but no current version")


# ---- the rows of a scope --------------------------------------------------------------------------------------


def check_scope(
    connection: Connection,
    scope: Scope,
    account: Account,
    report: Report,
    totals: Totals,
    *,
    progress: Callable[[int], None] | None = None,
) -> None:
    """All invariants of one scope. `progress` is told the trades done, twice over for a current version: once
    for the sums, once for the full recomputation."""
    totals.scopes += 1
    audit = _Audit(scope, account, report, totals, lambda trade_id: ledger.find_trade(connection, trade_id))
    instants = groupby(rows_of(connection, scope), key=lambda row: row.closed_at)
    waiting = next(instants, None)
    taken_back = _taken_back(connection, scope)
    done = 0
    trades = map(_Trade._make, batch.in_order(connection, scope.key.account, scope.key.symbol, scope.sequence))
    for instant, group in groupby(trades, key=lambda trade: trade.executed_at):
        while waiting is not None and waiting[0] < instant:
            audit.strays(list(waiting[1]))
            waiting = next(instants, None)
        rows: list[Row] = []
        if waiting is not None and waiting[0] == instant:
            rows = list(waiting[1])
            waiting = next(instants, None)
        for trade in group:
            if trade.corrects is None and trade.id not in taken_back:
                rows = audit.apply(trade, rows)
            done += 1
            if progress is not None and done % batch.CHUNK == 0:
                progress(done)
        audit.strays(rows)
    while waiting is not None:
        audit.strays(list(waiting[1]))
        waiting = next(instants, None)
    audit.finish()
    if scope.is_current:
        _check_full(connection, scope, account, report, progress, done)


def rows_of(connection: Connection, scope: Scope) -> Iterator[Row]:
    """The rows of a scope at its version, in the order in which they were matched."""
    sql = (
        f"SELECT id, {CONTENT} FROM fifo_allocations WHERE account = ? AND symbol = ? AND method = ?"
        " AND from_version <= ? AND (to_version IS NULL OR to_version >= ?) ORDER BY closed_at, id"
    )
    cursor = raw.execute(connection, sql, (*map(str, scope.key), scope.version, scope.version))
    while rows := cursor.fetchmany(batch.CHUNK):
        yield from map(Row._make, rows)


def _taken_back(connection: Connection, scope: Scope) -> frozenset[str]:
    sql = "SELECT corrects FROM trades WHERE corrects IS NOT NULL AND account = ? AND symbol = ? AND sequence <= ?"
    rows = raw.execute(connection, sql, (scope.key.account, scope.key.symbol, scope.sequence)).fetchall()
    return frozenset(row[0] for row in rows)


_POWERS: tuple[int, ...] = tuple(10**digits for digits in range(MONEY_DIGITS + 1))


def _units(text: str, digits: int) -> int:
    """A stored number in units of 10^-digits. Raises ValueError when it is none."""
    whole, _, part = text.partition(".")
    missing = digits - len(part)
    if missing < 0:
        raise ValueError(f"{text} has more than {digits} decimals")
    return int(whole + part) * _POWERS[missing]


def _money(text: str) -> int:
    return _units(text, MONEY_DIGITS)


def _amount(text: str) -> int:
    return _units(text, QUANTITY_DIGITS)


class _Trade(NamedTuple):
    """A trade as the driver gives it: `batch.COLUMNS`."""

    sequence: int
    id: str
    side: str
    quantity: str
    price: str
    fee: str
    fee_asset: str
    cash_effect: str
    executed_at: str
    triggered_by: str
    corrects: str | None
    venue_sequence: int | None
    order_id: str | None

    @property
    def is_sell(self) -> bool:
        return self.side == "SELL"


@dataclass(slots=True)
class _Taken:
    """A trade and how much of it and of its fee rows have taken."""

    trade: _Trade
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
        return self.quantity - self.taken

    @property
    def fee_due(self) -> int:
        """The share of the fee that the taken part must have: parts are cut by cumulative flooring."""
        return self.fee * self.taken // self.quantity * self.grain


@dataclass(slots=True)
class _Audit:
    """Follows the trades of a scope in their order, takes the rows that each of them closes."""

    scope: Scope
    account: Account
    report: Report
    totals: Totals
    find: Callable[[str], Trade | None]
    lots: dict[str, _Taken] = field(default_factory=dict)
    pool: int = 0
    """What the open lots cost together, fees included: average cost has no other way to add up."""
    pool_flagged: bool = False
    """Whether a fee that could not be valued is in the pool: it is a part of every average until all is closed."""

    def apply(self, trade: _Trade, rows: list[Row]) -> list[Row]:
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

    def _taken(self, trade: _Trade) -> _Taken:
        if trade.fee_asset == self.account.currency:
            fee_in = FeeIn.QUOTE
        else:
            base = self.scope.key.symbol.removesuffix(f"-{self.account.currency}")
            fee_in = FeeIn.BASE if trade.fee_asset == base else FeeIn.OTHER
        sign = -1 if trade.is_sell else 1
        cash = 0 if fee_in is FeeIn.QUOTE else _money(trade.cash_effect)
        quantity, price, fee = _amount(trade.quantity), _amount(trade.price), _amount(trade.fee)
        fill = make_fill(trade.id, sign, quantity, price, fee, fee_in, cash, _NO_TIME)
        value = fill.quantity * fill.price + fill.sign * fill.fee * fill.grain
        return _Taken(trade, fill.quantity, fill.fee, fill.grain, value, fill.flagged)

    def _close(self, own: _Taken, row: Row, *, is_sell: bool) -> None:
        self.totals.allocations += 1
        quantity = _amount(row.quantity)
        if quantity <= 0:
            self._fault(Check.SUMS, row, f"quantity {row.quantity}, expected above 0")
        self._check_sums(row, quantity)
        own.taken += quantity
        fees = (row.sell_fee, row.buy_fee) if is_sell else (row.buy_fee, row.sell_fee)
        own.fee_taken += _money(fees[0] or "0")
        if own.taken > own.quantity:
            self._fault(Check.SELLS, row, f"takes more of {_name(own.trade)} than its {_quantity(own.quantity)}")
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
        lot.fee_taken += _money(fees[1] or "0")
        self.pool -= _money((row.cost_basis if is_sell else row.net_proceeds) or "0")
        if lot.taken > lot.quantity:
            self._fault(Check.LOTS, row, f"takes more of {_name(lot.trade)} than its {_quantity(lot.quantity)}")
        if lot.rest <= 0:
            self._check_lot_fee(lot)
            del self.lots[opening]
            self._check_pool(row)

    def _check_sums(self, row: Row, quantity: int) -> None:
        proceeds, net = _money(row.proceeds), _money(row.net_proceeds)
        average = self.scope.key.method is Method.AVERAGE
        if net != proceeds - _money(row.sell_fee):
            self._fault(Check.SUMS, row, f"net proceeds {row.net_proceeds}, expected proceeds less the sell's fee")
        # Of a short average lot the proceeds are a part of the pool, as the cost of a long one is.
        if not average and proceeds != quantity * _amount(row.sell_price):
            self._fault(Check.SUMS, row, f"proceeds {row.proceeds}, expected quantity x {row.sell_price}")
        if row.buy_trade is None:
            if row.cost_basis is not None:
                self._fault(Check.SUMS, row, "a cost without a buy, expected unknown")
            return
        if row.cost_basis is None:
            self._fault(Check.SUMS, row, "no cost beside a buy")
            return
        cost = _money(row.cost_basis)
        if row.pnl is not None and _money(row.pnl) != net - cost:
            expected = text_of_units(net - cost, MONEY_DIGITS)
            self._fault(Check.SUMS, row, f"P&L {row.pnl}, expected net proceeds less cost: {expected}")
        if row.buy_price is not None and cost != quantity * _amount(row.buy_price) + _money(row.buy_fee or "0"):
            self._fault(Check.SUMS, row, f"cost {row.cost_basis}, expected quantity x {row.buy_price} and the fee")

    def _check_pnl(self, row: Row, own: _Taken, lot: _Taken | None) -> None:
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

    def _check_trade(self, row: Row, trade: _Trade) -> None:
        """What the row repeats of a trade."""
        price, at = (row.sell_price, row.sell_at) if trade.is_sell else (row.buy_price, row.buy_at)
        if price is not None and price != trade.price and _amount(price) != _amount(trade.price):
            self._fault(Check.ORPHANS, row, f"{trade.side} price {price}, that of {_name(trade)} is {trade.price}")
        if at != trade.executed_at:
            when = trade.executed_at
            self._fault(Check.ORPHANS, row, f"{trade.side} at {at}, {_name(trade)} was executed at {when}")

    def _keep(self, own: _Taken) -> None:
        """What the rows left of a trade: a lot, or it must be nothing."""
        trade = own.trade
        can_open = not trade.is_sell or self.account.mode is AccountMode.MARGIN
        if own.rest > 0 and can_open:
            first = next(iter(self.lots.values()), own)
            if first.trade.side != trade.side and self.scope.is_current:
                missing = _quantity(own.rest)
                self._say(Check.SELLS, f"{_name(trade)}: {missing} of it is not allocated, although lots are open")
            self.lots[trade.id] = own
            self.pool += self._open_cost(own)
            self.pool_flagged |= own.flagged
            return
        unknown_yet = not own.taken and not self.scope.is_current
        if own.rest > 0 and not unknown_yet:
            allocated, whole = _quantity(own.taken), _quantity(own.quantity)
            self._say(Check.SELLS, f"{_name(trade)}: {allocated} of {whole} is allocated")
        elif own.rest <= 0:
            self._check_fee(own)

    @staticmethod
    def _open_cost(own: _Taken) -> int:
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

    def _check_lot_fee(self, lot: _Taken) -> None:
        if self.scope.key.method is not Method.AVERAGE:  # it shows no fees of lots: they are in the pool
            self._check_fee(lot)

    def _check_fee(self, taken: _Taken) -> None:
        """The parts of a trade's fee."""
        if taken.fee_taken != taken.fee_due:
            parts, due = (text_of_units(units, MONEY_DIGITS) for units in (taken.fee_taken, taken.fee_due))
            self._say(Check.SUMS, f"{_name(taken.trade)}: the parts of its fee are {parts}, expected {due}")

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
                self._fault(Check.ORDER, row, f"closed at {closed}, before {_name(trade)} was executed")
                return True
            if stored_time(trade.executed_at) < closed:
                self._fault(Check.LOTS, row, f"nothing is left of {_name(trade)}, or it was taken back")
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


def _name(trade: Trade | _Trade) -> str:
    return f"{trade.side} {trade.id}"


def _quantity(units: int) -> str:
    return text_of_units(units, QUANTITY_DIGITS)


# ---- against the engine ---------------------------------------------------------------------------------------


class _Differs(Exception):
    """The first difference was found; no need to go on."""


def _check_full(
    connection: Connection,
    scope: Scope,
    account: Account,
    report: Report,
    progress: Callable[[int], None] | None,
    before: int,
) -> None:
    """The rows that a full recomputation gives, in their order, are the stored ones."""
    if scope.engine_version != ENGINE_VERSION:
        text = f"{scope.name}: computed by version {scope.engine_version} of the engine, this is {ENGINE_VERSION}"
        report(Check.OUTDATED, f"{text}: `fillbook allocations compute`")
        return
    stored = rows_of(connection, scope)

    def compare(found: list[Allocation]) -> None:
        for piece in found:
            row = next(stored, None)
            if row is None or row[1:] != allocations.content(piece):
                raise _Differs(_difference(scope, row, piece))

    try:
        batch.compute(
            connection,
            account,
            scope.key.symbol,
            scope.sequence,
            method=scope.key.method,
            selections=selections.stored(connection) if scope.key.method is Method.SPECIFIC else None,
            sink=compare,
            progress=None if progress is None else lambda done: progress(before + done),
        )
        if (row := next(stored, None)) is not None:
            raise _Differs(f"{scope.name}: allocation {row.id}: a full recomputation does not have it")
    except _Differs as difference:
        report(Check.FULL, str(difference))
    except PortfolioError as error:
        report(Check.FULL, f"{scope.name}: cannot be recomputed: {error}")


def _difference(scope: Scope, row: Row | None, piece: Allocation) -> str:
    expected = dict(zip(Row._fields[1:], allocations.content(piece), strict=True))
    pair = f"sell {piece.sell_trade}, buy {piece.buy_trade or 'none'}"
    if row is None:
        return f"{scope.name}: a full recomputation has one row more: {pair}, {_quantity(piece.quantity_units)}"
    if (row.sell_trade, row.buy_trade) != (piece.sell_trade, piece.buy_trade):
        return f"{scope.name}: allocation {row.id} (sell {row.sell_trade}, buy {row.buy_trade}): expected {pair}"
    columns: dict[str, Any] = {name: value for name, value in expected.items() if getattr(row, name) != value}
    said = ", ".join(f"{name} {getattr(row, name)}, expected {value}" for name, value in columns.items())
    return f"{scope.name}: allocation {row.id} ({pair}): {said}"


# ---- everything -----------------------------------------------------------------------------------------------


def validate(
    connection: Connection,
    scopes: Sequence[Scope],
    report: Report,
    *,
    progress: Callable[[int], None] | None = None,
) -> Totals:
    """Check the versions, then scope after scope. `progress` is told the trades looked at so far."""
    check_versions(connection, report)
    owners = ledger.accounts(connection)
    totals = Totals()
    before = 0

    def told(done: int) -> None:
        assert progress is not None
        progress(before + done)

    for scope in scopes:
        owner = owners.get(scope.key.account)
        if owner is None:
            report(Check.ORPHANS, f"{scope.name}: there is no account {scope.key.account}")
            continue
        check_scope(connection, scope, owner, report, totals, progress=None if progress is None else told)
        before = 2 * totals.trades
    return totals
