"""Allocations made current by a command: by itself, or by waiting for whoever has the portfolio role."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Connection

from config.loading import load_settings
from config.settings import Settings
from execution import raw
from execution.ledger import LedgerTail, NewTrade
from execution.model import Account, Side, Source
from runtime.database import ensure_account, open_database, read, seed_catalogue
from runtime.errors import Unreachable
from runtime.locks import RoleLocks
from runtime.offline_books import bring_up_to_date, is_behind

START = datetime(2026, 1, 1, tzinfo=UTC)


def _settings(folder: Path) -> Settings:
    return load_settings(config_file=None, overrides=[f"data_dir={folder}"], environ={}, cwd=folder).settings


def _record(settings: Settings, *sides: Side, first: int = 0) -> None:
    engine = open_database(settings.resolved_database_url)

    def work(connection: Connection) -> None:
        seed_catalogue(connection)
        ensure_account(connection, Account("main"), None, START)
        tail = LedgerTail()
        for number, side in enumerate(sides, first):
            at = START + timedelta(minutes=number)
            trade = NewTrade(
                f"t{number}", "main", "BTC-USD", side, Decimal(1), Decimal(100 + number), at, Decimal(0), "USD",
                Decimal(0), "import", Source.IMPORT, "sync",
            )  # fmt: skip
            tail.append_trade(connection, trade, at)
        tail.before_commit(connection)

    with engine.connect() as connection, connection.begin():
        work(connection)
    engine.dispose()


def _rows(settings: Settings) -> list[str]:
    engine = open_database(settings.resolved_database_url)
    sql = "SELECT pnl FROM fifo_allocations WHERE to_version IS NULL ORDER BY closed_at"
    found = read(engine, lambda c: [row[0] for row in raw.execute(c, sql).fetchall()])
    assert not read(engine, is_behind)
    engine.dispose()
    return found


def test_without_books_nothing_is_done_and_nothing_made(tmp_path: Path) -> None:
    assert bring_up_to_date(_settings(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_stored_once_and_what_follows_is_added(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    _record(settings, Side.BUY, Side.BUY, Side.SELL)
    bring_up_to_date(settings)
    bring_up_to_date(settings)
    assert _rows(settings) == ["2"]
    _record(settings, Side.SELL, first=3)
    bring_up_to_date(settings)
    assert _rows(settings) == ["2", "2"]


def test_a_sell_without_a_lot_is_told_once(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    _record(settings, Side.SELL)
    assert [alert.code for alert in bring_up_to_date(settings)] == ["unmatched_sell"]
    assert bring_up_to_date(settings) == []


def test_while_another_process_has_the_role_the_command_waits_and_then_says_so(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    _record(settings, Side.BUY)
    locks = RoleLocks(settings.database_file, ("portfolio",))
    locks.acquire()
    with pytest.raises(Unreachable, match=r"recorded, but the portfolio has stored nothing for 0\.2 s"):
        bring_up_to_date(settings, wait_seconds=0.2)
    locks.release()
    bring_up_to_date(settings)
    assert _rows(settings) == []


def _statuses(settings: Settings) -> list[str]:
    engine = open_database(settings.resolved_database_url)
    found = read(engine, lambda c: [row[0] for row in raw.execute(c, "SELECT status FROM fifo_computation_log", ())])
    engine.dispose()
    return found


def test_a_run_that_was_killed_is_logged_as_failed_by_the_next_command_unless_somebody_has_the_role(
    tmp_path: Path,
) -> None:
    settings = _settings(tmp_path)
    _record(settings, Side.BUY, Side.SELL)
    bring_up_to_date(settings)
    engine = open_database(settings.resolved_database_url)
    with engine.connect() as connection, connection.begin():
        raw.execute(connection, "UPDATE fifo_computation_log SET status = 'running', finished_at = NULL", ())
    engine.dispose()
    locks = RoleLocks(settings.database_file, ("portfolio",))
    locks.acquire()
    assert bring_up_to_date(settings) == []
    assert _statuses(settings) == ["running"]
    locks.release()
    bring_up_to_date(settings)
    assert _statuses(settings) == ["failed"]
    assert _rows(settings) == ["1"]
