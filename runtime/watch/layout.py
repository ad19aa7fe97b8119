"""How the lines of the screen are shared out among its parts."""

from dataclasses import dataclass

LEAST_WIDTH, LEAST_HEIGHT = 60, 16
WIDE = 116
"""From this width on trades and health stand beside each other."""

_ROOMY = 30
_LEAST = 3
_LEAST_BOTTOM = 4


@dataclass(frozen=True, slots=True)
class Heights:
    """Lines of each part; 0 hides it."""

    positions: int
    bots: int
    trades: int
    health: int


def share(room: int, *, positions: int, bots: int, health: int, wide: bool) -> Heights:
    """Share `room` lines; the other numbers say with how many a part would show everything.

    Positions and bots come first, what they leave goes to trades and health; short screens give each its least.
    """
    if room >= _ROOMY:  # an empty line below each
        positions, bots = positions + 1, bots + 1
    bottom = _LEAST_BOTTOM if wide else 2 * _LEAST_BOTTOM
    above = max(0, room - bottom)
    first, second = min(positions, above), min(bots, above)
    if first + second > above:
        half = above // 2
        if first <= half:
            second = above - first
        elif second <= half:
            first = above - second
        else:
            first, second = above - half, half
    rest = room - first - second
    if wide:
        return Heights(first, second, rest, rest)
    healthy = max(_LEAST, min(health, rest // 2))
    return Heights(first, second, max(0, rest - healthy), healthy)
