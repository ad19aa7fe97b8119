"""Writing to the books without a daemon: the same decoding, checks and transaction as the daemon's."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from execution.errors import StorageUnavailable
from execution.model import CashRequest, Responded, ResponseStatus
from execution.service import Envelope
from execution.writer import InlineReader, InlineWriter
from runtime.cli.base import Place
from runtime.clock import WallClock
from runtime.codec import decode
from runtime.composition import build_core, open_first_account
from runtime.database import open_database, seed_catalogue, sqlite_url
from runtime.messages import Decoded, Undecodable
from runtime.topics import Command, Topics
from runtime.wire import encode, response_wire

T = TypeVar("T")


def move_cash(place: Place, account: str, command: Command, body: Mapping[str, Any]) -> dict[str, Any]:
    """Book a deposit or withdrawal; the response that the daemon would give. Idempotent by request_id."""
    if not place.has_books:
        raise place.no_books()
    topics = Topics(place.settings.base_topic)
    match = topics.parse(topics.request(account, command))
    assert match is not None
    topics.response(account, body["request_id"])  # an id that cannot be answered is a usage error
    outcome = decode(match, encode(dict(body)), assigned_id=body["request_id"])
    if not isinstance(outcome, Decoded):
        reason = outcome.reason if isinstance(outcome, Undecodable) else outcome.reasons[0]
        refused = Responded(account, body["request_id"], ResponseStatus.REFUSED, final=True, reason=reason)
        return response_wire(refused)
    assert isinstance(outcome.message, CashRequest)
    with books(place) as engine:
        return response_wire(asyncio.run(_handle(place, engine, Envelope(outcome.message, outcome.body_hash))))


async def _handle(place: Place, engine: Engine, envelope: Envelope) -> Responded:
    writer = InlineWriter(engine, commit_each=True)
    try:
        core = build_core(
            place.settings,
            writer=writer,
            reader=InlineReader(writer),
            clock=WallClock(),
            bots=(),
            publish=lambda _message: None,  # the daemon's announcer reads the ledger
            roles=("execution",),
        )
        assert core.execution is not None
        # Not `core.start()`: open orders are the running execution's business.
        await writer.submit(core.execution.state.load)
        events = await core.execution.handle(envelope)
    finally:
        writer.stop()
    return next(event for event in events if isinstance(event, Responded))


@contextmanager
def books(place: Place) -> Iterator[Engine]:
    """The books for writing, at the newest schema. Raises StorageUnavailable when a write fails."""
    url = sqlite_url(place.database)
    engine = open_database(url, busy_timeout_ms=place.settings.writer.busy_timeout_ms)
    try:
        yield engine
    except DBAPIError as error:
        raise StorageUnavailable(f"{place.database} could not be written: {error.orig}") from error
    finally:
        engine.dispose()


def change(place: Place, work: Callable[[Connection], T]) -> T:
    """Run one write transaction on the books, which are made (with the first account) when there are none."""
    with books(place) as engine, engine.connect() as connection, connection.begin():
        seed_catalogue(connection)
        open_first_account(connection, place.settings, WallClock())
        return work(connection)
