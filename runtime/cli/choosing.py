"""`--selections FILE`: which lots people chose for their sells, checked before anything is stored."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli.base import USAGE, CommandFailed, Place, say

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from execution.model import Trade
    from portfolio.selections import NewSelection

_COLUMNS = ["closing_trade", "opening_trade", "quantity"]
_FAULTS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the file, with its number."""

    number: int
    closing_trade: str
    opening_trade: str
    quantity: str


def store_selections(place: Place, path: Path) -> None:
    """Check a file of selections and store it. A decision of a person, like the settlement of a review: it needs no
    role, only a short transaction. Raises CommandFailed with every line at fault; nothing is stored then."""
    from portfolio import selections
    from runtime.clock import WallClock

    lines = _read(path)
    chosen = place.read(lambda connection: _checked(connection, lines))
    from runtime.cli.offline import change

    stored = change(
        place, lambda connection: selections.choose(connection, chosen, "cli", WallClock().recorded_now())
    )
    say(f"{stored} selection{'' if stored == 1 else 's'} stored")


def _read(path: Path) -> list[_Line]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_lines(path, csv.reader(file)))
    except UnicodeDecodeError:
        raise CommandFailed(f"{path}: expected UTF-8 text", USAGE) from None
    except csv.Error as error:
        raise CommandFailed(f"{path}: {error}", USAGE) from None


def _lines(path: Path, rows: "Iterator[list[str]]") -> Iterator[_Line]:
    head = next(rows, [])
    if [name.strip() for name in head] != _COLUMNS:
        raise CommandFailed(f"{path}:1: expected the columns {','.join(_COLUMNS)}, not {','.join(head)!r}", USAGE)
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(_COLUMNS):
            raise CommandFailed(f"{path}:{number}: expected {len(_COLUMNS)} values, not {len(row)}", USAGE)
        yield _Line(number, *(value.strip() for value in row))


def _checked(connection: "Connection", lines: list[_Line]) -> "list[NewSelection]":
    """The selections, if every line is possible. Raises CommandFailed."""
    from portfolio.selections import NewSelection

    faults: list[str] = []
    chosen: list[NewSelection] = []
    allocated: dict[str, Decimal] = {}
    for line in lines:
        fault, selection = _check_line(connection, line, allocated)
        if fault is not None:
            faults.append(f"line {line.number}: {fault}")
        elif selection is not None:
            chosen.append(selection)
    if not faults:
        faults = _tried(connection, chosen)
    if faults:
        more = [] if len(faults) <= _FAULTS_SHOWN else [f"... and {len(faults) - _FAULTS_SHOWN} more"]
        said = "\n".join(f"  {fault}" for fault in [*faults[:_FAULTS_SHOWN], *more])
        raise CommandFailed(f"selections at fault, nothing was stored:\n{said}", USAGE)
    return chosen


def _check_line(
    connection: "Connection", line: _Line, allocated: dict[str, Decimal]
) -> "tuple[str | None, NewSelection | None]":
    from config.exact import ZERO, NotADecimal, parse_decimal, plain
    from portfolio.errors import UnknownTrade
    from portfolio.explain import find_trade
    from portfolio.selections import NewSelection

    try:
        closing, opening = find_trade(connection, line.closing_trade), find_trade(connection, line.opening_trade)
        quantity = parse_decimal(line.quantity)
    except UnknownTrade as error:
        return f"expected {error}", None
    except NotADecimal as error:
        return f"quantity: expected {error}, not {line.quantity!r}", None
    if quantity <= 0:
        return f"quantity: expected above 0, not {line.quantity}", None
    fault = _pair_fault(closing, opening)
    if fault is not None:
        return fault, None
    whole = allocated[closing.id] = allocated.get(closing.id, ZERO) + quantity
    if whole > closing.quantity + (closing.fee if closing.fee_asset == _base(closing) else ZERO):
        return f"quantity: {plain(whole)} of {closing.id}, which is only {plain(closing.quantity)}", None
    if quantity > opening.quantity:
        return f"quantity: {line.quantity} of {opening.id}, which is only {plain(opening.quantity)}", None
    return None, NewSelection(closing.id, opening.id, quantity)


def _pair_fault(closing: "Trade", opening: "Trade") -> str | None:
    if (closing.account, closing.symbol) != (opening.account, opening.symbol):
        there, here = f"{opening.account} {opening.symbol}", f"{closing.account} {closing.symbol}"
        return f"opening_trade: expected a trade of {here}, not of {there}"
    if closing.side is opening.side:
        return f"opening_trade: expected the other side of the {closing.side}, not a {opening.side} as well"
    if opening.order_key > closing.order_key:
        return (
            f"opening_trade: {opening.id} was executed at {opening.executed_at:%Y-%m-%d %H:%M:%S}, after the trade"
            f" that it is to be closed by ({closing.executed_at:%Y-%m-%d %H:%M:%S})"
        )
    return None


def _base(trade: "Trade") -> str:
    return trade.symbol.partition("-")[0]


def _tried(connection: "Connection", chosen: "list[NewSelection]") -> list[str]:
    """What the engine says of the selections together with those that are stored: a lot may be taken already."""
    from execution import ledger
    from portfolio import batch, selections
    from portfolio.errors import FifoError
    from portfolio.lots import Method, Selection
    from portfolio.units import to_units

    known: dict[str, list[Selection]] = selections.stored(connection)
    fresh: dict[str, list[Selection]] = {}
    for item in chosen:
        fresh.setdefault(item.closing_trade, []).append(Selection(item.opening_trade, to_units(item.quantity)))
    merged = {**known, **fresh}
    accounts, head = ledger.accounts(connection), ledger.head(connection).sequence
    trades = ledger.find_trades(connection, list(fresh))
    faults = []
    for account, symbol in sorted({(trade.account, trade.symbol) for trade in trades.values()}):
        try:
            batch.compute(connection, accounts[account], symbol, head, method=Method.SPECIFIC, selections=merged)
        except FifoError as error:
            faults.append(f"{account} {symbol}: {error}")
    return faults
