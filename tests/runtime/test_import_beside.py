"""An import beside a running daemon lets it have the database in between."""

import sqlite3
from pathlib import Path

from execution.importers.common import FillAppender
from execution.model import Account
from runtime.database import open_database
from runtime.importing import import_fills, open_fills
from tests.execution.house import Books


def test_the_database_is_free_while_an_import_rests(tmp_path: Path) -> None:
    books = Books(tmp_path)
    books.close()
    fills = tmp_path / "fills.csv"
    rows = [f"2026-01-01T12:00:0{n}Z,BTC-USD,BUY,0.1,100,{n}" for n in range(5)]
    fills.write_text("\n".join(["executed_at,symbol,side,quantity,price,venue_trade_id", *rows]) + "\n")
    engine = open_database(books.url)
    other = sqlite3.connect(Path(books.url.removeprefix("sqlite:///")), timeout=0, isolation_level=None)
    rests: list[float] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")

    appender = FillAppender(Account("main"), venue="import", triggered_by="import:test")
    tally = import_fills(engine, open_fills(fills)[0], appender, 2, rest=rest)
    other.close()
    engine.dispose()

    assert tally.added == 5
    assert len(rests) == 3
    assert all(seconds > 0 for seconds in rests)
