"""What a user's bot may take. Only the standard library: the worker imports it too."""

from dataclasses import dataclass

MAX_PARTS = 64
MAX_NAME = 64
"""Characters of a part's name."""
MAX_WHY = 200
MAX_CONTEXT = 16 * 1024
"""Characters of a verdict's context as JSON."""
MAX_STATE = 64 * 1024
"""Characters of what `dump` gives, as JSON."""
MAX_DEPTH = 16
"""Nesting of a context or state."""
MAX_REPLY = 256 * 1024
"""Bytes of one message of a worker."""
MAX_ERROR = 16 * 1024
"""Characters of a traceback; of a longer one the end counts."""
OUTPUT_LINES = 100
"""Lines that a bot may print per minute; of the rest only the number is logged."""


@dataclass(frozen=True, slots=True)
class BotLimits:
    """The limits that are settings (`signals.*`).

    `time_budget` is for one candle, `start_seconds` for importing and constructing, and again for every 1000
    stored candles that warm it; both in seconds of real time. `memory_mb` (data of the process) and
    `requests_per_hour` (of the candles' time, for every class of bot): 0 = no limit.
    """

    time_budget: float = 1.0
    start_seconds: float = 10.0
    memory_mb: int = 512
    requests_per_hour: int = 120
