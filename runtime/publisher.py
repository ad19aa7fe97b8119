"""From typed messages to the bus: one queue, pipelined, retained state coalesced by its owner.

Trades, cash flows, responses and alerts are never dropped: what the broker did not acknowledge is sent
again after the reconnect, in its order. Older facts, of which there may be a million, go out when nothing else
is waiting, a few at a time. Retained state and advice are not kept while the broker is away: all state is
published anew from the database after each connect, and stale advice helps nobody.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from execution.model import (
    AlertRaised,
    CashFlow,
    Fact,
    HaltChanged,
    HaltRequest,
    OrderRequest,
    Responded,
    ResponseStatus,
    VenueChanged,
)
from execution.ports import Clock
from portfolio.position import PortfolioChanged, PositionChanged
from runtime import wire
from runtime.bus import Bus, BusUnavailable
from runtime.core import Published
from runtime.messages import Integrity
from runtime.topics import Command, Topics
from signals.model import BotRemoved, BotState, Recommendation

log = structlog.get_logger(__name__)

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message for the broker; `keep`: it must arrive, however long the broker is away."""

    topic: str
    payload: bytes
    retain: bool = False
    keep: bool = False
    heard: "asyncio.Future[None] | None" = None
    """Done when the broker has it; cancelled when it was dropped, the broker being away too long."""
    sequence: int | None = None
    """Of the fact that it announces."""
    later: bool = False
    """Only when nothing else waits."""
    number: int = field(default_factory=_numbers.__next__)
    """The order in which messages were made, and leave."""


class Publisher:
    """Takes messages without waiting; `run` sends them. `limit` of them may wait; `backlog`: how many older facts
    may be under way at once."""

    def __init__(self, bus: Bus, topics: Topics, clock: Clock, *, limit: int, backlog: int = 8) -> None:
        self._bus = bus
        self._topics = topics
        self._clock = clock
        self._limit = limit
        self._backlog = backlog
        self._queue: deque[Outgoing] = deque()
        self._later: deque[Outgoing] = deque()
        self._wake = asyncio.Event()
        self._under_way = 0
        self._later_left = backlog
        self._unconfirmed: set[int] = set()
        self._lost: int | None = None
        self._progress = asyncio.Event()
        self._refusals: dict[str, asyncio.Future[None]] = {}
        self.dropped = 0
        self._encoders: dict[type, Callable[[Any], Outgoing]] = {
            Responded: self._response,
            HaltChanged: self._halt,
            HaltRequest: self._halt_request,
            Integrity: self._integrity,
            VenueChanged: self._venue,
            AlertRaised: self._alert,
            Recommendation: self._recommendation,
            BotState: self._bot_state,
            BotRemoved: self._bot_removed,
            OrderRequest: self._request,
            PositionChanged: self._position,
            PortfolioChanged: self._portfolio,
        }

    @property
    def idle(self) -> bool:
        """Whether everything that was taken has been acknowledged by the broker."""
        return not self._queue and not self._later and not self._under_way

    @property
    def takes_facts(self) -> bool:
        """Whether facts need not wait in the ledger: half of the queue is for everything else."""
        return self._bus.is_connected and len(self._queue) < self._limit // 2

    @property
    def first_unconfirmed(self) -> int | None:
        """The first sequence that was announced and that the broker may not have; None when it has all."""
        return min(self._unconfirmed, default=None)

    def take_lost(self) -> int | None:
        """The first sequence that had to be dropped since the last call, if any was."""
        lost, self._lost = self._lost, None
        return lost

    async def room(self) -> None:
        """Return when one more older fact may be announced."""
        while self._later_left <= 0:
            await self.changed()

    async def changed(self) -> None:
        """Return when something was confirmed, or failed."""
        self._progress.clear()
        await self._progress.wait()

    def publish(self, message: Published) -> None:
        """Take one message."""
        encoder = self._encoders.get(type(message))
        if encoder is not None:
            self.put(encoder(message))

    async def surely(self, message: Published) -> bool:
        """Take one message that must arrive; returns when the broker has it, however long that takes. False: it was
        dropped, the broker being away too long."""
        outgoing = self._encoders[type(message)](message)
        heard = outgoing.heard or asyncio.get_running_loop().create_future()
        self.put(replace(outgoing, keep=True, heard=heard))
        await asyncio.wait((heard,))
        return not heard.cancelled()

    async def refusal_heard(self, account: str, request_id: str) -> None:
        """Return when the broker has the last refusal of this request that was taken, at once if there is none under
        way. It waits for as long as the broker is away."""
        if self._refusals:
            heard = self._refusals.get(self._topics.response(account, request_id))
            if heard is not None:
                await asyncio.wait((heard,))

    def announce(self, fact: Fact, *, later: bool = False) -> None:
        """Take one fact, with its sequence. `later`: an older one, for which there is `room`."""
        if isinstance(fact, CashFlow):
            topic, body = self._topics.cash_flow(fact.account), wire.cash_flow_wire(fact)
        else:
            topic, body = self._topics.trade(fact.account), wire.trade_wire(fact)
        self._unconfirmed.add(fact.sequence)
        outgoing = Outgoing(topic, wire.encode(body), keep=True, sequence=fact.sequence, later=later)
        if later:
            self._later_left -= 1
            self._later.append(outgoing)
            self._wake.set()
        else:
            self.put(outgoing)

    def put(self, outgoing: Outgoing) -> None:
        """Take an encoded message."""
        if not outgoing.keep and not self._bus.is_connected:
            return
        if len(self._queue) >= self._limit:
            self._drop(self._queue.popleft())
        self._queue.append(outgoing)
        self._wake.set()

    def _drop(self, outgoing: Outgoing) -> None:
        self._is_over(outgoing, dropped=True)
        if outgoing.sequence is not None:  # it stays unconfirmed: the ledger has it
            self._lost = outgoing.sequence if self._lost is None else min(self._lost, outgoing.sequence)
        self.dropped += 1
        if self.dropped in (1, 10) or self.dropped % 1000 == 0:
            log.error("messages dropped: the broker is away too long", dropped=self.dropped, limit=self._limit)

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._bus.is_connected and (self._queue or self._later):
                await self._send((self._queue or self._later).popleft())

    def resume(self) -> None:
        """The broker is back: go on with what was kept."""
        self._wake.set()

    async def drain(self) -> None:
        """Return when everything taken so far has been acknowledged (or the broker is away)."""
        while not self.idle and self._bus.is_connected:
            await self.changed()

    async def _send(self, outgoing: Outgoing) -> None:
        self._under_way += 1
        try:
            sent = await self._bus.publish_soon(outgoing.topic, outgoing.payload, retain=outgoing.retain)
        except BusUnavailable:
            self._under_way -= 1
            self._progress.set()
            self._again(outgoing)
            await asyncio.sleep(0)  # failing may take no time, and others must notice that the connection broke  # noqa: TID251 - the loop's time, which is simulated
            return
        sent.add_done_callback(lambda future: self._confirmed(future, outgoing))

    def _confirmed(self, future: "asyncio.Future[None]", outgoing: Outgoing) -> None:
        self._under_way -= 1
        self._progress.set()
        if future.cancelled() or future.exception() is not None:
            self._again(outgoing)
            return
        if outgoing.sequence is not None:
            self._unconfirmed.discard(outgoing.sequence)
            self._later_left += outgoing.later
        self._is_over(outgoing)

    def _is_over(self, outgoing: Outgoing, *, dropped: bool = False) -> None:
        if outgoing.heard is None:
            return
        if dropped:
            outgoing.heard.cancel()
        else:
            outgoing.heard.set_result(None)
        if self._refusals.get(outgoing.topic) is outgoing.heard:
            del self._refusals[outgoing.topic]

    def _again(self, outgoing: Outgoing) -> None:
        if not outgoing.keep:
            return
        queue = self._later if outgoing.later else self._queue
        place = 0
        while place < len(queue) and queue[place].number < outgoing.number:
            place += 1
        queue.insert(place, outgoing)
        self._wake.set()

    # ---- encoders -------------------------------------------------------------------------------------

    def _response(self, message: Responded) -> Outgoing:
        topic = self._topics.response(message.account, message.request_id)
        heard = None
        if message.status is ResponseStatus.REFUSED:
            heard = self._refusals[topic] = asyncio.get_running_loop().create_future()
        return Outgoing(topic, wire.encode(wire.response_wire(message)), keep=True, heard=heard)

    def _halt(self, message: HaltChanged) -> Outgoing:
        return Outgoing(
            self._topics.halt(message.account), wire.encode(wire.halt_wire(message)), retain=True, keep=True
        )

    def _venue(self, message: VenueChanged) -> Outgoing:
        return Outgoing(self._topics.venue(message.account), wire.encode(wire.venue_wire(message)), retain=True)

    def _halt_request(self, message: HaltRequest) -> Outgoing:
        command = Command.HALT if message.halted else Command.RESUME
        body = wire.encode(wire.halt_request_wire(message))
        return Outgoing(self._topics.request(message.account, command), body, keep=True)

    def _integrity(self, message: Integrity) -> Outgoing:
        topic = self._topics.integrity(message.account)
        return Outgoing(topic, wire.encode(wire.integrity_wire(message)), retain=True, keep=True)

    def _alert(self, message: AlertRaised) -> Outgoing:
        body = wire.encode(wire.alert_wire(message, self._clock.recorded_now()))
        return Outgoing(self._topics.alert(message.account), body, keep=True)

    def _recommendation(self, message: Recommendation) -> Outgoing:
        return Outgoing(self._topics.recommendation(message.bot), wire.encode(wire.recommendation_wire(message)))

    def _bot_state(self, message: BotState) -> Outgoing:
        return Outgoing(self._topics.bot_state(message.bot), wire.encode(wire.bot_state_wire(message)), retain=True)

    def _bot_removed(self, message: BotRemoved) -> Outgoing:
        # Kept, unlike a state: nothing is published anew of a bot that is no more.
        return Outgoing(self._topics.bot_state(message.bot), b"", retain=True, keep=True)

    def _request(self, message: OrderRequest) -> Outgoing:
        bot = message.triggered_by.partition(":")[2]
        topic = self._topics.bot_request(message.account, bot)
        return Outgoing(topic, wire.encode(wire.order_request_wire(message)))

    def _position(self, message: PositionChanged) -> Outgoing:
        topic = self._topics.position(message.account, message.position.symbol)
        return Outgoing(topic, wire.encode(message.to_wire()), retain=True)

    def _portfolio(self, message: PortfolioChanged) -> Outgoing:
        topic = self._topics.portfolio(message.portfolio.account)
        return Outgoing(topic, wire.encode(message.portfolio.to_wire()), retain=True)
