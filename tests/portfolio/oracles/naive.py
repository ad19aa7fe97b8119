"""A second opinion on every method of matching: slow, obvious, in fractions, and written from the specification.

Nothing of the product's engines is used: lots are a plain list that is searched from its start for each piece,
every share is computed from its definition, every sum is taken anew. The definitions:

- A trade moves its quantity; a fee in the base asset makes a buy receive less and a sell take more (when that
  leaves nothing, the fee counts for nothing). The fee's value in quote is the fee; or the base fee at the
  trade's price; or, in a third asset, what the cash effect goes beyond quantity x price.
- The share of a fee F that belongs to the part [a, b) of a trade of size S is floor(F*b/S) - floor(F*a/S), in
  steps of 10^-18 for a quote fee and of 10^-36 for any other.
- A fee that is charged and has no value (in a third asset without a mark: no cash went beyond quantity x price; or
  a base fee that leaves nothing) makes the P&L unknown of every row that has a part of its trade on either side;
  what the row cost and brought is said without it. By average cost a part of it is in every row that is taken from a
  pool into which such a trade went, and the pool has it until it is empty.
- Average cost: of a pool C that holds Q, what stays after taking q is floor(C*(Q-q)/Q) in steps of 10^-36.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from execution.model import Side, Trade

COARSE = Fraction(1, 10**18)
FINE = Fraction(1, 10**36)
ZERO = Fraction(0)


def floor_to(value: Fraction, step: Fraction) -> Fraction:
    """`value` down to a multiple of `step`."""
    return math.floor(value / step) * step


def size_of(trade: Trade) -> Fraction:
    """The quantity that a trade moved."""
    quantity, fee = Fraction(trade.quantity), Fraction(trade.fee)
    if trade.fee_asset != "BTC":
        return quantity
    moved = quantity - fee if trade.side is Side.BUY else quantity + fee
    return moved if moved > 0 else quantity


def fee_of(trade: Trade) -> Fraction:
    """The value of a trade's fee in quote currency."""
    quantity, price, fee = Fraction(trade.quantity), Fraction(trade.price), Fraction(trade.fee)
    if trade.fee_asset == "USD":
        return fee
    if trade.fee_asset == "BTC":
        eaten_whole = (quantity - fee if trade.side is Side.BUY else quantity + fee) <= 0
        return ZERO if eaten_whole else fee * price
    if not fee:
        return ZERO
    if trade.side is Side.BUY:
        return -Fraction(trade.cash_effect) - quantity * price
    return quantity * price - Fraction(trade.cash_effect)


def has_unknown_fee(trade: Trade) -> bool:
    """Whether a fee was charged that nobody can put a value on."""
    if not trade.fee or trade.fee_asset == "USD":
        return False
    if trade.fee_asset == "BTC":
        moved = trade.quantity - trade.fee if trade.side is Side.BUY else trade.quantity + trade.fee
        return moved <= 0
    in_cash = -trade.cash_effect if trade.side is Side.BUY else trade.cash_effect
    return in_cash == trade.quantity * trade.price


def fee_share(trade: Trade, begin: Fraction, end: Fraction) -> Fraction:
    """The share of a trade's fee that belongs to its part from `begin` to `end`."""
    step = COARSE if trade.fee_asset == "USD" else FINE
    fee, size = fee_of(trade), size_of(trade)
    return floor_to(fee * end / size, step) - floor_to(fee * begin / size, step)


def unit_cost(trade: Trade) -> Fraction:
    """What a unit of an opening trade cost with its fee (of a short sale: what it brought)."""
    fee = fee_of(trade) if trade.side is Side.BUY else -fee_of(trade)
    return Fraction(trade.price) + fee / size_of(trade)


@dataclass
class NaiveLot:
    """The part of an opening trade from `begin` on that is still open."""

    trade: Trade
    begin: Fraction

    @property
    def left(self) -> Fraction:
        """The open quantity."""
        return size_of(self.trade) - self.begin

    @property
    def cost(self) -> Fraction:
        """What the open part cost; of a short lot what it brought."""
        fee = fee_share(self.trade, self.begin, size_of(self.trade))
        value = self.left * Fraction(self.trade.price)
        return value + fee if self.trade.side is Side.BUY else value - fee


class Piece(NamedTuple):
    """A row of allocations; None where a sell found nothing, P&L also where a fee has no value."""

    sell: str
    buy: str | None
    quantity: Fraction
    cost: Fraction | None
    proceeds: Fraction
    net: Fraction
    pnl: Fraction | None


Chosen = list[tuple[str, Fraction]]
Choose = Callable[[Trade, Sequence[NaiveLot]], Chosen]
"""Asked for each closing trade which of the open lots it takes, for specific identification."""


@dataclass
class Naive:
    """The books of one account and symbol by one method."""

    method: str
    margin: bool
    choose: Choose | None = None
    lots: list[NaiveLot] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    pool: Fraction = ZERO
    """Average cost: what the open lots cost, or brought when they are short."""
    pooled: list[Trade] = field(default_factory=list)
    """Average cost: the trades that went into the pool since it was empty."""

    def book(self, trades: Sequence[Trade]) -> "Naive":
        """Book trades in their order."""
        for trade in trades:
            self._book(trade)
        return self

    def _book(self, trade: Trade) -> None:
        done = ZERO
        chosen = list(self.choose(trade, self.lots)) if self.choose and self._closes(trade) else []
        while done < size_of(trade) and self._closes(trade):
            lot, most = self._next(chosen)
            piece = min(lot.left, size_of(trade) - done, most)
            self._match(trade, done, lot, piece)
            done += piece
            lot.begin += piece
            self.lots = [lot for lot in self.lots if lot.left]
            if not self.lots:
                self.pooled = []
        if done == size_of(trade):
            return
        if trade.side is Side.BUY or self.margin:
            lot = NaiveLot(trade, done)
            self.lots.append(lot)
            self.pool += lot.cost
            self.pooled.append(trade)
        else:
            rest = size_of(trade) - done
            proceeds = rest * Fraction(trade.price)
            net = proceeds - fee_share(trade, done, size_of(trade))
            self.pieces.append(Piece(trade.id, None, rest, None, proceeds, net, None))

    def _closes(self, trade: Trade) -> bool:
        return bool(self.lots) and self.lots[0].trade.side is not trade.side

    def _next(self, chosen: Chosen) -> tuple[NaiveLot, Fraction]:
        """The lot to take from, and at most how much."""
        if chosen:
            wanted, quantity = chosen.pop(0)
            return next(lot for lot in self.lots if lot.trade.id == wanted), quantity
        first, last = self.lots[0], self.lots[-1]
        by_cost = [unit_cost(lot.trade) for lot in self.lots]
        lot = {
            "lifo": last,
            "hifo": self.lots[by_cost.index(max(by_cost))],
            "lofo": self.lots[by_cost.index(min(by_cost))],
        }.get(self.method, first)
        return lot, lot.left

    def _match(self, trade: Trade, done: Fraction, lot: NaiveLot, piece: Fraction) -> None:
        opened, price = lot.trade, Fraction(trade.price)
        value = piece * price
        fee = fee_share(trade, done, done + piece)
        opened_value = piece * Fraction(opened.price)
        opened_fee = fee_share(opened, lot.begin, lot.begin + piece)
        long = opened.side is Side.BUY
        taken = opened_value + opened_fee if long else opened_value - opened_fee
        if self.method == "average":
            taken = self._out_of_the_pool(piece)
            opened_value = taken
        if long:
            found = Piece(trade.id, opened.id, piece, taken, value, value - fee, value - fee - taken)
        else:
            found = Piece(opened.id, trade.id, piece, value + fee, opened_value, taken, taken - value - fee)
        behind = self.pooled if self.method == "average" else [opened]
        if any(map(has_unknown_fee, [trade, *behind])):
            found = found._replace(pnl=None)
        self.pieces.append(found)

    def _out_of_the_pool(self, piece: Fraction) -> Fraction:
        held = sum((lot.left for lot in self.lots), ZERO)
        stays = floor_to(self.pool * (held - piece) / held, FINE)
        taken, self.pool = self.pool - stays, stays
        return taken

    # ---- results ------------------------------------------------------------------------------------------

    @property
    def remaining(self) -> list[tuple[str, Fraction, Fraction]]:
        """(trade, quantity, cost) of the open lots; both negative when short."""
        found = []
        for lot in self.lots:
            sign = 1 if lot.trade.side is Side.BUY else -1
            found.append((lot.trade.id, sign * lot.left, sign * lot.cost))
        return found

    @property
    def cost_basis(self) -> Fraction:
        """The cost of what is open; negative when short."""
        if self.method == "average":
            return -self.pool if self.lots and self.lots[0].trade.side is Side.SELL else self.pool
        return sum((cost for _, _, cost in self.remaining), ZERO)

    @property
    def realized(self) -> Fraction:
        """The known P&L."""
        return sum((piece.pnl for piece in self.pieces if piece.pnl is not None), ZERO)

    @property
    def unmatched(self) -> Fraction:
        """What was sold without a lot."""
        return sum((piece.quantity for piece in self.pieces if piece.buy is None), ZERO)


def book(
    trades: Sequence[Trade],
    *,
    method: str = "fifo",
    margin: bool = False,
    selections: Mapping[str, Chosen] | None = None,
) -> Naive:
    """The books of trades in their order; `selections` by closing trade."""
    chosen = selections or {}
    return Naive(method, margin, lambda trade, _: chosen.get(trade.id, [])).book(trades)
