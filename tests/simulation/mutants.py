"""Planted bugs: each breaks one promise on purpose, and the simulation must find it out.

`MUTANTS` are found; of `MASKED` it is known why another layer makes up for them, so that they are not.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from decimal import Decimal
from functools import partial
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection

from config.times import stored_time
from execution import followers, leases, orders, paper, raw
from execution.leases import Fence
from execution.ledger import Head, LedgerTail
from execution.paper import PaperVenue
from execution.recorder import Recorder
from execution.service import ExecutionService
from execution.writer import GroupCommitWriter
from portfolio import allocations
from portfolio.books import SymbolBook
from portfolio.service import PortfolioService
from runtime.intake import Intake
from runtime.publisher import Publisher
from runtime.voice import Voice
from signals import outbox
from signals.unanswered import Unanswered
from tests.simulation.storage import SimWriter

Mutant = Callable[[], AbstractContextManager[Any]]
"""Makes a context manager that plants the bug."""


def _replace(owner: Any, name: str, value: Any) -> Mutant:
    return partial(patch.object, owner, name, value)


def _nothing(*_arguments: Any, **_named: Any) -> None:
    """Do nothing."""


# ---- order and commit ----------------------------------------------------------------------------------


async def _answers_first(self: SimWriter) -> None:
    """Works are done and answered, and committed later: what was said may be lost at a kill."""
    while True:
        await self._wake.wait()
        self._wake.clear()
        while not self._queue.empty():
            await asyncio.sleep(self._delays.draw())
            items, _ = self._gather(self._queue.get_nowait())
            connection = self._connection = self._connection or self._engine.connect()
            transaction = connection.begin()
            self._group.begin()
            for item in items:
                item.result = item.work(connection)
            self._settle(items)
            await asyncio.sleep(0.005 + self._delays.draw())
            self._group.before_commit(connection)
            transaction.commit()
            self._group.committed()


def _failures_hidden() -> AbstractContextManager[Any]:
    """A work whose transaction failed is answered as if it was stored."""
    commit = GroupCommitWriter._commit

    def hiding(self: GroupCommitWriter, connection: Any, items: Any) -> Any:
        found = commit(self, connection, items)
        for item in items:
            if item.error is not None and hasattr(item, "result"):
                item.error = None
        return found

    return patch.object(SimWriter, "_commit", hiding)


async def _not_resumed(self: ExecutionService, order: Any) -> list[Any]:
    """A start forgets the venue's book."""
    return []


# ---- roles ---------------------------------------------------------------------------------------------


def _no_lease(connection: Connection, role: str, holder: str, now: Any) -> int:
    """Whoever comes gets the same epoch."""
    sql = "INSERT INTO leases (role, epoch, holder, acquired_at) VALUES (?, 1, ?, ?) ON CONFLICT (role) DO NOTHING"
    raw.execute(connection, sql, (role, holder, stored_time(now)))
    return 1


def _unfenced(self: Fence, connection: Connection) -> None:
    """Nothing is checked."""


# ---- ledger --------------------------------------------------------------------------------------------


def _holes() -> AbstractContextManager[Any]:
    """A head that is read one too high now and then leaves a hole."""
    real = LedgerTail._next

    def jumping(self: LedgerTail, connection: Connection) -> Head:
        found = real(self, connection)
        if found.sequence % 7 == 3 and self._head is self._stored:
            self._head = Head(found.sequence + 1, found.hash)
            return self._head
        return found

    return patch.object(LedgerTail, "_next", jumping)


def _float_fee() -> AbstractContextManager[Any]:
    """Fees pass through a float."""
    return patch.object(paper, "round_to", lambda value, decimals: Decimal(str(round(float(value), 6))))


def _half_stored() -> AbstractContextManager[Any]:
    """The second fill of a batch is dropped."""
    real = Recorder.apply

    def dropping(self: Recorder, connection: Connection, reports: Any) -> Any:
        fills = [report for report in reports if hasattr(report, "venue_trade_id")]
        return real(self, connection, [report for report in reports if report not in fills[1:]])

    return patch.object(Recorder, "apply", dropping)


# ---- saying --------------------------------------------------------------------------------------------


def _never_kept() -> AbstractContextManager[Any]:
    """What the broker did not confirm is forgotten."""
    return patch.object(Publisher, "_again", _nothing)


def _half_answers() -> AbstractContextManager[Any]:
    """Answers to a repetition are left out."""
    return patch.object(orders, "recall", _forgetful(orders.recall))


def _forgetful(real: Callable[..., Any]) -> Callable[..., Any]:
    dice = random.Random(1)
    return lambda *arguments: None if dice.random() < 0.1 else real(*arguments)


def _early_acknowledgement() -> AbstractContextManager[Any]:
    """A message is acknowledged before it is worked on."""
    real = Intake._take

    async def early(self: Intake, incoming: Any, match: Any, market_before: int) -> None:
        incoming.ack()
        await real(self, incoming, match, market_before)

    return patch.object(Intake, "_take", early)


def _random_id(account: str, request_id: str) -> str:
    return f"client-{random.random()}"


def _both(*mutants: Mutant) -> Mutant:
    @contextmanager
    def planted_all() -> Iterator[None]:
        with ExitStack() as stack:
            for mutant in mutants:
                stack.enter_context(mutant())
            yield

    return planted_all


MUTANTS: dict[str, Mutant] = {
    "no-inbox": _replace(orders, "recall", _nothing),
    "inbox-forgets": _half_answers,
    "answer-before-commit": _replace(SimWriter, "_work", _answers_first),
    "failed-commit-hidden": _failures_hidden,
    "no-lease": _replace(leases, "take", _no_lease),
    "no-fencing": _replace(Fence, "check", _unfenced),
    "orders-not-resumed": _replace(ExecutionService, "_resume", _not_resumed),
    "head-with-holes": _holes,
    "tail-not-rolled-back": _both(
        _replace(LedgerTail, "rolled_back", _nothing), _replace(LedgerTail, "begin", _nothing)
    ),
    "second-fill-dropped": _half_stored,
    "float-fee": _float_fee,
    "expiry-ignored": _both(
        _replace(PaperVenue, "_expire", lambda *_: []), _replace(PaperVenue, "_is_late", lambda *_: False)
    ),
    "fifo-by-arrival": _replace(SymbolBook, "_is_late", lambda *_: False),
    "allocations-not-stored": _replace(allocations, "insert", lambda *_, **__: None),
    "no-republish": _replace(Voice, "say_everything", _nothing),
    "announcer-starts-at-the-head": _replace(
        followers, "position", lambda c, _name: int(c.exec_driver_sql("SELECT sequence FROM ledger_head").scalar())
    ),
    "unconfirmed-is-forgotten": _never_kept,
    "requests-not-repeated": _both(
        _replace(Voice, "repeat_requests", _nothing), _replace(Unanswered, "to_repeat", lambda *_: [])
    ),
    "outbox-not-stored": _replace(outbox, "store", _nothing),
    "halt-not-stored": _replace(orders, "store_halt", _nothing),
    "changes-not-said": _both(
        _replace(PortfolioService, "take_changes", lambda *_: []),
        _replace(PortfolioService, "all_state", lambda *_: []),
    ),
    "acknowledged-too-early": _early_acknowledgement,
    "stop-fires-twice": _replace(Unanswered, "is_closing", lambda *_: False),
    "random-client-id": _replace(orders, "client_order_id", _random_id),
}

MASKED: dict[str, str] = {
    "stop-fires-twice": "execution refuses to close a position that another order is closing already",
    "random-client-id": "the paper exchange asks nobody by that id; a request is one order by its request id",
}
"""Why a mutant is not found: another layer makes up for it."""


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Run with a bug; None: with none."""
    if name is None:
        yield
    else:
        with MUTANTS[name]():
            yield
