"""The services of a process as one: what a candle, a price, a request does, whoever carries the messages.

Replay, daemon and simulation share this; they differ in the writer, the clock and in how published messages
travel. The order in which a candle passes through is fixed: execution fills what waited for it, the
portfolio and the bots learn of the fills, then the bots decide on the close.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import structlog

from execution import ledger, orders
from execution.errors import LedgerDamaged, StorageUnavailable
from execution.ledger import derived_id
from execution.model import (
    AlertRaised,
    Candle,
    Event,
    FactsRecorded,
    HaltChanged,
    HaltRequest,
    OrderRequest,
    OrderStatus,
    Price,
    Responded,
)
from execution.ports import TransactionParticipant, Writer
from execution.reconcile import Reconciler
from execution.service import Envelope, ExecutionService, Unsent
from portfolio.books import FillOutcome
from portfolio.position import PortfolioChanged, PositionChanged
from portfolio.service import PortfolioService
from runtime.follower import LedgerFollower
from runtime.integrity import IntegrityKeeper
from runtime.messages import Integrity
from signals.model import BotRemoved, BotState, Recommendation
from signals.service import SignalsService

log = structlog.get_logger(__name__)

Published: TypeAlias = (
    "Event | Recommendation | OrderRequest | HaltRequest | BotState | BotRemoved | AlertRaised | PositionChanged"
    " | PortfolioChanged | Integrity"
)
Publish: TypeAlias = Callable[[Published], None]
"""Hands a message to the bus; must not wait."""


class JoinableWriter(Writer, Protocol):
    """A writer that lets state take part in its transactions."""

    def join(self, participant: TransactionParticipant) -> None:
        """Before the first work."""
        ...


ROLES = ("execution", "portfolio", "signals")


@dataclass(slots=True)
class Core:
    """The services of one process; a role that another process has is None here."""

    publish: Publish
    follower: LedgerFollower
    execution: ExecutionService | None
    portfolio: PortfolioService | None
    signals: SignalsService | None
    costs: PortfolioService | None = None
    """Books of its own for the stops of bots, when the portfolio role is in another process."""
    outcomes: Callable[[Sequence[FillOutcome]], None] | None = None
    integrity: IntegrityKeeper | None = None
    """What is known of the soundness of the books, beside the portfolio role."""
    reconcilers: tuple[Reconciler, ...] = ()
    """One for each live venue, beside the execution role."""

    async def start(self) -> None:
        """Load what each service needs, in the order in which they depend on each other."""
        known = []
        if self.portfolio is not None:
            for alert in await self.portfolio.start():
                self.publish(alert)
            known.append(self.portfolio.sequence)
            self.follower.add(self._to_portfolio)
        if self.costs is not None:
            await self.costs.start()
            known.append(self.costs.sequence)
            self.follower.add(self._to_costs)
        if self.signals is not None:
            for output in await self.signals.start():
                self.publish(output)
            known.append(self.signals.holdings.sequence)
            self.follower.add(self.signals.on_facts)
        # Execution alone has everything up to the head from its own start.
        head = await self.follower.reader.read(ledger.head)
        self.follower.sequence = min(known, default=head.sequence)
        if self.integrity is not None:
            self.integrity.start(await self.follower.reader.read(orders.halt_changes))
        if self.execution is not None:
            self.follower.add(self._to_execution)
            await self.spread(await self.execution.start())

    async def _to_execution(self, recorded: FactsRecorded) -> None:
        assert self.execution is not None
        with suppress(StorageUnavailable, LedgerDamaged):  # the next order finds out by itself
            await self.execution.keep_up(recorded.facts[-1].sequence)

    async def _to_portfolio(self, recorded: FactsRecorded) -> None:
        assert self.portfolio is not None
        found = await self.portfolio.on_facts(recorded)
        if self.portfolio.has_recomputed():
            self.follower.widen()
        if self.outcomes is not None:
            self.outcomes(found)

    async def _to_costs(self, recorded: FactsRecorded) -> None:
        assert self.costs is not None
        await self.costs.on_facts(recorded)

    async def on_candle(self, candle: Candle) -> None:
        """One closed candle, through all services."""
        if self.execution is not None:
            events = await self.execution.on_candle(candle)
            if events:
                await self.spread(events)
        if self.portfolio is not None:
            self.portfolio.on_candle(candle)
        if self.signals is not None:
            for output in await self.signals.on_candle(candle):
                self.publish(output)

    async def surely_on_candle(self, candle: Candle, pause: float = 1.0) -> None:
        """`on_candle`, tried again every `pause` seconds while the storage fails: no candle may be skipped."""
        failed = False
        while True:
            try:
                if failed:
                    await self.follower.poll()  # facts that could not be told; the bots decide with them
                await self.on_candle(candle)
                if failed and self.signals is not None:
                    for output in await self.signals.flush():
                        self.publish(output)
                return
            except StorageUnavailable as error:
                if not failed:
                    log.error("a candle waits for the storage", symbol=candle.symbol, error=str(error))
                failed = True
                await asyncio.sleep(pause)  # noqa: TID251 - the loop's time, which is simulated

    async def on_price(self, price: Price) -> None:
        """One last price."""
        if self.execution is not None:
            await self.spread(await self.execution.on_price(price))
        if self.portfolio is not None:
            self.portfolio.on_price(price)

    async def handle(self, envelope: Envelope) -> None:
        """One request, from whoever."""
        assert self.execution is not None
        await self.spread(await self.execution.handle(envelope))

    async def take(self, envelope: Envelope) -> Unsent | None:
        """One request from the bus, committed. Returns an order that goes to a venue far away: it is to be handed to
        `send`, for which nobody else should wait."""
        assert self.execution is not None
        taken = await self.execution.take(envelope)
        if isinstance(taken, Unsent):
            if taken.order.status is OrderStatus.REQUESTED:
                return taken
            taken = await self.execution.send(taken)
        await self.spread(taken)
        return None

    async def send(self, unsent: Unsent) -> None:
        """Send an order that was taken, and say what became of it."""
        assert self.execution is not None
        await self.spread(await self.execution.send(unsent))

    def cancels(self) -> "set[asyncio.Task[None]]":
        """Cancels that are being sent to venues far away."""
        return {task for reconciler in self.reconcilers for task in reconciler.venue.cancels}

    async def store_allocations(self) -> None:
        """Write the allocations of the fills since the last time. Raises StorageUnavailable: they wait on."""
        if self.portfolio is not None:
            for alert in await self.portfolio.flush():
                self.publish(alert)

    async def on_timer(self) -> None:
        """Now and then: what expired."""
        if self.execution is not None:
            await self.spread(await self.execution.on_timer())

    async def follow(self) -> None:
        """Now and then: what others appended."""
        await self.follower.poll()
        if self.integrity is not None:
            await self.integrity.look()

    async def halt(self, request: HaltRequest) -> None:
        """Halt an account for its books: here, or by a request to whoever has the execution role."""
        if self.execution is None:
            self.publish(request)
        else:
            await self.handle(Envelope(request, derived_id("halt", request.account, request.request_id)))

    async def spread(self, events: Iterable[Event]) -> None:
        """Tell the other services, then the bus. Facts are known to all before an answer goes out.

        When the storage fails on the way, everything else is told all the same, since nobody tells it again, and
        StorageUnavailable is raised at the end: `follower.poll` hands the facts out later.
        """
        failure: StorageUnavailable | None = None
        for event in events:
            if isinstance(event, FactsRecorded):
                try:
                    await self.follower.offer(event)  # its consumers announce what is new
                    if self.integrity is not None:
                        await self.integrity.look()
                except StorageUnavailable as error:
                    failure = error
                continue
            if isinstance(event, HaltChanged) and self.signals is not None:
                self.signals.on_halt(event)
            if isinstance(event, HaltChanged) and self.integrity is not None:
                self.publish(event)
                await self.integrity.on_halt(event)
                continue
            if isinstance(event, Responded) and self.signals is not None:
                # Without the storage the bot knows its answer all the same, and the mark goes with the next commit.
                with suppress(StorageUnavailable):
                    for output in await self.signals.on_response(event):
                        self.publish(output)
            self.publish(event)
        if failure is not None:
            raise failure
