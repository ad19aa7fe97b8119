"""The daemon: everything put together, started and stopped in an order that can be read.

Start: locks, database, services' state, broker, bus, announcements, intake, feed. Stop: the other way round.
"""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from config.settings import Settings
from config.times import time_text
from execution import followers, leases, orders
from execution.errors import StorageUnavailable
from execution.leases import Fence
from execution.model import (
    AlertRaised,
    HaltChanged,
    Responded,
    Severity,
)
from execution.writer import GroupCommitWriter
from portfolio.service import PortfolioService
from runtime import backups, schema
from runtime.clock import FeedClock, WallClock
from runtime.connections import Connections
from runtime.core import ROLES, Core, Published, build_core, first_account, opening_deposit, spare_the_collector
from runtime.database import (
    SCHEMA_REVISION,
    ThreadReader,
    ensure_account,
    open_database,
    reader_engine,
    seed_catalogue,
    sqlite_path,
)
from runtime.errors import RoleTaken
from runtime.feeding import Feeder, describe, open_books_to, open_feed
from runtime.forgeries import Forgeries
from runtime.intake import Intake
from runtime.integrity import IntegrityKeeper
from runtime.jsondoc import Limits
from runtime.limits import configured
from runtime.locks import RoleLocks, holder_text
from runtime.mqtt import MqttBus
from runtime.publisher import Announcer, Publisher
from runtime.recompute import Recomputer
from runtime.reload import Reloader, Sources, make_reloader
from runtime.rundir import DaemonInfo, remove_daemon_file, write_daemon_file
from runtime.topics import Topics
from runtime.voice import Voice
from signals.bot_file import BotFile

log = structlog.get_logger(__name__)

ANNOUNCER = "announcer"
_TICK_SECONDS = 1.0
_FAREWELL_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Started:
    """The daemon is up: what it runs on, for whoever shows it. `seconds` since the start began."""

    broker_host: str
    broker_port: int
    database: str
    feed: str
    bots: int
    seconds: float


class Daemon:
    """One process with the services of `roles`. `observe` is shown everything that is published. `sources`:
    where `bots` and `settings` are from; their changes are then followed."""

    def __init__(
        self,
        settings: Settings,
        bots: Sequence[BotFile],
        *,
        roles: tuple[str, ...] = ROLES,
        observe: Callable[[object], None] | None = None,
        sources: Sources | None = None,
    ) -> None:
        self._settings = settings
        self._bots = bots
        self._sources = sources or Sources()
        self._had_terminal = _has_terminal()
        self._reloader: Reloader | None = None
        self._roles = roles
        self._observe = observe or (lambda _message: None)
        self._topics = Topics(settings.base_topic)
        self._feed = open_feed(settings.feed) if "signals" in roles else None
        self._clock = FeedClock() if self._feed is not None else WallClock()
        self._answered = asyncio.Event()
        self._stopping = asyncio.Event()
        self._forgeries = Forgeries()
        self._halts: Sequence[HaltChanged] = ()
        self._publisher: Publisher
        self._voice: Voice
        self._core: Core
        self._writer: GroupCommitWriter
        self._reader: ThreadReader
        self._announcer: Announcer | None = None
        self._announced = 0
        self._after: dict[str, datetime] = {}

    def stop(self) -> None:
        """Ask for a clean stop; `run` returns when it is done."""
        self._stopping.set()

    # ---- life -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, run until `stop` or SIGTERM or SIGINT, stop.

        Raises RoleTaken, Unreachable, BrokerError with what to do about it; LeaseLost when another process
        took a role over while this one slept.
        """
        began = time.monotonic()
        self._listen_to_signals()
        async with AsyncExitStack() as stack:
            await self._take_roles(stack)
            engine = self._open_books(stack)
            await self._start_services(stack, engine)
            connections = Connections(self._settings, self._roles, self._topics)
            broker = connections.embedded_broker(self._forgeries.note)
            if broker is not None:
                await broker.start()
                stack.push_async_callback(broker.stop)
            bus = connections.main_bus()
            # Together: a broker that hangs costs each of them seconds.
            stack.push_async_callback(connections.stop)
            await self._connect(bus)
            for presence in connections.presence_buses():
                await presence.start()
            intake = self._make_intake(bus)
            stack.callback(remove_daemon_file, self._settings.data_dir, self._roles)
            self._write_daemon_file()
            spare_the_collector()
            self._say_started(began)
            await self._work(bus, intake)
            log.info("stopping")
            await self._finish(intake)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_hangup(self) -> None:
        """Look at the files again; but whoever closes the terminal means an end, not that."""
        if self._had_terminal and not _has_terminal():
            self.stop()
        elif self._reloader is not None:
            self._reloader.check_soon()

    # ---- start ----------------------------------------------------------------------------------------

    async def _take_roles(self, stack: AsyncExitStack) -> None:
        """Wait a little for a daemon that is on its way out. Raises RoleTaken."""
        settings = self._settings
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        file = sqlite_path(settings.resolved_database_url)
        assert file is not None, "only SQLite addresses pass the settings"
        locks = RoleLocks(file, self._roles)
        deadline = time.monotonic() + settings.execution.lease_wait_seconds
        while True:
            try:
                locks.acquire()
                break
            except RoleTaken:
                if time.monotonic() >= deadline or self._stopping.is_set():
                    raise
            await asyncio.sleep(0.05)
        stack.callback(locks.release)

    def _open_books(self, stack: AsyncExitStack) -> Engine:
        settings = self._settings
        url = settings.resolved_database_url
        self._upgrade_books()
        engine = open_database(url, busy_timeout_ms=settings.writer.busy_timeout_ms)
        stack.callback(engine.dispose)
        with engine.connect() as connection, connection.begin():
            self._prepare(connection)
            epochs = {role: leases.take(connection, role, holder_text(), WallClock().now()) for role in self._roles}
        fence = Fence(epochs)
        self._fence = fence
        self._writer = GroupCommitWriter(engine, group_max=settings.writer.group_max, participants=[fence])
        stack.callback(self._writer.stop)
        self._reader = ThreadReader(reader_engine(url, busy_timeout_ms=settings.writer.busy_timeout_ms))
        stack.callback(self._reader.stop)
        return engine

    def _upgrade_books(self) -> None:
        """Bring older books to our schema, as `fillbook db upgrade` does: backed up, proven before and after."""
        file = sqlite_path(self._settings.resolved_database_url)
        assert file is not None, "only SQLite addresses pass the settings"
        if schema.current(file) in (None, SCHEMA_REVISION):
            return
        change = schema.upgrade(file, backups.folder_of(self._settings.data_dir), WallClock().now())
        log.info("schema upgraded", before=change.before, after=change.after, backup=str(change.backup))

    def _prepare(self, connection: Connection) -> None:
        """Catalogue, the first account, and the feed's time as it was when the daemon stopped."""
        settings = self._settings
        seed_catalogue(connection)
        if self._feed is not None and isinstance(self._clock, FeedClock):
            self._after = open_books_to(connection, self._feed, self._clock)
        opening = opening_deposit(settings, settings.account.initial_deposit, self._clock)
        ensure_account(connection, first_account(settings), opening, self._clock.recorded_now())

    async def _start_services(self, stack: AsyncExitStack, engine: Engine) -> None:
        settings = self._settings
        self._early: list[Published] = []
        self._core = build_core(
            settings,
            writer=self._writer,
            reader=self._reader,
            clock=self._clock,
            bots=self._bots,
            publish=self._early.append,
            roles=self._roles,
            fence=self._fence.check,
        )
        if self._core.signals is not None:
            stack.callback(self._core.signals.close)
        self._writer.start()
        await self._core.start()
        if self._core.portfolio is not None:
            stack.push_async_callback(self._stop_portfolio, self._core.portfolio)
        self._announced = await self._reader.read(lambda c: followers.position(c, ANNOUNCER))
        self._halts = await self._reader.read(orders.halt_changes)

    @staticmethod
    async def _stop_portfolio(portfolio: PortfolioService) -> None:
        try:
            await portfolio.stop()
        except StorageUnavailable as error:
            log.warning("no last checkpoint", error=str(error))  # only a cache

    async def _connect(self, bus: MqttBus) -> None:
        self._publisher = Publisher(bus, self._topics, self._clock, limit=self._settings.limits.queue)
        self._voice = Voice(
            self._core,
            self._publisher,
            self._topics,
            self._observe,
            halts=self._halts,
            repeat_seconds=self._settings.signals.request_repeat_seconds,
        )
        self._core.publish = self._publish
        bus.on_connected(lambda _connected: self._voice.connected())
        await bus.start()
        await bus.wait_connected(self._settings.broker.start_timeout_seconds)
        self._announcer = Announcer(self._publisher, self._reader, self._announced, self._observe)
        self._core.follower.add(self._announcer)
        self._core.follower.sequence = min(self._core.follower.sequence, self._announced)
        for message in self._early:
            self._publish(message)

    def _make_intake(self, bus: MqttBus) -> Intake:
        settings = self._settings
        intake = Intake(
            self._core,
            self._reader,
            bus,
            self._topics,
            self._publisher,
            self._clock,
            limits=Limits(settings.limits.payload_bytes, settings.limits.json_depth),
            kept_bytes=settings.limits.dead_letter_bytes,
            max_in_flight=settings.execution.max_in_flight,
            window=settings.broker.max_ack_pending,
            boot_id=secrets.token_hex(8),
            future=timedelta(seconds=settings.limits.future_seconds),
        )
        intake.on_answer = self._answered.set
        if self._feed is not None:
            intake.own_symbols = frozenset(self._feed.symbols)
        return intake

    def _write_daemon_file(self) -> None:
        settings = self._settings
        write_daemon_file(
            settings.data_dir,
            DaemonInfo(
                pid=os.getpid(),
                started_at=WallClock().now(),
                roles=self._roles,
                broker_host=settings.broker.host,
                broker_port=settings.broker.port,
                base_topic=settings.base_topic,
                database_url=settings.resolved_database_url,
                feed=describe(self._feed),
                limits=configured(settings),
                bots=tuple(str(path.resolve()) for path in self._sources.bots),
            ),
        )

    def _say_started(self, began: float) -> None:
        settings = self._settings
        started = Started(
            broker_host=settings.broker.host,
            broker_port=settings.broker.port,
            database=settings.resolved_database_url,
            feed=describe(self._feed),
            bots=len(self._bots),
            seconds=time.monotonic() - began,
        )
        log.info(
            "started",
            broker=f"{started.broker_host}:{started.broker_port}",
            roles=",".join(self._roles),
            bots=started.bots,
            feed=started.feed,
            seconds=round(started.seconds, 3),
        )
        self._observe(started)

    # ---- work -----------------------------------------------------------------------------------------

    async def _work(self, bus: MqttBus, intake: Intake) -> None:
        """Run every loop until a stop is asked for; a loop that fails stops the daemon and is raised."""
        loops: list[Coroutine[Any, Any, None]] = [
            self._publisher.run(),
            intake.run(),
            self._tick(),
            self._publish_state(),
            self._make_reloader().run(),
        ]
        if self._core.portfolio is not None:
            intake.recomputer = self._make_recomputer(self._core.portfolio)
            loops.append(intake.recomputer.run())
        if self._core.integrity is not None:
            loops.append(self._prove(self._core.integrity))
        if self._feed is not None and isinstance(self._clock, FeedClock):
            feeder = Feeder(
                self._core, self._feed, self._clock, self._settings.feed, self._answered, self._voice.say_market
            )
            loops.append(self._play(feeder))
        tasks = [asyncio.create_task(loop) for loop in loops]
        stopping: asyncio.Task[Any] = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((stopping, *tasks), return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            # The publisher goes on, so that what is committed is also said.
            for task in (stopping, *tasks[1:]):
                task.cancel()
            await asyncio.gather(stopping, *tasks[1:], return_exceptions=True)
            self._publisher_task = tasks[0]

    async def _prove(self, keeper: IntegrityKeeper) -> None:
        """Prove the books now and then, on a thread of its own: it takes long, and others must not wait for it."""
        settings = self._settings
        minutes = settings.portfolio.verify_minutes
        url, timeout = settings.resolved_database_url, settings.writer.busy_timeout_ms
        reader = ThreadReader(reader_engine(url, busy_timeout_ms=timeout, connections=1), threads=1)
        try:
            await keeper.run(reader, minutes * 60 if minutes else None)
            await self._stopping.wait()
        finally:
            keeper.stop()
            reader.stop()

    def _make_recomputer(self, portfolio: PortfolioService) -> Recomputer:
        minutes = self._settings.portfolio.recompute_minutes
        return Recomputer(
            portfolio,
            self._reader,
            self._clock,
            self._publish,
            self._core.follower.poll,
            every=timedelta(minutes=minutes) if minutes else None,
        )

    def _make_reloader(self) -> Reloader:
        self._reloader = make_reloader(
            self._sources,
            self._settings,
            running=self._bots,
            host=self._core.signals,
            reader=self._reader,
            publish=self._publish,
            observe=self._observe,
        )
        return self._reloader

    async def _play(self, feeder: Feeder) -> None:
        await feeder.run(self._after)
        if not feeder.candles:
            self._publish(_no_candles(describe(self._feed), self._clock.now()))
        await self._stopping.wait()

    async def _finish(self, intake: Intake) -> None:
        """Let what is under way end, then say what it changed."""
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await intake.drain()
                self._voice.say_changes()
                await self._publisher.drain()
            await self._store_announced()
        except TimeoutError:
            log.warning("not everything could be said: the broker does not answer; the next start says it")
        except StorageUnavailable as error:
            log.warning("stopped without the storage", error=str(error))
        self._publisher_task.cancel()

    async def _tick(self) -> None:
        """Every second: what others appended, what expired, what nobody answered, how far we have come."""
        republish_every = self._settings.portfolio.republish_seconds
        republish_at = time.monotonic() + republish_every
        while True:
            try:
                await self._core.on_timer()
                await self._forgeries.tell(self._core.execution, self._publish)
                self._voice.repeat_requests()
                self._voice.say_advice()
                await self._store_announced()
            except StorageUnavailable as error:
                log.error("the storage fails", error=str(error))
            if time.monotonic() >= republish_at:
                self._voice.say_everything()
                republish_at = time.monotonic() + republish_every
            await asyncio.sleep(_TICK_SECONDS)

    async def _store_announced(self) -> None:
        assert self._announcer is not None
        await self._announcer.catch_up()
        sequence = self._announcer.sequence
        if sequence > self._announced and self._publisher.idle and "execution" in self._roles:
            await self._writer.submit(lambda c: followers.advance(c, ANNOUNCER, sequence))
            self._announced = sequence

    # ---- publishing -----------------------------------------------------------------------------------

    def _publish(self, message: Published) -> None:
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
                await self._core.store_allocations()
            await asyncio.sleep(interval)


def _has_terminal() -> bool:
    try:
        return os.isatty(2)
    except OSError:
        return False


def _no_candles(feed: str, now: datetime) -> AlertRaised:
    message = (
        f"the feed has nothing new: these books are at {time_text(now)}, and no candle of the {feed} is later."
        " Start other candles on books of their own (--data-dir)"
    )
    return AlertRaised(Severity.WARNING, "feed_at_end", message)
