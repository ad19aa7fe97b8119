"""How results are shown: tables with aligned numbers for people, JSON for programs.

Decimals come in exact and are only shortened in tables; JSON always has every digit. On a pipe tables are
as wide as they need to be and without colour.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.cli.base import silence_stdout

_PIPE_WIDTH = 100_000
MISSING = "-"

Cell = str | Text


class QuietConsole(Console):
    """A console that ends silently when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        """See `silence_stdout`."""
        self.quiet = True
        silence_stdout()


def console(file: IO[str] | None = None) -> Console:
    """A console on stdout (or `file`); made anew each time, since tests and pipes replace the streams."""
    stream = file or sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return QuietConsole(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def show(text: Cell = "") -> None:
    """One line on stdout."""
    console().print(text, soft_wrap=True)


def show_json(document: Any) -> None:
    """A document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=dict) + "\n")


def show_page(items: Iterable[Any], following: str | None) -> None:
    """A list in its JSON form on stdout, written item by item: it may have a hundred thousand."""
    between = "\n    "
    sys.stdout.write('{\n  "items": [')
    for item in items:
        text = json.dumps(item, indent=2, ensure_ascii=False, default=dict)
        sys.stdout.write(between + text.replace("\n", "\n    "))
        between = ",\n    "
    end = "" if between == "\n    " else "\n  "
    sys.stdout.write(f'{end}],\n  "next": {json.dumps(following)}\n}}\n')


# ---- numbers and times ----------------------------------------------------------------------------------


def number(value: Decimal | None, *, least: int = 0, most: int = 18) -> str:
    """A number with thousands separators and between `least` and `most` decimals."""
    if value is None:
        return MISSING
    if -value.as_tuple().exponent > most:  # type: ignore[operator]  # never NaN or Infinity
        value = value.quantize(Decimal(1).scaleb(-most), rounding=ROUND_HALF_EVEN)
    whole, _, fraction = format(value, ",f").partition(".")
    fraction = fraction.rstrip("0").ljust(least, "0")
    if not value and whole.startswith("-"):
        whole = whole[1:]
    return f"{whole}.{fraction}" if fraction else whole


def money(value: Decimal | None) -> str:
    """An amount of the account's currency, to the cent (below one cent: 6 decimals)."""
    if value is not None and value and abs(value) < Decimal("0.01"):
        return number(value, least=2, most=6)
    return number(value, least=2, most=2)


def price(value: Decimal | None) -> str:
    """A price, with as many decimals as its size needs: 60,317.91; 2.9634; 0.00001234."""
    if value is None:
        return MISSING
    places = 2 if value >= 1000 else 4 if value >= 1 else 8
    return number(value, least=2, most=places)


def signed(value: Decimal | None) -> Text:
    """A profit or loss: with its sign; green above, red below 0."""
    if value is None:
        return Text(MISSING)
    text = money(value)
    return Text(f"+{text}", style="green") if value > 0 else Text(text, style="red" if value < 0 else "")


def result(value: Decimal | None) -> Text:
    """A realized P&L that may be unknown: `signed`, or the word."""
    return Text("unknown") if value is None else signed(value)


def moment(instant: datetime | None) -> str:
    """A time for people, in UTC."""
    if instant is None:
        return MISSING
    return instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def age(seconds: float) -> str:
    """How long ago, in the two largest units."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def to_decimal(text: Any) -> Decimal | None:
    """A decimal string of a JSON document; None for null."""
    return None if text is None else Decimal(text)


# ---- tables ---------------------------------------------------------------------------------------------


def show_table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, empty: str) -> None:
    """A table on stdout, as wide as it needs to be; `empty` when there is nothing to show.

    A heading that starts with ">" has numbers below it, aligned at the point. Not rich's table: that one
    folds times and numbers on a narrow terminal, and takes a second for some thousand rows.
    """
    cells = [list(row) for row in rows]
    if not cells:
        show(empty)
        return
    titles: list[Cell] = []
    for index, heading in enumerate(headings):
        numbers = heading.startswith(">")
        title = heading[1:].rjust(_align(cells, index)) if numbers else heading
        titles.append(Text(title, style="bold"))
    lines = [titles, *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sys.stdout.isatty():
        shown = console()
        for line in lines:
            shown.print(_line(line, widths), soft_wrap=True)
    else:
        for line in lines:
            text = "  ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True))
            sys.stdout.write(text.rstrip() + "\n")


def _line(cells: Sequence[Cell], widths: Sequence[int]) -> Text:
    padded = []
    for cell, width in zip(cells, widths, strict=True):
        text = cell.copy() if isinstance(cell, Text) else Text(cell)
        text.append(" " * (width - len(text)))
        padded.append(text)
    line = Text("  ").join(padded)
    line.rstrip()
    return line


def _align(rows: list[list[Cell]], index: int) -> int:
    """Pad the numbers of a column so that their points stand below each other; the column's width."""
    places = 0
    for row in rows:
        _, point, fraction = str(row[index]).partition(".")
        places = max(places, len(point + fraction))
    for row in rows:
        cell = row[index]
        text = cell if isinstance(cell, Text) else Text(cell)
        _, point, fraction = text.plain.partition(".")
        text.append(" " * (places - len(point + fraction)))
        row[index] = text
    width = max((len(str(row[index])) for row in rows), default=0)
    for row in rows:
        cell = row[index]
        assert isinstance(cell, Text)
        cell.pad_left(width - len(cell.plain))
    return width


def pairs(rows: Iterable[tuple[str, Cell]]) -> None:
    """Names with their values on stdout."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, value)
    console().print(grid)


def amounts(rows: Iterable[tuple[str, Cell]]) -> None:
    """Names with their numbers on stdout, the points below each other."""
    cells: list[list[Cell]] = [[name, value] for name, value in rows]
    _align(cells, 1)
    pairs((str(name), value) for name, value in cells)
