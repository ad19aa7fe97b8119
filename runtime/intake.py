"""From the bus to the services: decode, identify, hand over, and acknowledge only what is committed, and of what
was refused only what the broker has heard of: nobody may be able to say it again.

Requests are worked on side by side (they may share a commit); candles and prices one after another, in the
order in which they came. A message that cannot be taken is a dead letter with an alert, never a loss and
never a reason to stop.
"""

import asyncio
import hashlib
import itertools
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import structlog

from config.times import time_text
from execution import orders
from execution.errors import LeaseLost, StorageUnavailable
from execution.ledger import derived_id
from execution.model import (
    AlertRaised,
    CancelRequest,
    Candle,
    CashRequest,
    HaltRequest,
    OrderRequest,
    Price,
    Reason,
    Responded,
    ResponseStatus,
    Severity,
)
from execution.ports import Clock, Reader
from execution.service import Envelope, Unsent
from runtime.bus import Bus, Connected, Incoming
from runtime.codec import decode
from runtime.core import Core
from runtime.jsondoc import Limits
from runtime.messages import BotCommand, Decoded, RecomputeRequest, Refused, Undecodable
from runtime.publisher import Outgoing, Publisher
from runtime.recompute import Recomputer
from runtime.topics import Command, Match, RouteName, Topics
from runtime.wire_in import response_from
from signals import outbox
from signals.errors import UnknownBot

log = structlog.get_logger(__name__)

_STORAGE_PAUSE = 1.0  # seconds

_MARKET_PATIENCE = 1.0
"""Seconds that a request waits for prices that came before it."""

_FIRST_PRICES = 3.0
"""Seconds after a connect in which a symbol's first price may still be on its way."""

_MARKET = (RouteName.CANDLE, RouteName.PRICE)
_OF_OTHERS = (RouteName.RESPONSE, RouteName.TRADE, RouteName.CASH_FLOW, RouteName.HALT)


class Intake:
    """Reads one bus. `own_symbols`: symbols whose candles this process makes itself, so that what comes
    from the bus about them is only the echo. `window` is how many messages the broker sends unacknowledged."""

    def __init__(
        self,
        core: Core,
        reader: Reader,
        bus: Bus,
        topics: Topics,
        publisher: Publisher,
        clock: Clock,
        *,
        limits: Limits,
        kept_bytes: int,
        max_in_flight: int,
        window: int,
        boot_id: str,
        future: timedelta,
    ) -> None:
        self._core = core
        self._reader = reader
        self._bus = bus
        self._topics = topics
        self._publisher = publisher
        self._clock = clock
        self._limits = limits
        self._kept_bytes = kept_bytes
        self._window = window
        self._boot_id = boot_id
        self._numbers = itertools.count(1)
        self._slots = asyncio.Semaphore(max_in_flight)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._market: asyncio.Queue[tuple[Incoming, Candle | Price]] = asyncio.Queue()
        self._market_taken = self._market_done = 0
        self._waiting_for_market: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._connected_at = asyncio.get_running_loop().time()
        bus.on_connected(self._connected)
        self._next_market: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._future = future
        self._came_again: set[str] = set()
        self._assigned: dict[str | int, str] = {}
        self._under_way: Counter[str | int] = Counter()
        self._assigning = asyncio.Lock()
        self._clearing: Counter[str] = Counter()
        self._fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.own_symbols: frozenset[str] = frozenset()
        self.on_answer: Callable[[], None] = lambda: None
        """Called at each answer of another process's execution service."""
        self.recomputer: Recomputer | None = None
        """None: the portfolio role is in another process, which reads these requests too."""
        self._handlers: dict[type, Callable[[Incoming, Match, Decoded[Any]], Coroutine[Any, Any, None]]] = {
            OrderRequest: self._on_request,
            CancelRequest: self._on_request,
            CashRequest: self._on_request,
            HaltRequest: self._on_request,
            RecomputeRequest: self._on_recompute,
            BotCommand: self._on_bot_command,
        }

    # ---- reading --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until the bus is stopped. Raises LeaseLost when another process took the role."""
        market = asyncio.create_task(self._run_market(), name="market")
        reading = asyncio.create_task(self._read(), name="bus")
        try:
            await asyncio.wait((market, reading, self._fatal), return_when=asyncio.FIRST_COMPLETED)
            for task in (self._fatal, market, reading):
                if task.done():
                    task.result()
        finally:
            for task in (market, reading):
                task.cancel()
            await asyncio.gather(market, reading, return_exceptions=True)

    async def drain(self) -> None:
        """Return when the requests under way are done, and the orders and cancels on their way answered. Raises
        LeaseLost."""
        while under_way := self._tasks | self._sending | self._core.cancels():
            await asyncio.gather(*under_way, return_exceptions=True)
        if self._fatal.done():
            self._fatal.result()

    async def _read(self) -> None:
        async for incoming in self._bus.messages():
            match = self._topics.parse(incoming.topic)
            if match is not None and match.route in _MARKET:
                reasons = self._read_market(incoming, match)
                if reasons:
                    await self._start(partial(self._refuse_market, incoming, match, reasons))
                continue
            if match is not None and match.route in _OF_OTHERS:
                await self._read_other_process(incoming, match)
                continue
            await self._start(partial(self._take, incoming, match, self._market_taken))

    async def _start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Work on a message beside the others, as soon as there is a place."""
        await self._slots.acquire()
        task = asyncio.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._taken)

    def _taken(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._slots.release()
        self._judge(task)

    def _judge(self, task: "asyncio.Task[None]") -> None:
        """A task that nobody waits for ended."""
        if not task.cancelled() and (error := task.exception()) is not None and not self._fatal.done():
            self._fatal.set_exception(error)
            self._fatal.exception()  # seen, also when the daemon is ending for another reason

    async def _take(self, incoming: Incoming, match: Match | None, market_before: int) -> None:
        """One request or command, to its end."""
        if match is not None and match.route is RouteName.REQUEST:
            await self._market_before(market_before)  # a bot's request names its candle and need not wait
        key = _key(incoming, self._delivery(incoming))
        self._under_way[key] += 1
        await self._surely(incoming, match, lambda: self._dispatch(incoming, match))
        self._under_way[key] -= 1
        if not self._under_way[key]:  # no other copy is tried again: the inbox knows it from here on
            del self._under_way[key]
            self._assigned.pop(key, None)
        incoming.ack()

    async def _surely(self, incoming: Incoming, match: Match | None, work: Callable[[], Awaitable[None]]) -> None:
        """Work on a message; if that fails, one bad message must not stop the daemon: it is kept and shown."""
        try:
            await self._until_stored(incoming, work)
        except LeaseLost:
            raise
        except Exception as error:
            log.exception("message failed", topic=incoming.topic)
            reason = Reason("internal_error", None, None, f"{type(error).__name__}: {error}")
            await self._until_stored(incoming, lambda: self._bury(incoming, match, reason))

    @staticmethod
    async def _until_stored(incoming: Incoming, work: Callable[[], Awaitable[None]]) -> None:
        """A message that the storage did not take is tried again: the broker may send it anew only after a
        reconnect, and sends no others once too many are unacknowledged. (Orders do not wait like this: they are
        refused, see ExecutionService.)"""
        while True:
            try:
                await work()
                return
            except StorageUnavailable as error:
                log.error("a message waits for the storage", topic=incoming.topic, error=str(error))
                await asyncio.sleep(_STORAGE_PAUSE)  # noqa: TID251 - the loop's time, which is simulated

    async def _dispatch(self, incoming: Incoming, match: Match | None) -> None:
        if not incoming.payload and (incoming.retain or self._is_our_clearing(incoming.topic)):
            return  # a retained message was cleared
        if match is None:
            await self._bury(
                incoming, None, Reason("bad_topic", "topic", incoming.topic[:64], "a topic of `fillbook topics`")
            )
            return
        if match.command is Command.RECOMPUTE and self.recomputer is None:
            return
        assigned = await self._assigned_id(incoming, match)
        outcome = decode(match, incoming.payload, assigned_id=assigned, retained=incoming.retain, limits=self._limits)
        if isinstance(outcome, Undecodable):
            await self._bury(incoming, match, outcome.reason)
        elif isinstance(outcome, Refused):
            await self._refuse(incoming, match, outcome)
        else:
            await self._handlers[type(outcome.message)](incoming, match, outcome)

    def _is_our_clearing(self, topic: str) -> bool:
        """Whether an empty message is the echo of one that cleared a retained command: it would be a halt."""
        if not self._clearing[topic]:
            return False
        self._clearing[topic] -= 1
        return True

    # ---- identity -------------------------------------------------------------------------------------

    def _delivery(self, incoming: Incoming) -> orders.Delivery | None:
        if incoming.packet_id is None:
            return None
        body = hashlib.sha256(incoming.topic.encode() + b"\0" + incoming.payload).hexdigest()[:32]
        return orders.Delivery(incoming.session, incoming.packet_id, body)

    async def _assigned_id(self, incoming: Incoming, match: Match) -> str:
        """The id of a request that names none: a redelivery keeps the one it was given before, and so does a message
        that is tried again."""
        delivery = self._delivery(incoming)
        key = _key(incoming, delivery)
        execution = self._core.execution
        # Bots name theirs; looking up would let redelivered ones overtake each other.
        if not incoming.dup or delivery is None or execution is None or match.route is RouteName.BOT_REQUEST:
            return self._assigned.setdefault(key, self._new_id())
        async with self._assigning:
            known = self._assigned.get(key)  # its first copy may be under way, and not committed yet
            if known is None:
                known = await execution.delivered(delivery, self._window, self._came_again)
            if known is not None:
                self._came_again.add(known)
            return self._assigned.setdefault(key, known or self._new_id())

    def _new_id(self) -> str:
        return derived_id("auto", self._boot_id, str(next(self._numbers)))

    # ---- requests -------------------------------------------------------------------------------------

    async def _on_request(self, incoming: Incoming, match: Match, decoded: Decoded[Any]) -> None:
        if match.route is RouteName.BOT_REQUEST and not await self._is_ours(decoded.message):
            expected = "a request that a policy of these books stored before it was sent"
            await self._bury(
                incoming, match, Reason("forged_request", "request_id", decoded.message.request_id, expected)
            )
            return
        delivery = None if decoded.given_id else self._delivery(incoming)
        key = None if delivery is None else delivery.key
        request = decoded.message
        if match.route is RouteName.REQUEST and isinstance(request, OrderRequest):
            await self._first_price(request.symbol)
        unsent = await self._core.take(Envelope(request, decoded.body_hash, key))
        if unsent is not None:
            self._begin_to_send(unsent)
        await self._publisher.refusal_heard(request.account, request.request_id)

    def _begin_to_send(self, unsent: Unsent) -> None:
        """An order on its way to a venue that may be slow, or hang, takes no place from other requests: it is
        committed, so that the broker may forget its request."""
        task = asyncio.create_task(self._send(unsent))
        self._sending.add(task)
        task.add_done_callback(self._sent)

    async def _send(self, unsent: Unsent) -> None:
        """Send an order and say what became of it. If that fails, the venue will be asked for it."""
        try:
            await self._core.send(unsent)
        except LeaseLost:
            raise
        except StorageUnavailable as error:
            log.error("the facts of an order wait for the storage", order=unsent.order.id, error=str(error))
        except Exception:
            log.exception("sending failed", order=unsent.order.id)

    def _sent(self, task: "asyncio.Task[None]") -> None:
        self._sending.discard(task)
        self._judge(task)

    async def _is_ours(self, request: OrderRequest) -> bool:
        """Policies store a request before they send it. An external broker without an access list lets anybody
        publish as a bot; what is not in the outbox of these books, to the letter, is not from one."""
        signals = self._core.signals
        if signals is not None and signals.open_request(request.request_id) == request:
            return True
        return await self._reader.read(lambda c: outbox.find(c, request.request_id)) == request

    async def _on_recompute(self, _incoming: Incoming, _match: Match, decoded: Decoded[RecomputeRequest]) -> None:
        assert self.recomputer is not None
        await self.recomputer.take(decoded.message, decoded.body_hash)

    async def _on_bot_command(self, incoming: Incoming, match: Match, decoded: Decoded[BotCommand]) -> None:
        command = decoded.message
        assert self._core.signals is not None
        try:
            outputs = await self._core.signals.set_bot(command.bot, str(command.action))
        except UnknownBot:
            await self._bury(incoming, match, Reason("unknown_bot", "bot", command.bot, "a bot that runs here"))
            return
        for output in outputs:
            self._publisher.publish(output)

    async def _refuse(self, incoming: Incoming, match: Match, refused: Refused) -> None:
        """Understood but not allowed: answered to whoever can be answered, kept and alerted otherwise."""
        if incoming.retain:
            self._clearing[incoming.topic] += 1
            self._publisher.put(Outgoing(incoming.topic, b"", retain=True, keep=True))
        if refused.request_id is not None and match.account is not None:
            reason = refused.reasons[0]
            await self._publisher.surely(
                Responded(match.account, refused.request_id, ResponseStatus.REFUSED, final=True, reason=reason)
            )
            return
        await self._bury(incoming, match, *refused.reasons)

    async def _bury(self, incoming: Incoming, match: Match | None, *reasons: Reason) -> None:
        """Keep a message that could not be taken, and say so; returns when the broker has heard it."""
        text = "; ".join(str(reason) for reason in reasons)
        letter = orders.DeadLetter(
            id=derived_id(
                "letter", incoming.topic, incoming.session, str(incoming.packet_id), incoming.payload.hex()
            ),
            received_at=self._clock.recorded_now(),
            topic=incoming.topic[:256],
            payload=incoming.payload[: self._kept_bytes],
            size=len(incoming.payload),
            reason=reasons[0],
            retained=incoming.retain,
        )
        if self._core.execution is not None:
            await self._core.execution.bury(letter)
        account = None if match is None else match.account
        log.warning("message refused", topic=letter.topic, reason=text, size=letter.size, letter=letter.id)
        await self._publisher.surely(
            AlertRaised(
                Severity.WARNING,
                reasons[0].code,
                f"a message on {letter.topic} was refused: {text}",
                account,
                {"topic": letter.topic, "letter": letter.id, "received_at": time_text(letter.received_at)},
                id=derived_id("alert", letter.id),
            )
        )

    # ---- the market -----------------------------------------------------------------------------------

    def _read_market(self, incoming: Incoming, match: Match) -> tuple[Reason, ...]:
        """Queue a candle or price; returns why it cannot be taken, if it cannot."""
        if match.symbol in self.own_symbols:
            incoming.ack()
            return ()
        outcome = decode(match, incoming.payload, assigned_id="", limits=self._limits)
        if isinstance(outcome, Decoded) and isinstance(outcome.message, Candle | Price):
            if outcome.message.time <= self._clock.recorded_now() + self._future:
                self._market_taken += 1
                self._market.put_nowait((incoming, outcome.message))
                return ()
            return (self._in_future(outcome.message),)
        if not incoming.payload:
            incoming.ack()  # a retained one was cleared
            return ()
        if isinstance(outcome, Undecodable):
            return (outcome.reason,)
        assert isinstance(outcome, Refused)
        return outcome.reasons

    async def _refuse_market(self, incoming: Incoming, match: Match, reasons: Sequence[Reason]) -> None:
        await self._surely(incoming, match, lambda: self._bury(incoming, match, *reasons))
        incoming.ack()

    def _in_future(self, message: Candle | Price) -> Reason:
        latest = self._clock.recorded_now() + self._future
        return Reason("in_future", "time", time_text(message.time), f"not after {time_text(latest)}")

    async def _market_before(self, taken: int) -> None:
        """Return when the first `taken` market messages are worked on: a request must not overtake a price that
        came before it. (The embedded broker keeps order only within one subscription, so there a price that was
        published just before may still come after.)"""
        if taken > self._market_done:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting_for_market.append((taken, waiter))
            # Not for ever: a candle may itself be waiting for the storage, and requests are then refused.
            await asyncio.wait((waiter,), timeout=_MARKET_PATIENCE)

    def _connected(self, _connected: Connected) -> None:
        self._connected_at = asyncio.get_running_loop().time()

    async def _first_price(self, symbol: str) -> None:
        """Just after a connect, wait a moment for a symbol's first price, not to refuse for want of it: those that
        the broker keeps may come behind the requests that it delivers again."""
        assert self._core.execution is not None
        prices = self._core.execution.state.prices
        now = asyncio.get_running_loop().time
        until = self._connected_at + _FIRST_PRICES
        while symbol not in prices and now() < until:
            await asyncio.wait((self._next_market,), timeout=until - now())

    def _market_worked_on(self) -> None:
        self._market_done += 1
        self._next_market.set_result(None)
        self._next_market = asyncio.get_running_loop().create_future()
        while self._waiting_for_market and self._waiting_for_market[0][0] <= self._market_done:
            _, waiter = self._waiting_for_market.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def _run_market(self) -> None:
        while True:
            incoming, message = await self._market.get()
            try:
                await self._surely(incoming, None, lambda: self._take_market(message))  # noqa: B023 - ends in this turn
                incoming.ack()
            finally:
                self._market_worked_on()

    async def _take_market(self, message: Candle | Price) -> None:
        """One candle or price."""
        if isinstance(message, Candle):
            await self._core.surely_on_candle(message)
        else:
            await self._core.on_price(message)

    # ---- what another process of the same books says ---------------------------------------------------

    async def _read_other_process(self, incoming: Incoming, match: Match) -> None:
        """Roles may be spread over processes: answers to our bots, and facts to read from the ledger."""
        if match.route is RouteName.HALT:
            await self._learn_halts()
        elif match.route is not RouteName.RESPONSE:
            await self._core.follower.poll()
        elif self._core.signals is not None and match.account is not None:
            response = response_from(match.account, incoming.payload)
            if response is not None:
                await self._core.follower.poll()
                with suppress(StorageUnavailable):  # as in Core.spread
                    for output in await self._core.signals.on_response(response):
                        self._publisher.publish(output)
                self.on_answer()
        incoming.ack()

    async def _learn_halts(self) -> None:
        """An account was halted or resumed. The message only says when to look: on an open broker anybody may have
        sent it."""
        signals = self._core.signals
        if signals is not None:
            with suppress(StorageUnavailable):  # execution refuses all the same; the next start knows
                for change in await self._reader.read(orders.halt_changes):
                    signals.on_halt(change)


def _key(incoming: Incoming, delivery: orders.Delivery | None) -> str | int:
    """What tells a message from the others that are under way; without a delivery (QoS 0) it comes only once."""
    return id(incoming) if delivery is None else delivery.key
