"""Finds out, as often as it takes, what became of the orders at a live venue and what was traded there.

The venue is the truth for orders and fills. Every round asks for each open order by its client order id and
fetches the trades since what is stored; the stream only makes it quicker. Nothing depends on a cursor of our own,
so that nothing is lost with one. An order is sent again only after the venue did not show it for the grace, only
where a second sending cannot become a second order, and only behind a commit, which fails for a process that lost
its lease. Why each rule is as it is: docs/adr/0023-live-venues.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from config.times import time_text
from execution import endings, ledger, orders
from execution.doubts import NOT_SHOWN, was_shown
from execution.exchange import ExchangeOrder, ExchangeTimeout, ExchangeTrade
from execution.live import OUT_OF_REACH, LiveVenue, Track, as_report
from execution.model import AlertRaised, Event, Order, OrderStatus, Reason, Severity, VenueChanged
from execution.ports import Reader
from execution.service import ExecutionService
from execution.venue import VenueClosed, VenueReport, VenueTrade

NEVER_AT_VENUE = "never_at_venue"
"""Why an order was closed that the venue never showed."""

_LATE = 50
"""How many of the orders that were given up are asked for now and then, the newest."""

Tell = Callable[[Sequence[Event]], Awaitable[None]]
"""Hands events on; they are committed."""


class Reconciler:
    """See the module. One for each live venue; `round` and `listen` are called from the event loop."""

    def __init__(self, venue: LiveVenue, service: ExecutionService, reader: Reader, tell: Tell) -> None:
        self.venue = venue
        venue.halt_of = service.state.halt_of
        self._service = service
        self._reader = reader
        self._tell = tell
        self._deep_from: dict[str, float] = {}
        self._told: dict[str, bool] = {}
        self._latest: dict[str, tuple[int, datetime]] = {}
        self._refused: set[str] = set()

    @property
    def accounts(self) -> list[str]:
        """The accounts whose orders go to this venue."""
        known = self._service.state.accounts.values()
        return sorted(account.name for account in known if account.venue == self.venue.name)

    # ---- one round ------------------------------------------------------------------------------------

    async def round(self, account: str) -> None:
        """Trades first, so that an order which the venue shows as done closes in the same round.

        Raises StorageUnavailable, LeaseLost.
        """
        now = asyncio.get_running_loop().time()
        deep = now >= self._deep_from.get(account, 0.0)
        if deep:
            self._deep_from[account] = now + self.venue.times.deep_poll
        await self._fetch(account, deep)
        await _all(self._look_after(order) for order in self._open_orders(account))
        if deep:
            await self._look_for_late(account)
        await self._tell_of_silence(account)

    async def listen(self, account: str) -> None:
        """Record trades as they happen, until the connection is lost. Raises StorageUnavailable, LeaseLost."""
        async with aclosing(self.venue.heard(account)) as trades:
            async for trade in trades:
                await self._record([VenueTrade(account, trade)])

    def _open_orders(self, account: str) -> list[Order]:
        return self._service.state.open_orders(account)

    async def _tell_of_silence(self, account: str) -> None:
        """Whether the venue answers: once, and when it changes."""
        line, before = self.venue.line(account), self._told.get(account)
        if before == (not line.is_silent):
            return
        self._told[account] = not line.is_silent
        name = self.venue.name
        if line.is_silent and line.silence is not None:
            since, why = line.silence.since, line.silence.why
            message = (
                f"{name} has not answered for {account} since {time_text(since)} ({why}): new orders are refused, and"
                " what became of open ones is not known until it does"
            )
            alert = AlertRaised(Severity.HIGH, "venue_silent", message, account, {"venue": name})
            await self._tell([VenueChanged(account, name, False, since, why), alert])
            return
        back = AlertRaised(Severity.INFO, "venue_answers", f"{name} answers for {account} again", account)
        changed = VenueChanged(account, name, True, self.venue.clock.now())
        await self._tell([changed] if before is None else [changed, back])

    async def _record(self, reports: Sequence[VenueReport], closing: AlertRaised | None = None) -> None:
        try:
            events = await self._service.told(reports, closing)
        except DBAPIError as error:
            await self._record_without(reports, error)
            return
        if events:
            await self._tell(events)

    async def _record_without(self, reports: Sequence[VenueReport], error: DBAPIError) -> None:
        """The database refuses one of the reports: it must keep no other out, nor end the daemon."""
        if len(reports) > 1:
            for report in reports:
                await self._record([report])
            return
        message = f"what {self.venue.name} told cannot be recorded: {reports[0]}: {error.orig}"
        if message not in self._refused:
            self._refused.add(message)
            await self._tell([AlertRaised(Severity.HIGH, "unrecordable", message)])

    # ---- trades ---------------------------------------------------------------------------------------

    async def _fetch(self, account: str, deep: bool) -> None:
        since = await self._since(account, deep)
        try:
            told = await self.venue.ask(account, self.venue.exchange.trades(account, since))
        except OUT_OF_REACH:
            if deep:
                self._deep_from[account] = 0.0  # the next round tries again
            return
        if not told:
            return
        news = await self._reader.read(partial(_news, venue=self.venue.name, account=account, told=told))
        if news:
            await self._record([VenueTrade(account, trade) for trade in news])

    async def _since(self, account: str, deep: bool) -> datetime:
        """From when on trades are fetched: some time before the last one stored, the oldest open order, and now.

        Clocks made these times, ours and the venue's, and may have been wrong: the earliest counts, and the deep
        overlap is longer than a clock may be off.
        """
        times = self.venue.times
        latest = await self._reader.read(partial(self._last_stored, account=account))
        opened = (order.created_at for order in self._service.state.open_orders(account))
        first = min(opened, default=latest)
        return min(first, latest, self.venue.clock.now()) - timedelta(
            seconds=times.deep_overlap if deep else times.overlap
        )

    def _last_stored(self, connection: Connection, account: str) -> datetime:
        """When the last stored trade of an account was executed; when the account was opened if it has none."""
        known = self._latest.get(account)
        sequence, latest = known or (0, ledger.account_created(connection, account))
        head = ledger.head(connection).sequence
        if known is None or head > sequence:
            newer = ledger.last_executed(connection, self.venue.name, account, after_sequence=sequence)
            latest = latest if newer is None else newer if known is None else max(latest, newer)
            self._latest[account] = (head, latest)
        return latest

    # ---- orders ---------------------------------------------------------------------------------------

    async def _look_after(self, order: Order) -> None:
        venue = self.venue
        track = venue.follow(order)
        asked = asyncio.get_running_loop().time()
        self._note_ending(order, track, asked)
        if track.ending is not None and venue.must_be_cancelled(order.id):
            with suppress(*OUT_OF_REACH):
                await venue.ask(order.account, venue.exchange.cancel(order))
        asked = asyncio.get_running_loop().time()
        try:
            shown = await venue.ask(order.account, venue.exchange.find(order))
        except OUT_OF_REACH:
            return
        current = self._service.state.open_order(order.id)
        if current is None:
            return  # closed meanwhile
        # Only as old as the question: the answer may have waited for a process that was stopped.
        if shown is not None:
            await self._shown(current, track, shown)
        elif track.acknowledged or was_shown(current):
            await self._shown_no_more(current, track, asked)
        elif asked - track.since >= venue.times.grace:
            await self._give_up_or_resend(current, track)

    async def _shown(self, order: Order, track: Track, shown: ExchangeOrder) -> None:
        is_back, track.doubted = track.doubted, False
        track.acknowledged, track.absent_since = True, None
        if shown.status.is_final or order.status in (OrderStatus.UNKNOWN, OrderStatus.REQUESTED):
            await self._record([as_report(order, shown, track)])
        if is_back:
            message = f"{self.venue.name} shows order {order.id} ({order.side} {order.symbol}) again"
            await self._alert(order, Severity.INFO, "shown_again", message)

    async def _shown_no_more(self, order: Order, track: Track, asked: float) -> None:
        """The venue had shown the order, so it is never sent again and never given up. After a while its outcome is
        called unknown, which freezes its symbol, until the venue shows it or tells a trade of it."""
        was_told_of = track.doubted and order.status is not OrderStatus.UNKNOWN
        if track.absent_since is None or was_told_of:
            track.absent_since, track.doubted = asked, False
        if track.doubted or asked - track.absent_since < self.venue.times.missing:
            return
        limit = f"{self.venue.times.missing:g} s"
        if order.reason is None or order.reason.code != NOT_SHOWN or order.status is not OrderStatus.UNKNOWN:
            reason = Reason(NOT_SHOWN, None, None, f"{self.venue.name} to show it; it has not for {limit}")
            await self._record([VenueClosed(order.id, OrderStatus.UNKNOWN, reason)])
            now = self._service.state.open_order(order.id)
            if now is None or now.status is not OrderStatus.UNKNOWN:
                return  # not stored, or it is known by now
        track.doubted = True
        message = (
            f"order {order.id} ({order.side} {order.symbol}) was at {self.venue.name}, which has not shown it for"
            f" {limit}: its outcome is unknown, and {order.symbol} is frozen for {order.account} until it is. Look"
            f" for it at {self.venue.name}"
        )
        await self._alert(order, Severity.HIGH, NOT_SHOWN, message)

    async def _alert(self, order: Order, severity: Severity, code: str, message: str) -> None:
        await self._tell([AlertRaised(severity, code, message, order.account, _about(order))])

    def _note_ending(self, order: Order, track: Track, now: float) -> None:
        """Somebody wants the order to end, or its time is over: from then on it is cancelled until it is final."""
        if track.ending is not None:
            return
        halt = self._service.state.halt_of(order.account)
        if halt is not None:
            track.ending, track.why = OrderStatus.CANCELLED, endings.halted(order.account, halt)
        elif order.id in self.venue.unwanted:
            track.ending = OrderStatus.CANCELLED
        elif track.over is not None and now >= track.over:
            track.ending, track.why = OrderStatus.EXPIRED, endings.expired(order)

    async def _give_up_or_resend(self, order: Order, track: Track) -> None:
        """The venue did not show the order for the whole grace."""
        if track.refused is not None:
            await self._record([VenueClosed(order.id, OrderStatus.REJECTED, track.refused)])
        elif track.ending is None and self.venue.exchange.deduplicates:
            await self._resend(order, track)
        else:
            await self._give_up(order, track)

    async def _give_up(self, order: Order, track: Track) -> None:
        waited = f"{self.venue.times.grace:g} s"
        reason = Reason(NEVER_AT_VENUE, None, None, f"{self.venue.name} to show the order within {waited}")
        message = (
            f"order {order.id} ({order.side} {order.symbol}) was sent, but {self.venue.name} never showed it for"
            f" {waited}: it is closed here. If it was executed after all, its trades will be recorded with it"
        )
        alert = AlertRaised(Severity.WARNING, NEVER_AT_VENUE, message, order.account, _about(order))
        await self._record([VenueClosed(order.id, track.ending or OrderStatus.EXPIRED, reason)], alert)

    async def _look_for_late(self, account: str) -> None:
        """An order that was given up and rests at the venue all the same has no business there."""
        given_up = await self._reader.read(
            partial(orders.closed_because, account=account, code=NEVER_AT_VENUE, limit=_LATE)
        )
        await _all(self._end_late(order) for order in given_up)

    async def _end_late(self, order: Order) -> None:
        venue = self.venue
        with suppress(*OUT_OF_REACH):
            shown = await venue.ask(order.account, venue.exchange.find(order))
            if shown is None or shown.status.is_final:
                return  # its trades, if there are any, are told as such
            await venue.ask(order.account, venue.exchange.cancel(order))
            message = (
                f"order {order.id}, closed here as {order.status}, was open at {venue.name} and is cancelled there"
            )
            alert = AlertRaised(Severity.HIGH, "late_order", message, order.account, _about(order))
            await self._tell([await self._service.keep(alert)])

    async def _resend(self, order: Order, track: Track) -> None:
        """Send the order again under the same client order id, which this venue makes no second order of.

        A refusal answers this sending only: an earlier one may still arrive, so it is believed after the grace.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        if not await self._service.may_send(order):
            return
        left = self.venue.seconds_to_send(track, loop.time() - began)
        current = self._service.state.open_order(order.id)
        if left <= 0 or order.id in self.venue.unwanted or current is None or was_shown(current):
            return
        try:
            shown = await self.venue.send(order, track, left)
        except ExchangeTimeout:
            return
        if not isinstance(shown, VenueClosed):
            await self._record([as_report(order, shown, track)])
        elif shown.status is OrderStatus.REJECTED:
            track.refused = shown.reason


def _about(order: Order) -> dict[str, str]:
    return {"order_id": order.id, "request_id": order.request_id}


def _news(connection: Connection, venue: str, account: str, told: Sequence[ExchangeTrade]) -> list[ExchangeTrade]:
    """Those of the trades that are not stored yet, or not with this content."""
    ids = [ledger.trade_id(venue, account, trade.symbol, trade.venue_trade_id) for trade in told]
    known = ledger.find_trades(connection, ids)
    stored = (known.get(key) for key in ids)
    return [trade for trade, there in zip(told, stored, strict=True) if there is None or not trade.is_told_by(there)]


async def _all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run works side by side, each to its end; then raise the first error, if there was one."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
