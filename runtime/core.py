"""The services put together: what a candle, a price, a request does, whoever carries the messages.

Replay, daemon and simulation share this; they differ in the writer, the clock and in how published messages
travel. The order in which a candle passes through is fixed: execution fills what waited for it, the
portfolio and the bots learn of the fills, then the bots decide on the close.
"""

import asyncio
import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import Protocol, TypeAlias

import structlog
from sqlalchemy import Connection

from config.settings import Settings
from execution import candles, orders
from execution.errors import StorageUnavailable
from execution.exchange import Exchange
from execution.ledger import LedgerTail, NewCashFlow, derived_id
from execution.limits import RiskLimits
from execution.live import LiveTimes, LiveVenue
from execution.model import (
    Account,
    AccountMode,
    AlertRaised,
    Candle,
    CashFlowKind,
    Event,
    FactsRecorded,
    HaltChanged,
    HaltRequest,
    OrderRequest,
    Price,
    Responded,
)
from execution.paper import PaperCosts, PaperVenue
from execution.ports import Clock, Reader, TransactionParticipant, Writer
from execution.reconcile import Reconciler
from execution.service import Envelope, ExecutionService
from execution.state import TradingState
from portfolio.books import FillOutcome
from portfolio.position import PortfolioChanged, PositionChanged
from portfolio.service import PortfolioService
from runtime.database import ensure_account
from runtime.follower import LedgerFollower
from runtime.integrity import IntegrityKeeper
from runtime.limits import configured, limits_from
from runtime.messages import Integrity
from signals.bot_file import BotFile
from signals.isolation.limits import BotLimits
from signals.model import BotRemoved, BotState, Recommendation
from signals.service import SignalsService
from signals.stops import OpenCost

log = structlog.get_logger(__name__)

Published: TypeAlias = (
    "Event | Recommendation | OrderRequest | HaltRequest | BotState | BotRemoved | AlertRaised | PositionChanged"
    " | PortfolioChanged | Integrity"
)
Publish: TypeAlias = Callable[[Published], None]
"""Hands a message to the bus; must not wait."""


class BookedCosts:
    """What positions have cost, for the stops of bots: from the live books of the portfolio."""

    def __init__(self, books: PortfolioService) -> None:
        self._books = books

    def open_cost(self, account: str, symbol: str) -> OpenCost | None:
        """See `CostBasis.open_cost`."""
        found = self._books.open_lots_cost(account, symbol)
        return None if found is None else OpenCost(*found)


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
        self.follower.sequence = min(known, default=0)
        if self.integrity is not None:
            self.integrity.start(await self.follower.reader.read(orders.halt_changes))
        if self.execution is not None:
            await self.spread(await self.execution.start())

    async def _to_portfolio(self, recorded: FactsRecorded) -> None:
        assert self.portfolio is not None
        found = await self.portfolio.on_facts(recorded)
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

    async def store_allocations(self) -> None:
        """Write the allocations of the fills since the last time. Raises StorageUnavailable: they wait on."""
        if self.portfolio is not None:
            for alert in await self.portfolio.flush():
                self.publish(alert)

    async def on_timer(self) -> None:
        """Now and then: what others appended, what expired."""
        if self.execution is not None:
            await self.spread(await self.execution.on_timer())
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


def risk_limits(settings: Settings) -> RiskLimits:
    """The limits of execution as configured."""
    return limits_from(configured(settings), timedelta(seconds=settings.execution.request_expiry_seconds))


def bot_limits(settings: Settings) -> BotLimits:
    """What a bot may take, as configured."""
    chosen = settings.signals
    return BotLimits(
        time_budget=chosen.bot_time_budget_ms / 1000,
        start_seconds=chosen.bot_start_seconds,
        memory_mb=chosen.bot_memory_mb,
        requests_per_hour=chosen.max_requests_per_hour,
    )


def live_times(settings: Settings) -> LiveTimes:
    """How long what may take with live venues, as configured."""
    chosen = settings.live
    return LiveTimes(
        poll=chosen.poll_seconds,
        grace=chosen.grace_seconds,
        send=chosen.send_seconds,
        timeout=chosen.timeout_seconds,
        overlap=chosen.overlap_seconds,
        deep_poll=chosen.deep_poll_seconds,
        deep_overlap=chosen.deep_overlap_seconds,
        expiry=settings.execution.request_expiry_seconds,
    )


def paper_costs(settings: Settings) -> PaperCosts:
    """The costs of the paper exchange as configured."""
    chosen = settings.paper
    return PaperCosts(
        taker_fee_bps=chosen.taker_fee_bps,
        maker_fee_bps=chosen.maker_fee_bps,
        half_spread_bps=chosen.half_spread_bps,
        slippage_bps=chosen.slippage_bps,
        slippage_cap_bps=chosen.slippage_cap_bps,
        max_volume_share=chosen.max_volume_share,
    )


def first_account(settings: Settings) -> Account:
    """The paper account that a new database starts with."""
    return Account(settings.account.name, mode=AccountMode(settings.account.mode), currency=settings.account.currency)


def open_first_account(connection: Connection, settings: Settings, clock: Clock) -> None:
    """Make the account that a new database starts with, and its deposit; nothing when it exists."""
    opening = opening_deposit(settings, settings.account.initial_deposit, clock)
    ensure_account(connection, first_account(settings), opening, clock.recorded_now())


def _build_execution(
    settings: Settings, writer: JoinableWriter, reader: Reader, clock: Clock, live: Sequence[LiveVenue]
) -> ExecutionService:
    """The execution role: its state and the ledger's tail follow the writer's commits."""
    state, tail = TradingState(), LedgerTail()
    for participant in (state, tail):
        writer.join(participant)
    paper = PaperVenue(
        paper_costs(settings),
        lambda: state.instruments,
        state.prices,
        clock,
        lambda symbol, instant: reader.read(partial(candles.opening_at_or_after, symbol=symbol, instant=instant)),
    )
    return ExecutionService(
        writer=writer,
        reader=reader,
        state=state,
        tail=tail,
        clock=clock,
        limits=risk_limits(settings),
        paper=paper,
        venues={venue.name: venue for venue in live},
    )


def build_core(
    settings: Settings,
    *,
    writer: JoinableWriter,
    reader: Reader,
    clock: Clock,
    bots: Sequence[BotFile],
    publish: Publish,
    roles: Iterable[str] = ROLES,
    fence: Callable[..., None] = lambda _connection: None,
    flush_every: int = 1,
    run_disabled: bool = False,
    keep_candles: bool = True,
    exchanges: Mapping[str, Exchange] = MappingProxyType({}),
) -> Core:
    """Compose the services of `roles`. The writer must not have started yet."""
    roles = tuple(roles)
    execution = portfolio = signals = None
    live: list[LiveVenue] = []
    if "execution" in roles:
        live = [LiveVenue(exchange, clock, live_times(settings)) for exchange in exchanges.values()]
        execution = _build_execution(settings, writer, reader, clock, live)
    if "portfolio" in roles:
        portfolio = PortfolioService(
            writer,
            reader,
            clock,
            checkpoint_facts=settings.portfolio.checkpoint_facts,
            fence=fence,
            keep_allocations=keep_candles,
        )
    costs = None
    if "signals" in roles:
        if portfolio is None:
            costs = PortfolioService(writer, reader, clock, checkpoint_facts=None, fence=fence)
        books = portfolio or costs
        assert books is not None
        signals = SignalsService(
            bots,
            writer,
            reader,
            clock,
            flush_every=flush_every,
            run_disabled=run_disabled,
            keep_candles=keep_candles,
            costs=BookedCosts(books),
            limits=bot_limits(settings),
        )
    core = Core(publish, LedgerFollower(reader), execution, portfolio, signals, costs)
    if execution is not None:
        core.reconcilers = tuple(Reconciler(venue, execution, reader, core.spread) for venue in live)
    if portfolio is not None:
        core.integrity = IntegrityKeeper(portfolio, clock, lambda message: core.publish(message), core.halt)
    return core


def spare_the_collector() -> None:
    """What was loaded at start lives as long as the process: do not look through it again and again.

    Measured in replay: 8-18 % of the time went into collections that found nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


OPENING = "opening"
"""The idempotency key of the deposit that a paper account starts with."""


def opening_deposit(settings: Settings, amount: Decimal, at: Clock) -> NewCashFlow | None:
    """The deposit that the first account starts with; None when it starts empty."""
    if not amount:
        return None
    return NewCashFlow(
        account=settings.account.name,
        kind=CashFlowKind.DEPOSIT,
        amount=amount,
        currency=settings.account.currency,
        effective_at=at.now(),
        triggered_by="manual",
        idempotency_key=OPENING,
        note="opening balance",
    )
