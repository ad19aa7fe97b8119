"""The screen's side of the bus: hears everything, asks for what a key stands for; and what it reads of the books."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from execution.errors import ExecutionError
from runtime.bus import Bus, Connected
from runtime.cli.base import CommandFailed
from runtime.client import Address, attached, bot_filters, client_bus, exchange, tell_bot
from runtime.errors import RuntimeFault
from runtime.messages import BotAction
from runtime.topics import Command, Topics
from runtime.watch import rows
from runtime.watch.model import MOST_TRADES, ROUTES, BooksSeen, DayStart, Watch
from runtime.wire import encode

if TYPE_CHECKING:
    from sqlalchemy import Connection

MakeBus: TypeAlias = Callable[[Sequence[str]], Bus]
"""A bus with these subscriptions, not started."""

ANSWER_SECONDS = 15.0
BOT_SECONDS = 5.0
_BREATH = 100
"""Messages after which the screen gets its turn, however many more wait."""


def buses_of(address: Address) -> MakeBus:
    """Connections to a daemon's broker."""
    return lambda subscriptions: client_bus(address, subscriptions)


async def listen(watch: Watch, make_bus: MakeBus, now: Callable[[], datetime]) -> None:
    """Give the state all that the bus says, until cancelled; a lost connection is tried again by the bus."""
    bus = make_bus([watch.topics.filter(name) for name in ROUTES])

    def connected(_connected: Connected) -> None:
        watch.connected(now())

    def disconnected(reason: str) -> None:
        watch.disconnected(reason, now())

    bus.on_connected(connected)
    bus.on_disconnected(disconnected)
    await bus.start()
    try:
        count = 0
        async for incoming in bus.messages():
            watch.take(incoming.topic, incoming.payload, retained=incoming.retain, at=now())
            incoming.ack()
            count += 1
            if count % _BREATH == 0:  # a queue that is never empty never waits
                await asyncio.sleep(0)
    finally:
        await bus.stop()


@dataclass(frozen=True, slots=True)
class Desk:
    """Asks the daemon, each time over a connection of its own, as the commands do."""

    topics: Topics
    make_bus: MakeBus
    answer_seconds: float = ANSWER_SECONDS
    bot_seconds: float = BOT_SECONDS

    async def request(self, account: str, command: Command, note: str) -> dict[str, Any]:
        """The response to a halt or resume. Raises BusUnavailable, NoAnswer."""
        request_id = f"watch-{secrets.token_hex(8)}"
        topic = self.topics.request(account, command)
        payload = encode({"request_id": request_id, "note": note})
        bus = self.make_bus([self.topics.response(account, request_id)])
        async with attached(bus, timeout=self.answer_seconds):
            return await exchange(bus, topic, payload, timeout=self.answer_seconds)

    async def bot(self, name: str, action: BotAction) -> dict[str, Any] | None:
        """The bot's state or recommendation after it was told; None when it says nothing. Raises BusUnavailable."""
        bus = self.make_bus(bot_filters(self.topics, name, action))
        async with attached(bus, timeout=self.bot_seconds):
            return await tell_bot(bus, self.topics, name, action, timeout=self.bot_seconds)


ReadBooks: TypeAlias = Callable[[], BooksSeen]


def tried(read: ReadBooks) -> BooksSeen | str:
    """What stands in the database, or why it could not be read: the screen lives without it."""
    try:
        return read()
    except (RuntimeFault, ExecutionError, CommandFailed, OSError) as error:
        return str(error)


def read_books(connection: "Connection") -> BooksSeen:
    """What the bus does not say, or said before we listened: last trades, halts, counts."""
    from execution import ledger, marks, orders, raw
    from runtime.wire import halt_wire, trade_wire

    letters = raw.execute(connection, "SELECT COUNT(*) FROM dead_letters").fetchone()
    trades = ledger.trades(connection, newest_first=True, limit=MOST_TRADES)
    return BooksSeen(
        sequence=ledger.head(connection).sequence,
        dead_letters=0 if letters is None else letters[0],
        open_orders=sum(1 for _ in orders.open_orders(connection)),
        trades=tuple(rows.trade_row(trade_wire(trade)) for trade in trades),
        halts=tuple(rows.halt_row(halt_wire(change)) for change in orders.halt_changes(connection)),
        days=tuple(
            DayStart(account, found.day, found.day_start_pnl) for account, found in marks.read(connection).items()
        ),
    )
