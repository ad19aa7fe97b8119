"""One seed is one world: a daemon with bots, a market, a person, a broker, a disk, and what goes wrong with them.

A storm of faults, each seed with some of all kinds, then a quiet time in which everything must come to rest:
requests answered, orders closed, what is retained equal to what is stored.
"""

import json
import random
import warnings
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from execution import alerts, orders
from execution.doubts import was_shown
from execution.errors import ExecutionError
from execution.model import Order
from execution.venue import VenueReport
from portfolio.errors import PortfolioError
from runtime.topics import RouteName, topics_of
from tests.simulation import invariants
from tests.simulation.broker import Broker, NetworkFaults
from tests.simulation.bus import SimBus
from tests.simulation.daemon import EXPECTED_ENDS, NEW_CANCELS, NEW_ORDERS, NEW_SNAPSHOTS, SimDaemon
from tests.simulation.exchange import SimExchange
from tests.simulation.faults import Faults
from tests.simulation.invariants import PAPER
from tests.simulation.loop import OUTSIDE, PROCESS, Deadlock, Process, SimLoop, TooManySteps, in_process
from tests.simulation.people import Market, Person
from tests.simulation.setting import SYMBOLS, bot_files, settings
from tests.simulation.storage import Disk, File
from tests.simulation.storm import Storm
from tests.simulation.venue_book import Booked
from tests.simulation.venue_invariants import LIVE, called_unknown
from tests.simulation.young_books import young_books

PATIENCE = 120.0
"""Seconds within which everything must have come to rest after them."""
SETTLING = 5.0
"""Seconds after which nothing of what was said is still to be stored."""
KEPT = 400
"""Lines of the trace that are shown after a violation."""


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
        self.alerts_told: set[str] = set()
        """The ids of all alerts that the broker was given."""
        self.history_told: list[dict[str, str]] = []
        """What alerts said of changed history."""
        self.disk = Disk()
        self._said: deque[tuple[float, tuple[object, ...]]] = deque(maxlen=KEPT)
        has_venue = self.faults.venue is not None
        self.file = File(folder, "live" if has_venue else "paper", young_books(has_venue))
        self.broker = Broker(self.loop, random.Random(f"network {seed}"), self.faults.network)
        self.broker.on_publish = self._on_publish
        self.loop.on_fuse = self._on_fuse
        self.daemons: list[SimDaemon] = []
        self._lives = 0
        self.storm = Storm(self)
        self.broker.on_acknowledged = self.storm.on_acknowledged
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
            is_shown=self._is_shown,
            on_forgotten=self.storm.on_forgotten,
            on_found=self._on_found,
            say=self.say,
        )
        self.market.on_close = venue.on_price
        return venue

    def _is_shown(self, client_order_id: str) -> bool:
        order = self.read(lambda connection: orders.find_by_client_id(connection, client_order_id))
        return order is not None and was_shown(order)

    def _on_found(self, booked: Booked) -> None:
        faults = self.faults
        spoiled = faults.storm if faults.full or faults.locked or faults.broken else 0.0
        missing, now = self.settings.live.missing_seconds, self.loop.time()
        problem = self.read(lambda connection: called_unknown(connection, booked, missing, (spoiled, now)))
        if problem is not None:
            self.violated(problem)

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
        if topic.endswith("/alert"):
            alert = json.loads(payload)
            self.alerts_told.add(alert["id"])
            if alert["code"] == "external_order":
                self.strangers_told.add(alert["about"]["venue_order_id"])
            elif alert["code"] == alerts.HISTORY_CHANGED:
                self.history_told.append({"account": alert["account"], **alert["about"]})
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
            found[NEW_ORDERS] = self.storm.on_order_stored
        if self.faults.kill:
            found[NEW_CANCELS] = self.storm.on_cancel_stored
            found[NEW_SNAPSHOTS] = self.storm.on_snapshot_stored
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
        pause = self.dice.uniform(0.05, 3.0) if self.storm.raging else 0.5
        self.loop.call_later(pause, self.start_daemon, context=OUTSIDE)

    def kill(self, daemon: SimDaemon, how: str) -> None:
        """kill -9."""
        self.say("kill", daemon.name, how)
        self.stats["kills"] += 1
        daemon.kill()
        self.daemons.remove(daemon)
        if self.faults.crash_image and not self.daemons and self.storm.raging:
            self.file.crash()
            self.stats["crash images"] += 1
        self._restart_soon()

    def _on_fuse(self, process: Process) -> None:
        for daemon in self.daemons:
            if daemon.process is process:
                self.kill(daemon, "between two steps")
                return

    # ---- the quiet ------------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        """No faults from here on."""
        self.say("quiet")
        self.storm.raging = False
        self.disk.heal()
        self.storm.unlock()
        self.broker.faults = NetworkFaults(slow=0.0)
        if self.venue is not None:
            self.venue.calm()
        self.person.calm_down()
        self.market.quiet = True
        self.storm.restart_broker()
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
        """What rests without an end; what has one comes to it by itself, unless a wrong clock has put it far away."""
        for request_id in self.read(invariants.resting_requests):
            wanted = self.person.wanted.get(request_id)
            if wanted is None or f"end-{request_id}" in self.person.wanted:
                continue
            if "expires_in" in wanted.body and not self.faults.skew:
                continue
            if not self.person.was_cancelled(request_id):  # that is as good as a second cancel
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
        self.storm.plan()
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
            self.storm.unlock()
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
