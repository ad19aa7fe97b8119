"""An import of fills, from a file to the ledger: some rows in each transaction, safe beside a running daemon.

Killed in the middle, it is run again: what was committed counts as duplicate then, and the rest is added.
"""

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Connection, Engine

from config.exact import ZERO
from execution import ledger, raw
from execution.importers.common import BadRow, Fault, FillAppender, FillRow, Row, Tally
from execution.importers.fillbook import FillbookFile
from runtime.clock import WallClock

MOST_FAULTS = 10_000
"""Faults kept for the report; every rejected row is counted."""

Progress = Callable[[int, int], None]
"""Told (bytes read, rows done)."""

_LONGEST_REST = 0.5
"""Seconds."""


def open_fills(path: Path) -> tuple[FillbookFile, int]:
    """A file of fills ("-": standard input) and its size in bytes. Raises FileInvalid, OSError."""
    if str(path) == "-" or not path.is_file():
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return FillbookFile(lambda: io.BytesIO(content), path.name), len(content)

    def opened() -> BinaryIO:
        return path.open("rb")

    return FillbookFile(opened, path.name), path.stat().st_size


def import_fills(
    engine: Engine,
    file: FillbookFile,
    appender: FillAppender,
    rows_at_a_time: int,
    progress: Progress = lambda _bytes, _rows: None,
    rest: Callable[[float], None] = lambda _seconds: None,
) -> Tally:
    """Append a file's fills, so many rows in each transaction (2,000 take 0.1 s, for which a running daemon's own
    commits wait). `rest` is called after each with the seconds that it took, see `give_way`. Raises DBAPIError when
    the database cannot be written: run it again then."""
    total = Tally()
    rows = file.rows()
    with engine.connect() as connection:
        while chunk := list(islice(rows, rows_at_a_time)):
            # Prepared before the transaction: it is open for as short as can be.
            good = appender.identify(_good(chunk, total))
            began = time.perf_counter()  # noqa: TID251 - how long others had to wait decides nothing
            with connection.begin():
                done = appender.append(connection, good, WallClock().recorded_now())
            rest(time.perf_counter() - began)  # noqa: TID251 - as above
            _add(total, done)
            progress(file.position, total.read)
    return total


def give_way(seconds: float) -> None:
    """Leave the database to a running daemon for as long as it was kept from it: SQLite gives the lock to whoever
    happens to ask next, and one that asks all the time keeps the others out."""
    time.sleep(min(seconds, _LONGEST_REST))  # noqa: TID251 - a command of its own waits here, no daemon


def _good(chunk: Sequence[Row], total: Tally) -> Iterator[FillRow]:
    """The rows that can be taken; the others are counted."""
    for row in chunk:
        if isinstance(row, BadRow):
            total.read += 1
            total.rejected += 1
            _keep(total, row.faults)
        else:
            yield row


def _add(total: Tally, done: Tally) -> None:
    total.read += done.read
    total.added += done.added
    total.duplicate += done.duplicate
    total.rejected += done.rejected
    total.disposals += done.disposals
    total.flagged += done.flagged
    total.consumed += done.consumed
    total.conflicts += done.conflicts
    total.registered += done.registered
    _keep(total, done.faults)


def _keep(total: Tally, faults: Iterable[Fault]) -> None:
    total.faults += islice(faults, MOST_FAULTS - len(total.faults))


def cash_of(connection: Connection, account: str) -> Decimal:
    """The cash of an account: the exact sum of its facts."""
    sql = "SELECT cash_effect FROM trades WHERE account = ?"
    trades = sum((Decimal(row[0]) for row in raw.execute(connection, sql, (account,))), ZERO)
    return trades + sum((flow.cash_effect for flow in ledger.cash_flows(connection, account)), ZERO)
