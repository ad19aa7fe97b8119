"""The loops around a live venue go on whatever the venue and the storage do."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from execution import ledger
from execution.errors import LeaseLost, StorageUnavailable
from execution.exchange import ExchangeTimeout, ExchangeTrade
from execution.live import LiveTimes
from execution.model import Account, AccountKind
from runtime.reconciling import Reconciling
from tests.execution.exchanges import LiveHouse, ScriptedExchange, a_trade, open_live_account
from tests.execution.house import START, Books, make_template
from tests.integration.brokers import PATIENCE

QUICK = LiveTimes(poll=0.01, timeout=0.05, grace=60.0)


@pytest.fixture(scope="module", autouse=True)
def _template(tmp_path_factory: pytest.TempPathFactory) -> None:
    make_template(tmp_path_factory.mktemp("template"))


class Streaming(ScriptedExchange):
    """A venue whose stream stays open until the test closes it."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.closed = 0
        self.gives_up = False
        """The client cancels its own calls."""
        self.lines: asyncio.Queue[ExchangeTrade | None] = asyncio.Queue()

    async def stream(self, account: str) -> AsyncGenerator[ExchangeTrade, None]:
        self.opened.append(account)
        try:
            while True:
                if self.gives_up:
                    raise asyncio.CancelledError
                trade = await self.lines.get()
                if trade is None:
                    raise ExchangeTimeout("the connection was lost")
                yield trade
        finally:
            await asyncio.sleep(0)  # a connection says goodbye
            self.closed += 1

    async def _arrive(self) -> None:
        if self.gives_up:
            raise asyncio.CancelledError
        await super()._arrive()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[tuple[LiveHouse, Streaming, "asyncio.Task[None]"]]:
    """A house whose venue is kept reconciled."""
    books = Books(tmp_path)
    open_live_account(books)
    exchange = Streaming()
    house = LiveHouse(books, exchange, times=QUICK)
    await house.open()
    task = asyncio.create_task(Reconciling(house.reconciler, 0.02).run())
    yield house, exchange, task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    house.close()
    books.close()


async def until(found: Callable[[], bool]) -> None:
    """Wait for what the loops do."""
    async with asyncio.timeout(PATIENCE):
        while not found():
            await asyncio.sleep(0.005)


async def test_a_lost_stream_is_opened_again_and_goes_on(running: Any) -> None:
    house, exchange, _ = running
    exchange.lines.put_nowait(a_trade("1", 1))
    await until(lambda: len(house.trades()) == 1)
    exchange.lines.put_nowait(None)
    exchange.lines.put_nowait(a_trade("1", 2))
    await until(lambda: len(house.trades()) == 2)
    assert exchange.opened == ["live", "live"]


async def test_rounds_go_on_while_the_venue_is_away_and_after(running: Any) -> None:
    house, exchange, _ = running
    exchange.hangs = True
    asked = len(exchange.since)
    await until(lambda: len(exchange.since) > asked + 2)
    exchange.hangs = False
    exchange.told.append(a_trade("1", 1))
    await until(lambda: len(house.trades()) == 1)


async def test_a_cancel_is_sent_without_waiting_for_the_next_round(tmp_path: Path) -> None:
    books = Books(tmp_path)
    open_live_account(books)
    house = LiveHouse(books, ScriptedExchange(), times=LiveTimes(poll=3600.0))
    await house.open()
    task = asyncio.create_task(Reconciling(house.reconciler, 0.02).run())
    placed = await house.buy("1", limit="90")
    await until(lambda: bool(house.exchange.since))
    await house.cancel(placed.order_id or "", account="live")
    await until(lambda: house.placed(placed).status.is_final)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    house.close()
    books.close()


@pytest.mark.parametrize("steps", range(6))
async def test_a_stop_is_heard_also_in_the_moment_in_which_a_round_is_called_for(tmp_path: Path, steps: int) -> None:
    books = Books(tmp_path)
    open_live_account(books)
    house = LiveHouse(books, ScriptedExchange(), times=LiveTimes(poll=3600.0))
    await house.open()
    task = asyncio.create_task(Reconciling(house.reconciler, 0.02).run())
    woken = house.venue.line("live").woken
    await until(lambda: bool(woken._waiters))
    woken.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=PATIENCE)
    assert done
    house.close()
    books.close()


async def test_a_client_that_cancels_its_own_calls_is_one_that_does_not_answer(running: Any) -> None:
    """Nobody asked the daemon to stop."""
    house, exchange, task = running
    await until(lambda: bool(exchange.opened))
    exchange.gives_up = True
    exchange.lines.put_nowait(None)
    asked = len(exchange.since)
    await until(lambda: len(exchange.since) > asked + 5 and len(exchange.opened) > 3)
    silence = house.venue.line("live").silence
    assert silence is not None
    assert "gave the call up" in silence.why
    exchange.gives_up = False
    exchange.told.append(a_trade("1", 1))
    await until(lambda: len(house.trades()) == 1)
    assert not task.done()


async def test_a_stop_while_a_trade_is_recorded_closes_the_stream(running: Any) -> None:
    house, exchange, task = running
    await until(lambda: bool(exchange.opened))
    submitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    commit: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def hangs(_work: Any) -> None:
        if not submitted.done():
            submitted.set_result(None)
        await commit

    with house.commits(hangs):
        exchange.lines.put_nowait(a_trade("1", 1))
        await submitted
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert exchange.closed == len(exchange.opened)


async def test_an_account_that_is_added_gets_its_stream(running: Any) -> None:
    house, exchange, _ = running
    house.books.do(lambda c: ledger.add_account(c, Account("other", kind=AccountKind.LIVE, venue="broker"), START))
    house.state.accounts = house.books.ask(ledger.accounts)
    await until(lambda: "other" in exchange.opened)


async def test_a_storage_that_cannot_be_read_is_waited_for(running: Any) -> None:
    house, exchange, task = running
    reader = house.reconciler._reader
    house.reconciler._reader = _Broken(StorageUnavailable("disk I/O error"))
    exchange.told.append(a_trade("1", 1))
    await until(lambda: house.reconciler._reader.asked > 2)
    house.reconciler._reader = reader
    await until(lambda: len(house.trades()) == 1)
    assert not task.done()


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_lost_lease_ends_the_loops(running: Any, streamed: bool) -> None:
    house, exchange, task = running
    await until(lambda: bool(exchange.opened))

    def fenced(_work: Any) -> Any:
        raise LeaseLost("lease lost: role execution, epoch 7; now epoch 8")

    with house.commits(fenced):
        if streamed:
            exchange.lines.put_nowait(a_trade("1", 1))
        else:
            exchange.told.append(a_trade("1", 1))
        with pytest.raises(LeaseLost):
            async with asyncio.timeout(PATIENCE):
                await task


class _Broken:
    """A reader that fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    def read(self, _query: Any) -> Any:
        self.asked += 1
        raise self.error
