"""Columns and cells to lines of text that fit a width: columns go when there is no room, the last ones first.

The same lines are painted on the screen and printed by `--once`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

QUIET = "grey62"
"""The colour of what matters less; also of all that is stale."""
GAP = 2
NARROW = 100
"""Below this width columns stand closer together."""
_LEAST_TEXT = 12


@dataclass(frozen=True, slots=True)
class Column:
    """`drop`: the higher, the earlier it goes on a narrow screen; 0 stays. `grow`: may be cut, and takes the rest."""

    title: str
    numbers: bool = False
    drop: int = 0
    grow: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, its lines, and the line of the totals if there is one."""

    heading: Text
    lines: tuple[Text, ...]
    total: Text | None = None

    @property
    def width(self) -> int:
        """Cells of its widest line."""
        return max(line.cell_len for line in (self.heading, *self.lines))


def lay_out(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Text]],
    *,
    width: int | None,
    total: Sequence[Text] | None = None,
) -> Table:
    """Rows as lines of at most `width` cells (None: as wide as they need to be)."""
    body = [list(row) for row in rows] + ([] if total is None else [list(total)])
    for index, column in enumerate(columns):
        if column.numbers:
            _align(body, index)
    widths = [
        max([cell_len(column.title), *(row[index].cell_len for row in body)]) for index, column in enumerate(columns)
    ]
    gap = GAP if width is None or width >= NARROW else 1
    kept = _fitting(columns, widths, width, gap)
    heading = _line([Text(columns[index].title, style="bold") for index in kept], kept, columns, widths, gap)
    lines = [_line([row[index] for index in kept], kept, columns, widths, gap) for row in body]
    return Table(heading, tuple(lines[: len(rows)]), None if total is None else lines[-1])


def _fitting(columns: Sequence[Column], widths: list[int], width: int | None, gap: int) -> list[int]:
    """The columns that fit; `widths` of those that may be cut are changed."""
    kept = list(range(len(columns)))
    if width is None:
        return kept

    def least(index: int) -> int:
        return min(widths[index], _LEAST_TEXT) if columns[index].grow else widths[index]

    while sum(map(least, kept)) + gap * (len(kept) - 1) > width:
        candidates = [index for index in kept if columns[index].drop]
        if not candidates:
            break
        kept.remove(max(candidates, key=lambda index: columns[index].drop))
    spare = width - sum(map(least, kept)) - gap * (len(kept) - 1)
    for index in kept:
        if columns[index].grow:
            needed = widths[index] - least(index)
            widths[index] = least(index) + max(0, min(needed, spare))
            spare -= min(needed, max(0, spare))
    return kept


def _line(
    cells: Sequence[Text], kept: Sequence[int], columns: Sequence[Column], widths: Sequence[int], gap: int
) -> Text:
    line = Text(no_wrap=True, end="")
    for position, (cell, index) in enumerate(zip(cells, kept, strict=True)):
        shown = cell.copy()
        if shown.cell_len > widths[index]:
            shown.truncate(widths[index], overflow="ellipsis")
        space = " " * (widths[index] - shown.cell_len)
        if position:
            line.append(" " * gap)
        if columns[index].numbers:
            line.append(space)
            line.append_text(shown)
        else:
            line.append_text(shown)
            line.append(space)
    line.rstrip()
    return line


def _align(rows: list[list[Text]], index: int) -> None:
    """Pad the numbers of a column behind the point, so that their points stand below each other."""
    behind = [_behind(row[index].plain) for row in rows]
    most = max(behind, default=0)
    for row, places in zip(rows, behind, strict=True):
        if row[index].plain and places < most:
            row[index] = row[index].copy()
            row[index].append(" " * (most - places))


def _behind(text: str) -> int:
    """The length from the point on."""
    _, point, fraction = text.partition(".")
    return len(point + fraction)
