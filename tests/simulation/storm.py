"""The storm of a world: every kind of fault on a schedule of its own, until it is calm."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.broker import Queued
from tests.simulation.daemon import SimDaemon
from tests.simulation.loop import OUTSIDE
from tests.simulation.storage import Locker

if TYPE_CHECKING:
    from tests.simulation.world import World

STOPPED_AT_AN_ORDER = 0.6
"""Chance of it, where daemons are stopped and replaced at all."""
STOPPING = 10.0
"""Seconds within which a daemon ends that is asked to."""
KILLED_AT_A_CANCEL = 0.3
"""Chance of it, where daemons are killed at all."""
KILLED_AT_A_SNAPSHOT = 0.4
"""The same."""
KILLED_WHEN_FORGOTTEN = 0.4
"""The same, for what is not to be heard of again."""


class Storm:
    """The faults of a world, as they strike."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._loop, self._dice, self._faults, self._stats = world.loop, world.dice, world.faults, world.stats
        self._broker, self._disk, self._file, self._daemons = world.broker, world.disk, world.file, world.daemons
        self.raging = True
        self._locker: Locker | None = None

    def plan(self) -> None:
        """Every kind of fault on a schedule of its own."""
        faults = self._faults
        self._every(faults.kill, self._kill_one)
        self._every(faults.fuse, self._light_fuse)
        self._every(faults.stop, self._ask_to_stop)
        self._every(faults.cut, self._broker.cut)
        self._every(faults.broker_crash, self._crash_broker)
        self._every(faults.pause, self._pause_one)
        self._every(faults.skew, self._set_clock)
        self._every(faults.full, lambda: self._storage_fault("full"))
        self._every(faults.locked, self._lock)
        self._every(faults.broken, lambda: self._storage_fault("broken"))
        self._every(1.0, self._broker.snapshot)
        if self._world.venue is not None:
            self._world.venue.plan(self._faults.storm)

    def _every(self, pause: float, strike: Callable[[], None]) -> None:
        if not pause:
            return
        when = self._dice.expovariate(1 / pause)
        while when < self._faults.storm:
            self._loop.call_at(when, self._strike, strike, context=OUTSIDE)
            when += self._dice.expovariate(1 / pause)

    def _strike(self, strike: Callable[[], None]) -> None:
        if strike != self._broker.snapshot:
            self._world.say("fault", getattr(strike, "__name__", "storage"))
        strike()

    def _kill_one(self) -> None:
        if self._daemons:
            self._world.kill(self._dice.choice(self._daemons), "by time")

    def _ask_to_stop(self) -> None:
        """SIGTERM: what is under way may end, in its time."""
        if self._daemons:
            daemon = self._dice.choice(self._daemons)
            self._stats["stops"] += 1
            if daemon.working and not self._faults.pause:
                self._loop.call_later(STOPPING, self._surely_stopped, daemon, context=OUTSIDE)
            daemon.stopping.set()

    def _surely_stopped(self, daemon: SimDaemon) -> None:
        if daemon in self._daemons:
            self._world.violated(f"L1 {daemon.name} did not end within {STOPPING:g} s of being asked to")

    def _light_fuse(self) -> None:
        if self._daemons:
            self._dice.choice(self._daemons).process.fuse = self._dice.randint(1, 400)

    def _crash_broker(self) -> None:
        if self._broker.up:
            self._broker.crash()
            self._loop.call_later(self._dice.uniform(0.2, 4.0), self.restart_broker, context=OUTSIDE)

    def restart_broker(self) -> None:
        """Up again, unless it is."""
        if not self._broker.up:
            self._broker.restart()

    def _pause_one(self) -> None:
        awake = [daemon for daemon in self._daemons if daemon.process.paused_until <= self._loop.time()]
        if not awake:
            return
        daemon = self._dice.choice(awake)
        self._pause(daemon, min(self._faults.storm, self._loop.time() + self._dice.uniform(0.5, 10.0)))

    def on_order_stored(self, daemon: SimDaemon) -> None:
        """Between the commit of an order and its sending: the worst moment to be stopped and replaced, for longer
        than the grace and shorter than the request lives. The storm may be over then."""
        if self.raging and self._dice.random() < STOPPED_AT_AN_ORDER:
            self._world.say("fault", "stopped at an order")
            self._pause(daemon, self._loop.time() + self._dice.uniform(4.0, 8.0), replaced_after=0.3)

    def on_cancel_stored(self, daemon: SimDaemon) -> None:
        """Between the commit of a cancel and what comes of it."""
        if self.raging and self._dice.random() < KILLED_AT_A_CANCEL:
            self._loop.call_later(self._dice.uniform(0.0, 0.2), self._kill_at, daemon, "at a cancel", context=OUTSIDE)

    def on_snapshot_stored(self, daemon: SimDaemon) -> None:
        """A snapshot must not know of more than what is stored beside it."""
        if self.raging and self._dice.random() < KILLED_AT_A_SNAPSHOT:
            self._loop.call_later(0, self._kill_at, daemon, "at a snapshot", context=OUTSIDE)

    def on_acknowledged(self, message: Queued) -> None:
        """The broker forgets a request that its sender cannot repeat: from here on, everything must be known."""
        killing = self.raging and (self._faults.kill or self._faults.fuse)
        is_alone = message.payload in self._world.person.unrepeatable
        if killing and is_alone and self._dice.random() < KILLED_WHEN_FORGOTTEN:
            for daemon in list(self._daemons):
                self._world.kill(daemon, "when a request was forgotten")

    def on_forgotten(self) -> None:
        """The venue does not find an order that it had shown: whoever comes now must know from the books that it had.
        Also after the storm, for that is when most orders come to rest there."""
        if (self._faults.kill or self._faults.fuse) and self._dice.random() < KILLED_WHEN_FORGOTTEN:
            for daemon in list(self._daemons):
                self._world.kill(daemon, "when the venue forgot an order")

    def _kill_at(self, daemon: SimDaemon, moment: str) -> None:
        if daemon in self._daemons:
            self._world.kill(daemon, moment)

    def _pause(self, daemon: SimDaemon, until: float, *, replaced_after: float = 3.0) -> None:
        daemon.process.paused_until = until
        self._stats["pauses"] += 1
        if self._faults.second_daemon:
            self._loop.call_later(self._dice.uniform(0.1, replaced_after), self._world.start_daemon, context=OUTSIDE)

    def _set_clock(self) -> None:
        if self._daemons:
            skew = self._dice.choice((0, -3600, 5, 86_400, -30, -86_400, 600))
            self._dice.choice(self._daemons).process.skew = skew

    def _storage_fault(self, what: str) -> None:
        setattr(self._disk, what, True)
        if what == "full":
            self._loop.call_later(
                self._dice.uniform(0.0, 1.0), self._world.person.deposit_without_id, context=OUTSIDE
            )
        self._stats[f"disk {what}"] += 1
        self._loop.call_later(self._dice.uniform(0.1, 5.0), setattr, self._disk, what, False, context=OUTSIDE)

    def _lock(self) -> None:
        if self._locker is not None:
            return
        self._locker = Locker(self._file)
        self._locker.take()
        self._stats["locks"] += 1
        self._loop.call_later(self._dice.uniform(0.01, 4.0), self.unlock, context=OUTSIDE)

    def unlock(self) -> None:
        """The database is free."""
        if self._locker is not None:
            self._locker.release()
            self._locker = None
