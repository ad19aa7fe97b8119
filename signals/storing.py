"""What the signals service stores: read at start, written in one transaction for each decision."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection

from config.instruments import Instrument
from config.times import stored_time
from execution import candles, ledger, orders, raw
from execution.model import Candle, Json, OrderRequest
from execution.ports import Writer
from execution.tables import json_text
from signals import outbox
from signals.candle_store import CandleStore
from signals.runner import BotRunner
from signals.tables import bot_states
from signals.unanswered import Unanswered

_insert_state = raw.Insert(bot_states)
_select_states = raw.Select(bot_states)

Row = dict[str, Json]
"""The stored state of one bot."""


class Stored(NamedTuple):
    """What a start needs: states by bot, open requests, the catalogue, the last candle of each series."""

    rows: dict[str, dict[str, Any]]
    requests: list[OrderRequest]
    instruments: dict[str, Instrument]
    latest: dict[tuple[str, str], Candle]
    halted: set[str]


def read_stored(connection: Connection) -> Stored:
    """All of it in one consistent read."""
    rows = {
        bot: {"status": status, "operator_stopped": stopped, "state": state}
        for bot, status, stopped, state, _updated_at in _select_states.rows(connection)
    }
    return Stored(
        rows,
        outbox.load_open(connection),
        ledger.instruments(connection),
        candles.latest(connection),
        set(orders.halts(connection)),
    )


async def commit(
    writer: Writer,
    store: CandleStore,
    unanswered: Unanswered,
    changed: Sequence[tuple[BotRunner, Row]],
    now: datetime,
) -> list[OrderRequest]:
    """One transaction with all that waits; the requests that it made durable.

    Raises StorageUnavailable: everything then waits as before. Whoever is cancelled meanwhile is so when the end of
    the transaction is known: what it stored must not wait to be stored again.
    """
    waiting = store.take()
    taken = unanswered.take()
    if not (waiting or taken or changed):
        return []
    before = [(runner, runner.saved) for runner, _ in changed]
    for runner, row in changed:
        runner.saved = row

    def work(connection: Connection) -> None:
        store.flush(connection, waiting)
        for runner, row in changed:
            _save_state(connection, runner.file.name, row, now)
        outbox.store(connection, taken.left + taken.unsaved)
        outbox.mark_done(connection, taken.answered)

    try:
        interrupted = await _to_its_end(writer.submit(work))
    except BaseException:
        store.give_back(waiting)
        unanswered.give_back(taken)
        for runner, saved in before:
            runner.saved = saved
        raise
    requests = unanswered.stored(taken)
    if interrupted is not None:
        raise interrupted
    return requests


async def _to_its_end(committing: Awaitable[None]) -> asyncio.CancelledError | None:
    """Wait for a commit, also when cancelled meanwhile: then that is returned, or raised if nothing was stored.
    Raises what the commit raises."""
    if not (asyncio.isfuture(committing) or asyncio.iscoroutine(committing)):
        await committing  # done already, and a replay has no time for a task
        return None
    commit = asyncio.ensure_future(committing)
    try:
        await asyncio.shield(commit)
    except asyncio.CancelledError as error:
        await asyncio.wait((commit,))
        if commit.cancelled() or commit.exception() is not None:
            raise  # and not what the commit raises: whoever tries again after that would never end
        return error
    return None


def _save_state(connection: Connection, name: str, row: Mapping[str, Any], now: datetime) -> None:
    values = (row["status"], int(row["operator_stopped"]), json_text(row["state"]), stored_time(now))
    change = "UPDATE bot_states SET status = ?, operator_stopped = ?, state = ?, updated_at = ? WHERE bot = ?"
    if not raw.execute(connection, change, (*values, name)).rowcount:
        _insert_state.rows(connection, [(name, row["status"], row["operator_stopped"], row["state"], now)])
