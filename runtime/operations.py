"""What a running daemon does, whatever it runs on: requests come in from a bus, facts and state go out.

The daemon gives it files, threads, sockets and the machine's clock; the simulation gives it simulated ones.
Everything here measures time by the event loop.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog
from sqlalchemy import Connection

from config.settings import Settings
from config.times import time_text
from execution import followers, orders
from execution.errors import StorageUnavailable
from execution.exchange import Exchange
from execution.model import AlertRaised, HaltChanged, Responded, Severity
from execution.ports import Clock, Reader
from runtime.alert_outbox import AlertOutbox
from runtime.announcer import Announcer
from runtime.bus import Bus
from runtime.clock import FeedClock
from runtime.composition import build_core, open_first_account
from runtime.core import JoinableWriter, Published
from runtime.database import seed_catalogue
from runtime.feeding import Feeder, describe, open_books_to
from runtime.forgeries import Forgeries
from runtime.intake import Intake
from runtime.integrity import IntegrityKeeper
from runtime.jsondoc import Limits
from runtime.publisher import Publisher
from runtime.recompute import Recomputer
from runtime.reconciling import Reconciling
from runtime.topics import topics_of
from runtime.voice import Voice
from signals.bot_file import BotFile
from signals.feeds.feed import Feed

log = structlog.get_logger(__name__)

_TICK_SECONDS = 1.0
_FAREWELL_SECONDS = 3.0


class ClosableReader(Reader, Protocol):
    """A reader with something behind it that has to be closed."""

    def stop(self) -> None:
        """Finish what is under way."""
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What operations run on. `proving` makes the reader of full proofs, which must not hold up the others;
    `boot_id` is another one in each life of the process; `fence` raises LeaseLost when the roles are lost;
    `exchanges` are the live venues, by the name that accounts have for theirs."""

    writer: JoinableWriter
    reader: Reader
    proving: Callable[[], ClosableReader]
    fence: Callable[[Connection], None]
    clock: Clock
    boot_id: str
    observe: Callable[[object], None]
    feed: Feed | None = None
    forgeries: Forgeries = field(default_factory=Forgeries)
    exchanges: Mapping[str, Exchange] = field(default_factory=dict)


def prepare_books(connection: Connection, settings: Settings, clock: Clock, feed: Feed | None) -> dict[str, datetime]:
    """Catalogue, the first account, and the feed's time as it was when the daemon stopped.

    Returns after which candles the feed goes on, by symbol.
    """
    seed_catalogue(connection)
    after: dict[str, datetime] = {}
    if feed is not None and isinstance(clock, FeedClock):
        after = open_books_to(connection, feed, clock)
    open_first_account(connection, settings, clock)
    return after


class Operations:
    """One life of the services of `roles`: `start`, `connect`, `work`, `finish`, in this order.

    `after` is what `prepare_books` returned. The writer must start between making this and `start`.
    """

    def __init__(
        self,
        settings: Settings,
        bots: Sequence[BotFile],
        roles: tuple[str, ...],
        ports: Ports,
        after: dict[str, datetime] | None = None,
    ) -> None:
        self._settings = settings
        self._roles = roles
        self._ports = ports
        self._after = after or {}
        self._topics = topics_of(settings.base_topic)
        self._answered = asyncio.Event()
        self._halts: Sequence[HaltChanged] = ()
        self._announced = 0
        self._announcer: Announcer | None = None
        self._alerts: AlertOutbox | None = None
        self._publisher: Publisher
        self._publisher_task: asyncio.Task[None]
        self._voice: Voice
        self._intake: Intake
        self._early: list[Published] = []
        self.core = build_core(
            settings,
            writer=ports.writer,
            reader=ports.reader,
            clock=ports.clock,
            bots=bots,
            publish=self._early.append,
            roles=roles,
            fence=ports.fence,
            exchanges=ports.exchanges,
        )

    # ---- start ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what the services need, and find out what became of open orders."""
        await self.core.start()
        self._announced = await self._ports.reader.read(lambda c: followers.position(c, followers.ANNOUNCER))
        self._halts = await self._ports.reader.read(orders.halt_changes)

    async def connect(self, bus: Bus) -> None:
        """Start the bus, say everything that is known, announce what was not announced yet.

        Raises BusUnavailable when there is no broker.
        """
        settings, ports = self._settings, self._ports
        self._publisher = Publisher(
            bus, self._topics, ports.clock, limit=settings.limits.queue, backlog=settings.broker.older_in_flight
        )
        self._voice = Voice(
            self.core,
            self._publisher,
            self._topics,
            ports.observe,
            halts=self._halts,
            repeat_seconds=settings.signals.request_repeat_seconds,
        )
        self.core.publish = self.publish
        bus.on_connected(lambda _connected: self._voice.connected())
        await bus.start()
        await bus.wait_connected(settings.broker.start_timeout_seconds)
        if "execution" in self._roles:
            self._announcer = Announcer(self._publisher, ports.reader, self._announced, ports.observe)
            self._announcer.expect(self.core.follower.sequence)
            self.core.follower.add(self._announcer)
            self._alerts = AlertOutbox(self._publisher, ports.reader, ports.writer)
            self._voice.on_kept = self._alerts.wake
        for message in self._early:
            self.publish(message)
        self._intake = self._make_intake(bus)

    def _make_intake(self, bus: Bus) -> Intake:
        settings, ports = self._settings, self._ports
        intake = Intake(
            self.core,
            ports.reader,
            bus,
            self._topics,
            self._publisher,
            ports.clock,
            limits=Limits(settings.limits.payload_bytes, settings.limits.json_depth),
            kept_bytes=settings.limits.dead_letter_bytes,
            max_in_flight=settings.execution.max_in_flight,
            window=settings.broker.max_ack_pending,
            boot_id=ports.boot_id,
            future=timedelta(seconds=settings.limits.future_seconds),
        )
        intake.on_answer = self._answered.set
        if ports.feed is not None:
            intake.own_symbols = frozenset(ports.feed.symbols)
        return intake

    # ---- work -----------------------------------------------------------------------------------------

    async def work(self, stopping: asyncio.Event, *others: Coroutine[Any, Any, None]) -> None:
        """Run every loop, and `others`, until a stop is asked for; a loop that fails ends all and is raised."""
        tasks = [asyncio.create_task(loop) for loop in (*self._loops(stopping), *others)]
        asked: asyncio.Task[Any] = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait((asked, *tasks), return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            # The publisher goes on, so that what is committed is also said.
            for task in (asked, *tasks[1:]):
                task.cancel()
            await asyncio.gather(asked, *tasks[1:], return_exceptions=True)
            self._publisher_task = tasks[0]

    def _loops(self, stopping: asyncio.Event) -> list[Coroutine[Any, Any, None]]:
        """What runs all the time; the publisher is the first."""
        settings, ports = self._settings, self._ports
        loops = [self._publisher.run(), self._intake.run(), self._tick(), self._follow(), self._publish_state()]
        if self._announcer is not None:
            loops.append(self._announcer.run())
        if self._alerts is not None:
            loops.append(self._alerts.run())
        if self.core.portfolio is not None:
            self._intake.recomputer = self._make_recomputer()
            loops.append(self._intake.recomputer.run())
        if self.core.integrity is not None:
            loops.append(self._prove(self.core.integrity, stopping))
        reconnect = settings.live.reconnect_max_seconds
        loops += [Reconciling(reconciler, reconnect).run() for reconciler in self.core.reconcilers]
        if ports.feed is not None and isinstance(ports.clock, FeedClock):
            say = self._voice.say_market
            feeder = Feeder(self.core, ports.feed, ports.clock, settings.feed, self._answered, say)
            loops.append(self._play(feeder, ports.feed, stopping))
        return loops

    async def _prove(self, keeper: IntegrityKeeper, stopping: asyncio.Event) -> None:
        """Prove the books now and then, with a reader of its own: it takes long, and others must not wait for it."""
        minutes = self._settings.portfolio.verify_minutes
        reader = self._ports.proving()
        try:
            await keeper.run(reader, minutes * 60 if minutes else None)
            await stopping.wait()
        finally:
            keeper.stop()
            reader.stop()

    def _make_recomputer(self) -> Recomputer:
        assert self.core.portfolio is not None
        minutes = self._settings.portfolio.recompute_minutes
        return Recomputer(
            self.core.portfolio,
            self._ports.reader,
            self._ports.clock,
            self.publish,
            self.core.follower.poll,
            every=timedelta(minutes=minutes) if minutes else None,
        )

    async def _play(self, feeder: Feeder, feed: Feed, stopping: asyncio.Event) -> None:
        await feeder.run(self._after)
        if not feeder.candles:
            self.publish(_no_candles(describe(feed), self._ports.clock.now()))
        await stopping.wait()

    async def _tick(self) -> None:
        """Every second: what expired, what nobody answered, how far we have come."""
        republish_every = self._settings.portfolio.republish_seconds
        loop = asyncio.get_running_loop()
        republish_at = loop.time() + republish_every
        while True:
            if self._alerts is not None:
                self._alerts.wake()  # those of the life before, and of other processes
            try:
                if self.core.execution is not None:
                    await self.core.execution.keep_totals(self._settings.execution.totals_facts)
                await self.core.on_timer()
                await self._ports.forgeries.tell(self.core.execution, self.publish)
                self._voice.repeat_requests()
                self._voice.say_advice()
                await self._store_announced()
            except StorageUnavailable as error:
                log.error("the storage fails", error=str(error))
            if loop.time() >= republish_at:
                self._voice.say_everything()
                republish_at = loop.time() + republish_every
            await asyncio.sleep(_TICK_SECONDS)  # noqa: TID251 - the loop's time, which is simulated

    async def _follow(self) -> None:
        """Every second: what others appended. Beside the tick, since an import takes minutes to be handed out."""
        while True:
            try:
                await self.core.follow()
            except StorageUnavailable as error:
                log.error("the storage fails", error=str(error))
            await asyncio.sleep(_TICK_SECONDS)  # noqa: TID251 - the loop's time, which is simulated

    async def _store_announced(self) -> None:
        if self._announcer is None:
            return
        sequence = self._announcer.confirmed
        if sequence > self._announced:
            await self._ports.writer.submit(lambda c: followers.advance(c, followers.ANNOUNCER, sequence))
            self._announced = sequence

    # ---- publishing -----------------------------------------------------------------------------------

    def publish(self, message: Published) -> None:
        """What the services say."""
        if isinstance(message, Responded):
            self._answered.set()
        self._voice.say(message)

    async def _publish_state(self) -> None:
        """Positions and portfolios that changed, at most every so often: the last state always comes."""
        interval = self._settings.portfolio.publish_interval_ms / 1000
        while True:
            self._voice.say_changes()
            with suppress(StorageUnavailable):  # the tick says so; the allocations wait
                await self.core.store_allocations()
            await asyncio.sleep(interval)  # noqa: TID251 - the loop's time, which is simulated

    # ---- stop -----------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Let what is under way end, then say what it changed."""
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._intake.drain()
                self._voice.say_changes()
                await self._publisher.drain()
        except TimeoutError:
            log.warning("not everything could be said: the broker does not answer; the next start says it")
        try:
            await self._store_announced()
        except StorageUnavailable as error:
            log.warning("stopped without the storage", error=str(error))
        self._publisher_task.cancel()

    async def close_books(self) -> None:
        """The last checkpoint of the portfolio."""
        if self.core.portfolio is None:
            return
        try:
            await self.core.portfolio.stop()
        except StorageUnavailable as error:
            log.warning("no last checkpoint", error=str(error))  # only a cache

    def close_bots(self) -> None:
        """End the processes of bots."""
        if self.core.signals is not None:
            self.core.signals.close()


def _no_candles(feed: str, now: datetime) -> AlertRaised:
    message = (
        f"the feed has nothing new: these books are at {time_text(now)}, and no candle of the {feed} is later."
        " Start other candles on books of their own (--data-dir)"
    )
    return AlertRaised(Severity.WARNING, "feed_at_end", message)
