"""What goes wrong in a world: each seed has some of all kinds."""

import random
from dataclasses import dataclass

from tests.simulation.broker import NetworkFaults
from tests.simulation.setting import BOTS
from tests.simulation.venue_faults import VenueFaults

STORMS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
"""Seconds of faults, as drawn: short ones show most, long ones what needs many things to happen."""
LIVE_SHARE = 0.5
"""Of all worlds: in these a second account trades at a live venue."""


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
