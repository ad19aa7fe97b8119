"""Clocks: the wall with live prices, the feed with a candle file."""

from datetime import UTC, datetime

from config.times import EPOCH


class WallClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Now, in UTC."""
        return datetime.now(UTC)

    def recorded_now(self) -> datetime:
        """Now, in UTC."""
        return datetime.now(UTC)


class FeedClock:
    """Decisions happen at the feed's time: the close of the last candle. Only `recorded_at` is the wall's."""

    def __init__(self, start: datetime = EPOCH) -> None:
        self._now = start

    def advance(self, instant: datetime) -> None:
        """Move on to `instant`; time never runs backwards."""
        self._now = max(self._now, instant)

    def now(self) -> datetime:
        """The feed's time."""
        return self._now

    def recorded_now(self) -> datetime:
        """The wall's time, for `recorded_at` only."""
        return datetime.now(UTC)


class ReplayClock(FeedClock):
    """For replay: also `recorded_at` is the feed's time, so that two runs make the same database."""

    def recorded_now(self) -> datetime:
        """The feed's time."""
        return self.now()
