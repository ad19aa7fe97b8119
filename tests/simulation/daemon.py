"""A daemon in the simulation: production's `Operations` on simulated ports.

What is replaced, and nothing else: clock, boot id, bus transport, writer thread, reader thread. Not run: the
file locks (the lease in the database is what is tested), the embedded broker's process, the reloader's watch
of files, and user-written bots (processes of their own).
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from config.settings import Settings
from execution import leases, raw
from execution.errors import LeaseLost, StorageUnavailable
from execution.exchange import Exchange
from execution.leases import Fence
from runtime.bus import BusUnavailable
from runtime.connections import Connections
from runtime.core import ROLES
from runtime.operations import Operations, Ports, prepare_books
from runtime.topics import topics_of
from signals.bot_file import BotFile
from tests.simulation.broker import Broker
from tests.simulation.bus import SimBus
from tests.simulation.loop import Process, SimLoop, in_process
from tests.simulation.storage import Delays, Disk, File, SimReader, SimWriter

BEGINNING = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
"""The true time at which every simulation begins."""

EXPECTED_ENDS = (LeaseLost, StorageUnavailable, BusUnavailable, DBAPIError)
"""What a daemon may end with when storage, lease or broker are taken from it."""


def true_time(seconds: float) -> datetime:
    """The true time so long after the beginning."""
    return BEGINNING + timedelta(seconds=round(seconds, 6))


class SimClock:
    """The wall clock of a process, which may be wrong."""

    def __init__(self, loop: SimLoop, process: Process) -> None:
        self._loop = loop
        self._process = process
        self._seconds = -1.0
        self._now = BEGINNING

    def now(self) -> datetime:
        """What the process takes for the time."""
        seconds = self._loop.time() + self._process.skew
        if seconds != self._seconds:  # what happens in one step asks for the same time again and again
            self._seconds, self._now = seconds, true_time(seconds)
        return self._now

    def recorded_now(self) -> datetime:
        """The same."""
        return self.now()


NEW_ORDERS = "SELECT count(*) FROM orders"
NEW_SNAPSHOTS = "SELECT COALESCE(MAX(sequence), 0) FROM fifo_inventory_snapshots"
NEW_CANCELS = "SELECT count(*) FROM inbox WHERE kind = 'CancelRequest'"


class Watch:
    """Takes part in every transaction, to tell when a count has grown with one and nothing came of it yet."""

    def __init__(self, sql: str, tell: Callable[[], None]) -> None:
        self._sql = sql
        self._tell = tell
        self._count: int | None = None
        self._seen = 0

    def begin(self) -> None:
        """Nothing to do."""

    def before_commit(self, connection: Connection) -> None:
        """Look."""
        self._seen = int(raw.execute(connection, self._sql).fetchall()[0][0])

    def committed(self) -> None:
        """Tell, but of the first look."""
        before, self._count = self._count, self._seen
        if before is not None and self._seen > before:
            self._tell()

    def rolled_back(self) -> None:
        """It was nothing."""


class SimDaemon:
    """One life of a daemon. `on_end` is called with what it ended with (None: as asked)."""

    def __init__(
        self,
        name: str,
        *,
        loop: SimLoop,
        settings: Settings,
        bots: Sequence[BotFile],
        broker: Broker,
        file: File,
        disk: Disk,
        seed: object,
        slow: float,
        exchanges: Mapping[str, Exchange],
        on_made: Callable[["SimDaemon"], None],
        on_end: Callable[["SimDaemon", BaseException | None], None],
        watched: Mapping[str, Callable[["SimDaemon"], None]] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.process = Process(name)
        self.operations: Operations | None = None
        self.stopping = asyncio.Event()
        self.working = False
        self._loop = loop
        self._settings = settings
        self._bots = bots
        self._broker = broker
        self._file = file
        self._disk = disk
        self._delays = Delays(random.Random(f"storage {seed} {name}"), slow)
        self._exchanges = exchanges
        self._on_made = on_made
        self._on_end = on_end
        self._watched = watched
        self._bus: SimBus | None = None
        self._open: list[Any] = []

    def start(self) -> None:
        """Begin to run."""
        self._loop.create_task(self._live(), context=in_process(self.process))

    def kill(self) -> None:
        """SIGKILL: not one more step; the kernel closes what was open."""
        self.process.dead = True
        if self._bus is not None:
            self._bus.abandon()
        for resource in self._open:
            resource()

    async def _live(self) -> None:
        error: BaseException | None = None
        try:
            await self._run()
        except Exception as caught:  # noqa: BLE001 - whoever started it judges
            error = caught
        self.kill()
        self._on_end(self, error)

    async def _run(self) -> None:
        settings = self._settings
        await asyncio.sleep(self._delays.draw())
        clock = SimClock(self._loop, self.process)
        engine = self._file.write_engine()
        with engine.connect() as connection, connection.begin():
            prepare_books(connection, settings, clock, None)
            epochs = {role: leases.take(connection, role, self.name, clock.now()) for role in ROLES}
        fence = Fence(epochs)
        watching = [Watch(sql, partial(tell, self)) for sql, tell in self._watched.items()]
        writer = SimWriter(engine, self._disk, self._delays, [fence, *watching])
        reader = SimReader(self._file.read_engine(), self._disk, self._delays)
        self._open += [writer.abandon, reader.stop]
        ports = Ports(
            writer=writer,
            reader=reader,
            proving=lambda: SimReader(self._file.read_engine(), self._disk, self._delays),
            fence=fence.check,
            clock=clock,
            boot_id=self.name,
            observe=lambda _message: None,
            exchanges=self._exchanges,
        )
        operations = self.operations = Operations(settings, self._bots, ROLES, ports)
        self._on_made(self)
        writer.start()
        await operations.start()
        topics = topics_of(settings.base_topic)
        self._bus = SimBus(self._broker, "daemon", Connections(settings, ROLES, topics).subscriptions())
        await operations.connect(self._bus)
        self.working = True
        try:
            await operations.work(self.stopping)
            await operations.finish()
            await operations.close_books()
        finally:
            await self._bus.stop()
