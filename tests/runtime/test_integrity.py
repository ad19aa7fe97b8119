"""Books that fail a check: said on the bus, halted, and halted still after a restart; only a person resumes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from config.loading import load_settings
from execution import guards, ledger
from execution.model import (
    AlertRaised,
    HaltChanged,
    HaltRequest,
    OrderRequest,
    Price,
    Responded,
    ResponseStatus,
    Severity,
    Side,
)
from execution.service import Envelope
from execution.writer import InlineReader, InlineWriter
from portfolio import fifo
from runtime import wire
from runtime.clock import WallClock
from runtime.codec import decode
from runtime.composition import build_core, first_account, opening_deposit
from runtime.core import Core
from runtime.database import ensure_account, open_database, seed_catalogue
from runtime.messages import Decoded, Integrity
from runtime.topics import Command, Topics
from tests.portfolio.oracles.faults import closing_with, losing_fees

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class House:
    """The services of a daemon on a real database, their messages in a list; `start` again is a restart."""

    def __init__(self, folder: Path) -> None:
        self.settings = load_settings(config_file=None, overrides=[], environ={}, cwd=folder).settings
        self.url = f"sqlite:///{folder / 'books.db'}"
        self.said: list[object] = []
        self.core: Core
        self._numbers = iter(range(1, 10**6))

    async def start(self, *roles: str) -> None:
        self.said.clear()
        self.engine = open_database(self.url, synchronous="OFF")
        clock = WallClock()
        with self.engine.connect() as connection, connection.begin():
            seed_catalogue(connection)
            opening = opening_deposit(self.settings, Decimal(10000), clock)
            ensure_account(connection, first_account(self.settings), opening, NOON)
        self.writer = InlineWriter(self.engine, commit_each=True)
        self.reader = InlineReader(self.writer)
        self.core = build_core(
            self.settings, writer=self.writer, reader=self.reader, clock=clock, bots=[],
            publish=self.said.append, roles=roles or ("execution", "portfolio"),
        )  # fmt: skip
        await self.core.start()
        await self.core.on_price(Price("BTC-USD", Decimal(30000), clock.now()))

    def stop(self) -> None:
        self.writer.stop()
        self.engine.dispose()

    async def trade(self, side: Side, quantity: str) -> ResponseStatus:
        """Ask for a trade; what it was answered in the end."""
        number = str(next(self._numbers)) + datetime.now(UTC).isoformat()
        request = OrderRequest(number, "main", "BTC-USD", side, "manual", quantity=Decimal(quantity))
        await self.core.handle(Envelope(request, number, None))
        response: Responded = self.last(Responded)
        return response.status

    async def resume(self) -> None:
        number = f"resume{next(self._numbers)}"
        await self.core.handle(Envelope(HaltRequest(number, "main", False, "manual:ada"), number, None))

    def all_of(self, kind: type) -> list:  # type: ignore[type-arg]  # of that kind
        return [message for message in self.said if isinstance(message, kind)]

    def last(self, kind: type):  # type: ignore[no-untyped-def]  # one of that kind
        return self.all_of(kind)[-1]

    def damage(self, sql: str) -> None:
        """Change a fact behind everybody's back."""

        def work(connection) -> None:  # type: ignore[no-untyped-def]  # as the writer hands it over
            guards.drop_guards(connection)
            connection.exec_driver_sql(sql)
            guards.create_guards(connection)

        self.writer.submit(work)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.start()
    yield house
    house.stop()


def sloppy(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """An engine that loses a part of each fee; returns what repairs it."""
    real = fifo.LotEngine._close
    monkeypatch.setattr(fifo.LotEngine, "_close", closing_with(losing_fees))
    return lambda: monkeypatch.setattr(fifo.LotEngine, "_close", real)


async def test_sound_books_are_said_to_be_sound_from_the_start(house: House) -> None:
    state = house.last(Integrity)
    assert (state.account, state.ok, state.problems) == ("main", True, ())

    assert await house.trade(Side.BUY, "0.1") is ResponseStatus.FILLED
    assert await house.trade(Side.SELL, "0.05") is ResponseStatus.FILLED

    assert all(state.ok for state in house.all_of(Integrity))
    assert house.all_of(HaltChanged) == []
    assert house.core.integrity is not None
    (known,) = house.core.integrity.states
    assert (known.ok, known.sequence) == (True, 3)  # what the next repetition of the retained state says
    assert known.checked_at > state.checked_at


async def test_an_engine_that_splits_wrongly_halts_trading_with_the_first_fill(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    sloppy(monkeypatch)
    await house.trade(Side.BUY, "0.1")

    await house.trade(Side.SELL, "0.05")

    state, halt = house.last(Integrity), house.last(HaltChanged)
    assert not state.ok
    assert "share of the fee" in state.problems[0]
    assert state.sequence == 3
    assert (halt.account, halt.halted, halt.by) == ("main", True, "integrity")
    (alert,) = [alert for alert in house.all_of(AlertRaised) if alert.code == "integrity"]
    assert (alert.severity, alert.account) == (Severity.HIGH, "main")
    assert await house.trade(Side.SELL, "0.01") is ResponseStatus.REFUSED
    assert house.last(Responded).reason.code == "trading_halted"


async def test_the_halt_outlives_a_restart_and_ends_when_somebody_resumes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    repair = sloppy(monkeypatch)
    await house.trade(Side.BUY, "0.1")
    await house.trade(Side.SELL, "0.05")
    repair()
    (alert,) = [alert for alert in house.all_of(AlertRaised) if alert.code == "integrity"]
    house.stop()

    await house.start()

    assert alert in house.all_of(AlertRaised), "the process may have died before the broker had it"
    assert alert.id is not None
    assert not house.last(Integrity).ok
    assert "the books failed a check" in house.last(Integrity).problems[0]
    assert await house.trade(Side.SELL, "0.01") is ResponseStatus.REFUSED
    await house.resume()
    assert house.last(Integrity).ok
    assert await house.trade(Side.SELL, "0.01") is ResponseStatus.FILLED
    assert house.last(Integrity).ok
    house.stop()

    await house.start()
    assert house.all_of(AlertRaised) == [], "what is settled is not said again"


async def test_a_flipped_hash_that_another_process_appended_halts_trading(house: House) -> None:
    await house.trade(Side.BUY, "0.1")
    house.damage(
        "INSERT INTO cash_flows SELECT 3, 'x', account, kind, amount, currency, effective_at, recorded_at,"
        f" triggered_by, 'x', note, '{'ab' * 32}' FROM cash_flows"
    )
    house.damage(f"UPDATE ledger_head SET sequence = 3, hash = '{'ab' * 32}'")

    await house.core.follow()

    assert "its hash does not follow" in house.last(Integrity).problems[0]
    assert house.last(HaltChanged).by == "integrity"


async def test_a_full_proof_finds_an_edit_on_the_disk_and_halts(house: House) -> None:
    await house.trade(Side.BUY, "0.1")
    assert house.core.integrity is not None
    await house.core.integrity.prove(house.reader)
    assert house.last(Integrity).ok
    assert house.last(Integrity).sequence == 2
    house.damage("UPDATE trades SET price = '1'")

    await house.core.integrity.prove(house.reader)

    assert any("(sequence 2)" in problem for problem in house.last(Integrity).problems)
    assert house.last(HaltChanged).halted


async def test_what_somebody_took_on_by_resuming_is_said_again_but_does_not_halt_again(house: House) -> None:
    await house.trade(Side.BUY, "0.1")
    house.damage("UPDATE trades SET triggered_by = 'manual:eve'")
    assert house.core.integrity is not None
    await house.core.integrity.prove(house.reader)
    await house.resume()
    halts = len(house.all_of(HaltChanged))

    await house.core.integrity.prove(house.reader)

    assert not house.last(Integrity).ok
    assert len(house.all_of(HaltChanged)) == halts
    assert await house.trade(Side.SELL, "0.05") is ResponseStatus.FILLED


async def test_proofs_come_by_themselves_and_after_somebody_resumed(house: House) -> None:
    keeper = house.core.integrity
    assert keeper is not None
    before = len(house.all_of(Integrity))
    task = asyncio.create_task(keeper.run(house.reader, 0.01))
    while len(house.all_of(Integrity)) < before + 2:
        await asyncio.sleep(0.01)
    task.cancel()
    assert all(state.ok for state in house.all_of(Integrity))
    await keeper.run(house.reader, None)  # 0 minutes: never, and at once


async def test_without_the_execution_role_the_halt_is_asked_for_on_the_bus(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.trade(Side.BUY, "0.1")
    house.stop()
    await house.start("portfolio")
    house.damage("UPDATE trades SET price = '1'")
    assert house.core.integrity is not None

    await house.core.integrity.prove(house.reader)

    request = house.last(HaltRequest)
    assert (request.account, request.halted, request.triggered_by) == ("main", True, "integrity")
    topics = Topics()
    match = topics.parse(topics.request("main", Command.HALT))
    assert match is not None
    read = decode(match, wire.encode(wire.halt_request_wire(request)), assigned_id="")
    assert isinstance(read, Decoded)
    assert read.message == replace(request, triggered_by="manual:integrity")


async def test_a_head_that_moved_is_not_taken_for_a_fault(house: House) -> None:
    """The books are followed while they are proven; what is not stored yet is no problem."""
    for _ in range(3):
        await house.trade(Side.BUY, "0.01")
    assert house.core.integrity is not None

    results = await house.core.integrity.prove(house.reader)

    assert all(result.ok for result in results), results
    assert (await house.reader.read(ledger.head)).sequence == 4
