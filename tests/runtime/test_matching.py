"""Matching in other processes gives what matching in this one does; errors and lost processes are told."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from config.instruments import default_instrument
from execution import raw
from execution.ledger import LedgerTail, NewTrade, add_instrument
from execution.model import Account, Side, Source
from portfolio import runs
from portfolio.allocations import ScopeKey
from portfolio.errors import FifoError
from portfolio.lots import Method, Selection
from portfolio.runs import Differences, Order
from portfolio.tables import RunMode
from runtime import matching, processes
from runtime.database import ensure_account, open_database, read, seed_catalogue, sqlite_url
from runtime.matching import Matchers
from runtime.processes import WorkerLost
from tests.integration.brokers import PATIENCE

START = datetime(2026, 1, 1, tzinfo=UTC)
SYMBOLS = ("AAA-USD", "BBB-USD", "CCC-USD")
MAIN = Account("main")


def _database(path: Path, trades: int) -> Engine:
    engine = open_database(sqlite_url(path), synchronous="OFF")
    rng = random.Random(3)
    with engine.connect() as connection, connection.begin():
        seed_catalogue(connection)
        ensure_account(connection, MAIN, None, START)
        for symbol in SYMBOLS:
            add_instrument(connection, default_instrument(symbol))
        tail = LedgerTail()
        for number in range(trades):
            side, at = rng.choice((Side.BUY, Side.SELL)), START + timedelta(seconds=number // 4)
            quantity, price = Decimal(rng.randint(1, 99)), Decimal(rng.randint(1, 999)).scaleb(-1)
            made = NewTrade(
                f"t{number:06d}", "main", SYMBOLS[number % 3], side, quantity, price, at, Decimal("0.1"), "USD",
                Decimal(0), "import", Source.IMPORT, "sync",
            )  # fmt: skip
            tail.append_trade(connection, made, at)
        tail.before_commit(connection)
    return engine


def _orders(trades: int) -> list[Order]:
    return [Order(MAIN, ScopeKey("main", symbol), trades) for symbol in SYMBOLS]


def _perform(engine: Engine, orders: Sequence[Order], differences: Differences | None) -> list[runs.Finished]:
    def one(connection: Connection, order: Order) -> runs.Finished:
        run = runs.log(connection, order, RunMode.FULL, "test", START)
        return runs.perform(connection, run, order, RunMode.FULL, lambda: START, differences)

    done = []
    for order in orders:
        with engine.connect() as connection, connection.begin():
            done.append(one(connection, order))
    return done


def _rows(engine: Engine) -> list[Any]:
    sql = "SELECT * FROM fifo_allocations ORDER BY id"
    return read(engine, lambda connection: raw.execute(connection, sql).fetchall())


def test_what_other_processes_match_is_what_this_one_matches(tmp_path: Path) -> None:
    here, there = (_database(tmp_path / name, 3000) for name in ("here.db", "there.db"))
    orders = _orders(3000)
    alone = _perform(here, orders, None)
    for _ in range(2):  # the second time compares with what is stored, and changes nothing
        with Matchers(str(there.url), orders, 2) as matchers:
            found = _perform(there, orders, matchers.find_differences)
    assert [run.counts for run in found] == [run.counts for run in alone]
    assert not any(run.differs for run in found)
    assert _rows(there) == _rows(here) != []


def test_a_row_that_was_changed_is_ended_and_added_anew_by_them(tmp_path: Path) -> None:
    engine, orders = _database(tmp_path / "books.db", 600), _orders(600)
    _perform(engine, orders, None)
    with engine.connect() as connection, connection.begin():
        raw.execute(connection, "UPDATE fifo_allocations SET pnl = '7' WHERE id = 40")
    with Matchers(str(engine.url), orders, 1) as matchers:
        found = _perform(engine, orders, matchers.find_differences)
    assert [run.differs for run in found].count(True) == 1
    assert not any(run.differs for run in _perform(engine, orders, None))


def test_progress_is_told_in_the_process_that_asks(tmp_path: Path) -> None:
    told: list[int] = []
    engine = _database(tmp_path / "books.db", 18_000)
    orders = [Order(MAIN, ScopeKey("main", SYMBOLS[0]), 18_000, progress=told.append)]
    with Matchers(str(engine.url), orders, 1) as matchers:
        _perform(engine, orders, matchers.find_differences)
    assert told == [5000]


def test_an_error_of_the_matching_is_raised_where_it_was_asked_for(tmp_path: Path) -> None:
    engine = _database(tmp_path / "books.db", 30)
    chosen = {"t000029": [Selection("nowhere", 1)]}
    orders = [Order(MAIN, ScopeKey("main", SYMBOLS[2], Method.SPECIFIC), 30, selections=chosen)]
    with Matchers(str(engine.url), orders, 1) as matchers, pytest.raises(FifoError, match="t000029"):
        _perform(engine, orders, matchers.find_differences)
    assert _rows(engine) == []


def test_a_process_that_dies_is_noticed_and_nothing_half_done_is_stored(tmp_path: Path) -> None:
    engine, orders = _database(tmp_path / "books.db", 3000), _orders(3000)
    with Matchers(str(engine.url), orders, 1) as matchers:
        (process,) = matchers.processes
        os.kill(process, signal.SIGKILL)
        with pytest.raises(WorkerLost, match="-9"):
            _perform(engine, orders, matchers.find_differences)
    assert _rows(engine) == []


def _deaf(pipe: Any, _url: str, _orders: list[Order]) -> None:
    """The life of a worker that does not hear a SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send(("add", []))
    time.sleep(600)


def test_a_process_that_does_not_hear_a_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.3)
    monkeypatch.setattr(matching, "_serve", _deaf)
    began = time.monotonic()
    with Matchers("sqlite://", _orders(30), 1) as matchers:
        assert matchers._matchers[0].worker.pipe.poll(PATIENCE)
    assert time.monotonic() - began < 2 * PATIENCE  # it would sleep for 600 s
    assert not multiprocessing.active_children()
