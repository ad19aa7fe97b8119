"""Candle files: CSV with the columns time,open,high,low,close,volume, in any order.

`time` is the OPEN of the bar: RFC 3339 with a zone, or a date, which means midnight UTC. Gaps stay gaps:
nothing is filled in. Files are read in chunks, so that a huge one needs little memory; whole columns of a
chunk are checked by one regular expression each, and only a bad chunk is looked at line by line.
"""

import csv
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice, repeat
from operator import ge, gt, itemgetter, le, lt
from pathlib import Path
from typing import IO

from config.exact import NotADecimal, parse_decimal, plain
from config.times import NotATime, NotATimeframe, parse_time, time_text, timeframe_of
from config.toml_errors import Fault, value_text
from execution.model import Candle
from signals.errors import SignalsError

COLUMNS = ("time", "open", "high", "low", "close", "volume")
MOST_FAULTS = 20
CHUNK_LINES = 4_096
SAMPLE_LINES = 10_000  # lines from which the timeframe is told

_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:Z|\+00:00)"
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,18})?"
# Possessive (3.11): a column of 4,096 texts must not be backtracked into when its last one is bad.
_TIMES = re.compile(rf"(?:{_TIME}\n)++", re.ASCII)
_NUMBERS = re.compile(rf"(?:{_NUMBER}\n)++", re.ASCII)
_ZERO = Decimal(0)

Columns = tuple[list[datetime], list[Decimal], list[Decimal], list[Decimal], list[Decimal], list[Decimal]]


class CandleFileInvalid(SignalsError):
    """A candle file has faults. Carries the first MOST_FAULTS and how many there are in `total`."""

    def __init__(self, faults: Sequence[Fault], total: int) -> None:
        self.faults = tuple(faults[:MOST_FAULTS])
        self.total = total
        lines = [str(fault) for fault in self.faults]
        if total > len(self.faults):
            lines.append(f"... and {total - len(self.faults)} more faults in this file")
        super().__init__("\n".join(lines))


@dataclass(frozen=True, slots=True)
class CandleFileSummary:
    """What a whole valid file holds."""

    symbol: str
    timeframe: str
    candles: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class CandleFile:
    """A file whose head was read: its header is good and its timeframe known."""

    path: Path
    symbol: str
    timeframe: str

    @classmethod
    def open(cls, path: Path, symbol: str, timeframe: str | None = None) -> "CandleFile":
        """The file at `path`; the timeframe is told from its first lines unless it is given.

        Raises CandleFileInvalid when the file, its header, or its first lines are bad.
        """
        if timeframe is not None:
            with _lines(path) as file:
                _header(path, file)
            return cls(path, symbol, timeframe)
        times: list[datetime] = []
        faults = _Faults(str(path))
        for columns in _chunks(path, faults):
            times += columns[0]
            if len(times) >= SAMPLE_LINES or faults.total:
                break
        faults.raise_if_any()
        return cls(path, symbol, _timeframe(str(path), times))

    def candles(self, after: datetime | None = None) -> Iterator[Candle]:
        """The candles that open later than `after` (all if None), ascending.

        Raises CandleFileInvalid where a chunk of the file is bad, with the faults of that chunk; candles
        of earlier chunks have been handed out by then. Call `check` first to know before.
        """
        faults = _Faults(str(self.path))
        for columns in _chunks(self.path, faults):
            faults.raise_if_any()
            times = columns[0]
            start = 0 if after is None else bisect_right(times, after)
            if start < len(times):
                parts = columns if start == 0 else [column[start:] for column in columns]
                rows = zip(repeat(self.symbol), repeat(self.timeframe), *parts)
                yield from map(tuple.__new__, repeat(Candle), rows)  # half the cost of Candle(*row)
        faults.raise_if_any()

    def check(self) -> CandleFileSummary:
        """Read the whole file. Raises CandleFileInvalid with all of its faults."""
        faults = _Faults(str(self.path))
        count = 0
        first = last = None
        for columns in _chunks(self.path, faults):
            times = columns[0]
            count += len(times)
            first = first or times[0]
            last = times[-1]
        faults.raise_if_any()
        if first is None or last is None:
            raise CandleFileInvalid([Fault(str(self.path), 1, None, None, "at least one candle")], 1)
        return CandleFileSummary(self.symbol, self.timeframe, count, first, last)


class _Faults:
    """The faults of a file: the first ones, and the count of all."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kept: list[Fault] = []
        self.total = 0

    def add(self, line: int, column: str | None, value: str | None, expected: str) -> None:
        self.total += 1
        if len(self.kept) < MOST_FAULTS:
            self.kept.append(Fault(self.name, line, column, value, expected))

    def raise_if_any(self) -> None:
        if self.total:
            raise CandleFileInvalid(self.kept, self.total)


def _lines(path: Path) -> IO[str]:
    """The file as text. Bytes that are no UTF-8 become escapes, so that their line is named as bad."""
    try:
        return path.open(encoding="utf-8-sig", errors="backslashreplace")
    except OSError as error:
        expected = f"a readable file ({(error.strerror or 'cannot be read').lower()})"
        raise CandleFileInvalid([Fault(str(path), None, None, None, expected)], 1) from error


def _header(path: Path, file: IO[str]) -> list[int]:
    """The position of each of COLUMNS in the lines."""
    try:
        names = [name.strip() for name in next(csv.reader([file.readline()], strict=True), [])]
    except (csv.Error, OSError) as error:
        raise CandleFileInvalid([Fault(str(path), 1, None, None, f"a header ({error})")], 1) from error
    faults = _Faults(str(path))
    for name in COLUMNS:
        if names.count(name) != 1:
            expected = "this column in the header" if name not in names else "this column only once"
            faults.add(1, name, None, f"{expected} ({','.join(COLUMNS)} in any order)")
    for name in names:
        if name not in COLUMNS:
            faults.add(1, None, value_text(name), f"only the columns {','.join(COLUMNS)}")
    faults.raise_if_any()
    return [names.index(name) for name in COLUMNS]


def _chunks(path: Path, faults: _Faults) -> Iterator[Columns]:
    """The columns of each part of the file, checked; the good lines only where some are bad."""
    with _lines(path) as file:
        order = _header(path, file)
        picks: Callable[[list[str]], tuple[str, ...]] = itemgetter(*order)
        number = 2
        last: datetime | None = None
        while lines := list(islice(file, CHUNK_LINES)):
            columns = _fast(lines, picks, len(order), last)
            if columns is None:
                columns = _line_by_line(lines, number, order, last, faults)
            number += len(lines)
            if columns[0]:
                last = columns[0][-1]
                yield columns


def _fast(
    lines: list[str], picks: Callable[[list[str]], tuple[str, ...]], width: int, last: datetime | None
) -> Columns | None:
    """The columns of lines that are all good; None when a closer look is needed."""
    try:
        rows = list(csv.reader(lines, strict=True))
    except csv.Error:
        return None
    if len(rows) != len(lines) or set(map(len, rows)) != {width}:
        return None
    texts = list(zip(*map(picks, rows), strict=True))
    if _TIMES.fullmatch("\n".join(texts[0]) + "\n") is None:
        return None
    if any(_NUMBERS.fullmatch("\n".join(column) + "\n") is None for column in texts[1:]):
        return None
    try:
        times = list(map(datetime.fromisoformat, texts[0]))
    except ValueError:  # the 31st of February
        return None
    opens, highs, lows, closes, volumes = (list(map(Decimal, column)) for column in texts[1:])
    good = (
        (last is None or last < times[0])
        and all(map(lt, times, times[1:]))
        and all(map(ge, highs, opens))
        and all(map(ge, highs, closes))
        and all(map(le, lows, opens))
        and all(map(le, lows, closes))
        and all(map(gt, lows, repeat(_ZERO)))
    )
    return (times, opens, highs, lows, closes, volumes) if good else None


def _line_by_line(
    lines: Sequence[str], number: int, order: Sequence[int], last: datetime | None, faults: _Faults
) -> Columns:
    """The columns of the good lines; the others become faults. Also takes blank lines, dates and zones."""
    columns: Columns = ([], [], [], [], [], [])
    for line, text in enumerate(lines, number):
        if not text.strip():
            continue
        before = faults.total
        try:
            (row,) = csv.reader([text], strict=True)
        except (csv.Error, ValueError) as error:
            faults.add(line, None, value_text(text.rstrip("\n")), f"a line of {len(order)} values ({error})")
            continue
        if len(row) != len(order):
            faults.add(line, None, value_text(text.rstrip("\n")), f"{len(order)} values, not {len(row)}")
            continue
        time = _time(row[order[0]], line, last, faults)
        numbers = [_number(row[at], name, line, faults) for at, name in zip(order[1:], COLUMNS[1:], strict=True)]
        if faults.total == before:
            _check_range(line, numbers, faults)
        if time is not None:
            last = time
        if faults.total == before and time is not None:
            columns[0].append(time)
            for column, value in zip(columns[1:], numbers, strict=True):
                column.append(value)
    return columns


def _time(text: str, line: int, last: datetime | None, faults: _Faults) -> datetime | None:
    try:
        time = _moment(text)
    except NotATime:
        expected = "an RFC 3339 time with a zone, such as 2026-01-31T12:00:00Z, or a date"
        faults.add(line, "time", value_text(text), expected)
        return None
    if last is not None and time <= last:
        faults.add(line, "time", value_text(text), f"a time after the line before ({time_text(last)})")
        return last  # compare the next line with the latest time, so that one slip is one fault
    return time


def _moment(text: str) -> datetime:
    if _DATE.fullmatch(text) is None:
        return parse_time(text)
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError as error:
        raise NotATime(text) from error


def _number(text: str, name: str, line: int, faults: _Faults) -> Decimal:
    least = "of at least 0" if name == "volume" else "above 0"
    try:
        value = parse_decimal(text)
    except NotADecimal:
        expected = f"a plain number {least}, of at most 18 digits before and 18 after the point"
        faults.add(line, name, value_text(text), expected)
        return _ZERO
    if value < 0 or (value == 0 and name != "volume"):
        faults.add(line, name, value_text(text), f"a number {least}")
    return value


def _check_range(line: int, numbers: Sequence[Decimal], faults: _Faults) -> None:
    opened, high, low, closed, _ = numbers
    top, bottom = max(opened, closed), min(opened, closed)
    if high < top:
        faults.add(line, "high", plain(high), f"at least open and close ({plain(top)})")
    if low > bottom:
        faults.add(line, "low", plain(low), f"at most open and close ({plain(bottom)})")


def _timeframe(name: str, times: Sequence[datetime]) -> str:
    """The most common step between candles, the smallest of those when several are."""
    steps = Counter(map(datetime.__sub__, times[1:], times))
    if not steps:
        raise CandleFileInvalid([Fault(name, None, None, None, "at least two candles, to tell the timeframe")], 1)
    most = max(steps.values())
    step: timedelta = min(step for step, count in steps.items() if count == most)
    if step % timedelta(seconds=1):
        raise CandleFileInvalid([Fault(name, None, "time", str(step), "candles whole seconds apart")], 1)
    try:
        return timeframe_of(step)
    except NotATimeframe as error:
        raise CandleFileInvalid([Fault(name, None, "time", str(step), str(error))], 1) from error
