"""The portfolio service: follows the ledger by sequence, values what is held, says what changed.

It takes messages and returns messages; whoever runs it publishes. The facts are read from the ledger, a
`FactsRecorded` is only the wake-up and saves the reading when nothing is missing in between.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import TypeAlias

from sqlalchemy import Connection

from config.exact import divide
from execution import candles, ledger
from execution.errors import StorageUnavailable
from execution.ledger import derived_id
from execution.model import Account, AlertRaised, Candle, Fact, FactsRecorded, Price, Severity, Trade
from execution.ports import Clock, Reader, Writer
from portfolio import allocations, checkpoint, recompute, runs
from portfolio.allocations import Counts, Run, ScopeKey
from portfolio.allocator import Allocator, Batch, Rewrite, rewrites
from portfolio.books import Attribution, Books, FillOutcome, Scope
from portfolio.lots import Method
from portfolio.position import Portfolio, PortfolioChanged, Position, PositionChanged
from portfolio.reviews import Review
from portfolio.tables import RunMode
from portfolio.valuation import Marks, position_of, value_account

Changed: TypeAlias = PositionChanged | PortfolioChanged
Fence: TypeAlias = Callable[[Connection], None]
"""Raises LeaseLost when the portfolio role belongs to another process by now."""


class PortfolioService:
    """The live books of all accounts. One event loop; updates run one after another.

    `checkpoint_facts`: write a checkpoint after so many facts (or as many as there are open lots to write,
    so that its share of each fill stays flat); None: never, for books kept beside those of another process.
    `published_lots`: how many open lots one message lists.
    `keep_allocations` false: none are stored, for books that end with the process.
    `checkpoint_problem` says why the last checkpoint could not be read or written; None when it could.
    """

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        clock: Clock,
        *,
        checkpoint_facts: int | None,
        fence: Fence,
        published_lots: int = 100,
        keep_allocations: bool = True,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._fence = fence
        self._allocator = Allocator() if keep_allocations and checkpoint_facts is not None else None
        self._checkpoint_facts = checkpoint_facts
        self._published_lots = published_lots
        self._lock = asyncio.Lock()
        self._books = Books({})
        self._digests: dict[Scope, str] | None = None
        self._stored_sequence = 0
        self._marks = Marks()
        self._holders: dict[str, set[str]] = {}
        self._dirty: set[Scope] = set()
        self._dirty_accounts: set[str] = set()
        self._dirty_marks: set[str] = set()
        self._raised: list[AlertRaised] = []
        self._needed: dict[Scope, str] = {}
        """Scopes that need a run over all their trades before anything else of them is stored."""
        self.checkpoint_problem: str | None = None

    @property
    def sequence(self) -> int:
        """The ledger sequence that the books are at."""
        return self._books.sequence

    # ---- following the ledger -------------------------------------------------------------------------

    async def start(self) -> list[AlertRaised]:
        """Load the snapshot, follow the ledger to its head, take the last stored candles as marks; store the
        allocations that are not stored yet."""
        async with self._lock:
            allocator = self._allocator
            if allocator is not None:
                await self._reader.read(allocator.load)
            opened, latest, outcomes = await self._reader.read(self._open)
            self._books = opened.books
            self._digests = opened.digests
            self._stored_sequence = opened.stored_sequence
            self.checkpoint_problem = opened.problem
            for scope in self._books.symbols:
                self._note_holding(scope)
            for candle in latest:
                self._marks.on_candle(candle)
            if allocator is None:
                return []
            self._needed = self._runs_needed(opened)
            for outcome in outcomes:
                if (outcome.trade.account, outcome.trade.symbol) not in self._needed:
                    allocator.add(outcome)
            try:
                await self._writer.submit(self._end_interrupted)
                raised = await self._flush(snapshot=opened.digests is None)
            except StorageUnavailable as error:
                self.checkpoint_problem = str(error)  # caches only: the next flush tries again
                return []
            self.checkpoint_problem = opened.problem
            return raised

    def _open(self, connection: Connection) -> tuple[recompute.Opened, list[Candle], list[FillOutcome]]:
        """The books at the head, and what the facts beyond the stored allocations meant."""
        outcomes: list[FillOutcome] = []
        allocator = self._allocator

        def booked(outcome: FillOutcome) -> None:
            trade = outcome.trade
            if allocator is not None and trade.sequence > allocator.stored_up_to((trade.account, trade.symbol)):
                outcomes.append(outcome)

        opened = recompute.open_books(connection, outcomes=booked)
        return opened, list(candles.latest(connection).values()), outcomes

    def _end_interrupted(self, connection: Connection) -> None:
        self._fence(connection)
        allocations.fail_interrupted(connection, self._clock.recorded_now())

    def _runs_needed(self, opened: recompute.Opened) -> dict[Scope, str]:
        """The scopes of which nothing usable is stored, or whose trades came out of order, each with the reason."""
        assert self._allocator is not None
        reasons: dict[Scope, str] = dict.fromkeys(opened.recomputed, "back-dated trade or correction")
        reasons |= dict.fromkeys(self._allocator.outdated(self._books.symbols), "no usable version is stored")
        if opened.digests is None:
            problem = opened.problem or "there is none"
            reasons |= dict.fromkeys(self._books.symbols, f"snapshot: {problem}")
        return reasons

    async def on_facts(self, recorded: FactsRecorded) -> list[FillOutcome]:
        """Book newly recorded facts; the outcomes of the trades that were new.

        Duplicates are ignored; if something is missing before them, it is read from the ledger (and its
        outcomes are returned as well). Raises LeaseLost when a due checkpoint finds the role taken over.
        """
        async with self._lock:
            facts: Sequence[Fact] = recorded.facts
            expected = self._books.sequence + 1
            if not facts or facts[-1].sequence < expected:
                return []
            if facts[0].sequence > expected:
                outcomes = await self._catch_up()
            else:
                if facts[0].sequence < expected:
                    facts = [fact for fact in facts if fact.sequence >= expected]
                outcomes = await self._apply(facts)
            await self._store_when_due()
            return outcomes

    async def catch_up(self) -> list[FillOutcome]:
        """Read and book whatever the ledger has beyond the books."""
        async with self._lock:
            outcomes = await self._catch_up()
            await self._store_when_due()
            return outcomes

    async def _catch_up(self) -> list[FillOutcome]:
        outcomes = []
        while facts := await self._reader.read(self._next_page):
            outcomes += await self._apply(facts)
        return outcomes

    def _next_page(self, connection: Connection) -> list[Fact]:
        return ledger.facts_since(connection, self._books.sequence, recompute.PAGE)

    async def _apply(self, facts: Sequence[Fact]) -> list[FillOutcome]:
        books = self._books
        if any(fact.account not in books.accounts for fact in facts):
            books.accounts.update(await self._reader.read(ledger.accounts))
        outcomes = books.apply(facts)
        if self._allocator is not None:
            for outcome in outcomes:
                self._allocator.add(outcome)
        if books.stale:
            outcomes = await self._recompute_stale(outcomes)
        for fact in facts:
            self._dirty_accounts.add(fact.account)
            if isinstance(fact, Trade):
                scope = (fact.account, fact.symbol)
                self._dirty.add(scope)
                self._note_holding(scope)
        return outcomes

    async def _recompute_stale(self, outcomes: list[FillOutcome]) -> list[FillOutcome]:
        """A back-dated trade or a correction came: its symbol anew from all its trades, as a batch would have
        it, and its allocations from that instant on."""
        books = self._books
        waiting = [outcome for outcome in outcomes if outcome.result is None]
        stale = dict(books.stale)
        fresh = await self._reader.read(lambda connection: recompute.rebuild(connection, books, stale, waiting))
        results = {}
        for scope, (computed, found) in fresh.items():
            books.replace(scope, computed.book)
            results.update(computed.results)
            if self._allocator is not None:
                counts = Counts(computed.buys, computed.sells)
                counts.add(found)
                self._allocator.rewrite(scope, Rewrite(stale[scope], "back-dated trade or correction", found, counts))
        return [
            outcome if outcome.result else FillOutcome(outcome.trade, results[outcome.trade.id])
            for outcome in outcomes
        ]

    def _note_holding(self, scope: Scope) -> None:
        account, symbol = scope
        holders = self._holders.setdefault(symbol, set())
        if self._books.symbols[scope].engine.lot_count:
            holders.add(account)
        else:
            holders.discard(account)

    # ---- storing --------------------------------------------------------------------------------------

    async def flush(self) -> list[AlertRaised]:
        """Store the allocations that wait. Raises StorageUnavailable (they wait on) or LeaseLost."""
        async with self._lock:
            return await self._flush()

    async def stop(self) -> None:
        """Store what waits and a last snapshot. Raises LeaseLost or StorageUnavailable when it cannot be."""
        async with self._lock:
            if self._books.stale:
                await self._recompute_stale([])  # the task that was at it has been cancelled
            if self._books.sequence != self._stored_sequence or self._digests is None:
                await self._flush(snapshot=True)
            else:
                await self._flush()

    async def _store_when_due(self) -> None:
        since = self._books.sequence - self._stored_sequence
        if self._checkpoint_facts is None or since < self._checkpoint_facts:
            return
        lots = sum(self._books.symbols[scope].engine.lot_count for scope in self._books.changed)
        try:
            self._raised += await self._flush(snapshot=since >= lots)
        except StorageUnavailable as error:
            # Only a cache: the outcomes of the fills must not be lost for it. The next batch tries again.
            self.checkpoint_problem = str(error)

    async def _flush(self, *, snapshot: bool = False) -> list[AlertRaised]:
        """One transaction with the allocations that wait and, if asked for, the snapshot that goes with them: a
        snapshot never knows of fills whose allocations are not stored."""
        for scope, reason in sorted(self._needed.items()):
            self._raised += await self._run(ScopeKey(*scope), RunMode.FULL, reason)
            del self._needed[scope]
        raised, self._raised = self._raised, []
        allocator = self._allocator
        if not snapshot and (allocator is None or not allocator.has_work):
            return raised
        books = self._books
        state = checkpoint.take(books, self._digests) if snapshot else None
        waiting = None if allocator is None else allocator.take(books.sequence)
        try:
            found = await self._write(waiting, state)
        except BaseException:
            if allocator is not None and waiting is not None:
                allocator.give_back(waiting)
            self._raised = raised + self._raised
            raise
        if state is not None:
            self._stored_sequence = state.sequence
            books.changed.clear()
            books.changed_cash.clear()
            self.checkpoint_problem = None
        return raised + [_alert(review) for review in found]

    async def _write(self, waiting: Batch | None, state: checkpoint.Snapshot | None) -> list[Review]:
        allocator = self._allocator
        begun: dict[Scope, Run] = {}
        if waiting is not None and any(rewrites(waiting)):
            begun = await self._writer.submit(lambda connection: self._log_rewrites(connection, waiting))

        def work(connection: Connection) -> tuple[list[Review], dict[Scope, str] | None]:
            self._fence(connection)
            found: list[Review] = []
            if allocator is not None and waiting is not None:
                found = allocator.write(connection, waiting, begun, self._clock.recorded_now())
            return found, None if state is None else checkpoint.store(connection, state)

        found, digests = await self._writer.submit(work)
        if allocator is not None and waiting is not None:
            allocator.committed(waiting)
        if state is not None:
            self._digests = digests
        return found

    def _log_rewrites(self, connection: Connection, waiting: Batch) -> dict[Scope, Run]:
        """Log what is about to be computed anew, in a transaction of its own: a run that dies stays in the log."""
        self._fence(connection)
        now = self._clock.recorded_now()
        batch_id = derived_id("batch", str(waiting.sequence), now.isoformat())
        return {
            scope: allocations.begin(
                connection,
                ScopeKey(*scope),
                batch_id=batch_id,
                mode=RunMode.SYMBOL,
                reason=rewrite.reason,
                now=now,
                since=rewrite.since,
            )
            for scope, rewrite in rewrites(waiting)
        }

    async def _run(self, key: ScopeKey, mode: RunMode, reason: str) -> list[AlertRaised]:
        """Compute a scope from all its trades and make that its current version."""
        books, clock = self._books, self._clock
        runner = runs.Runner(books.accounts[key.account], key, books.sequence, clock.recorded_now, fence=self._fence)
        run = await self._writer.submit(lambda connection: runner.begin(connection, mode, reason))
        found = await self._writer.submit(lambda connection: runner.perform(connection, run))
        if self._allocator is not None and key.method is Method.FIFO:
            self._allocator.forget((key.account, key.symbol))
            await self._reader.read(self._allocator.load)
        return [_alert(review) for review in found]

    # ---- prices ---------------------------------------------------------------------------------------

    def on_price(self, price: Price) -> None:
        """Value the symbol at this price, unless a later one is known."""
        if self._marks.on_price(price) and self._holders.get(price.symbol):
            self._dirty_marks.add(price.symbol)

    def on_candle(self, candle: Candle) -> None:
        """Value the symbol at the candle's close, unless a later price is known."""
        if self._marks.on_candle(candle) and self._holders.get(candle.symbol):
            self._dirty_marks.add(candle.symbol)

    # ---- what there is to say -------------------------------------------------------------------------

    def take_changes(self) -> list[Changed]:
        """What changed since the last call, positions first, each once with its newest state."""
        for symbol in self._dirty_marks:
            for account in self._holders.get(symbol, ()):
                self._dirty.add((account, symbol))
                self._dirty_accounts.add(account)
        changes = self._messages(self._dirty, self._dirty_accounts)
        self._dirty_marks.clear()
        self._dirty.clear()
        self._dirty_accounts.clear()
        return changes

    def all_state(self) -> list[Changed]:
        """Everything, for publishing again; an account without facts as an empty portfolio."""
        return self._messages(self._books.symbols, self._books.accounts)

    def _messages(self, scopes: Iterable[Scope], accounts: Iterable[str]) -> list[Changed]:
        lots = self._published_lots
        sequence = self._books.sequence
        changes: list[Changed] = [
            PositionChanged(account, self.position(account, symbol, lots), sequence)
            for account, symbol in sorted(scopes)
        ]
        changes.extend(PortfolioChanged(self.portfolio(account, lots)) for account in sorted(accounts))
        return changes

    def position(self, account: str, symbol: str, lots: int | None = None) -> Position:
        """A position at its mark. Raises KeyError when the account never traded the symbol."""
        return position_of(symbol, self._books.symbols[account, symbol], self._marks.get(symbol), lots)

    def open_lots_cost(self, account: str, symbol: str) -> tuple[Decimal, Decimal] | None:
        """The quantity of a position's open lots (negative when short) and their average cost with buy fees;
        None when there are none."""
        book = self._books.symbols.get((account, symbol))
        if book is None or not book.engine.lot_count:
            return None
        quantity = book.engine.quantity
        return quantity, divide(book.engine.cost_basis, quantity)

    def portfolio(self, account: str, lots: int | None = None) -> Portfolio:
        """An account's portfolio at the marks. Raises KeyError when there is no such account."""
        return value_account(self._books, self._marks, account, lots)

    def attribution(self, account: str | None = None) -> dict[str, Attribution]:
        """Fills and realized P&L by `triggered_by`, of one account or of all."""
        return self._books.attribution(account)

    def know_account(self, account: Account) -> None:
        """An account was opened; it is then published by `all_state` before its first fact."""
        self._books.accounts[account.name] = account


def _alert(review: Review) -> AlertRaised:
    """A sell without a lot: somebody has to look."""
    about = {"symbol": review.symbol, "review": review.id}
    if review.trade_id is not None:
        about["trade"] = review.trade_id
    message = f"{review.account} {review.detail} (`fillbook review list`)"
    return AlertRaised(Severity.HIGH, review.kind, message, review.account, about)


def read_portfolios(connection: Connection) -> dict[str, Portfolio]:
    """The portfolios of all accounts at the last stored candles, without a running service."""
    opened = recompute.open_books(connection)
    marks = Marks()
    for candle in candles.latest(connection).values():
        marks.on_candle(candle)
    return {account: value_account(opened.books, marks, account) for account in opened.books.accounts}
