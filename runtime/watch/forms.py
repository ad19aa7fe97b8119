"""How single values are shown: percents, score bars, times, ages."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from rich.text import Text

from runtime.cli.output import MISSING, age, number
from runtime.watch.model import Watch
from runtime.watch.tables import QUIET

BAR = 4
"""Cells on each side of a score bar; twice as many where there is room."""
_OLD = timedelta(days=30)
_STALE_SECONDS = 60


def percent(value: Decimal | None) -> Text:
    """A P&L in percent, with its sign and colour."""
    if value is None:
        return Text(MISSING)
    text = number(value, least=2, most=2) + " %"
    return Text(f"+{text}", style="green") if value > 0 else Text(text, style="red" if value < 0 else "")


def score_bar(score: float | None, half: int = BAR, threshold: float | None = None) -> Text:
    """A score as a bar around its middle: `[----|##--]` is +0.5; the left half is for sells.

    A colon marks the threshold on both sides; whatever reaches the threshold covers it.
    """
    if score is None:
        return Text("[" + " " * half + "|" + " " * half + "]", style=QUIET)
    filled = _cells(score, half)
    empty = _empty_half(half, threshold)
    if threshold is not None and abs(score) >= threshold:
        filled = max(filled, 1)
    bar = Text("[", style=QUIET)
    if score < 0:
        bar.append(empty[filled:][::-1]).append("#" * filled, style="bold red").append(f"|{empty}")
    else:
        bar.append(f"{empty[::-1]}|").append("#" * filled, style="bold green").append(empty[filled:])
    return bar.append("]")


def _cells(score: float, half: int) -> int:
    return min(half, round(abs(score) * half))


def _empty_half(half: int, threshold: float | None) -> str:
    """The half of a bar without a score, from the middle outwards."""
    cells = ["-"] * half
    if threshold is not None and 0 < threshold <= 1:
        cells[max(1, _cells(threshold, half)) - 1] = ":"
    return "".join(cells)


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: on the wall, and on the feed, which may play another year."""

    wall: datetime
    feed: datetime

    def text(self, instant: datetime | None) -> str:
        """The time of day; with its date when that is neither today's nor the feed's."""
        if instant is None:
            return MISSING
        if instant.date() in (self.wall.date(), self.feed.date()):
            return instant.strftime("%H:%M:%S")
        return instant.strftime("%m-%d %H:%M" if abs(self.feed - instant) < _OLD else "%Y-%m-%d")


def moment_of(watch: Watch, now: datetime) -> Moment:
    """The feed's time is the newest that was heard of a market; with live prices that is nearly the wall's."""
    times = [market.time for market in watch.markets.values()]
    return Moment(now, max(times, default=now))


def mark_age(heard_at: datetime | None, mark_time: datetime | None, now: datetime) -> Text:
    """How old a mark is: since its market was last heard, else by the mark's own time.

    A feed may play the past, so that its own times say nothing of whether it still speaks.
    """
    since = heard_at
    if since is None:
        if mark_time is None:
            return Text(MISSING)
        if now - mark_time > _OLD:
            return Text(mark_time.strftime("%Y-%m-%d"), style=QUIET)
        since = mark_time
    seconds = (now - since).total_seconds()
    return Text(age(seconds), style="yellow" if seconds > _STALE_SECONDS else QUIET)
