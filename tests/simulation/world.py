"""One seed is one world: a daemon with bots, a market, a person, a broker, a disk, and what goes wrong with them.

A storm of faults, each seed with some of all kinds, then a quiet time in which everything must come to rest:
requests answered, orders closed, what is retained equal to what is stored.
"""

import json
import random
import tempfile
import warnings
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from config.loading import load_settings
from config.settings import Settings
from config.toml_errors import TomlDocument
from execution import candles, raw
from execution.errors import ExecutionError
from execution.ledger import NewCashFlow
from execution.model import Account, AccountKind, CashFlowKind, Order
from execution.venue import VenueReport
from portfolio.errors import PortfolioError
from runtime.composition import OPENING
from runtime.database import ensure_account, open_database, seed_catalogue, sqlite_url
from runtime.topics import RouteName, topics_of
from signals.bot_file import BotFile
from signals.loading import check_bot
from tests.simulation import invariants
from tests.simulation.broker import Broker, NetworkFaults, Queued
from tests.simulation.bus import SimBus
from tests.simulation.daemon import EXPECTED_ENDS, NEW_CANCELS, NEW_ORDERS, NEW_SNAPSHOTS, SimDaemon, true_time
from tests.simulation.exchange import SimExchange
from tests.simulation.invariants import PAPER
from tests.simulation.loop import OUTSIDE, PROCESS, Deadlock, Process, SimLoop, TooManySteps, in_process
from tests.simulation.people import Market, Person, history
from tests.simulation.storage import Disk, File, Locker, Young
from tests.simulation.venue_faults import VenueFaults
from tests.simulation.venue_invariants import LIVE

STORMS = (0.5, 1.0, 1.5, 2.0, 3.0, 6.0)
"""Seconds of faults, as drawn: short ones show most, long ones what needs many things to happen."""
PATIENCE = 120.0
"""Seconds within which everything must have come to rest after them."""
SETTLING = 5.0
"""Seconds after which nothing of what was said is still to be stored."""
STOPPED_AT_AN_ORDER = 0.4
"""Chance of it, where daemons are stopped and replaced at all."""
STOPPING = 10.0
"""Seconds within which a daemon ends that is asked to."""
KILLED_AT_A_CANCEL = 0.3
"""Chance of it, where daemons are killed at all."""
KILLED_AT_A_SNAPSHOT = 0.4
"""The same."""
KILLED_WHEN_FORGOTTEN = 0.4
"""The same, for what is not to be heard of again."""
KEPT = 400
"""Lines of the trace that are shown after a violation."""
SYMBOLS = ["BTC-USD", "ETH-USD"]
HISTORY = 20
"""Candles of each symbol before the beginning."""
LIVE_SHARE = 0.5
"""Of all worlds: in these a second account trades at a live venue."""
BOTS = ("crosser", "weigher", "guard")
LIVE_BOTS = ("crosser", "weigher")
SETTINGS = (
    "account.initial_deposit=20000",
    "portfolio.verify_minutes=0",
    "portfolio.recompute_minutes=0",
    "portfolio.publish_interval_ms=800",
    "portfolio.republish_seconds=5",
    "portfolio.checkpoint_facts=5",
    "execution.totals_facts=7",
    "execution.request_expiry_seconds=8",
    "paper.max_volume_share=0",
    # The grace covers a sending that began before its process was replaced: to send, to travel, to show itself.
    "live.send_seconds=1",
    "live.grace_seconds=4.5",
    "live.timeout_seconds=1.5",
    "live.poll_seconds=1.5",
    "live.deep_poll_seconds=6",
    "live.reconnect_max_seconds=2",
)
_BOT_FILES = """
name = "crosser"
class = "sma-cross"
symbol = "BTC-USD"
fast = 2
slow = 5
quantity = 0.8
timeframe = "1s"
---
name = "weigher"
symbol = "ETH-USD"
timeframe = "1s"
threshold = 0.05
confirmation_minutes = 0
cooldown_minutes = 0
backoff_minutes = 0
notional = 120
stop_loss_pct = 2
take_profit_pct = 3
signals = [{function = "WILLR", weight = 1, params = {timeperiod = 3}}]
---
name = "guard"
symbol = "BTC-USD"
timeframe = "1s"
threshold = 0.2
confirmation_minutes = 0
cooldown_minutes = 0.05
backoff_minutes = 0
notional = 90
trailing_stop_pct = 2
stop_loss_pct = 4
signals = [{function = "WILLR", weight = 1, params = {timeperiod = 2}}]
"""


class Violation(AssertionError):
    """A promise was broken."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong in a world; pauses are mean seconds between two faults of a kind, 0: never."""

    storm: float
    bots: tuple[str, ...]
    network: NetworkFaults
    kill: float
    fuse: float
    cut: float
    broker_crash: float
    pause: float
    skew: float
    second_daemon: bool
    full: float
    locked: float
    broken: float
    crash_image: bool
    naughty: bool
    asking: float
    slow_disk: float
    venue: VenueFaults | None
    """Of the live venue, where there is one."""
    stop: float
    """SIGTERM."""

    @classmethod
    def drawn(cls, dice: random.Random) -> "Faults":
        """A random subset of all faults."""

        def some(chance: float, low: float, high: float) -> float:
            drawn = dice.uniform(low, high)
            return drawn if dice.random() < chance else 0.0

        return cls(
            storm=dice.choice(STORMS),
            bots=tuple(sorted(dice.sample(BOTS, dice.choice((1, 2, 3))))),
            network=NetworkFaults(some(0.6, 0.01, 0.3), some(0.7, 0.0, 0.1)),
            kill=some(0.5, 1, 6),
            fuse=some(0.6, 0.7, 4),
            cut=some(0.6, 1, 5),
            broker_crash=some(0.4, 2, 10),
            pause=some(0.3, 1, 5),
            skew=some(0.3, 1, 5),
            second_daemon=dice.random() < 0.4,
            full=some(0.3, 1, 6),
            locked=some(0.3, 1, 6),
            broken=some(0.3, 1, 5),
            crash_image=dice.random() < 0.5,
            naughty=dice.random() < 0.6,
            asking=dice.choice((0.1, 0.2, 0.5)),
            slow_disk=0.03,
            venue=VenueFaults.drawn(dice) if dice.random() < LIVE_SHARE else None,
            stop=some(0.3, 1, 6),
        )


CALM = Faults(
    storm=24.0,
    bots=BOTS,
    network=NetworkFaults(slow=0.0),
    kill=0,
    fuse=0,
    cut=0,
    broker_crash=0,
    pause=0,
    skew=0,
    second_daemon=False,
    full=0,
    locked=0,
    broken=0,
    crash_image=False,
    naughty=False,
    asking=0,
    slow_disk=0,
    venue=None,
    stop=0,
)
"""Nothing goes wrong, and the person wants nothing: for comparisons with the real thing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one seed."""

    seed: int
    violation: str | None
    digest: str
    steps: int
    stats: dict[str, int]
    trace: tuple[str, ...]
    """Of a world that broke a promise."""


def bot_texts() -> list[str]:
    """The files of the bots of every world."""
    return _BOT_FILES.split("---")


@cache
def bot_files(live: bool = False) -> tuple[BotFile, ...]:
    """The bots of every world; `live`: some of them trade at the venue."""
    found = []
    for text in bot_texts():
        if live and any(f'"{name}"' in text for name in LIVE_BOTS):
            text = f'account = "{LIVE}"\n{text}'
        bot, faults = check_bot(TomlDocument.parse(text, "bot.toml"), {})
        assert bot is not None, [str(fault) for fault in faults]
        found.append(bot)
    return tuple(found)


@cache
def settings() -> Settings:
    """The settings of every world."""
    return load_settings(config_file=None, overrides=SETTINGS, environ={}, cwd=Path(tempfile.gettempdir())).settings


@cache
def _young_books(live: bool) -> Young:
    """A migrated database with candles that warm the bots, made once; `live`: and with an account at the venue."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "young.db"
        _make_young_books(path, live)
        return Young(path.read_bytes())


def _make_young_books(path: Path, live: bool) -> None:
    engine = open_database(sqlite_url(path), synchronous="OFF")
    with engine.connect() as connection, connection.begin():
        for symbol in SYMBOLS:
            candles.store(connection, history(symbol, random.Random(f"history {symbol}"), HISTORY))
        if live:
            _open_live_account(connection)
        _drop_views(connection)
    engine.dispose()


def _drop_views(connection: Connection) -> None:
    """They are for people; no daemon reads them, and every connection would spend most of its opening on them."""
    for (name,) in raw.execute(connection, "SELECT name FROM sqlite_master WHERE type = 'view'").fetchall():
        raw.execute(connection, f'DROP VIEW "{name}"')


def _open_live_account(connection: Connection) -> None:
    seed_catalogue(connection)
    now = true_time(0)
    deposit = NewCashFlow(
        account=LIVE,
        kind=CashFlowKind.DEPOSIT,
        amount=Decimal(20_000),
        currency="USD",
        effective_at=now,
        triggered_by="manual",
        idempotency_key=OPENING,
        note=None,
    )
    ensure_account(connection, Account(LIVE, kind=AccountKind.LIVE, venue=SimExchange.name), deposit, now)


class World:
    """See the module. `faults` None: drawn from the seed."""

    def __init__(self, seed: int, folder: Path, *, faults: Faults | None = None) -> None:
        self.seed = seed
        self.loop = SimLoop(seed)
        self.dice = random.Random(f"world {seed}")
        self.faults = faults or Faults.drawn(random.Random(f"faults {seed}"))
        self.settings = settings()
        self.topics = topics_of(self.settings.base_topic)
        self.accounts = (PAPER,) if self.faults.venue is None else (PAPER, LIVE)
        self.stats: Counter[str] = Counter()
        self.violations: list[str] = []
        self.announced: dict[int, set[bytes]] = {}
        self.strangers_told: set[str] = set()
        """Orders at the venue of which an alert said that nobody here placed them."""
        self.disk = Disk()
        self._said: deque[tuple[float, tuple[object, ...]]] = deque(maxlen=KEPT)
        has_venue = self.faults.venue is not None
        self.file = File(folder, "live" if has_venue else "paper", _young_books(has_venue))
        self.broker = Broker(self.loop, random.Random(f"network {seed}"), self.faults.network)
        self.broker.on_publish = self._on_publish
        self.broker.on_acknowledged = self._on_acknowledged
        self.loop.on_fuse = self._on_fuse
        self.daemons: list[SimDaemon] = []
        self._lives = 0
        self._storm = True
        self._locker: Locker | None = None
        people = random.Random(f"people {seed}")
        self.market = Market(self.loop, self.broker, self.topics, random.Random(f"market {seed}"), SYMBOLS)
        self.venue = self._make_venue()
        self.person = Person(
            self.loop,
            self.broker,
            self.topics,
            people,
            SYMBOLS,
            self.violated,
            accounts=(PAPER,) if self.venue is None else (PAPER, LIVE, LIVE),
            pause=self.faults.asking,
            naughty=self.faults.naughty,
        )
        self._operator = SimBus(self.broker, "operator")

    def _make_venue(self) -> SimExchange | None:
        if self.faults.venue is None:
            return None
        venue = SimExchange(
            self.loop,
            random.Random(f"venue {self.seed}"),
            self.faults.venue,
            self.market.closes.__getitem__,
            symbols=SYMBOLS,
            watch=self._watch_order,
            violated=self.violated,
            say=self.say,
        )
        self.market.on_close = venue.on_price
        return venue

    # ---- what is known --------------------------------------------------------------------------------

    def say(self, *parts: object) -> None:
        """Into the trace, and into the digest of the run."""
        self._said.append((self.loop.time(), parts))
        self.loop.trace(*parts)

    def violated(self, what: str) -> None:
        """A promise was broken: the run goes on to its end, the first one counts."""
        self.say("VIOLATION", what)
        self.violations.append(what)

    def read(self, query: Callable[[Connection], invariants.T]) -> invariants.T:
        """One read of what is committed, beside everybody."""
        return self.file.read(query)

    def close(self) -> None:
        """After the last `read`."""
        self.file.close()

    @property
    def lives(self) -> int:
        """How many daemons there were."""
        return self._lives

    def _on_publish(self, topic: str, payload: bytes, retain: bool) -> None:
        self.say("bus", topic, payload[:160].decode("utf-8", "replace"))
        match = self.topics.parse(topic) if "/request/" in topic else None
        if match is not None and match.route is RouteName.BOT_REQUEST:
            problem = self.read(lambda connection: invariants.asked_twice(connection, match.bot))
            if problem is not None:
                self.violated(problem)
        if b'"external_order"' in payload:
            self.strangers_told.add(json.loads(payload)["about"]["venue_order_id"])
        sequence = invariants.announced_sequence(self.topics, topic, payload)
        if sequence is not None:
            self.announced.setdefault(sequence, set()).add(payload)

    # ---- daemons --------------------------------------------------------------------------------------

    def start_daemon(self) -> None:
        """A daemon begins, unless one runs (a paused one counts as none: its locks may be on another host)."""
        now = self.loop.time()
        if any(daemon.process.paused_until <= now for daemon in self.daemons):
            return
        self._lives += 1
        daemon = SimDaemon(
            f"daemon-{self._lives}",
            loop=self.loop,
            settings=self.settings,
            bots=[bot for bot in bot_files(self.venue is not None) if bot.name in self.faults.bots],
            exchanges={} if self.venue is None else {self.venue.name: self.venue},
            broker=self.broker,
            file=self.file,
            disk=self.disk,
            seed=self.seed,
            slow=self.faults.slow_disk,
            on_made=self._on_made,
            on_end=self._on_end,
            watched=self._watched(),
        )
        self.daemons.append(daemon)
        self.say("start", daemon.name)
        daemon.start()

    def _watched(self) -> dict[str, Callable[[SimDaemon], None]]:
        """The commits at which something goes wrong in this world."""
        found: dict[str, Callable[[SimDaemon], None]] = {}
        if self.faults.pause and self.faults.second_daemon:
            found[NEW_ORDERS] = self._on_order_stored
        if self.faults.kill:
            found[NEW_CANCELS] = self._on_cancel_stored
            found[NEW_SNAPSHOTS] = self._on_snapshot_stored
        return found

    def _on_made(self, daemon: SimDaemon) -> None:
        """I1: the paper exchange is watched, whoever drives it."""
        assert daemon.operations is not None
        assert daemon.operations.core.execution is not None
        paper = daemon.operations.core.execution._paper
        place = paper.place

        async def watched(order: Order, waited: float = 0.0) -> list[VenueReport]:
            self._watch_order(order)
            return await place(order, waited)

        paper.place = watched  # type: ignore[method-assign]  # one instance is watched

    def _watch_order(self, order: Order) -> None:
        self.stats["sent"] += 1
        process = PROCESS.get()
        sender = None if process is None else process.name
        problem = self.read(lambda connection: invariants.wrongly_sent(connection, order, sender))
        if problem is not None:
            self.violated(problem)

    def _on_end(self, daemon: SimDaemon, error: BaseException | None) -> None:
        self.say("end", daemon.name, repr(error))
        self.daemons.remove(daemon)
        if error is not None and not isinstance(error, EXPECTED_ENDS):
            self.violated(f"L1 {daemon.name} died of {error!r}")
        self._restart_soon()

    def _restart_soon(self) -> None:
        pause = self.dice.uniform(0.05, 3.0) if self._storm else 0.5
        self.loop.call_later(pause, self.start_daemon, context=OUTSIDE)

    def kill(self, daemon: SimDaemon, how: str) -> None:
        """kill -9."""
        self.say("kill", daemon.name, how)
        self.stats["kills"] += 1
        daemon.kill()
        self.daemons.remove(daemon)
        if self.faults.crash_image and not self.daemons and self._storm:
            self.file.crash()
            self.stats["crash images"] += 1
        self._restart_soon()

    def _on_fuse(self, process: Process) -> None:
        for daemon in self.daemons:
            if daemon.process is process:
                self.kill(daemon, "between two steps")
                return

    # ---- the storm ------------------------------------------------------------------------------------

    def _plan(self) -> None:
        """Every kind of fault on a schedule of its own."""
        faults = self.faults
        self._every(faults.kill, self._kill_one)
        self._every(faults.fuse, self._light_fuse)
        self._every(faults.stop, self._ask_to_stop)
        self._every(faults.cut, self.broker.cut)
        self._every(faults.broker_crash, self._crash_broker)
        self._every(faults.pause, self._pause_one)
        self._every(faults.skew, self._set_clock)
        self._every(faults.full, lambda: self._storage_fault("full"))
        self._every(faults.locked, self._lock)
        self._every(faults.broken, lambda: self._storage_fault("broken"))
        self._every(1.0, self.broker.snapshot)
        if self.venue is not None:
            self.venue.plan(self.faults.storm)

    def _every(self, pause: float, strike: Callable[[], None]) -> None:
        if not pause:
            return
        when = self.dice.expovariate(1 / pause)
        while when < self.faults.storm:
            self.loop.call_at(when, self._strike, strike, context=OUTSIDE)
            when += self.dice.expovariate(1 / pause)

    def _strike(self, strike: Callable[[], None]) -> None:
        if strike != self.broker.snapshot:
            self.say("fault", getattr(strike, "__name__", "storage"))
        strike()

    def _kill_one(self) -> None:
        if self.daemons:
            self.kill(self.dice.choice(self.daemons), "by time")

    def _ask_to_stop(self) -> None:
        """SIGTERM: what is under way may end, in its time."""
        if self.daemons:
            daemon = self.dice.choice(self.daemons)
            self.stats["stops"] += 1
            if daemon.working and not self.faults.pause:
                self.loop.call_later(STOPPING, self._surely_stopped, daemon, context=OUTSIDE)
            daemon.stopping.set()

    def _surely_stopped(self, daemon: SimDaemon) -> None:
        if daemon in self.daemons:
            self.violated(f"L1 {daemon.name} did not end within {STOPPING:g} s of being asked to")

    def _light_fuse(self) -> None:
        if self.daemons:
            self.dice.choice(self.daemons).process.fuse = self.dice.randint(1, 400)

    def _crash_broker(self) -> None:
        if self.broker.up:
            self.broker.crash()
            self.loop.call_later(self.dice.uniform(0.2, 4.0), self._restart_broker, context=OUTSIDE)

    def _restart_broker(self) -> None:
        if not self.broker.up:
            self.broker.restart()

    def _pause_one(self) -> None:
        awake = [daemon for daemon in self.daemons if daemon.process.paused_until <= self.loop.time()]
        if not awake:
            return
        self._pause(self.dice.choice(awake), min(self.faults.storm, self.loop.time() + self.dice.uniform(0.5, 10.0)))

    def _on_order_stored(self, daemon: SimDaemon) -> None:
        """Between the commit of an order and its sending: the worst moment to be stopped and replaced, for longer
        than the grace and shorter than the request lives. The storm may be over then."""
        if self._storm and self.dice.random() < STOPPED_AT_AN_ORDER:
            self.say("fault", "stopped at an order")
            self._pause(daemon, self.loop.time() + self.dice.uniform(4.0, 8.0), replaced_after=0.3)

    def _on_cancel_stored(self, daemon: SimDaemon) -> None:
        """Between the commit of a cancel and what comes of it."""
        if self._storm and self.dice.random() < KILLED_AT_A_CANCEL:
            self.loop.call_later(self.dice.uniform(0.0, 0.2), self._kill_at, daemon, "at a cancel", context=OUTSIDE)

    def _on_snapshot_stored(self, daemon: SimDaemon) -> None:
        """A snapshot must not know of more than what is stored beside it."""
        if self._storm and self.dice.random() < KILLED_AT_A_SNAPSHOT:
            self.loop.call_later(0, self._kill_at, daemon, "at a snapshot", context=OUTSIDE)

    def _on_acknowledged(self, message: Queued) -> None:
        """The broker forgets a request that its sender cannot repeat: from here on, everything must be known."""
        killing = self._storm and (self.faults.kill or self.faults.fuse)
        is_alone = message.payload in self.person.unrepeatable
        if killing and is_alone and self.dice.random() < KILLED_WHEN_FORGOTTEN:
            for daemon in list(self.daemons):
                self.kill(daemon, "when a request was forgotten")

    def _kill_at(self, daemon: SimDaemon, moment: str) -> None:
        if daemon in self.daemons:
            self.kill(daemon, moment)

    def _pause(self, daemon: SimDaemon, until: float, *, replaced_after: float = 3.0) -> None:
        daemon.process.paused_until = until
        self.stats["pauses"] += 1
        if self.faults.second_daemon:
            self.loop.call_later(self.dice.uniform(0.1, replaced_after), self.start_daemon, context=OUTSIDE)

    def _set_clock(self) -> None:
        if self.daemons:
            self.dice.choice(self.daemons).process.skew = self.dice.choice((0, -3600, 5, 86_400, -30, -86_400, 600))

    def _storage_fault(self, what: str) -> None:
        setattr(self.disk, what, True)
        if what == "full":
            self.loop.call_later(self.dice.uniform(0.0, 1.0), self.person.deposit_without_id, context=OUTSIDE)
        self.stats[f"disk {what}"] += 1
        self.loop.call_later(self.dice.uniform(0.1, 5.0), setattr, self.disk, what, False, context=OUTSIDE)

    def _lock(self) -> None:
        if self._locker is not None:
            return
        self._locker = Locker(self.file)
        self._locker.take()
        self.stats["locks"] += 1
        self.loop.call_later(self.dice.uniform(0.01, 4.0), self._unlock, context=OUTSIDE)

    def _unlock(self) -> None:
        if self._locker is not None:
            self._locker.release()
            self._locker = None

    # ---- the quiet ------------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        """No faults from here on."""
        self.say("quiet")
        self._storm = False
        self.disk.heal()
        self._unlock()
        self.broker.faults = NetworkFaults(slow=0.0)
        if self.venue is not None:
            self.venue.calm()
        self.person.calm_down()
        self.market.quiet = True
        self._restart_broker()
        for daemon in self.daemons:
            daemon.process.fuse = None
            daemon.process.skew = 0
        self.start_daemon()

    async def _quiet(self) -> str | None:
        """Bots stop, what rests is cancelled, everything is answered: what is still wrong, if anything is."""
        wrong: str | None = "nothing was looked at"
        deadline = self.loop.time() + PATIENCE
        while self.loop.time() < deadline:
            await self._stop_bots()
            await self._cancel_open()
            await self._sleep(0.6)
            wrong = self._stopped() or invariants.unrest(self)
            if wrong is None:
                return None
        return wrong

    def _stopped(self) -> str | None:
        """Daemons that were stopped at an order and will go on later."""
        now = self.loop.time()
        names = [daemon.name for daemon in self.daemons if daemon.process.paused_until > now]
        return f"{names} are stopped" if names else None

    async def _stop_bots(self) -> None:
        """As an operator who looks first: a bot that is said to be stopped is let alone."""
        for bot in self.faults.bots:
            state = self.broker.retained.get(self.topics.bot_state(bot), b"")
            if b'"STOPPED"' not in state:
                await self._command(self.topics.bot_set(bot), b"stop")

    async def _cancel_open(self) -> None:
        for request_id in self.read(invariants.resting_requests):
            known = request_id in self.person.wanted and f"end-{request_id}" not in self.person.wanted
            if known and not self.person.was_cancelled(request_id):  # that is as good as a second cancel
                await self.person.end(request_id)

    async def _command(self, topic: str, payload: bytes) -> None:
        if self._operator.is_connected:
            await self._operator.publish_soon(topic, payload)

    async def _sleep(self, seconds: float) -> None:
        future = self.loop.create_future()
        self.loop.call_later(seconds, future.set_result, None, context=OUTSIDE)
        await future

    # ---- a run ----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        self.market.start()
        self.person.start()
        await self._operator.start()
        self.start_daemon()
        self._plan()
        await self._sleep(self.faults.storm + 0.2)
        self._calm_down()
        wrong = await self._quiet()
        if wrong is not None:
            self.violated(f"L1 not at rest {PATIENCE:g} s after the last fault: {wrong}")
        problems = invariants.check(self)
        if problems:  # allocations are stored beside the fills, and may be on their way
            await self._sleep(SETTLING)
            problems = invariants.check(self)
        for problem in problems:
            self.violated(problem)
        self.market.open = False

    def run(self) -> Outcome:
        """The whole life of the world."""
        try:
            task = self.loop.create_task(self._run(), context=in_process(Process("world")))
            self.loop.run_until_complete(task)
        except (Deadlock, TooManySteps) as error:
            self.violated(f"L1 {error}")
        except (ExecutionError, PortfolioError, DBAPIError) as error:
            self.violated(f"I9 the books cannot be read: {error!r}")
        finally:
            outcome = self._outcome()
            self._unlock()
            for daemon in list(self.daemons):
                daemon.kill()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that never began, as in a killed process
                self.loop.dispose()
            self.close()
        return outcome

    def _outcome(self) -> Outcome:
        self.stats["broker crashes"] = self.broker.stats["crashes"]
        self.stats["cuts"] = self.broker.stats["cuts"]
        if self.venue is not None:
            self.stats["live worlds"] = 1
            self.stats["live orders"] = len(self.venue.orders)
            self.stats["live fills"] = len(self.venue.happened)
        violation = self.violations[0] if self.violations else None
        trace = self._trace() if self.violations else ()
        return Outcome(self.seed, violation, self.loop.digest, self.loop.steps, dict(self.stats), trace)

    def _trace(self) -> tuple[str, ...]:
        """The last things that were said."""
        return tuple(f"{time:10.4f}  " + " ".join(map(str, parts)) for time, parts in self._said)
