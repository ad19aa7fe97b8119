"""The books in memory: cash, flows, fees and FIFO engines of all accounts, at one ledger sequence.

`Books.apply` takes facts in ledger order. Matching follows the order of TRADES: a trade that sorts before
the last one of its account and symbol makes that symbol stale; `rebuilt` computes it anew from all of its
trades, and gives exactly what a batch would.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

from config.exact import ZERO, plain
from config.instruments import default_instrument
from execution.model import Account, CashFlow, CashFlowKind, Fact, Trade
from portfolio.errors import FifoError, SequenceHole, UnknownAccount
from portfolio.fifo import LotEngine
from portfolio.fills import FeeIn, Fill, fill_of
from portfolio.matches import FillResult, Matched, result_of
from portfolio.units import money_of

Scope: TypeAlias = tuple[str, str]
"""(account, symbol)"""

_NEVER = datetime.min.replace(tzinfo=UTC)
OrderKey: TypeAlias = tuple[datetime, bool, int, bool, bytes, str]


class FillOutcome(NamedTuple):
    """What a fill meant. `result` is None only while its symbol waits for a recomputation.

    `realized_pnl` is None when the fill closed nothing, or when that of a part is unknown.
    """

    trade: Trade
    result: FillResult | None

    @property
    def realized_pnl(self) -> Decimal | None:
        """The P&L that the fill realized."""
        return None if self.result is None else self.result.realized_pnl

    @property
    def unmatched_quantity(self) -> Decimal:
        """The part of a spot sell that no lot covers."""
        return ZERO if self.result is None else self.result.unmatched_quantity


@dataclass(slots=True)
class Attribution:
    """Fills and known realized P&L of one `triggered_by`; for analysis only, nothing branches on it."""

    fills: int = 0
    realized_units: int = 0

    @property
    def realized_pnl(self) -> Decimal:
        """The realized P&L of its fills, unknown parts left out."""
        return money_of(self.realized_units)


class SymbolBook:
    """One symbol of one account: its engine, fees, attribution and the last trade in order."""

    __slots__ = (
        "_last_key",
        "_last_time",
        "_last_trade",
        "attribution",
        "base_asset",
        "closing_sells",
        "currency",
        "engine",
        "fee_units",
        "flagged_fees",
        "stale_at",
        "winning_sells",
    )

    def __init__(self, account: Account, symbol: str, engine: LotEngine | None = None) -> None:
        self.engine = engine or LotEngine(account.mode)
        self.closing_sells = 0
        """Sells that closed something, or found nothing to close."""
        self.winning_sells = 0
        """Those of them whose P&L is known and above 0."""
        self.currency = account.currency
        self.base_asset = symbol.removesuffix(f"-{account.currency}")
        self.fee_units = 0
        self.flagged_fees: dict[str, Decimal] = {}
        self.attribution: dict[str, Attribution] = {}
        self.stale_at: int | None = None
        """The ledger sequence of the trade that made it stale; the book has those before it. None: it is not."""
        # The key is built only for trades of one instant: the time alone decides nearly always.
        self._last_time = _NEVER
        self._last_trade: Trade | None = None
        self._last_key: OrderKey | None = None

    @property
    def last_key(self) -> OrderKey | None:
        """The order key of the last trade applied."""
        if self._last_trade is not None:
            self._last_key = self._last_trade.order_key
            self._last_trade = None
        return self._last_key

    @property
    def incomplete(self) -> bool:
        """Whether a part of the P&L is unknown."""
        return bool(self.flagged_fees) or bool(self.engine.unmatched_quantity)

    def apply(self, trade: Trade) -> FillResult | None:
        """Match a trade; None when the book is stale from here on: the trade sorts before the last one, or it
        takes back an earlier one."""
        if self.stale_at is not None:
            return None
        if trade.corrects is not None or (trade.executed_at <= self._last_time and self._is_late(trade)):
            self.stale_at = trade.sequence
            return None
        result = result_of(self.take(fill_of(trade, self.fee_in(trade.fee_asset)), trade.triggered_by))
        self._last_time = trade.executed_at
        self._last_trade = trade
        if result.fee_flagged:
            self.flag_fee(trade.fee_asset, trade.fee)
        return result

    def take(self, fill: Fill, tag: str) -> Matched:
        """Match a fill that is known to be next in order: `apply` without the names."""
        matched = self.engine.match(fill)
        rows, _, realized, fee, _ = matched
        self.fee_units += fee
        attribution = self.attribution.get(tag)
        if attribution is None:
            attribution = self.attribution[tag] = Attribution()
        attribution.fills += 1
        if rows:
            if fill.sign < 0:
                self.closing_sells += 1
                if realized is not None and realized > 0:
                    self.winning_sells += 1
            # Of a sell that is partly unknown the known part: the groups add up to the total.
            known = sum(row[10] or 0 for row in rows) if realized is None else realized
            attribution.realized_units += known
        return matched

    def flag_fee(self, asset: str, fee: Decimal) -> None:
        """A fee that could not be valued."""
        self.flagged_fees[asset] = self.flagged_fees.get(asset, ZERO) + fee

    def ended_with(self, key: OrderKey) -> None:
        """The order key of the last trade, when fills were taken without their trades."""
        self._last_time = key[0]
        self._last_trade = None
        self._last_key = key

    def before(self, latest: "SymbolBook", engine: LotEngine) -> "SymbolBook | None":
        """The book as it was before its latest trades, which have `latest` for their own; `engine` is as it was then.
        It does not know its last trade.

        None where the sums do not tell: what is flagged adds up to 0, which is not the same as nothing.
        """
        earlier = copy(self)
        earlier.engine = engine
        earlier.fee_units -= latest.fee_units
        earlier.closing_sells -= latest.closing_sells
        earlier.winning_sells -= latest.winning_sells
        earlier.flagged_fees = {
            asset: fee - latest.flagged_fees.get(asset, ZERO) for asset, fee in self.flagged_fees.items()
        }
        earlier.attribution = {}
        for tag, group in self.attribution.items():
            gone = latest.attribution.get(tag, Attribution())
            if group.fills != gone.fills:
                realized = group.realized_units - gone.realized_units
                earlier.attribution[tag] = Attribution(group.fills - gone.fills, realized)
        earlier.stale_at = None
        return earlier if all(earlier.flagged_fees.values()) else None

    def _is_late(self, trade: Trade) -> bool:
        last = self.last_key
        return last is not None and trade.order_key < last

    def fee_in(self, asset: str) -> FeeIn:
        """What kind of fee one in `asset` is."""
        if asset == self.currency:
            return FeeIn.QUOTE
        return FeeIn.BASE if asset == self.base_asset else FeeIn.OTHER

    def dump(self) -> dict[str, Any]:
        """The exact state as a JSON-able dict."""
        key = self.last_key
        return {
            "engine": self.engine.dump(),
            "fees": str(self.fee_units),
            "closing_sells": self.closing_sells,
            "winning_sells": self.winning_sells,
            "flagged_fees": {asset: plain(fee) for asset, fee in sorted(self.flagged_fees.items())},
            "attribution": {
                tag: [group.fills, str(group.realized_units)] for tag, group in sorted(self.attribution.items())
            },
            "last_key": None if key is None else [key[0].isoformat(), *key[1:4], key[4].decode(), key[5]],
        }

    @classmethod
    def load(cls, account: Account, symbol: str, state: Mapping[str, Any]) -> "SymbolBook":
        """The book that `dump` wrote. Raises FifoError when it is of another form."""
        book = cls(account, symbol)
        try:
            book.engine = LotEngine.load(state["engine"])
            book.fee_units = int(state["fees"])
            book.closing_sells, book.winning_sells = state["closing_sells"], state["winning_sells"]
            book.flagged_fees = {asset: Decimal(fee) for asset, fee in state["flagged_fees"].items()}
            book.attribution = {
                tag: Attribution(fills, int(realized)) for tag, (fills, realized) in state["attribution"].items()
            }
            key = state["last_key"]
            if key is not None:
                book._last_time = datetime.fromisoformat(key[0])
                book._last_key = (book._last_time, key[1], key[2], key[3], key[4].encode(), key[5])
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, IndexError) as error:
            raise FifoError("a state written by dump()") from error
        if book.engine.mode is not account.mode:
            raise FifoError(f"a state of mode {account.mode}, not {book.engine.mode}")
        return book


@dataclass(slots=True)
class CashBook:
    """The money of one account, in its currency: exact sums over its facts."""

    cash: Decimal = ZERO
    deposits: Decimal = ZERO
    withdrawals: Decimal = ZERO
    income: Decimal = ZERO
    standalone_fees: Decimal = ZERO

    @property
    def net_flows(self) -> Decimal:
        """What the owner put in, less what the owner took out."""
        return self.deposits - self.withdrawals

    def apply_flow(self, flow: CashFlow) -> None:
        """Book a cash flow."""
        self.cash += flow.cash_effect
        match flow.kind:
            case CashFlowKind.DEPOSIT:
                self.deposits += flow.amount
            case CashFlowKind.WITHDRAWAL:
                self.withdrawals += flow.amount
            case CashFlowKind.INCOME:
                self.income += flow.amount
            case CashFlowKind.FEE:
                self.standalone_fees += flow.amount

    def dump(self) -> dict[str, str]:
        """The exact state as a JSON-able dict."""
        return {name: plain(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def load(cls, state: Mapping[str, str]) -> "CashBook":
        """The book that `dump` wrote. Raises FifoError when it is of another form."""
        try:
            return cls(**{name: Decimal(text) for name, text in state.items()})
        except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise FifoError("a state written by dump()") from error


@dataclass(slots=True)
class Books:
    """All accounts at ledger `sequence`, whose last fact has `head_hash`.

    `changed` and `changed_cash` collect what facts touched since they were last cleared (for checkpoints);
    `stale` holds the scopes that wait for a recomputation, each with the instant from which on.
    """

    accounts: dict[str, Account]
    sequence: int = 0
    head_hash: str = ""
    cash: dict[str, CashBook] = field(default_factory=dict)
    symbols: dict[Scope, SymbolBook] = field(default_factory=dict)
    stale: dict[Scope, datetime] = field(default_factory=dict)
    changed: set[Scope] = field(default_factory=set)
    changed_cash: set[str] = field(default_factory=set)
    dust: dict[str, Decimal] = field(default_factory=dict)
    """Per symbol the quantity below which what is left is reported as dust (never skipped in the matching)."""

    def apply(self, facts: Sequence[Fact]) -> list[FillOutcome]:
        """Book facts in sequence order; the outcome of each trade among them.

        Raises SequenceHole or UnknownAccount before the fact at fault; those before it are booked.
        """
        outcomes = []
        for fact in facts:
            if fact.sequence != self.sequence + 1:
                raise SequenceHole(f"the fact of sequence {self.sequence + 1} is missing, before {fact.sequence}")
            cash = self.cash.get(fact.account)
            if cash is None:
                if fact.account not in self.accounts:
                    raise UnknownAccount(f"there is no account {fact.account}, of sequence {fact.sequence}")
                cash = self.cash[fact.account] = CashBook()
            if isinstance(fact, Trade):
                outcomes.append(FillOutcome(fact, self._apply_trade(fact)))
                cash.cash += fact.cash_effect
            else:
                cash.apply_flow(fact)
            self.changed_cash.add(fact.account)
            self.sequence = fact.sequence
            self.head_hash = fact.hash
        return outcomes

    def _apply_trade(self, trade: Trade) -> FillResult | None:
        scope = (trade.account, trade.symbol)
        book = self.symbols.get(scope)
        if book is None:
            book = self.symbols[scope] = SymbolBook(self.accounts[trade.account], trade.symbol)
        result = book.apply(trade)
        self.changed.add(scope)
        if result is None:
            instant = self.stale.get(scope, trade.executed_at)
            self.stale[scope] = min(instant, trade.executed_at)
        return result

    def replace(self, scope: Scope, book: SymbolBook) -> None:
        """Put a recomputed book in the place of a stale one."""
        self.symbols[scope] = book
        self.stale.pop(scope, None)

    def dust_of(self, symbol: str) -> Decimal:
        """The dust threshold of a symbol; the default one when the catalogue was not asked."""
        threshold = self.dust.get(symbol)
        return default_instrument(symbol).dust if threshold is None else threshold

    def symbols_of(self, account: str) -> list[str]:
        """The symbols that an account ever traded, in order."""
        return sorted(symbol for owner, symbol in self.symbols if owner == account)

    def attribution(self, account: str | None = None) -> dict[str, Attribution]:
        """Fills and realized P&L by `triggered_by`, of one account or of all."""
        total: dict[str, Attribution] = {}
        for (owner, _), book in self.symbols.items():
            if account is not None and owner != account:
                continue
            for tag, group in book.attribution.items():
                sums = total.setdefault(tag, Attribution())
                sums.fills += group.fills
                sums.realized_units += group.realized_units
        return total

    def dump(self) -> dict[str, Any]:
        """The exact state of everything, in one order: two equal books dump equal."""
        return {
            "sequence": self.sequence,
            "head_hash": self.head_hash,
            "cash": {name: book.dump() for name, book in sorted(self.cash.items())},
            "symbols": [[*scope, book.dump()] for scope, book in sorted(self.symbols.items())],
        }


NO_EFFECT = FillResult((), 0, None, 0, False)
"""What a trade that was taken back did, and the entry that takes it back."""


def rebuilt(
    account: Account, symbol: str, trades: Iterable[Trade], up_to: int, wanted: frozenset[str] = frozenset()
) -> tuple[SymbolBook, dict[str, FillResult]]:
    """A symbol's book from its trades in total order, those after sequence `up_to` left out.

    Also returns the results of the trades whose ids are `wanted`. A trade that was taken back has no effect.
    """
    known = [trade for trade in trades if trade.sequence <= up_to]
    taken_back = {trade.corrects for trade in known if trade.corrects is not None}
    book = SymbolBook(account, symbol)
    results = {}
    for trade in known:
        result: FillResult | None = NO_EFFECT
        if trade.corrects is None and trade.id not in taken_back:
            result = book.apply(trade)
        if result is None:
            raise FifoError(f"trades in total order; {trade.id} is out of it")
        if trade.id in wanted:
            results[trade.id] = result
    return book, results
