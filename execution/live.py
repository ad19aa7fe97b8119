"""A live venue behind the venue protocol: what is done at once, and what is known of orders on their way.

Here an order is sent once and a cancel is only wished for; what became of both is found out by `reconcile`, as
often as it takes. Nothing here is stored: after a restart every open order is asked for first.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from config.times import time_text
from execution import endings
from execution.errors import VenueError
from execution.exchange import Exchange, ExchangeOrder, ExchangeRefused, ExchangeTimeout, ExchangeTrade
from execution.lines import Line, is_stopped
from execution.model import Halt, Order, OrderStatus, OrderType, Reason, TimeInForce
from execution.ports import Clock
from execution.venue import VenueClosed, VenueOrder, VenueReport

T = TypeVar("T")

OUT_OF_REACH = (ExchangeTimeout, ExchangeRefused)
"""How a call may end without the answer that was asked for."""


@dataclass(frozen=True, slots=True)
class LiveTimes:
    """How long what may take with a live venue, all in seconds. See the `live` settings for their meaning."""

    poll: float = 2.0
    grace: float = 30.0
    missing: float = 60.0
    send: float = 10.0
    timeout: float = 5.0
    overlap: float = 60.0
    deep_poll: float = 300.0
    deep_overlap: float = 172_800.0
    expiry: float = 60.0


@dataclass(slots=True)
class Track:
    """One open order while this process follows it; instants of the event loop.

    `since`: its last sending, or when this process began to follow it. `acknowledged`: the venue has shown it to this
    process. `absent_since`: when the venue was first asked for it and did not show it any more. `doubted`: so long
    ago that it was called unknown. `over`: when it expires. `ending` and `why`: somebody wants it to end, and what is
    to be said then. `cancel_heard`: the venue has just answered a cancel. `refused`: what the venue said to a second
    sending, while the first could still arrive.
    """

    since: float
    over: float | None
    acknowledged: bool = False
    absent_since: float | None = None
    doubted: bool = False
    ending: OrderStatus | None = None
    cancel_heard: bool = False
    why: Reason | None = None
    refused: Reason | None = None


@dataclass(slots=True)
class LiveVenue:
    """See the module. All methods are called from the event loop."""

    exchange: Exchange
    clock: Clock
    times: LiveTimes
    max_in_flight: int = 64
    """Orders of an account that may be on their way at once, and calls for it that may be left behind."""
    tracks: dict[str, Track] = field(default_factory=dict)
    unwanted: set[str] = field(default_factory=set)
    """Orders that somebody wants to be cancelled, for as long as this process lives."""
    name: str = ""
    halt_of: Callable[[str], Halt | None] = lambda _account: None
    """Whether trading of an account is halted, asked right before an order leaves."""
    _lines: dict[str, Line] = field(default_factory=dict)
    _cancelling: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.exchange.name

    # ---- the venue protocol ---------------------------------------------------------------------------

    async def place(self, order: Order, waited: float) -> list[VenueReport]:
        """See `Venue.place`. Raises ExchangeTimeout: whether the order exists is to be found out."""
        if order.id in self.unwanted:
            return [VenueClosed(order.id, OrderStatus.CANCELLED)]
        track = self.follow(order, waited)
        left = self.seconds_to_send(track, waited)
        if left <= 0:
            raise VenueError("there was no time left to send the order; the venue is asked for it")
        shown = await self.send(order, track, left)
        if isinstance(shown, VenueClosed):
            return [shown]
        return [as_report(order, shown, track)]  # its fills come as trades, and close it then

    async def resume(
        self, order: Order, filled: Decimal, last_fill: datetime | None, fills: int
    ) -> list[VenueReport]:
        """See `Venue.resume`. Whether one was ever sent that the venue has not shown yet is unknown."""
        self.follow(order)
        if order.status is OrderStatus.REQUESTED:
            return [
                VenueClosed(order.id, OrderStatus.UNKNOWN, Reason("restarted", None, None, "the venue to show it"))
            ]
        return []

    async def cancel(self, order: Order) -> list[VenueReport]:
        """See `Venue.cancel`: the wish is kept and repeated until the order is final, and nobody waits for it. It is
        sent at once, for a round may just be waiting for another call."""
        self.unwanted.add(order.id)
        self.follow(order)
        if order.id not in self._cancelling:
            self._cancelling[order.id] = asyncio.create_task(self._cancel_now(order))
        return []

    async def _cancel_now(self, order: Order) -> None:
        try:
            await self.ask(order.account, self.exchange.cancel(order))
            track = self.tracks.get(order.id)
            if track is not None:
                track.cancel_heard = True
        except OUT_OF_REACH:
            pass  # the rounds try again
        finally:
            del self._cancelling[order.id]
        self.line(order.account).woken.set()

    @property
    def cancels(self) -> set["asyncio.Task[None]"]:
        """Cancels that are being sent."""
        return {task for task in self._cancelling.values() if not task.done()}

    def must_be_cancelled(self, order_id: str) -> bool:
        """Whether an order that is to end needs a cancel now: one may be on its way, or just answered."""
        heard, self.tracks[order_id].cancel_heard = self.tracks[order_id].cancel_heard, False
        return not heard and order_id not in self._cancelling

    def refusal(self, account: str, on_their_way: int) -> Reason | None:
        """See `Venue.refusal`: what would only become one more order of which nobody knows what became of it."""
        line = self._lines.get(account)
        silence = None if line is None or not line.is_silent else line.silence
        if silence is not None:
            since = time_text(silence.since)
            return Reason("venue_silent", "account", account, f"an answer of {self.name}; none since {since}")
        if on_their_way >= self.max_in_flight:
            most = f"fewer than {self.max_in_flight} orders on their way to {self.name}"
            return Reason("venue_busy", "account", account, most)
        return None

    def forget(self, order_id: str) -> None:
        """See `Venue.forget`."""
        self.tracks.pop(order_id, None)

    # ---- what reconcile uses as well ------------------------------------------------------------------

    def follow(self, order: Order, waited: float | None = None) -> Track:
        """What is known of an order on its way; begins to follow it if this process did not yet.

        An order that this process made `waited` seconds ago lives by the event loop's time. Of one from before
        only the wall clock can tell how long it lives, but never longer than it was given.
        """
        track = self.tracks.get(order.id)
        if track is None:
            now = asyncio.get_running_loop().time()
            lifetime = self._lifetime(order)
            over = None
            if lifetime is not None:
                over = now + lifetime - (self._age(order, lifetime) if waited is None else waited)
            track = self.tracks[order.id] = Track(now, over)
        return track

    def _lifetime(self, order: Order) -> float | None:
        """Seconds for which the order may be sent and rest; None: until somebody cancels it."""
        if order.expires_at is not None:
            return (order.expires_at - order.created_at).total_seconds()
        rests = order.type is OrderType.LIMIT and order.time_in_force is TimeInForce.GTC
        return None if rests else self.times.expiry

    def _age(self, order: Order, lifetime: float) -> float:
        age = (self.clock.now() - order.created_at).total_seconds()
        return min(max(age, 0.0), lifetime)

    def seconds_to_send(self, track: Track, waited: float) -> float:
        """How long an order may be on its way to the venue: counted from before the commit that allowed to send
        it, so that whoever takes over from us knows when nothing of ours can arrive any more."""
        left = self.times.send - waited
        return left if track.over is None else min(left, track.over - asyncio.get_running_loop().time())

    async def send(self, order: Order, track: Track, seconds: float) -> ExchangeOrder | VenueClosed:
        """Send an order under its client order id. Raises ExchangeTimeout."""
        track.since = asyncio.get_running_loop().time()
        try:
            shown = await self.ask(order.account, self._place(order, seconds))
        except ExchangeRefused as refusal:
            return VenueClosed(order.id, OrderStatus.REJECTED, Reason(refusal.code, None, None, refusal.message))
        if shown is None:
            return VenueClosed(
                order.id, OrderStatus.CANCELLED, endings.halted(order.account, self.halt_of(order.account))
            )
        track.acknowledged = True
        if shown.filled or shown.status.is_final:
            self.line(order.account).woken.set()  # its trades are to be fetched
        return shown

    async def _place(self, order: Order, seconds: float) -> ExchangeOrder | None:
        """The call itself. None: the account was halted since the last look, and nothing was sent."""
        if self.halt_of(order.account) is not None:
            return None
        return await self.exchange.place(order, seconds)

    def line(self, account: str) -> Line:
        """The line for an account."""
        line = self._lines.get(account)
        if line is None:
            line = self._lines[account] = Line(self.name, self.clock, self.times.timeout, self.max_in_flight)
        return line

    async def ask(self, account: str, call: Coroutine[Any, Any, T]) -> T:
        """The answer of a call that is made for an account. Raises ExchangeTimeout, ExchangeRefused."""
        return await self.line(account).ask(call)

    async def heard(self, account: str) -> AsyncGenerator[ExchangeTrade, None]:
        """Trades as they happen, until the connection is lost, in whichever way the client says so. To be closed."""
        try:
            async with aclosing(self.exchange.stream(account)) as trades:
                async for trade in trades:
                    yield trade
        except asyncio.CancelledError:
            if is_stopped():
                raise
        except Exception:  # noqa: BLE001, S110 - the rounds find out, and say, whether the venue answers
            pass


def as_report(order: Order, shown: ExchangeOrder, track: Track) -> VenueOrder:
    """What the venue shows, under our order's id, and why it ended there."""
    if not shown.status.is_final or shown.status is OrderStatus.FILLED:
        return VenueOrder(order.id, shown.status, shown.filled)
    if shown.status is OrderStatus.CANCELLED and track.ending is not None:
        return VenueOrder(order.id, track.ending, shown.filled, track.why)
    return VenueOrder(order.id, shown.status, shown.filled, Reason("closed_by_venue"))
