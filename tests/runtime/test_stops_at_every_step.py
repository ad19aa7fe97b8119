"""Every loop of the daemon hears a stop in whichever step it comes, leaves no task behind and loses nothing."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from config.settings import SignalSettings
from execution import alerts
from execution.live import LiveTimes
from execution.model import AlertRaised, Event, FactsRecorded, Severity
from execution.service import Envelope
from execution.writer import InlineReader
from runtime import bot_reload, reload
from runtime.alert_outbox import AlertOutbox
from runtime.announcer import Announcer
from runtime.bot_files import BotFiles
from runtime.bot_reload import BotReloader
from runtime.bus import MemoryBroker, MemoryBus
from runtime.clock import WallClock
from runtime.follower import LedgerFollower
from runtime.integrity import IntegrityKeeper
from runtime.messages import RecomputeRequest
from runtime.publisher import Publisher
from runtime.recompute import Recomputer
from runtime.reconciling import Reconciling
from runtime.reload import Reloader
from runtime.supervisor import ChildError, Supervisor
from runtime.topics import Topics
from signals.loading import load_bots
from tests.execution.exchanges import LiveHouse, ScriptedExchange, a_trade, open_live_account
from tests.execution.house import START, Books, flow, make_template
from tests.portfolio.bookkeeping import CLOCK, Database
from tests.runtime.stepping import LateReader, LateWriter, Scene, stopped_at_each_step
from tests.runtime.test_intake import BUY, DEPOSIT, DEPOSITS, PRICE, TRADES
from tests.runtime.test_intake import TOPICS as INTAKE_TOPICS
from tests.runtime.test_intake import Scene as IntakeScene
from tests.runtime.test_recompute import Said
from tests.runtime.test_recompute import books as portfolio_of
from tests.signals.stage import SMA, Stage

TOPICS = Topics("fillbook")


@pytest.fixture(scope="module", autouse=True)
def _template(tmp_path_factory: pytest.TempPathFactory) -> None:
    make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def folders(tmp_path: Path) -> Callable[[], Path]:
    """A new folder at each call."""
    count = iter(range(10**6))

    def folder() -> Path:
        found = tmp_path / str(next(count))
        found.mkdir()
        return found

    return folder


class SlowBus(MemoryBus):
    """A bus whose broker confirms a moment later."""

    async def publish_soon(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1
    ) -> "asyncio.Future[None]":
        """Sent now, confirmed soon."""
        await self.publish(topic, payload, retain=retain, qos=qos)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.02, _confirm, future)
        return future


def _confirm(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


async def side_by_side(*works: Any) -> None:
    """Run works until stopped, as the daemon runs its loops."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class OnTheBus(Scene):
    """Books of its own, a broker, and a publisher in each life."""

    def __init__(self, folder: Path) -> None:
        self.books = Books(folder)
        self.reader = LateReader(InlineReader(self.books.writer))
        self.writer = LateWriter(self.books.writer)
        self.broker = MemoryBroker()

    async def live(self) -> Publisher:
        """Another life: its publisher."""
        bus = SlowBus(self.broker, "daemon")
        await bus.start()
        return Publisher(bus, TOPICS, WallClock(), limit=20, backlog=2)

    def close(self) -> None:
        self.books.close()

    def said(self, end: str) -> list[bytes]:
        """What was published on topics with this end."""
        return [payload for topic, payload, _ in self.broker.published if topic.endswith(end)]


class Announcing(OnTheBus):
    """Old facts from the ledger, and one that is new."""

    async def open(self) -> None:
        facts = self.books.record(*(flow(f"d{n}", "1") for n in range(6)))
        self.first = facts[0].sequence  # type: ignore[union-attr]  # it was new
        await self._begin(self.first - 1)

    async def _begin(self, sequence: int) -> None:
        self.publisher = await self.live()
        self.announcer = Announcer(self.publisher, self.reader, sequence, lambda _fact: None)
        self.announcer.expect(self.books.facts()[-1].sequence)

    async def run(self) -> None:
        await side_by_side(self.publisher.run(), self.announcer.run())

    def happens(self) -> None:
        (fact,) = self.books.record(flow("late", "1"))
        assert fact is not None
        self._late = asyncio.get_running_loop().create_task(self.announcer(FactsRecorded((fact,))))

    async def check(self) -> None:
        confirmed = self.announcer.confirmed
        heard = self.heard()
        assert set(range(self.first, confirmed + 1)) <= set(heard)
        await self._begin(confirmed)
        life = asyncio.create_task(self.run())
        while self.announcer.confirmed < self.books.facts()[-1].sequence:
            await asyncio.sleep(0.1)
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        assert set(self.heard()) == set(range(self.first, self.books.facts()[-1].sequence + 1))

    def heard(self) -> list[int]:
        """The sequences on the bus."""
        return [int(said.partition(b'"sequence":')[2].partition(b",")[0]) for said in self.said("/cash")]


class Alerting(OnTheBus):
    """Alerts that are stored, and one more."""

    async def open(self) -> None:
        self._keep(0, 1, 2)
        await self._begin()

    async def _begin(self) -> None:
        self.publisher = await self.live()
        self.outbox = AlertOutbox(self.publisher, self.reader, self.writer)
        self.outbox.wake()

    def _keep(self, *numbers: int) -> None:
        for number in numbers:
            alert = AlertRaised(Severity.HIGH, "unmatched_sell", f"number {number}", "main", {"review": f"r{number}"})
            self.books.do(partial(alerts.keep, alert=alert, now=START))

    async def run(self) -> None:
        await side_by_side(self.publisher.run(), self.outbox.run())

    def happens(self) -> None:
        self._keep(3)
        self.outbox.wake()

    async def check(self) -> None:
        await self._begin()
        life = asyncio.create_task(self.run())
        while self.books.ask(lambda c: alerts.waiting(c, 10)):
            await asyncio.sleep(0.1)
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        told = b"".join(self.said("/alert"))
        assert all(b"number %d" % number in told for number in range(4 if b"number 3" in told else 3))


class Following(OnTheBus):
    """A follower whose consumers take their time."""

    async def open(self) -> None:
        self.books.record(*(flow(f"d{n}", "1") for n in range(4)))
        self.follower = LedgerFollower(self.reader)
        self.given: list[list[int]] = [[], []]
        for given in self.given:
            self.follower.add(self._consumer(given))

    @staticmethod
    def _consumer(given: list[int]) -> Any:
        async def take(recorded: FactsRecorded) -> None:
            await asyncio.sleep(0)
            given.extend(fact.sequence for fact in recorded.facts)
            await asyncio.sleep(0)

        return take

    async def run(self) -> None:
        while True:
            await self.follower.poll()
            await asyncio.sleep(1)

    def happens(self) -> None:
        self.books.record(flow("late", "1"))

    async def check(self) -> None:
        await self.follower.poll()
        everything = [fact.sequence for fact in self.books.facts()]
        for given in self.given:
            assert list(dict.fromkeys(given)) == everything
            assert self.follower.sequence == everything[-1]


class Recomputing(Scene):
    """A recomputation that is asked for, and those of the schedule."""

    async def open(self) -> None:
        self.database = Database()
        self.said = Said()
        self.portfolio = await portfolio_of(self.database)
        self.portfolio._reader = self.portfolio._storage._reader = LateReader(self.database.reader)
        self.portfolio._storage._writer = LateWriter(self.database.writer)
        self.recomputer = Recomputer(
            self.portfolio, self.database.reader, CLOCK, self.said.publish, self._poll, every=timedelta(seconds=30)
        )  # fmt: skip
        await self._ask("first")

    async def _poll(self) -> None:
        await self.portfolio.catch_up()

    async def _ask(self, name: str) -> None:
        request = RecomputeRequest(name, "main", "manual", full=True)
        await self.recomputer.take(request, name)

    async def run(self) -> None:
        await self.recomputer.run()

    def happens(self) -> None:
        self._second = asyncio.get_running_loop().create_task(self._ask("second"))

    async def check(self) -> None:
        done, raised = await self.portfolio.compute(reason="after the stop")
        assert [run.differs for run in done] == [False]
        assert raised == []
        await self.portfolio.stop()

    def close(self) -> None:
        self.database.close()


class Proving(OnTheBus):
    """The full check of the books."""

    sequence = 1
    accounts = ("main",)

    def take_failures(self) -> list[Any]:
        """None."""
        return []

    async def open(self) -> None:
        async def halt(_request: object) -> None:
            raise AssertionError("sound books")

        self.keeper = IntegrityKeeper(self, WallClock(), lambda _message: None, halt)  # type: ignore[arg-type]  # it asks books for no more

    async def run(self) -> None:
        await self.keeper.run(self.reader, 5)

    def happens(self) -> None:
        self.keeper._look_now.set()

    async def check(self) -> None:
        assert all(result.ok for result in await self.keeper.prove(self.reader))


class Reconciled(Scene):
    """Rounds and a stream of a live venue with an order on its way."""

    def __init__(self, folder: Path) -> None:
        self.books = Books(folder)
        open_live_account(self.books)
        self.exchange = ScriptedExchange()
        self.house = LiveHouse(self.books, self.exchange, times=LiveTimes(poll=1.0))

    async def open(self) -> None:
        await self.house.open()
        placed = await self.house.buy("1", limit="90")
        self.order = self.house.placed(placed)
        self.house.reconciler._reader = LateReader(self.house.reader)
        self.house.service._writer = LateWriter(self.house.writer)
        self.exchange.streamed.append(a_trade("1", 1))

    async def run(self) -> None:
        await Reconciling(self.house.reconciler, 0.5).run()

    def happens(self) -> None:
        if not self.exchange.orders[self.order.client_order_id].status.is_final:
            self.exchange.fill(self.order, "1", 2)
        self.house.venue.line("live").woken.set()

    async def check(self) -> None:
        self.exchange.told.append(a_trade("1", 1))
        await self.house.reconciler.round("live")
        await self.house.reconciler.round("live")
        assert sorted(trade.venue_trade_id or "" for trade in self.house.trades()) == ["1", "2"]

    def close(self) -> None:
        self.house.close()
        self.books.close()


class Taking(Scene):
    """Requests and prices from the bus; what was not acknowledged stays with the broker."""

    async def open(self) -> None:
        self.stage = IntakeScene()
        await self.stage.bus.start()
        self.sent = 0
        take = self.stage.execution.take

        async def late(envelope: Envelope) -> Sequence[Event]:
            taken = await take(envelope)
            await asyncio.sleep(0.1)  # its commit
            return taken

        self.stage.execution.take = late  # type: ignore[method-assign]  # as the service, which waits for its commit
        for _ in range(3):
            self._send()
        await self.stage.bus.publish(INTAKE_TOPICS.price("BTC-USD"), PRICE)
        await self.stage.bus.publish(TRADES, BUY)

    def _send(self) -> None:
        self.sent += 1
        self.stage.broker.publish(DEPOSITS, DEPOSIT, retain=False, qos=1)

    async def run(self) -> None:
        await side_by_side(self.stage.publisher.run(), self.stage.intake.run())

    def happens(self) -> None:
        self._send()

    async def check(self) -> None:
        async with asyncio.timeout(10):
            await self.stage.intake.drain()
        done = self.sent + 2 - self.stage.unacknowledged
        assert done == len(self.stage.execution.handled) + len(self.stage.execution.prices)
        await self.stage.bus.drop()
        await self.stage.bus.start()
        life = asyncio.create_task(self.run())
        while self.stage.unacknowledged:
            await asyncio.sleep(0.1)
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


class FakeChild:
    """A child that lives for a while."""

    alive = 0

    def __init__(self, seconds: float) -> None:
        FakeChild.alive += 1
        self.pid = 1
        self.is_running = True
        self._ended = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, self.end)

    def end(self) -> None:
        """It is gone."""
        if self.is_running:
            self.is_running = False
            FakeChild.alive -= 1
            self._ended.set()

    async def wait(self) -> int:
        """Its end."""
        await self._ended.wait()
        await asyncio.sleep(0)
        return 0

    async def stop(self, _grace: float = 5.0) -> int:
        """Its end, soon."""
        asyncio.get_running_loop().call_later(0.1, self.end)
        return await self.wait()


class Supervised(Scene):
    """A child that dies again and again."""

    def __init__(self) -> None:
        FakeChild.alive = 0

    async def open(self) -> None:
        self.starts = 0
        self.supervisor = Supervisor("a child", self._start)  # type: ignore[arg-type]  # like a child

    async def _start(self) -> FakeChild:
        self.starts += 1
        await asyncio.sleep(0.01)
        if self.starts % 3 == 2:
            raise ChildError("not this time")
        child = FakeChild(0.3)
        try:
            await asyncio.sleep(0.01)
        except BaseException:
            await child.stop()
            raise
        self.child = child
        return child

    async def run(self) -> None:
        await self.supervisor.start()
        try:
            await asyncio.Event().wait()
        finally:
            await self.supervisor.stop()

    def happens(self) -> None:
        child = getattr(self, "child", None)
        if child is not None:
            child.end()

    async def check(self) -> None:
        assert FakeChild.alive == 0


class Reloading(Scene):
    """The files of bots, looked at now and then and when something wakes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "sma.toml"
        self.file.write_text(SMA)
        self.folder = folder

        async def aside(work: Callable[..., Any], *given: Any) -> Any:
            await asyncio.sleep(0.001)
            result = work(*given)
            await asyncio.sleep(0.001)
            return result

        async def watch(_reloader: Reloader, *_given: object) -> None:
            await asyncio.sleep(0.7)

        monkeypatch.setattr(asyncio, "to_thread", aside)
        monkeypatch.setattr(bot_reload, "_unwaited", aside)
        monkeypatch.setattr(reload.Reloader, "_watch_folders", watch)

    async def open(self) -> None:
        bots = load_bots([self.folder])
        self.stage = Stage(bots)
        await self.stage.service.start()
        self.published: list[object] = []
        self.bots = BotReloader(
            BotFiles([self.folder], {}), bots, self.stage.service, self.stage.reader, self.published.append,
            self.published.append, settle_seconds=0.05,
        )  # fmt: skip
        self.reloader = Reloader(SignalSettings(reload_sweep_seconds=0.2), self.bots, None, busy=self.folder / "no")

    async def run(self) -> None:
        await self.reloader.run()

    def happens(self) -> None:
        self.file.write_text(SMA.replace("quantity = 1", "quantity = 2"))
        self.reloader.check_soon()

    async def check(self) -> None:
        await self.bots.look()
        assert self.stage.service._crew.runners["sma"].file == load_bots([self.folder])[0]


def test_facts_are_announced(folders: Callable[[], Path]) -> None:
    assert stopped_at_each_step(lambda: Announcing(folders())) > 20


def test_alerts_are_sent(folders: Callable[[], Path]) -> None:
    assert stopped_at_each_step(lambda: Alerting(folders())) > 20


def test_the_ledger_is_followed(folders: Callable[[], Path]) -> None:
    stopped_at_each_step(lambda: Following(folders()), most=60)


def test_allocations_are_recomputed() -> None:
    stopped_at_each_step(Recomputing, most=60)


def test_books_are_proven(folders: Callable[[], Path]) -> None:
    stopped_at_each_step(lambda: Proving(folders()), most=40)


def test_a_live_venue_is_reconciled(folders: Callable[[], Path]) -> None:
    stopped_at_each_step(lambda: Reconciled(folders()), most=60)


def test_requests_are_taken() -> None:
    assert stopped_at_each_step(Taking) > 20


def test_a_child_is_supervised() -> None:
    stopped_at_each_step(Supervised)


def test_bot_files_are_looked_at(folders: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_at_each_step(lambda: Reloading(folders(), monkeypatch), most=60)
