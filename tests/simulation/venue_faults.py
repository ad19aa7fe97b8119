"""What goes wrong with a live venue, and how long it can last.

The times are short, as the storms are: what counts is how they compare with the `live` settings of the worlds.
"""

import random
from dataclasses import dataclass
from typing import Literal, TypeAlias

CALL_SECONDS = 1.5
"""After which a caller gives up."""
LONGEST_TRAVEL = 2.0
"""Seconds of a call's way there, and of its way back."""
LONGEST_HIDDEN = 1.0
"""Seconds after which what happened can be seen."""
LONGEST_BACK_DATING = 60.0
"""Seconds by which a fill's time may lie before what was told already."""
LONGEST_FILLING = 3.0
"""Seconds from an order that can be filled, or a price that reaches it, to its last piece."""

LONGEST_HANG = 6.0
"""Seconds for which calls are taken and never answered."""
LONGEST_FORGETTING = 12.0
"""Seconds for which an order is not to be found that was there before."""

Deduplication: TypeAlias = Literal["all", "open", "none"]


@dataclass(frozen=True, slots=True)
class VenueFaults:
    """What goes wrong with a venue: chances of 0 to 1, and mean seconds between two events (0: never).

    `deduplicates`: among which orders a client order id makes no second one. `honours_deadline`: whether an order
    that comes too late is dropped. `hidden`: the most seconds until something becomes visible. `hang`: the chance
    that an order which is sent for the first time is the last call that is answered for a while. `forgets`: that an
    order which was shown is then not to be found for a while.
    """

    deduplicates: Deduplication = "all"
    honours_deadline: bool = True
    lost_request: float = 0.0
    lost_reply: float = 0.0
    slow: float = 0.0
    refused: float = 0.0
    late_fill: float = 0.0
    repeated: float = 0.0
    unheard: float = 0.0
    back_dated: float = 0.0
    hidden: float = 0.0
    down: float = 0.0
    broken_stream: float = 0.0
    strangers: float = 0.0
    hang: float = 0.0
    forgets: float = 0.0

    @classmethod
    def drawn(cls, dice: random.Random) -> "VenueFaults":
        """A random subset of all faults."""

        def some(chance: float, low: float, high: float) -> float:
            drawn = dice.uniform(low, high)
            return drawn if dice.random() < chance else 0.0

        return cls(
            deduplicates=dice.choice(("all", "all", "open", "none")),
            honours_deadline=dice.random() < 0.6,
            lost_request=some(0.6, 0.1, 0.6),
            lost_reply=some(0.6, 0.1, 0.6),
            slow=some(0.6, 0.1, 0.6),
            refused=some(0.4, 0.05, 0.2),
            late_fill=some(0.5, 0.1, 0.5),
            repeated=some(0.5, 0.1, 0.5),
            unheard=some(0.6, 0.1, 0.7),
            back_dated=some(0.5, 0.1, 0.4),
            hidden=some(0.6, 0.3, LONGEST_HIDDEN),
            down=some(0.3, 1, 6),
            broken_stream=some(0.5, 0.7, 4),
            strangers=some(0.6, 0.4, 2),
            hang=some(0.4, 0.1, 0.5),
            forgets=some(0.5, 0.3, 0.9),
        )

    def calmed(self) -> "VenueFaults":
        """The same venue on a good day: its rules stay, its troubles end, but for those that an order can only have
        once: most orders come to the venue when the storm is nearly over."""
        return VenueFaults(
            deduplicates=self.deduplicates,
            honours_deadline=self.honours_deadline,
            hang=self.hang,
            forgets=self.forgets,
        )
