"""Realized P&L by symbol, month or cause, of any period and version: sums over stored allocations.

A row belongs to the period in which it was closed. Sums are exact integers straight from the driver's rows;
parts of sells for which no buy is known are summed apart, never with a cost of zero, and so are parts beside a fee
that could not be valued.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Connection

from config.exact import plain
from config.times import NotATime, parse_time, stored_time
from execution import raw
from execution.model import Json
from portfolio.books import Books
from portfolio.errors import PortfolioError
from portfolio.lots import Method
from portfolio.units import MONEY_DIGITS, QUANTITY_DIGITS, money_of, quantity_of


class By(StrEnum):
    """What a report is grouped by."""

    SYMBOL = "symbol"
    MONTH = "month"
    TRIGGERED_BY = "triggered_by"


# ---- periods ------------------------------------------------------------------------------------------------

PERIOD_FORMS = "last-30-days, 2025, 2025-03, 2025-03-15, or FROM..TO of such dates or of RFC 3339 times"
_LAST_DAYS = re.compile(r"last-([1-9][0-9]{0,4})-days?", re.ASCII)
_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?", re.ASCII)


class BadPeriod(PortfolioError):
    """The text is not a period."""


class Period(NamedTuple):
    """From an instant on (None: since ever) until before another (None: for ever), in UTC."""

    start: datetime | None = None
    end: datetime | None = None

    def to_wire(self) -> dict[str, Json]:
        """The JSON form; the end is not part of it."""
        return {"from": _edge(self.start), "to": _edge(self.end)}


ALWAYS = Period()


def _edge(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat().removesuffix("+00:00") + "Z"


def parse_period(text: str, now: datetime) -> Period:
    """A period in words. A year, month or day is the whole of it; FROM..TO ends where TO begins, so that neighbours
    never share a trade; the days of `last-N-days` end now. Raises BadPeriod."""
    if found := _LAST_DAYS.fullmatch(text):
        try:
            return Period(now - timedelta(days=int(found[1])), now)
        except OverflowError:
            raise BadPeriod(f"a period: {PERIOD_FORMS}, not {text!r}: so long ago there is no date") from None
    first, dots, last = text.partition("..")
    if not dots:
        return _span(text)
    start = _span(first).start if first else None
    end = _span(last).start if last else None
    if start is not None and end is not None and start >= end:
        raise BadPeriod(f"a period whose end comes after its start, not {text!r}")
    return Period(start, end)


def _span(text: str) -> Period:
    """A year, month, day or instant."""
    found = _DATE.fullmatch(text)
    try:
        if found is None:
            instant = parse_time(text)
            return Period(instant, instant)
        year, month, day = int(found[1]), int(found[2] or 1), int(found[3] or 1)
        start = datetime(year, month, day, tzinfo=UTC)
        if found[3]:
            return Period(start, start + timedelta(days=1))
        if found[2]:
            return Period(start, datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC))
        return Period(start, datetime(year + 1, 1, 1, tzinfo=UTC))
    except (NotATime, ValueError, OverflowError):
        raise BadPeriod(f"a period: {PERIOD_FORMS}, not {text!r}") from None


# ---- realized P&L -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Line:
    """The sums of one group. Money in units of 10^-36, quantities in units of 10^-18.

    `quantity`, `proceeds`, `fees`, `cost` and `pnl` are of the parts whose P&L is known: pnl = proceeds - fees -
    cost; `fees` are the shares of the closing trades' fees, those of the opening ones are in the cost. `unvalued` is
    the quantity of parts beside a fee that could not be valued. None: not summed.
    """

    group: str
    sells: int = 0
    wins: int = 0
    pnl: int = 0
    unmatched: int = 0
    quantity: int | None = 0
    proceeds: int | None = 0
    fees: int | None = 0
    cost: int | None = 0
    unmatched_proceeds: int | None = 0
    unvalued: int | None = 0
    flagged: bool = False
    """Whether fees are missing that could not be valued."""

    @property
    def incomplete(self) -> bool:
        """Whether a part of the P&L is unknown."""
        return bool(self.unmatched) or self.flagged

    def add(self, other: "Line") -> None:
        """Add another group's sums."""
        for name in (
            "sells",
            "wins",
            "pnl",
            "unmatched",
            "quantity",
            "proceeds",
            "fees",
            "cost",
            "unmatched_proceeds",
            "unvalued",
        ):
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, None if mine is None or theirs is None else mine + theirs)
        self.flagged = self.flagged or other.flagged

    def money(self, name: str) -> Decimal | None:
        """One of the amounts."""
        units = getattr(self, name)
        return None if units is None else money_of(units)

    @property
    def matched_quantity(self) -> Decimal | None:
        """What was sold of what had been bought, with a known P&L."""
        return None if self.quantity is None else quantity_of(self.quantity)

    @property
    def unmatched_quantity(self) -> Decimal:
        """What was sold without a known buy."""
        return quantity_of(self.unmatched)

    @property
    def unvalued_quantity(self) -> Decimal | None:
        """What was sold of what had been bought, beside a fee that could not be valued."""
        return None if self.unvalued is None else quantity_of(self.unvalued)

    def to_wire(self, by: By | None) -> dict[str, Json]:
        """The JSON form; without a group for a total."""
        amounts = {name: self.money(name) for name in ("proceeds", "fees", "cost", "unmatched_proceeds")}
        texts: dict[str, Json] = {key: None if value is None else plain(value) for key, value in amounts.items()}
        quantity, unvalued = self.matched_quantity, self.unvalued_quantity
        head: dict[str, Json] = {} if by is None else {str(by): self.group}
        return {
            **head,
            "sells": self.sells,
            "wins": self.wins,
            # Quantities of different symbols do not add up to anything.
            "quantity": plain(quantity) if by is By.SYMBOL and quantity is not None else None,
            "proceeds": texts["proceeds"],
            "fees": texts["fees"],
            "cost_basis": texts["cost"],
            "realized_pnl": plain(money_of(self.pnl)),
            "unmatched_quantity": plain(self.unmatched_quantity) if by is By.SYMBOL else None,
            "unmatched_proceeds": texts["unmatched_proceeds"],
            "unvalued_quantity": plain(unvalued) if by is By.SYMBOL and unvalued is not None else None,
            "incomplete": self.incomplete,
        }


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: of which account, symbol and method, in which period, as of which version (None: now)."""

    by: By = By.SYMBOL
    account: str | None = None
    symbol: str | None = None
    method: Method = Method.FIFO
    period: Period = ALWAYS
    version: int | None = None


def total(lines: list[Line]) -> Line:
    """The sum of all groups."""
    whole = Line("total")
    for line in lines:
        whole.add(line)
    return whole


_CLOSES_SHORT = "(a.buy_at > a.sell_at)"
_COLUMNS = (
    "a.symbol, a.sell_trade, a.buy_trade, a.quantity, a.proceeds, a.sell_fee, a.cost_basis, a.buy_fee, a.pnl,"
    f" a.closed_at, {_CLOSES_SHORT}"
)


def realized(connection: Connection, question: Question, progress: Callable[[int], None] | None = None) -> list[Line]:
    """The sums of each group, in its order. `progress` is told the rows done."""
    tags = question.by is By.TRIGGERED_BY
    join = (
        f" JOIN trades t ON t.id = CASE WHEN {_CLOSES_SHORT} THEN a.buy_trade ELSE a.sell_trade END" if tags else ""
    )
    where, parameters = _where(question)
    sql = (
        f"SELECT {_COLUMNS}{', t.triggered_by' if tags else ''} FROM fifo_allocations a{join} WHERE {where}"
        " ORDER BY a.account, a.symbol, a.method, a.closed_at, a.id"
    )
    lines: dict[str, Line] = {}
    for group, rows in _closings(raw.execute(connection, sql, parameters), question.by, progress):
        line = lines.get(group)
        if line is None:
            line = lines[group] = Line(group)
        _add(line, rows)
    return [lines[group] for group in sorted(lines)]


def _where(question: Question) -> tuple[str, list[Any]]:
    where, parameters = ["a.method = ?"], [str(question.method)]
    for column, value in (("account", question.account), ("symbol", question.symbol)):
        if value is not None:
            where.append(f"a.{column} = ?")
            parameters.append(value)
    if question.version is None:
        where.append("a.to_version IS NULL")
    else:
        where.append("a.from_version <= ? AND (a.to_version IS NULL OR a.to_version >= ?)")
        parameters += [question.version, question.version]  # type: ignore[list-item]  # driver values of mixed type
    start, end = question.period
    if start is not None:
        where.append("a.closed_at >= ?")
        parameters.append(stored_time(start.astimezone(UTC)))
    if end is not None:
        where.append("a.closed_at < ?")
        parameters.append(stored_time(end.astimezone(UTC)))
    return " AND ".join(where), parameters


def _closings(
    cursor: Any, by: By, progress: Callable[[int], None] | None
) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """The rows of one closing trade after another, each with its group."""
    rows: list[tuple[Any, ...]] = []
    last = None
    done = 0
    while batch := cursor.fetchmany(5_000):
        for row in batch:
            closing = row[2] if row[10] else row[1]
            if closing != last and rows:
                yield _group(rows[0], by), rows
                rows = []
            last = closing
            rows.append(row)
        done += len(batch)
        if progress is not None:
            progress(done)
    if rows:
        yield _group(rows[0], by), rows


def _group(row: tuple[Any, ...], by: By) -> str:
    if by is By.SYMBOL:
        return str(row[0])
    return str(row[9][:7] if by is By.MONTH else row[11])


def _add(line: Line, rows: list[tuple[Any, ...]]) -> None:
    """Add one closing trade."""
    assert line.quantity is not None
    assert line.proceeds is not None
    assert line.fees is not None
    assert line.cost is not None
    assert line.unmatched_proceeds is not None
    assert line.unvalued is not None
    line.sells += 1
    pnl = 0
    whole = True
    for _, _, buy, quantity, proceeds, sell_fee, cost, _, row_pnl, _, _, *_ in rows:
        if buy is None:
            whole = False
            line.unmatched += _units(quantity, QUANTITY_DIGITS)
            line.unmatched_proceeds += _units(proceeds, MONEY_DIGITS) - _units(sell_fee, MONEY_DIGITS)
            continue
        if row_pnl is None:
            whole = False
            line.flagged = True
            line.unvalued += _units(quantity, QUANTITY_DIGITS)
            continue
        pnl += _units(row_pnl, MONEY_DIGITS)
        line.quantity += _units(quantity, QUANTITY_DIGITS)
        line.proceeds += _units(proceeds, MONEY_DIGITS)
        if sell_fee != "0":
            line.fees += _units(sell_fee, MONEY_DIGITS)
        line.cost += _units(cost, MONEY_DIGITS)
    line.pnl += pnl
    line.wins += whole and pnl > 0


def _units(text: str, digits: int) -> int:
    whole, _, part = text.partition(".")
    return int(whole + part.ljust(digits, "0"))


def from_books(books: Books, question: Question) -> list[Line]:
    """The same of everything by symbol, from the books alone: at once however many trades there are, without
    quantities, proceeds, fees and cost."""
    lines: dict[str, Line] = {}
    for (account, symbol), book in sorted(books.symbols.items()):
        if question.account not in (None, account) or question.symbol not in (None, symbol) or not book.closing_sells:
            continue
        found = Line(symbol, quantity=None, proceeds=None, fees=None, cost=None)
        found.unmatched_proceeds = found.unvalued = None
        found.sells, found.wins = book.closing_sells, book.winning_sells
        found.pnl = int(book.engine.realized_pnl.scaleb(MONEY_DIGITS))
        found.unmatched = int(book.engine.unmatched_quantity.scaleb(QUANTITY_DIGITS))
        found.flagged = bool(book.flagged_fees)
        if symbol in lines:
            lines[symbol].add(found)
        else:
            lines[symbol] = found
    return [lines[symbol] for symbol in sorted(lines)]


def flagged_symbols(books: Books, account: str | None = None) -> set[str]:
    """Symbols with a fee that could not be valued: a P&L beside it is unknown, or will be when it is closed."""
    return {
        symbol for (owner, symbol), book in books.symbols.items() if account in (None, owner) and book.flagged_fees
    }
