"""The daemon: everything put together, started and stopped in an order that can be read.

Start: locks, database, services' state, broker, bus, announcements, intake, feed. Stop: the other way round.
What it does in between is in `operations.py`; here is what belongs to the process.
"""

import asyncio
import os
import secrets
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import structlog

from config.settings import Settings
from execution import leases
from execution.leases import Fence
from execution.writer import GroupCommitWriter
from runtime import backups, schema
from runtime.clock import FeedClock, WallClock
from runtime.composition import spare_the_collector
from runtime.connections import Connections
from runtime.core import ROLES
from runtime.database import SCHEMA_REVISION, ThreadReader, open_database, reader_engine, sqlite_path
from runtime.errors import RoleTaken
from runtime.feeding import describe, open_feed
from runtime.forgeries import Forgeries
from runtime.limits import configured
from runtime.locks import RoleLocks, holder_text
from runtime.operations import Operations, Ports, prepare_books
from runtime.reload import Reloader, Sources, make_reloader
from runtime.rundir import DaemonInfo, remove_daemon_file, write_daemon_file
from runtime.topics import Topics
from signals.bot_file import BotFile

log = structlog.get_logger(__name__)


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
        self._reader: ThreadReader | None = None
        self._feed = open_feed(settings.feed) if "signals" in roles else None
        self._clock = FeedClock() if self._feed is not None else WallClock()
        self._stopping = asyncio.Event()
        self._forgeries = Forgeries()

    def stop(self) -> None:
        """Ask for a clean stop; `run` returns when it is done."""
        self._stopping.set()

    # ---- life -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, run until `stop` or SIGTERM or SIGINT, stop.

        Raises RoleTaken, Unreachable, BrokerError with what to do about it; LeaseLost when another process
        took a role over while this one slept.
        """
        began = asyncio.get_running_loop().time()
        self._listen_to_signals()
        async with AsyncExitStack() as stack:
            operations = await self._unless_stopped(self._start(stack))
            if operations is None:
                log.info("stopped before the start was done")
                return
            stack.callback(remove_daemon_file, self._settings.data_dir, self._roles)
            self._write_daemon_file()
            spare_the_collector()
            self._say_started(began)
            await operations.work(self._stopping, self._make_reloader(operations).run())
            log.info("stopping")
            await operations.finish()

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

    async def _start(self, stack: AsyncExitStack) -> Operations:
        """Everything up to the first message; what is open is closed by `stack`."""
        await self._take_roles(stack)
        operations = await self._start_operations(stack)
        connections = Connections(self._settings, self._roles, self._topics)
        broker = connections.embedded_broker(self._forgeries.note)
        if broker is not None:
            await broker.start()
            stack.push_async_callback(broker.stop)
        bus = connections.main_bus()
        # Together: a broker that hangs costs each of them seconds.
        stack.push_async_callback(connections.stop)
        await operations.connect(bus)
        for presence in connections.presence_buses():
            await presence.start()
        return operations

    async def _take_roles(self, stack: AsyncExitStack) -> None:
        """Wait a little for a daemon that is on its way out. Raises RoleTaken."""
        settings = self._settings
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        file = sqlite_path(settings.resolved_database_url)
        assert file is not None, "only SQLite addresses pass the settings"
        locks = RoleLocks(file, self._roles)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + settings.execution.lease_wait_seconds
        while True:
            try:
                locks.acquire()
                break
            except RoleTaken:
                if loop.time() >= deadline:
                    raise
            await asyncio.sleep(0.05)
        stack.callback(locks.release)

    async def _start_operations(self, stack: AsyncExitStack) -> Operations:
        """Open the books, take the roles in them, start the services."""
        settings = self._settings
        url, timeout = settings.resolved_database_url, settings.writer.busy_timeout_ms
        await self._upgrade_books()
        engine = open_database(url, busy_timeout_ms=timeout)
        stack.callback(engine.dispose)
        with engine.connect() as connection, connection.begin():
            after = prepare_books(connection, settings, self._clock, self._feed)
            epochs = {role: leases.take(connection, role, holder_text(), WallClock().now()) for role in self._roles}
        fence = Fence(epochs)
        writer = GroupCommitWriter(engine, group_max=settings.writer.group_max, participants=[fence])
        stack.callback(writer.stop)
        reader = ThreadReader(reader_engine(url, busy_timeout_ms=timeout))
        stack.callback(reader.stop)
        self._reader = reader
        ports = Ports(
            writer=writer,
            reader=reader,
            proving=lambda: ThreadReader(reader_engine(url, busy_timeout_ms=timeout, connections=1), threads=1),
            fence=fence.check,
            clock=self._clock,
            boot_id=secrets.token_hex(8),
            observe=self._observe,
            feed=self._feed,
            forgeries=self._forgeries,
        )
        operations = Operations(settings, self._bots, self._roles, ports, after)
        stack.callback(operations.close_bots)
        writer.start()
        try:
            await operations.start()
        except asyncio.CancelledError:
            await reader.abandon()
            raise
        stack.push_async_callback(operations.close_books)
        return operations

    async def _unless_stopped(self, start: Coroutine[Any, Any, Operations]) -> Operations | None:
        """What a start gives; None when a stop is asked for meanwhile: reading long books may take minutes, and a
        broker may not answer."""
        starting = asyncio.create_task(start)
        asked = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((starting, asked), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                return starting.result()
        finally:
            asked.cancel()
            starting.cancel()
            await asyncio.wait((starting,))
        if starting.cancelled():
            return None
        if (error := starting.exception()) is not None:
            log.warning("the start failed as it was stopped", reason=str(error))
            return None
        return starting.result()

    async def _upgrade_books(self) -> None:
        """Bring older books to our schema, as `fillbook db upgrade` does: backed up, proven before and after.

        Long books take minutes; a stop ends it and is not held up.
        """
        file = sqlite_path(self._settings.resolved_database_url)
        assert file is not None, "only SQLite addresses pass the settings"
        found = schema.current(file)
        if found in (None, SCHEMA_REVISION):
            return
        log.info("upgrading the schema, which proves the books before and after", before=found, after=SCHEMA_REVISION)
        folder, now = backups.folder_of(self._settings.data_dir), WallClock().now()
        work = asyncio.to_thread(schema.upgrade, file, folder, now, stopped=self._stopping.is_set)
        upgrading = asyncio.create_task(work)
        try:
            change = await asyncio.shield(upgrading)
        except asyncio.CancelledError:
            await asyncio.wait((upgrading,))  # the books are nobody else's before it has let go of them
            log.warning("the upgrade was stopped", reason=str(upgrading.exception() or "it was over"))
            raise
        log.info("schema upgraded", before=change.before, after=change.after, backup=str(change.backup))

    def _make_reloader(self, operations: Operations) -> Reloader:
        assert self._reader is not None, "the operations were started"
        self._reloader = make_reloader(
            self._sources,
            self._settings,
            running=self._bots,
            host=operations.core.signals,
            reader=self._reader,
            publish=operations.publish,
            observe=self._observe,
        )
        return self._reloader

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
            seconds=asyncio.get_running_loop().time() - began,
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


def _has_terminal() -> bool:
    try:
        return os.isatty(2)
    except OSError:
        return False
