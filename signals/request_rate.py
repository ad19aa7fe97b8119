"""How often a bot asks: one that floods is stopped, whatever class it is of."""

from collections import deque
from datetime import datetime, timedelta

from signals.isolation.errors import BotFloods

_HOUR = timedelta(hours=1)


class RequestRate:
    """Counts requests within the last hour of the candles' time; `most` 0 = no limit."""

    __slots__ = ("_moments", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._moments: deque[datetime] = deque()

    def count(self, moment: datetime) -> None:
        """One more request. Raises BotFloods."""
        if not self._most:
            return
        moments = self._moments
        while moments and moment - moments[0] >= _HOUR:
            moments.popleft()
        if len(moments) >= self._most:
            raise BotFloods(
                f"it floods: more than {self._most} order requests within an hour (signals.max_requests_per_hour)"
            )
        moments.append(moment)
