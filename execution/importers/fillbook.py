"""Fillbook's own format: CSV with a header, or JSON lines with the same keys.

    executed_at,symbol,side,quantity,price,fee,fee_asset,order_id,venue_trade_id,triggered_by,venue_sequence

Those after `price` may be left out, the columns may come in any order, `product_id` is another name of `symbol`.
Every fault is found by field; a row has one physical line, so that one broken quote cannot swallow the rest.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, BinaryIO

from config.exact import ZERO, NotADecimal, parse_decimal
from config.instruments import NAME_PATTERN, SYMBOL_PATTERN, is_symbol
from config.times import NotATime, parse_time
from execution.fees import FEE_SUFFIX
from execution.importers.common import BadRow, Fault, FileInvalid, FillRow, Row
from execution.model import Side

COLUMNS = (
    "executed_at", "symbol", "side", "quantity", "price", "fee", "fee_asset", "order_id", "venue_trade_id",
    "triggered_by", "venue_sequence",
)  # fmt: skip
REQUIRED = COLUMNS[:5]
_OTHER_NAMES = {"product_id": "symbol"}
_SIDES = {"BUY": Side.BUY, "SELL": Side.SELL}
_JSON_NAMES = (".jsonl", ".ndjson")

WHO_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
_TAG = re.compile(
    rf"(?:bot|stop):{NAME_PATTERN}|manual(?::{WHO_PATTERN})?|import:{WHO_PATTERN}|sync|external", re.ASCII
)
_ASSET = re.compile(r"[A-Z0-9][A-Z0-9._-]{0,31}", re.ASCII)
_NO_ZONE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?", re.ASCII)
_SEQUENCE = re.compile(r"[0-9]{1,18}", re.ASCII)
_LONGEST_ID = 200
_SHOWN = 80
_ID = f"at most {_LONGEST_ID} printable characters"


class FillbookFile:
    """A file of fills; `open_file` opens its bytes from the start, each time anew.

    Raises FileInvalid when the file as a whole is not of this format, OSError when it cannot be read.
    """

    def __init__(self, open_file: Callable[[], BinaryIO], name: str) -> None:
        self._open = open_file
        self._name = name
        self._current: BinaryIO | None = None
        self._check_encoding()
        self._is_json = self._looks_like_json()
        if not self._is_json:
            with self._text() as text:
                self._read_header(_lines(text))

    def rows(self) -> Iterator[Row]:
        """Every row, in the file's order; blank lines are none."""
        with self._text() as text:
            lines = _lines(text)
            yield from _with_fee_marks(map(_json_row, lines) if self._is_json else self._csv_rows(lines))

    @property
    def position(self) -> int:
        """How many bytes have been read, for a progress bar."""
        return 0 if self._current is None or self._current.closed else self._current.tell()

    def _text(self) -> io.TextIOWrapper:
        self._current = self._open()
        return io.TextIOWrapper(self._current, encoding="utf-8-sig", newline=None)

    def _check_encoding(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        lines = 0
        with self._open() as file:
            try:
                while block := file.read(1 << 20):
                    decoder.decode(block)
                    lines += block.count(b"\n")
                decoder.decode(b"", final=True)
            except UnicodeDecodeError as error:
                lines += block[: error.start].count(b"\n")
                raise FileInvalid(f"{self._name}: text in UTF-8; line {lines + 1:,} is not") from None

    def _looks_like_json(self) -> bool:
        with self._text() as text:
            first = next(_lines(text), (0, ""))[1].lstrip()[:1]
        if first == "[":
            raise FileInvalid(f"{self._name}: CSV with a header, or a JSON object on each line, not a JSON array")
        return first == "{" or self._name.lower().endswith(_JSON_NAMES)

    # ---- CSV --------------------------------------------------------------------------------------------

    def _read_header(self, lines: Iterable[tuple[int, str]]) -> list[str]:
        for number, line in lines:
            try:
                names = [name.strip().lower() for name in _fields(line)]
            except csv.Error as error:
                raise FileInvalid(f"{self._name}: line {number}: a header ({error})") from None
            columns = [_OTHER_NAMES.get(name, name) for name in names]
            self._check_header(number, columns)
            return columns
        raise FileInvalid(f"{self._name}: a header line such as {','.join(COLUMNS[:10])}; the file is empty")

    def _check_header(self, number: int, columns: list[str]) -> None:
        where = f"{self._name}: line {number}"
        missing = [name for name in REQUIRED if name not in columns]
        if missing:
            raise FileInvalid(
                f"{where}: a header with the columns {','.join(REQUIRED)}, separated by commas; there is no"
                f" {', '.join(missing)}"
            )
        for name in columns:
            if name not in COLUMNS:
                raise FileInvalid(f"{where}: unknown column {name[:_SHOWN]!r}; there are: {','.join(COLUMNS)}")
            if columns.count(name) > 1:
                raise FileInvalid(f"{where}: column {name} is there twice")

    def _csv_rows(self, lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
        columns = self._read_header(lines)
        width = len(columns)
        for number, line in lines:
            try:
                fields = _fields(line)
            except csv.Error as error:
                yield BadRow(number, (Fault(number, None, line[:_SHOWN], f"a row of CSV on one line ({error})"),))
                continue
            if len(fields) > width and any(fields[width:]):
                expected = f"{width} fields as in the header, not {len(fields)}"
                yield BadRow(number, (Fault(number, None, None, expected),))
                continue
            yield _row(number, dict(zip(columns, fields, strict=False)))


def _fields(line: str) -> list[str]:
    """The fields of a line of CSV. Raises csv.Error."""
    return next(csv.reader([line], strict=True)) if '"' in line else line.split(",")


def _lines(text: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    for number, line in enumerate(text, 1):
        if not line.isspace():
            yield number, line.rstrip("\n")


# ---- JSON -----------------------------------------------------------------------------------------------


class _Number(str):
    """A JSON number, as it is written."""

    __slots__ = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


_decode = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_Number, parse_int=_Number, parse_constant=_Number
).decode


def _json_row(numbered: tuple[int, str]) -> Row:
    number, line = numbered
    try:
        found = _decode(line)
    except (ValueError, RecursionError) as error:
        said = str(error) if isinstance(error, ValueError) else "too deep"
        return BadRow(number, (Fault(number, None, line[:_SHOWN], f"a JSON object on one line ({said})"),))
    if not isinstance(found, dict):
        return BadRow(number, (Fault(number, None, line[:_SHOWN], "a JSON object"),))
    faults: list[Fault] = []
    values: dict[str, str] = {}
    for given, value in found.items():
        key = _OTHER_NAMES.get(given, given)
        if key not in COLUMNS:
            faults.append(Fault(number, given[:_SHOWN], None, f"one of the keys {', '.join(COLUMNS)}"))
        elif key in values:
            faults.append(Fault(number, given, None, f"{key} once"))
        elif isinstance(value, _Number):
            faults.append(Fault(number, key, str(value)[:_SHOWN], f'a string: write "{value[:_SHOWN]}"'))
        elif isinstance(value, str):
            values[key] = value
        elif value is not None:
            faults.append(Fault(number, key, json.dumps(value)[:_SHOWN], "a string"))
    if faults:
        return BadRow(number, tuple(faults))
    return _row(number, values)


# ---- fields ---------------------------------------------------------------------------------------------


def _row(line: int, values: Mapping[str, str]) -> Row:
    """A row from the texts of its fields; empty and missing are the same."""
    checked = _Checked(line, values)
    executed_at, symbol, side = checked.time(), checked.symbol(), checked.side()
    quantity, price = checked.quantity(), checked.price()
    fee = checked.decimal("fee") if values.get("fee") else ZERO
    row = FillRow(
        line,
        executed_at,  # type: ignore[arg-type]  # None has left a fault, and the row is then not returned
        symbol,
        side,  # type: ignore[arg-type]  # as above
        quantity,  # type: ignore[arg-type]  # as above
        price,  # type: ignore[arg-type]  # as above
        fee,  # type: ignore[arg-type]  # as above
        checked.matching("fee_asset", _ASSET, "an asset such as USD or BNB"),
        checked.id("order_id"),
        checked.id("venue_trade_id"),
        checked.matching(
            "triggered_by", _TAG, "bot:<name>, stop:<bot>, manual, manual:<who>, sync, import:<source> or external"
        ),
        checked.sequence(),
    )
    return BadRow(line, tuple(checked.faults)) if checked.faults else row


class _Checked:
    """Takes the fields of a row one by one; what is wrong is collected in `faults`."""

    __slots__ = ("_line", "_values", "faults")

    def __init__(self, line: int, values: Mapping[str, str]) -> None:
        self._line = line
        self._values = values
        self.faults: list[Fault] = []

    def _text(self, field: str) -> str:
        return self._values.get(field, "").strip()

    def _wrong(self, field: str, expected: str) -> None:
        value = self._values.get(field)
        self.faults.append(Fault(self._line, field, None if value is None else value[:_SHOWN], expected))

    def time(self) -> datetime | None:
        """When it was executed."""
        text = self._text("executed_at")
        try:
            return parse_time(text)
        except NotATime as error:
            bare = _NO_ZONE.fullmatch(text) is not None
            self._wrong("executed_at", f"a time with its zone, such as {text}Z for UTC" if bare else str(error))
            return None

    def symbol(self) -> str:
        """The symbol; anything when there is a fault."""
        text = self._text("symbol")
        if not is_symbol(text):
            self._wrong("symbol", f"a symbol such as BTC-USD, matching {SYMBOL_PATTERN}")
        return text

    def side(self) -> Side | None:
        """BUY or SELL, in any case."""
        side = _SIDES.get(self._text("side").upper())
        if side is None:
            self._wrong("side", "BUY or SELL")
        return side

    def decimal(self, field: str) -> Decimal | None:
        """A number."""
        try:
            return parse_decimal(self._text(field))
        except NotADecimal as error:
            self._wrong(field, str(error))
            return None

    def quantity(self) -> Decimal | None:
        """Above 0."""
        value = self.decimal("quantity")
        if value is not None and value <= 0:
            self._wrong("quantity", "a number above 0 (a sell has side SELL)")
        return value

    def price(self) -> Decimal | None:
        """0 or above."""
        value = self.decimal("price")
        if value is not None and value < 0:
            self._wrong("price", "a number of at least 0")
        return value

    def matching(self, field: str, pattern: re.Pattern[str], expected: str) -> str | None:
        """A text of a certain form, if there is one."""
        text = self._text(field)
        if text and pattern.fullmatch(text) is None:
            self._wrong(field, expected)
        return text or None

    def id(self, field: str) -> str | None:
        """An id as it is in the file, if there is one."""
        text = self._values.get(field, "")
        if len(text) > _LONGEST_ID or not text.isprintable():
            self._wrong(field, _ID)
        return text or None

    def sequence(self) -> int | None:
        """The venue's own number of the fill, if there is one."""
        text = self.matching("venue_sequence", _SEQUENCE, "a whole number of at least 0")
        return None if text is None or self.faults else int(text)


# ---- fees in a third asset -----------------------------------------------------------------------------


def _with_fee_marks(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows, with a disposal that an export wrote behind a trade taken as what it is: the mark of its fee."""
    waiting: FillRow | None = None
    for row in rows:
        if waiting is not None and isinstance(row, FillRow) and _pays_fee_of(waiting, row):
            yield waiting._replace(fee_mark=row.price, rows=2)
            waiting = None
            continue
        if waiting is not None:
            yield waiting
        waiting = None
        if isinstance(row, FillRow) and row.fee and row.fee_asset is not None:
            waiting = row
        else:
            yield row
    if waiting is not None:
        yield waiting


def _pays_fee_of(trade: FillRow, row: FillRow) -> bool:
    return (
        row.venue_trade_id is not None
        and row.venue_trade_id.endswith(FEE_SUFFIX)
        and row.symbol != trade.symbol
        and row.symbol.startswith(f"{trade.fee_asset}-")
        and row.executed_at == trade.executed_at
        and row.quantity == abs(trade.fee)
        and row.side is (Side.SELL if trade.fee > 0 else Side.BUY)
        and not row.fee
    )
