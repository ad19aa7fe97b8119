"""The services put together by the settings: for the daemon, replay and the simulation."""

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from functools import partial
from types import MappingProxyType

from sqlalchemy import Connection

from config.settings import Settings
from execution import candles
from execution.exchange import Exchange
from execution.ledger import LedgerTail, NewCashFlow
from execution.limits import RiskLimits
from execution.live import LiveTimes, LiveVenue
from execution.model import Account, AccountMode, CashFlowKind
from execution.paper import PaperCosts, PaperVenue
from execution.ports import Clock, Reader
from execution.reconcile import Reconciler
from execution.service import ExecutionService
from execution.state import TradingState
from portfolio.service import PortfolioService
from runtime.core import ROLES, Core, JoinableWriter, Publish
from runtime.database import ensure_account
from runtime.follower import LedgerFollower
from runtime.integrity import IntegrityKeeper
from runtime.limits import configured, limits_from
from signals.bot_file import BotFile
from signals.isolation.limits import BotLimits
from signals.service import SignalsService
from signals.stops import OpenCost


class BookedCosts:
    """What positions have cost, for the stops of bots: from the live books of the portfolio."""

    def __init__(self, books: PortfolioService) -> None:
        self._books = books

    def open_cost(self, account: str, symbol: str) -> OpenCost | None:
        """See `CostBasis.open_cost`."""
        found = self._books.open_lots_cost(account, symbol)
        return None if found is None else OpenCost(*found)


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
        missing=chosen.missing_seconds,
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
        most = settings.live.max_in_flight
        live = [LiveVenue(exchange, clock, live_times(settings), most) for exchange in exchanges.values()]
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
