"""Sends the alerts that are stored, until the broker has them: also those of a process that died before it could.

They are read from the outbox a few at a time, so that a thousand of them (an import with unmatched sells) push
nothing else out of the publisher's queue.
"""

import asyncio
from collections.abc import Sequence

import structlog
from sqlalchemy import Connection

from execution import alerts
from execution.errors import StorageUnavailable
from execution.model import AlertRaised
from execution.ports import Reader, Writer
from runtime.publisher import Publisher

log = structlog.get_logger(__name__)

_AT_ONCE = 50
PACE_SECONDS = 15.0
"""Between two alerts of changed history of the same account and symbol, which may come by the hundred."""


class AlertOutbox:
    """See the module. `wake` says that there may be something to send."""

    def __init__(
        self, publisher: Publisher, reader: Reader, writer: Writer, pace_seconds: float = PACE_SECONDS
    ) -> None:
        self._publisher = publisher
        self._reader = reader
        self._writer = writer
        self._pace_seconds = pace_seconds
        self._wake = asyncio.Event()
        self._told: set[str] = set()
        self._paced: dict[tuple[str | None, str], float] = {}
        """When changed history was said last, in the loop's time, by account and symbol."""

    def wake(self) -> None:
        """Look into the outbox."""
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled. Raises LeaseLost."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._send_all()
            except StorageUnavailable as error:
                log.error("alerts wait for the storage", error=str(error))

    async def _send_all(self) -> None:
        await self._forget()
        now = asyncio.get_running_loop().time()
        self._paced = {scope: said for scope, said in self._paced.items() if now - said < self._pace_seconds}
        while waiting := await self._reader.read(lambda c: alerts.waiting(c, _AT_ONCE, self._may_go)):
            await self._send(waiting)
            if not self._told:
                return  # the publisher dropped them: the next look sends them
            await self._forget()

    def _may_go(self, alert: AlertRaised) -> bool:
        return alert.code != alerts.HISTORY_CHANGED or _scope(alert) not in self._paced

    async def _send(self, waiting: Sequence[AlertRaised]) -> None:
        """Returns when the broker has them, however long it is away."""
        sent = await asyncio.gather(*(self._publisher.surely(alert) for alert in waiting))
        now = asyncio.get_running_loop().time()
        for alert in (alert for alert, done in zip(waiting, sent, strict=True) if done and alert.id):
            self._told.add(str(alert.id))
            if alert.code == alerts.HISTORY_CHANGED:
                self._paced[_scope(alert)] = now

    async def _forget(self) -> None:
        """Delete what the broker has. What cannot be deleted now is not sent again by this process."""
        told = sorted(self._told)
        if told:

            def delete(connection: Connection) -> None:
                alerts.told(connection, told)

            await self._writer.submit(delete)
            self._told.clear()


def _scope(alert: AlertRaised) -> tuple[str | None, str]:
    return alert.account, alert.about.get("symbol", "")
