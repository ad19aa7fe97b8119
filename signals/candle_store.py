"""Where closed candles wait for their transaction.

Live, every candle is stored before anything leaves; in replay thousands share one transaction. Whoever
flushes decides; a failed transaction gives its candles back.
"""

from collections.abc import Sequence

from sqlalchemy import Connection

from execution import candles
from execution.model import Candle


class CandleStore:
    """A buffer in front of the candle table. `due` once `flush_every` candles wait.

    `keep` false: nothing is written. Only for books that end with the process.
    """

    __slots__ = ("_flush_every", "_keep", "waiting")

    def __init__(self, flush_every: int = 1, *, keep: bool = True) -> None:
        if flush_every < 1:
            raise ValueError(f"at least 1 candle per flush, not {flush_every}")
        self._flush_every = flush_every
        self._keep = keep
        self.waiting: list[Candle] = []

    @property
    def due(self) -> bool:
        """Whether it is time to flush."""
        return len(self.waiting) >= self._flush_every

    def take(self) -> list[Candle]:
        """The waiting candles, for one transaction; the buffer is empty afterwards."""
        taken, self.waiting = self.waiting, []
        return taken

    def give_back(self, taken: list[Candle]) -> None:
        """The transaction failed: they wait again, before those that came since."""
        self.waiting = taken + self.waiting

    def flush(self, connection: Connection, taken: Sequence[Candle]) -> None:
        """Write taken candles inside a transaction."""
        if self._keep:
            candles.store(connection, taken)
