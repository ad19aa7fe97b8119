"""What limits on losses compare with: the day's start and the highest equity of each account.

A deposit is no profit and a withdrawal no loss. The day is measured in P&L, equity less what was paid in, which
no flow changes; the highest equity is scaled by each flow, so that the drawdown stays what it was:

    peak = peak x equity / (equity - flow)
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection

from config.exact import ZERO, divide, plain
from config.times import stored_time
from execution import raw, tables

_select = raw.Select(tables.risk_marks)


@dataclass(frozen=True, slots=True)
class LossMarks:
    """`day` (UTC), the P&L at its start, the highest equity, and the net deposits that this equity contains."""

    day: date
    day_start_pnl: Decimal
    peak_equity: Decimal
    deposited: Decimal


def trading_day(instant: datetime) -> date:
    """The UTC day that an instant belongs to; midnight ends a day, as a daily candle that closes then does."""
    return (instant - timedelta(microseconds=1)).date()


def advanced(
    marks: LossMarks | None, day: date, equity: Decimal, deposited: Decimal, last_pnl: Decimal | None
) -> LossMarks:
    """The marks after a measurement. `last_pnl` is the P&L of the one before, with which a new day starts."""
    pnl = equity - deposited
    if marks is None:
        return LossMarks(day, pnl, equity, deposited)
    start = marks.day_start_pnl
    if day > marks.day:
        start = pnl if last_pnl is None else last_pnl
    peak = _after_flow(marks.peak_equity, equity, deposited - marks.deposited)
    return LossMarks(max(day, marks.day), start, max(peak, equity), deposited)


def _after_flow(peak: Decimal, equity: Decimal, flow: Decimal) -> Decimal:
    if not flow:
        return peak
    before = equity - flow
    if before <= ZERO or equity <= ZERO:
        return equity  # nothing was there, or nothing is left: it starts anew
    return divide(peak * equity, before, 8)


def read(connection: Connection) -> dict[str, LossMarks]:
    """The stored marks by account."""
    return {
        account: LossMarks(date.fromisoformat(day), start, peak, deposited)
        for account, day, start, peak, deposited, _ in _select.rows(connection)
    }


def store(connection: Connection, account: str, marks: LossMarks | None, at: datetime) -> None:
    """Store the marks of an account; None: forget them."""
    if marks is None:
        raw.execute(connection, "DELETE FROM risk_marks WHERE account = ?", (account,))
        return
    raw.execute(
        connection,
        "INSERT INTO risk_marks (account, day, day_start_pnl, peak_equity, deposited, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (account) DO UPDATE SET day = excluded.day,"
        " day_start_pnl = excluded.day_start_pnl, peak_equity = excluded.peak_equity,"
        " deposited = excluded.deposited, updated_at = excluded.updated_at",
        (
            account,
            marks.day.isoformat(),
            plain(marks.day_start_pnl),
            plain(marks.peak_equity),
            plain(marks.deposited),
            stored_time(at),
        ),
    )
