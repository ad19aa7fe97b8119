"""beancount's booking of lots as a second opinion: it decides which lots a trade closes, and how much of each.

Trades go in as text in beancount's own language, one transaction each, with the trade's id as the label of its
lot. Its dates have no time: trades of one instant share a day and keep the order of their lines, trades of
different instants are on different days.
"""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from beancount.core.data import Transaction
from beancount.parser import booking, parser

ZERO = Decimal(0)
_FIRST_DAY = date(2020, 1, 1)


class Movement(NamedTuple):
    """A trade as beancount gets it: `quantity` below 0 for a sell, `cost` is what a unit costs (or brings)."""

    id: str
    instant: object
    quantity: Decimal
    cost: Decimal


class Booked(NamedTuple):
    """What beancount made of it: (closing, opening, quantity) in order, what is open, and the P&L in units times
    the difference of unit costs; `cut` is what no lot covers, which it was not told of."""

    closed: list[tuple[str, str, Decimal]]
    open: dict[str, Decimal]
    pnl: Decimal
    cut: dict[str, Decimal]


def book(movements: Iterable[Movement], *, method: str = "FIFO", margin: bool = False) -> Booked:
    """Let beancount match trades in their order, cut to what its language can say: a flip is two postings, and of
    a spot sell only what is there is handed over."""
    lines, cut = _lines(list(movements), method, margin)
    entries, errors, options = parser.parse_string("\n".join(lines))
    assert errors == [], errors
    booked, errors = booking.book(entries, options)  # type: ignore[no-untyped-call]  # theirs
    assert errors == [], errors
    return _read([entry for entry in booked if isinstance(entry, Transaction)], cut)


def _lines(movements: Sequence[Movement], method: str, margin: bool) -> tuple[list[str], dict[str, Decimal]]:
    lines = [f'2019-01-01 open Assets:Coins COIN "{method}"', "2019-01-01 open Assets:Cash"]
    held = ZERO
    cut: dict[str, Decimal] = {}
    day, instant = _FIRST_DAY, None
    for movement in movements:
        if instant is not None and movement.instant != instant:
            day += timedelta(days=1)
        instant = movement.instant
        quantity = movement.quantity
        closing = _towards_zero(held, quantity)
        opening = quantity - closing
        if opening < 0 and not margin:
            cut[movement.id] = -opening
            opening = ZERO
        held += closing + opening
        if closing:
            lines += _transaction(day, movement, closing, f"{{}} @ {movement.cost:f} USD")
        if opening:
            lines += _transaction(day, movement, opening, f'{{{movement.cost:f} USD, "{movement.id}"}}')
    return lines, cut


def _towards_zero(held: Decimal, quantity: Decimal) -> Decimal:
    """The part of a movement that closes what is held."""
    if held * quantity >= 0:
        return ZERO
    return quantity if abs(quantity) <= abs(held) else -held


def _transaction(day: date, movement: Movement, quantity: Decimal, lot: str) -> list[str]:
    return [f'{day} * "{movement.id}"', f"  Assets:Coins  {quantity:f} COIN {lot}", "  Assets:Cash"]


def _read(transactions: Sequence[Any], cut: dict[str, Decimal]) -> Booked:
    closed: list[tuple[str, str, Decimal]] = []
    left: dict[str, Decimal] = {}
    pnl = ZERO
    for transaction in transactions:
        for posting in transaction.postings:
            if posting.account != "Assets:Coins":
                continue
            quantity, label = posting.units.number, posting.cost.label
            left[label] = left.get(label, ZERO) + quantity
            if posting.price is not None:
                closed.append((transaction.narration, label, abs(quantity)))
                pnl -= quantity * (posting.price.number - posting.cost.number)
    return Booked(closed, {label: quantity for label, quantity in left.items() if quantity}, pnl, cut)
