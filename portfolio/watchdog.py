"""The cheap check after each fill: what the engine said about it is added up again, and so are the facts.

Its cost is the fill's own pieces, whatever is held: no lot is looked at but the first and the last one. What it
cannot see (a lot in the middle, a row on the disk) the full check of `portfolio.verify` sees.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal

from config.exact import ZERO, plain
from execution import ledger
from execution.model import AccountMode, Fact, Side, Trade
from execution.tables import GENESIS_HASH
from portfolio.books import NO_EFFECT, Books, FillOutcome, Scope, SymbolBook
from portfolio.fifo import LotEngine
from portfolio.fills import Fill
from portfolio.matches import Allocation, FillResult
from portfolio.units import SCALE, quantity_of


@dataclass(frozen=True, slots=True)
class IntegrityFailed:
    """The books of an account are not what its facts say; `sequence` is the ledger's where it was found."""

    account: str
    sequence: int
    problem: str


class Watchdog:
    """Follows the books, fact by fact. After a fault it goes on from what it found, so that each is told once."""

    def __init__(self) -> None:
        self._hash = GENESIS_HASH
        self._held: dict[Scope, int] = {}
        """The signed sum of the quantities that the trades moved (10^-18)."""
        self._cash: dict[str, Decimal] = {}
        self._noted: dict[str, int] = {}
        """The signed quantities of trades that were noted, until what they meant is watched."""
        self._failures: list[IntegrityFailed] = []

    def begin(self, books: Books) -> None:
        """Take books as they are loaded (a snapshot is read only if its digests are right)."""
        self._hash = books.head_hash or GENESIS_HASH
        self._held = {scope: _moved(book.engine) for scope, book in books.symbols.items()}
        self._cash = {account: book.cash for account, book in books.cash.items()}

    def take(self) -> list[IntegrityFailed]:
        """What was found since the last call."""
        failures, self._failures = self._failures, []
        return failures

    def note(self, facts: Sequence[Fact], books: Books) -> None:
        """Facts were booked: the chain goes on, the money is the facts' own, the books have the same cash."""
        for fact in facts:
            if ledger.content_hash(fact, self._hash) != fact.hash:
                self._fail(fact, "its hash does not follow from its content and its predecessor")
            self._hash = fact.hash
            account = fact.account
            self._cash[account] = self._cash.get(account, ZERO) + fact.cash_effect
            if isinstance(fact, Trade):
                scope = (account, fact.symbol)
                moved = self._noted[fact.id] = _quantity_moved(fact, books.symbols[scope])
                self._held[scope] = self._held.get(scope, 0) + moved
        accounts = (facts[0].account,) if len(facts) == 1 else {fact.account for fact in facts}
        for account in accounts:
            cash = books.cash[account].cash
            if cash != self._cash[account]:
                said = f"{account}: cash {plain(cash)}, the facts add up to {plain(self._cash[account])}"
                self._failures.append(IntegrityFailed(account, facts[-1].sequence, said))
                self._cash[account] = cash

    def watch(self, outcomes: Sequence[FillOutcome], books: Books, recomputed: Collection[Scope] = ()) -> None:
        """What the noted trades meant; `recomputed` are scopes that were computed anew for it."""
        last: dict[Scope, FillOutcome] = {}
        noted, self._noted = self._noted, {}
        for outcome in outcomes:
            trade, result = outcome
            scope = (trade.account, trade.symbol)
            last[scope] = outcome
            if result is not None and result is not NO_EFFECT:
                book = books.symbols[scope]
                moved = noted.get(trade.id) or _quantity_moved(trade, book)
                for problem in _fill_problems(trade, result, book, moved):
                    self._fail(trade, problem)
        for scope, outcome in last.items():
            self._watch_book(scope, outcome, books.symbols[scope], scope in recomputed)

    def _watch_book(self, scope: Scope, outcome: FillOutcome, book: SymbolBook, recomputed: bool) -> None:
        """The book as it is after the last of its fills."""
        trade, result = outcome
        engine = book.engine
        quantity, unmatched, cost, _ = engine.units
        held = quantity - unmatched
        if held != self._held[scope]:
            said = f"holds {plain(quantity_of(held))}, the trades leave {plain(quantity_of(self._held[scope]))}"
            self._fail(trade, f"{said} (less what was sold without a lot)")
            self._held[scope] = held
        edges = engine.edges
        if edges is None:
            if quantity or cost:
                self._fail(trade, "nothing is open, but quantity or cost are not 0")
            return
        oldest, gone, fee_gone, newest = edges
        if not 0 <= gone < oldest.quantity:
            self._fail(trade, f"a lot holds less than nothing ({oldest.trade_id})")
        if result is None or recomputed:
            return
        if newest.trade_id == trade.id:
            is_only = newest is oldest
            for problem in _opened_problems(result, newest, gone if is_only else 0, fee_gone if is_only else 0):
                self._fail(trade, problem)
        if result.allocations:
            for problem in _closed_problems(trade, result, oldest, gone):
                self._fail(trade, problem)

    def _fail(self, fact: Fact, problem: str) -> None:
        what = "trade" if isinstance(fact, Trade) else "cash flow"
        name = f"{fact.account}/{fact.symbol}" if isinstance(fact, Trade) else fact.account
        said = f"{name}: {what} {fact.id} (sequence {fact.sequence}): {problem}"
        self._failures.append(IntegrityFailed(fact.account, fact.sequence, said))


def _moved(engine: LotEngine) -> int:
    quantity, unmatched, _, _ = engine.units
    return quantity - unmatched


def _quantity_moved(trade: Trade, book: SymbolBook) -> int:
    """The signed quantity that a trade moved; a fee in the base asset is a part of it."""
    quantity = _units(trade.quantity)
    sign = 1 if trade.side is Side.BUY else -1
    if trade.fee_asset == book.base_asset and trade.fee:
        fee = _units(trade.fee)
        if quantity > sign * fee:
            return sign * quantity - fee
    return sign * quantity


_UNITS = Decimal(SCALE)


def _units(value: Decimal) -> int:
    """A number that the engine has taken, in units of 10^-18: at half the cost of `to_units`, and in another way."""
    return int(value * _UNITS)


def _fill_problems(trade: Trade, result: FillResult, book: SymbolBook, moved: int) -> list[str]:
    """What does not add up in what the engine said about a trade that moved `moved` (10^-18, signed)."""
    problems = []
    pieces, unmatched, realized, fee, flagged = result
    sell = moved < 0
    if pieces:
        rest = -moved if sell else moved
        parts = pnl = 0
        for piece in pieces:
            rest -= piece[2]
            parts += (piece[8] if sell else piece[6]) or 0
            pnl += piece[10] or 0
            if not _adds_up(piece):
                problems.append(f"its allocation to {piece.buy_trade if sell else piece.sell_trade} does not add up")
        if rest and (rest < 0 or (sell and book.engine.mode is not AccountMode.MARGIN)):
            problems.append(f"its allocations miss {plain(quantity_of(rest))} of its quantity")
        if not rest and parts != fee:
            problems.append("the parts of its fee do not add up to it")
        if realized is not None and not unmatched and realized != pnl:
            problems.append("its P&L is not the sum of its allocations")
        problems += _unknown_problems(result, book)
    elif sell and book.engine.mode is not AccountMode.MARGIN:
        problems.append(f"its allocations miss {plain(quantity_of(-moved))} of its quantity")
    elif realized is not None:
        problems.append("it has a P&L without an allocation")
    problems += _fee_problems(trade, fee, flagged, book, moved)
    return problems


def _fee_problems(trade: Trade, fee: int, flagged: bool, book: SymbolBook, moved: int) -> list[str]:
    """Where cash or the engine's fee (10^-36) are not what the trade says."""
    problems = []
    charged, value = trade.fee, trade.quantity * trade.price
    outside = (value if moved < 0 else -value) - trade.cash_effect  # what cash moved beyond it
    if trade.fee_asset == book.currency:
        if outside != charged:
            problems.append(_cash_problem(trade))
        expected = _units(charged) * SCALE if charged else 0
    elif trade.fee_asset == book.base_asset:
        if outside:
            problems.append(_cash_problem(trade))
        has_value = not charged or abs(moved) != _units(trade.quantity)
        expected = _units(charged) * _units(trade.price)
        problems += _flag_problems(flagged, has_value)
    else:
        expected = int(outside.scaleb(36))
        problems += _flag_problems(flagged, not charged or bool(outside))
    if fee != (0 if flagged else expected):
        problems.append("its fee is not the one that was charged")
    return problems


def _cash_problem(trade: Trade) -> str:
    return f"cash effect {plain(trade.cash_effect)} does not follow from quantity, price and fee"


def _flag_problems(flagged: bool, has_value: bool) -> list[str]:
    if flagged != has_value:
        return []
    return [f"its fee has {'a' if has_value else 'no'} value, and the engine says otherwise"]


def _unknown_problems(result: FillResult, book: SymbolBook) -> list[str]:
    """Where the engine says a P&L that nobody knows, or does not say one that everybody does."""
    pieces, _, realized, _, flagged = result
    unknown = 0
    for piece in pieces:
        if piece[10] is None:
            unknown += 1
            if piece[1] is not None and not book.flagged_fees:
                return ["a P&L is unknown, although all fees have a value"]
        elif flagged:
            return ["a P&L is known beside a fee that could not be valued"]
    if unknown and realized is not None:
        return ["its P&L is known, although a part of it is not"]
    return []


def _adds_up(piece: Allocation) -> bool:
    """The sums inside one allocation, and that it was opened before it was closed."""
    (
        _, buy_trade, quantity, sell_price, buy_price, cost, buy_fee, proceeds, sell_fee, net, pnl, opened_at,
        closed_at, _,
    ) = piece  # fmt: skip
    if quantity <= 0 or proceeds != quantity * sell_price or net != proceeds - sell_fee:
        return False
    if buy_trade is None:
        return cost is None and pnl is None
    if cost is None or buy_price is None or buy_fee is None or opened_at is None:
        return False
    return cost == quantity * buy_price + buy_fee and pnl in (None, net - cost) and opened_at <= closed_at


def _opened_problems(result: FillResult, lot: Fill, gone: int, fee_gone: int) -> list[str]:
    """What is wrong with the lot that a trade opened, of which and of whose fee so much went to what it closed."""
    problems = []
    pieces, _, _, fee, flagged = result
    closed = parts = 0
    for piece in pieces:
        closed += piece[2]
        parts += (piece[8] if lot.sign < 0 else piece[6]) or 0
    if (lot.fee - fee_gone) * lot.grain + parts != fee:
        problems.append("the parts of its fee and what is left of it do not add up to it")
    if gone != closed:
        problems.append("what it closed and what it opened are not its quantity")
    if lot.flagged != flagged:
        problems.append("what it opened does not know whether its fee has a value")
    return problems


def _closed_problems(trade: Trade, result: FillResult, lot: Fill, gone: int) -> list[str]:
    """What is wrong with the share of the oldest lot that a trade took, if it did; so much of the lot is gone."""
    problems = []
    sell = trade.side is Side.SELL
    piece = result.allocations[-1]
    if (piece.buy_trade if sell else piece.sell_trade) == lot.trade_id:
        before = gone - piece.quantity_units
        due = (lot.fee * gone // lot.quantity - lot.fee * before // lot.quantity) * lot.grain
        if before < 0 or due != (piece.buy_fee_units if sell else piece.sell_fee_units):
            problems.append(f"its share of the fee of {lot.trade_id} is not what it must be")
        if (piece.pnl_units is None) != (result.fee_flagged or lot.flagged):
            problems.append(f"its P&L against {lot.trade_id} is not known or unknown as the fees say")
    return problems
