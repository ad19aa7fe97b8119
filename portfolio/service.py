"""The portfolio service: follows the ledger by sequence, values what is held, says what changed.

It takes messages and returns messages; whoever runs it publishes. The facts are read from the ledger, a
`FactsRecorded` is only the wake-up and saves the reading when nothing is missing in between.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

from sqlalchemy import Connection

from config.exact import divide
from execution import ledger
from execution.errors import StorageUnavailable
from execution.model import AlertRaised, Candle, Fact, FactsRecorded, Price, Trade
from execution.ports import Clock, Reader, Writer
from portfolio import marks, recompute, runs
from portfolio.allocations import Counts, ScopeKey
from portfolio.allocator import BACK_DATED, Rewrite
from portfolio.books import Attribution, Books, FillOutcome, Scope
from portfolio.lots import Method
from portfolio.position import Portfolio, PortfolioChanged, Position, PositionChanged
from portfolio.runs import Finished
from portfolio.storage import BooksStorage, Fence
from portfolio.tables import RunMode
from portfolio.valuation import Marks, TradePrice, position_of, value_account
from portfolio.watchdog import IntegrityFailed, Watchdog

Changed: TypeAlias = PositionChanged | PortfolioChanged


class PortfolioService:
    """The live books of all accounts. One event loop; updates run one after another.

    `checkpoint_facts`: write a checkpoint after so many facts (or as many as there are open lots to write,
    so that its share of each fill stays flat); None: never, for books kept beside those of another process.
    `published_lots`: how many open lots one message lists.
    `keep_allocations` false: none are stored, for books that end with the process.
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
        self._reader = reader
        self._storage = BooksStorage(
            writer, reader, clock, fence, keep_allocations=keep_allocations and checkpoint_facts is not None
        )
        self._checkpoint_facts = checkpoint_facts
        self._published_lots = published_lots
        self._lock = asyncio.Lock()
        self._computing = asyncio.Lock()
        self._books = Books({})
        self._booked: list[Fact] = []
        self._unsettled: list[FillOutcome] = []
        self._outcomes: list[FillOutcome] = []
        self._watchdog = Watchdog()
        self._marks = Marks()
        self._holders: dict[str, set[str]] = {}
        self._recomputed = False
        self._dirty: set[Scope] = set()
        self._dirty_accounts: set[str] = set()
        self._dirty_marks: set[str] = set()

    @property
    def checkpoint_problem(self) -> str | None:
        """Why the last snapshot could not be read or written; None when it could."""
        return self._storage.problem

    @property
    def sequence(self) -> int:
        """The ledger sequence that the books are at."""
        return self._books.sequence

    # ---- following the ledger -------------------------------------------------------------------------

    async def start(self) -> list[AlertRaised]:
        """Load the snapshot, follow the ledger to its head, take the stored marks; store the allocations that are not
        stored yet."""
        async with self._lock:
            self._books = await self._storage.open()
            self._watchdog.begin(self._books)
            for scope in self._books.symbols:
                self._note_holding(scope)
            scopes = list(self._books.symbols)
            self._marks = await self._reader.read(lambda connection: marks.stored(connection, scopes))
            await self._storage.settle(self._books)
            return self._take_raised()

    async def on_facts(self, recorded: FactsRecorded) -> list[FillOutcome]:
        """Book newly recorded facts; the outcomes of the trades that were new.

        Duplicates are ignored; if something is missing before them, it is read from the ledger (and its
        outcomes are returned as well). Raises LeaseLost when a due checkpoint finds the role taken over,
        StorageUnavailable when something cannot be read: the outcomes then come with the next call.
        """
        async with self._lock:
            if self._booked:
                await self._settle()
            facts: Sequence[Fact] = recorded.facts
            expected = self._books.sequence + 1
            if not facts or facts[-1].sequence < expected:
                return self._take_outcomes()
            if facts[0].sequence > expected:
                await self._catch_up()
            else:
                if facts[0].sequence < expected:
                    facts = [fact for fact in facts if fact.sequence >= expected]
                await self._apply(facts)
            await self._store_when_due()
            return self._take_outcomes()

    async def catch_up(self) -> list[FillOutcome]:
        """Read and book whatever the ledger has beyond the books."""
        async with self._lock:
            await self._settle()
            await self._catch_up()
            await self._store_when_due()
            return self._take_outcomes()

    def has_recomputed(self) -> bool:
        """Whether a back-dated trade or a correction had all that follows it matched again since the last call."""
        found, self._recomputed = self._recomputed, False
        return found

    def _take_outcomes(self) -> list[FillOutcome]:
        taken, self._outcomes = self._outcomes, []
        return taken

    async def _catch_up(self) -> None:
        while facts := await self._reader.read(self._next_page):
            await self._apply(facts)

    def _next_page(self, connection: Connection) -> list[Fact]:
        return ledger.facts_since(connection, self._books.sequence, recompute.PAGE)

    async def _apply(self, facts: Sequence[Fact]) -> None:
        """Book facts; the books have them from then on, also when `_settle` fails."""
        books = self._books
        if any(fact.account not in books.accounts for fact in facts):
            books.accounts.update(await self._reader.read(ledger.accounts))
        if any(isinstance(fact, Trade) and (fact.account, fact.symbol) not in books.symbols for fact in facts):
            books.dust = await self._reader.read(recompute.dust_thresholds)
        outcomes = books.apply(facts)
        self._watchdog.note(facts, books)
        for outcome in outcomes:
            self._storage.add(outcome)
        self._booked += facts
        self._unsettled += outcomes
        await self._settle()

    async def _settle(self) -> None:
        """What booked facts bring about and what may need a reading for it. When that fails, all of it waits for
        the next call: the facts themselves are not booked again."""
        if not self._booked:
            return
        books, recomputed = self._books, frozenset(self._books.stale)
        taken_back = {fact.symbol for fact in self._booked if isinstance(fact, Trade) and fact.corrects}
        traded = await self._last_trades(taken_back) if taken_back else {}
        if recomputed:
            self._unsettled = await self._recompute_stale(self._unsettled)
            self._recomputed = True
        self._watchdog.watch(self._unsettled, books, recomputed)
        for fact in self._booked:
            self._dirty_accounts.add(fact.account)
            if isinstance(fact, Trade):
                scope = (fact.account, fact.symbol)
                self._dirty.add(scope)
                self._note_holding(scope)
                if self._marks.on_trade(fact):
                    self._dirty_marks.add(fact.symbol)
        for symbol in taken_back:
            self._marks.set_traded(symbol, traded.get(symbol))
        self._dirty_marks |= taken_back
        self._outcomes += self._unsettled
        self._booked, self._unsettled = [], []

    async def _last_trades(self, symbols: set[str]) -> dict[str, TradePrice]:
        """Trades of these symbols were taken back: their prices are no marks, those of the others are."""
        scopes = [scope for scope in self._books.symbols if scope[1] in symbols]
        return await self._reader.read(lambda connection: marks.last_trades(connection, scopes))

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
            counts = Counts(computed.buys, computed.sells)
            counts.add(found)
            self._storage.rewrite(scope, Rewrite(stale[scope], BACK_DATED, found, counts))
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
            await self._settle()
            await self._storage.flush(self._books)
            return self._take_raised()

    async def stop(self) -> None:
        """Store what waits and a last snapshot. Raises LeaseLost or StorageUnavailable when it cannot be."""
        async with self._lock:
            await self._settle()  # the task that was at it may have been cancelled
            await self._storage.flush(self._books, snapshot=not self._storage.is_current(self._books))

    async def _store_when_due(self) -> None:
        since = self._books.sequence - self._storage.sequence
        if self._checkpoint_facts is None or since < self._checkpoint_facts:
            return
        lots = sum(self._books.symbols[scope].engine.lot_count for scope in self._books.changed)
        try:
            await self._storage.flush(self._books, snapshot=since >= lots)
        except StorageUnavailable as error:
            # Only a cache: the outcomes of the fills must not be lost for it. The next batch tries again.
            self._storage.problem = str(error)

    async def compute(
        self,
        *,
        account: str | None = None,
        symbol: str | None = None,
        method: Method = Method.FIFO,
        since: datetime | None = None,
        only_behind: bool = False,
        reason: str,
    ) -> tuple[list[Finished], list[AlertRaised]]:
        """Compute the scopes of an account and symbol (None: all) anew and compare them with their current
        versions; what differs is stored under new ones. Fills are booked meanwhile, and stored after it.

        `only_behind`: no scope whose current version has all trades. Raises StorageUnavailable, LeaseLost,
        FifoError (logged; the scopes before it are done).
        """
        mode = RunMode.FULL if since is None else RunMode.SYMBOL
        done: list[Finished] = []
        async with self._computing:
            scopes = sorted(self._books.symbols)
            if only_behind:
                async with self._lock:
                    await self._settle()
                    await self._storage.flush(self._books)
                behind = await self._reader.read(lambda connection: runs.behind(connection, method))
                scopes = [scope for scope in scopes if scope in behind]
            for owner, name in scopes:
                if account in (None, owner) and symbol in (None, name):
                    key = ScopeKey(owner, name, method)
                    batch_id = done[0].run.batch_id if done else None
                    done.append(await self._compute(key, mode, reason, since, batch_id))
        return done, self._take_raised()

    async def _compute(
        self, key: ScopeKey, mode: RunMode, reason: str, since: datetime | None, batch_id: str | None
    ) -> Finished:
        """One scope. Only its begin and its end keep fills waiting."""
        storage = self._storage
        async with self._lock:
            await self._settle()
            await storage.flush(self._books)
            begun = await storage.begin(self._books, key, mode, reason, since=since, batch_id=batch_id)
            storage.holds_back = True
        try:
            begun = await storage.plan(begun)
            async with self._lock:
                return await storage.apply(begun, keep_waiting=True)
        finally:
            storage.holds_back = False

    def traded(self, account: str) -> list[str] | None:
        """The symbols that an account ever traded; None when there is no such account."""
        return self._books.symbols_of(account) if account in self._books.accounts else None

    def take_failures(self) -> list[IntegrityFailed]:
        """What the check after each fill found since the last call; empty as long as the books are sound."""
        return self._watchdog.take()

    @property
    def accounts(self) -> list[str]:
        """The names of all accounts."""
        return sorted(self._books.accounts)

    def _take_raised(self) -> list[AlertRaised]:
        raised, self._storage.raised = self._storage.raised, []
        return raised

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
        books = self._books
        return position_of(
            symbol, books.symbols[account, symbol], self._marks.get(symbol), lots, books.dust_of(symbol)
        )

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


def read_portfolios(connection: Connection) -> dict[str, Portfolio]:
    """The portfolios of all accounts at the stored marks, without a running service."""
    books = recompute.open_books(connection).books
    known = marks.stored(connection, books.symbols)
    return {account: value_account(books, known, account) for account in books.accounts}
