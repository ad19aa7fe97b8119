"""`allocations compute` without a daemon: under the portfolio role, streaming, one transaction for each scope."""

import os
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine

from config.settings import Settings
from execution import followers, leases, ledger, raw
from execution.leases import Fence
from execution.ledger import derived_id
from execution.writer import InlineWriter
from portfolio import allocations, runs, selections
from portfolio.allocations import ScopeKey
from portfolio.allocator import FOLLOWER
from portfolio.errors import FifoError
from portfolio.lots import Method
from portfolio.runs import Finished, Order
from portfolio.tables import RunMode
from runtime import database, matching
from runtime.clock import WallClock
from runtime.ctrl_c import run_inline
from runtime.locks import RoleLocks, holder_text
from runtime.offline_books import ROLE, is_behind, store_missing

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Told the trades done and the trades in all."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be computed; neither `full` nor `since`: only scopes that miss trades."""

    account: str | None = None
    symbol: str | None = None
    method: Method = Method.FIFO
    full: bool = False
    since: datetime | None = None


def compute(settings: Settings, file: Path, wanted: Wanted, progress: Progress) -> list[Finished]:
    """Compute and store. Raises RoleTaken, StorageUnavailable, LeaseLost, FifoError (logged)."""
    url, timeout = database.sqlite_url(file), settings.writer.busy_timeout_ms
    locks = RoleLocks(file, (ROLE,))
    locks.acquire()
    try:
        engine = database.open_database(url, busy_timeout_ms=timeout)
        readers = database.reader_engine(url, busy_timeout_ms=timeout)
        try:
            if database.read(readers, is_behind):
                if database.read(readers, _trades_behind) >= matching.FEW_TRADES:
                    run_inline(compute_scopes(engine, url, Wanted(), progress))
                run_inline(store_missing(settings, engine, readers))
            return run_inline(compute_scopes(engine, url, wanted, progress))
        finally:
            readers.dispose()
            engine.dispose()
    finally:
        locks.release()


async def compute_scopes(engine: Engine, url: str, wanted: Wanted, progress: Progress) -> list[Finished]:
    """The runs alone: the caller holds the role, and what was behind is stored. Raises as `compute`."""
    clock = WallClock()
    with engine.connect() as connection, connection.begin():
        fence = Fence({ROLE: leases.take(connection, ROLE, holder_text(), clock.now())})
    writer = InlineWriter(engine, commit_each=True, participants=[fence])
    mode = RunMode.FULL if wanted.since is None else RunMode.SYMBOL
    try:
        await writer.submit(lambda connection: allocations.fail_interrupted(connection, clock.recorded_now()))
        orders, counts = await writer.submit(lambda connection: _orders(connection, wanted))
        batch_id = derived_id("batch", holder_text(), clock.recorded_now().isoformat())
        done: list[Finished] = []
        before, total = 0, sum(counts)
        with ExitStack() as stack:
            differences = _elsewhere(url, orders, total, stack)
            for order, trades in zip(orders, counts, strict=True):
                told = _told(order, progress, before, total)
                done.append(await _run(writer, told, mode, batch_id, clock.recorded_now, differences))
                before += trades
        return done
    finally:
        writer.stop()


def _trades_behind(connection: Connection) -> int:
    """How many trades were recorded since allocations were last stored."""
    sql = "SELECT COUNT(*) FROM trades WHERE sequence > ?"
    return int(raw.execute(connection, sql, (followers.position(connection, FOLLOWER),)).fetchone()[0])


def _elsewhere(url: str, orders: list[Order], trades: int, stack: ExitStack) -> runs.Differences | None:
    """Other processes that match, when there are cores for them and it is worth it."""
    cores = os.cpu_count() or 1
    if cores < 2 or trades < matching.FEW_TRADES:
        return None
    return stack.enter_context(matching.Matchers(url, orders, min(cores, matching.MOST_WORKERS))).find_differences


def _told(order: Order, progress: Progress, before: int, total: int) -> Order:
    return Order(
        order.account,
        order.key,
        order.up_to,
        order.since,
        order.selections,
        lambda done: progress(before + done, total),
    )


async def _run(
    writer: InlineWriter,
    order: Order,
    mode: RunMode,
    batch_id: str,
    now: Callable[[], datetime],
    differences: runs.Differences | None,
) -> Finished:
    run = await writer.submit(lambda c: runs.log(c, order, mode, "requested", now(), batch_id))
    try:
        return await writer.submit(lambda connection: runs.perform(connection, run, order, mode, now, differences))
    except FifoError as error:
        said, trace = str(error), traceback.format_exc()
        await writer.submit(lambda connection: allocations.fail(connection, run.id, said, trace, now()))
        raise


def _orders(connection: Connection, wanted: Wanted) -> tuple[list[Order], list[int]]:
    """What is to be done, with the number of trades of each."""
    accounts, head = ledger.accounts(connection), ledger.head(connection).sequence
    chosen = selections.stored(connection) if wanted.method is Method.SPECIFIC else None
    behind = None if wanted.full or wanted.since is not None else runs.behind(connection, wanted.method)
    sql = "SELECT account, symbol, COUNT(*) FROM trades GROUP BY account, symbol ORDER BY account, symbol"
    orders, counts = [], []
    for account, symbol, count in raw.execute(connection, sql).fetchall():
        if wanted.account not in (None, account) or wanted.symbol not in (None, symbol):
            continue
        if behind is None or (account, symbol) in behind:
            key = ScopeKey(account, symbol, wanted.method)
            orders.append(Order(accounts[account], key, head, wanted.since, chosen))
            counts.append(count)
    return orders, counts
