"""Which lots people chose for their sells: what specific identification goes by."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection

from execution import raw
from portfolio import tables
from portfolio.lots import Selection
from portfolio.units import units_of_text


@dataclass(frozen=True, slots=True)
class NewSelection:
    """A closing trade takes `quantity` base units of an opening one."""

    closing_trade: str
    opening_trade: str
    quantity: Decimal


_insert = raw.Insert(tables.lot_selections)


def stored(connection: Connection) -> dict[str, list[Selection]]:
    """All selections by closing trade, in the order in which they were given."""
    found: dict[str, list[Selection]] = {}
    sql = "SELECT closing_trade, opening_trade, quantity FROM lot_selections ORDER BY closing_trade, position"
    for closing, opening, quantity in raw.execute(connection, sql).fetchall():
        found.setdefault(closing, []).append(Selection(opening, units_of_text(quantity)))
    return found


def choose(connection: Connection, chosen: Iterable[NewSelection], by: str, now: datetime) -> int:
    """Store selections in the place of those that their closing trades had; returns how many."""
    lines: dict[str, list[NewSelection]] = {}
    for selection in chosen:
        lines.setdefault(selection.closing_trade, []).append(selection)
    for closing_trade, selected in lines.items():
        raw.execute(connection, "DELETE FROM lot_selections WHERE closing_trade = ?", (closing_trade,))
        _insert.rows(
            connection,
            [
                (closing_trade, position, line.opening_trade, line.quantity, by, now)
                for position, line in enumerate(selected)
            ],
        )
    return sum(map(len, lines.values()))
