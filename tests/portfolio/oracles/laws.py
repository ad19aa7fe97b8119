"""What must hold of any trades: each law runs the product over a case and raises AssertionError when it is broken.

The quantities, fees and unit costs of trades that the laws go by are those of the oracle (`naive`), never the
product's own.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import ClassVar, TypeAlias

from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine

from execution.model import Account, FactsRecorded, Side, Trade
from execution.writer import InlineReader, InlineWriter
from portfolio import allocations, batch, runs
from portfolio.allocations import Run, ScopeKey, StoredAllocation
from portfolio.books import SymbolBook
from portfolio.lots import Method, SpecificEngine, engine_for
from portfolio.matches import Allocation, Row
from portfolio.recompute import recompute
from portfolio.service import PortfolioService
from portfolio.tables import RunMode
from tests.portfolio.bookkeeping import ACCOUNTS, CLOCK, MARGIN, SPOT, START, Database, at
from tests.portfolio.oracles import naive, ours
from tests.portfolio.oracles.histories import MOVES, TAKEN_BACK, Moves, arrivals, effective, fee_in, in_account
from tests.portfolio.oracles.naive import Chosen, NaiveLot, fee_of, has_unknown_fee, size_of, unit_cost

SYMBOL = "BTC-USD"
ZERO = Fraction(0)


@dataclass(frozen=True)
class Case:
    """Trades, how they are matched, and a few numbers for whatever a law has to choose."""

    moves: Moves
    taken_back: list[int]
    margin: bool
    method: Method
    numbers: list[int]

    @property
    def account(self) -> Account:
        """The account that trades."""
        return MARGIN if self.margin else SPOT

    @property
    def arrived(self) -> list[Trade]:
        """The trades in their order of arrival, then the entries that take some back."""
        return arrivals(self.moves, self.taken_back, self.account.name)

    @property
    def trades(self) -> list[Trade]:
        """Those that count, in their total order."""
        return effective(self.arrived)

    @property
    def booked(self) -> ours.Ours:
        """What the product's engine makes of them."""
        return ours.book(self.trades, self.method, margin=self.margin)


RULES = [method for method in Method if method is not Method.SPECIFIC]


def cases(methods: Sequence[Method] = tuple(RULES)) -> st.SearchStrategy[Case]:
    """Random cases of some methods."""
    numbers = st.lists(st.integers(0, 30), min_size=3, max_size=3)
    return st.builds(Case, MOVES, TAKEN_BACK, st.booleans(), st.sampled_from(methods), numbers)


def opening(row: Allocation) -> str | None:
    """The trade whose lot a row closes."""
    return row.sell_trade if row.closed_by_buy else row.buy_trade


def closes(row: Allocation) -> str:
    """The trade that a row belongs to."""
    return row.buy_trade if row.closed_by_buy and row.buy_trade is not None else row.sell_trade


# ---- of one engine --------------------------------------------------------------------------------------------


def each_trade_is_allocated_exactly(case: Case) -> None:
    """What a trade moved is in rows, or still open, to the last digit, and in no other place."""
    mine = case.booked
    left = {trade: abs(quantity) for trade, quantity, _ in mine.remaining}
    for trade in mine.trades:
        rows = [row for row in mine.allocations if trade.id in (row.sell_trade, row.buy_trade)]
        assert all(row.quantity > 0 for row in rows)
        assert sum((Fraction(row.quantity) for row in rows), left.get(trade.id, ZERO)) == size_of(trade)
        if case.margin:
            assert all(row.buy_trade is not None for row in rows)


def no_lot_is_over_allocated(case: Case) -> None:
    """At no time more of a trade was closed than it had opened."""
    mine = case.booked
    left = {trade.id: size_of(trade) for trade in mine.trades}
    for row in mine.allocations:
        for trade in (row.sell_trade, row.buy_trade):
            if trade is not None:
                left[trade] -= Fraction(row.quantity)
                assert left[trade] >= 0


def profit_is_net_proceeds_less_cost(case: Case) -> None:
    """In each row, and every part of it from the trades' own prices."""
    trades = {trade.id: trade for trade in case.trades}
    for row in case.booked.allocations:
        if row.buy_trade is None or row.cost_basis is None:
            continue
        assert row.pnl in (None, row.net_proceeds - row.cost_basis)
        assert row.net_proceeds == row.proceeds - row.sell_fee
        if case.method is not Method.AVERAGE:
            assert row.cost_basis == row.quantity * trades[row.buy_trade].price + (row.buy_fee or 0)
            assert row.proceeds == row.quantity * trades[row.sell_trade].price


def fees_add_up(case: Case) -> None:
    """The shares of a trade's fee, in rows and in its open lot, are its fee; each is in proportion but for one
    step of the last digit."""
    if case.method is Method.AVERAGE:
        return  # a pool has no fees of single trades
    mine = case.booked
    open_lots = {trade: (quantity, cost) for trade, quantity, cost in mine.remaining}
    for trade in mine.trades:
        total, size = fee_of(trade), size_of(trade)
        shares = []
        for row in mine.allocations:
            if trade.id == row.sell_trade:
                shares.append((Fraction(row.quantity), Fraction(row.sell_fee)))
            elif trade.id == row.buy_trade and row.buy_fee is not None:
                shares.append((Fraction(row.quantity), Fraction(row.buy_fee)))
        if trade.id in open_lots:
            quantity, cost = open_lots[trade.id]
            shares.append((abs(quantity), cost - quantity * Fraction(trade.price)))
        assert sum((share for _, share in shares), ZERO) == total
        for quantity, share in shares:
            assert abs(share - total * quantity / size) < naive.COARSE


def costs_add_up(case: Case) -> None:
    """The cost of what was sold and of what is left is the cost of all that was bought, fees and all."""
    if case.margin:
        return  # what was sold short has no cost before it is bought: see `cash_and_lots_add_up`
    mine = case.booked
    bought = sum(
        (size_of(trade) * Fraction(trade.price) + fee_of(trade) for trade in mine.trades if trade.side is Side.BUY),
        ZERO,
    )
    sold = sum((piece.cost for piece in mine.pieces if piece.cost is not None), ZERO)
    assert sold + Fraction(mine.engine.cost_basis) == bought


def cash_and_lots_add_up(case: Case) -> None:
    """All cash that moved is realized P&L, what rows without a known P&L brought beyond their known cost, or lies in
    the open lots at cost."""
    mine = case.booked
    moved = sum((_cash(trade) for trade in mine.trades), ZERO)
    unknown = sum((piece.net - (piece.cost or 0) for piece in mine.pieces if piece.pnl is None), ZERO)
    realized = sum((piece.pnl for piece in mine.pieces if piece.pnl is not None), ZERO)
    assert moved == realized + unknown - Fraction(mine.engine.cost_basis)
    assert realized == Fraction(mine.engine.realized_pnl)


def _cash(trade: Trade) -> Fraction:
    return Fraction(trade.cash_effect)


def what_a_fee_is_worth_or_nobody_knows_the_profit(case: Case) -> None:
    """A row has no P&L exactly when it has no buy, or a fee without a value on one of its sides (by average cost: in
    its pool); cost, proceeds and shares stay numbers. Sums leave such rows out, and the book says incomplete."""
    book = SymbolBook(case.account, SYMBOL, engine_for(case.method, case.account.mode))
    trades = {trade.id: trade for trade in case.trades}
    pooled: list[Trade] = []
    held = ZERO
    realized = Decimal(0)
    wins = 0
    for trade in case.trades:
        result = book.apply(trade)
        assert result is not None
        assert result.fee_flagged == has_unknown_fee(trade)
        for row in result.allocations:
            lot = opening(row)
            behind = pooled if case.method is Method.AVERAGE or lot is None else [trades[lot]]
            assert (row.pnl is None) == (lot is None or any(map(has_unknown_fee, [trade, *behind])))
            assert lot is None or row.cost_basis is not None
            realized += row.pnl or 0
        known = [row.pnl for row in result.allocations if row.pnl is not None]
        is_whole = len(known) == len(result.allocations) > 0
        assert result.realized_pnl == (sum(known) if is_whole else None)
        wins += trade.side is Side.SELL and is_whole and sum(known) > 0
        before, held = held, held + trade.side.sign * size_of(trade)
        if not case.margin:
            held = max(held, ZERO)
        if before * held <= 0:
            pooled = []
        if trade.side.sign * held > 0:
            pooled.append(trade)
    assert book.engine.realized_pnl == realized
    assert sum((group.realized_pnl for group in book.attribution.values()), Decimal(0)) == realized
    assert book.winning_sells == wins
    assert book.incomplete == (bool(book.engine.unmatched_quantity) or any(map(has_unknown_fee, case.trades)))


def a_closed_position_leaves_nothing(case: Case) -> None:
    """Whenever nothing is held, nothing is left of any cost."""
    engine = engine_for(case.method, case.account.mode)
    for trade in case.trades:
        engine.apply(trade, fee_in(trade))
        if not engine.quantity:
            assert (engine.cost_basis, engine.open_lots(), engine.lot_count) == (0, (), 0)


def each_method_takes_its_own_lot(case: Case) -> None:
    """First in, last in, dearest or cheapest, the older of two equal ones; average tells them first in."""
    mine = case.booked
    trades = {trade.id: trade for trade in mine.trades}
    left: dict[str, Fraction] = {}
    for trade in mine.trades:
        done = ZERO
        for row in mine.results[trade.id].allocations:
            done += Fraction(row.quantity)
            lot = opening(row)
            if lot is None:
                assert not left
                continue
            assert lot == _due(case.method, [trades[name] for name in left])
            left[lot] -= Fraction(row.quantity)
            if not left[lot]:
                del left[lot]
        if done < size_of(trade):
            left[trade.id] = size_of(trade) - done


def _due(method: Method, lots: Sequence[Trade]) -> str:
    """The lot, of some in the order of their opening, that a method closes next."""
    costs = [unit_cost(lot) for lot in lots]
    match method:
        case Method.LIFO:
            return lots[-1].id
        case Method.HIFO:
            return lots[costs.index(max(costs))].id
        case Method.LOFO:
            return lots[costs.index(min(costs))].id
        case _:
            return lots[0].id


def what_has_no_lot_is_unknown(case: Case) -> None:
    """A sell without a lot has proceeds, and neither cost nor P&L; the book that holds one says incomplete."""
    book = SymbolBook(case.account, SYMBOL, engine_for(case.method, case.account.mode))
    held = ZERO
    for trade in case.trades:
        result = book.apply(trade)
        assert result is not None
        size = size_of(trade)
        missing = ZERO if case.margin or trade.side is Side.BUY else max(ZERO, size - held)
        held += trade.side.sign * size + missing
        rows = [row for row in result.allocations if row.buy_trade is None]
        assert sum((Fraction(row.quantity) for row in rows), ZERO) == missing == Fraction(result.unmatched_quantity)
        for row in rows:
            assert (row.buy_price, row.cost_basis, row.buy_fee, row.pnl, row.opened_at) == (None,) * 5
            assert row.net_proceeds == row.proceeds - row.sell_fee
            assert row.proceeds == row.quantity * trade.price
            assert result.realized_pnl is None
            assert book.incomplete


def choices_are_kept(case: Case) -> None:
    """Specific identification closes what was chosen, here from the last lot backwards."""
    chosen: dict[str, Chosen] = {}

    def choose(trade: Trade, lots: Sequence[NaiveLot]) -> Chosen:
        rest, lines = size_of(trade), []
        for lot in reversed(lots[-2:]):
            if piece := min(rest, lot.left):
                lines.append((lot.trade.id, piece))
                rest -= piece
        chosen[trade.id] = lines
        return list(lines)

    trades = case.trades
    naive.Naive("specific", case.margin, choose).book(trades)
    mine = ours.book(trades, Method.SPECIFIC, margin=case.margin, selections=chosen)

    assert isinstance(mine.engine, SpecificEngine)
    for trade, lines in chosen.items():
        rows = [(opening(row), Fraction(row.quantity)) for row in mine.results[trade].allocations]
        assert rows[: len(lines)] == lines


def a_restart_changes_nothing(case: Case) -> None:
    """An engine that was written down and read back is the same engine, in whatever moment."""
    through = engine_for(case.method, case.account.mode)
    restarted = engine_for(case.method, case.account.mode)
    for number, trade in enumerate(case.trades):
        if number in case.numbers:
            restarted = type(restarted).load(json.loads(json.dumps(restarted.dump())))
        assert restarted.apply(trade, fee_in(trade)) == through.apply(trade, fee_in(trade))
    assert restarted.dump() == through.dump()
    assert (restarted.quantity, restarted.cost_basis) == (through.quantity, through.cost_basis)


# ---- of the batch over a real database ------------------------------------------------------------------------


class Copy(Database):
    """A fresh database in a fraction of the time: a copy of one that was made once."""

    _made: ClassVar[bytes] = b""

    def __init__(self) -> None:
        if not Copy._made:
            with closing(Database()) as first, first.connection() as connection:
                Copy._made = _sqlite(connection).serialize()
        self.engine = create_engine("sqlite://")
        self.writer = InlineWriter(self.engine, commit_each=True)
        self.reader = InlineReader(self.writer)
        with self.connection() as connection:
            _sqlite(connection).deserialize(Copy._made)


def _sqlite(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def batch_of(
    trades: Sequence[Trade], account: Account, method: Method = Method.FIFO, since: datetime | None = None
) -> tuple[SymbolBook, list[Allocation]]:
    """The book and the rows that a batch makes of stored trades."""
    rows: list[Row] = []
    with closing(Copy()) as database:
        database.append(trades)
        with database.connection() as connection:
            computed = batch.compute(
                connection, account, SYMBOL, len(trades), method=method, sink=rows.extend, since=since
            )
    return computed.book, list(map(Allocation._make, rows))


def streaming_equals_the_batch(case: Case) -> None:
    """Fill by fill from trades, or all at once from the rows of the database: one engine, one result."""
    book = SymbolBook(case.account, SYMBOL, engine_for(case.method, case.account.mode))
    rows: list[Allocation] = []
    for trade in case.trades:
        result = book.apply(trade)
        assert result is not None
        rows += result.allocations

    at_once, found = batch_of(case.arrived, case.account, case.method)

    assert found == rows
    known, theirs = book.dump(), at_once.dump()
    # The last trade of a batch may be one that was taken back.
    assert {**known, "last_key": None} == {**theirs, "last_key": None}


def nothing_closes_before_it_opened(case: Case) -> None:
    """In the total order of trades, which the batch finds by itself."""
    order = {trade.id: number for number, trade in enumerate(case.trades)}
    _, rows = batch_of(case.arrived, case.account, case.method)
    for row in rows:
        lot = opening(row)
        if lot is not None:
            assert order[lot] < order[closes(row)]
            assert row.opened_at is not None
            assert row.opened_at <= row.closed_at


def the_order_of_arrival_changes_nothing(case: Case) -> None:
    """The same trades, arriving in another order: the same rows and the same book."""
    trades = [trade for trade in case.arrived if trade.corrects is None]
    turn = case.numbers[0] % len(trades)
    other = list(reversed(trades[turn:])) + trades[:turn]
    shuffled = [replace(trade, sequence=number) for number, trade in enumerate(other, 1)]

    scope = (case.account.name, SYMBOL)
    assert recompute(shuffled, ACCOUNTS).symbols[scope].dump() == recompute(trades, ACCOUNTS).symbols[scope].dump()
    (book, rows), (again, same) = (batch_of(facts, case.account, case.method) for facts in (trades, shuffled))
    assert rows == same
    assert book.dump() == again.dump()


def what_was_taken_back_never_was(case: Case) -> None:
    """Trades that were taken back, and the entries that do it, leave the rows of a history without them."""
    without = [replace(trade, sequence=number) for number, trade in enumerate(case.trades, 1)]
    book, rows = batch_of(case.arrived, case.account, case.method)
    if without:
        other, same = batch_of(without, case.account, case.method)
        assert rows == same
        assert {**book.dump(), "last_key": None} == {**other.dump(), "last_key": None}
    else:
        assert (rows, book.engine.lot_count) == ([], 0)


# ---- of what is stored ----------------------------------------------------------------------------------------

Content: TypeAlias = tuple[object, ...]


def content_of(rows: Sequence[StoredAllocation]) -> list[Content]:
    """What stored rows say, without ids, versions and batches."""
    ordered = sorted(rows, key=lambda row: (row.closed_at, row.id))
    return [
        (row.sell_trade, row.buy_trade, row.quantity, row.cost_basis, row.buy_fee, row.proceeds, row.sell_fee,
         row.net_proceeds, row.pnl, row.buy_at, row.sell_at)
        for row in ordered
    ]  # fmt: skip


def content_of_batch(rows: Sequence[Allocation]) -> list[Content]:
    """The same of rows that were never stored."""
    return [
        (row.sell_trade, row.buy_trade, row.quantity, row.cost_basis, row.buy_fee, row.proceeds, row.sell_fee,
         row.net_proceeds, row.pnl,
         *((row.closed_at, row.opened_at) if row.closed_by_buy else (row.opened_at, row.closed_at)))
        for row in rows
    ]  # fmt: skip


def stored_in(database: Database, method: Method, version: int | None = None) -> list[StoredAllocation]:
    """The rows of a method: the current ones, or those of a version."""
    with database.connection() as connection:
        return list(allocations.stored(connection, method=method, version=version))


def perform(database: Database, account: Account, method: Method, up_to: int, since: datetime | None = None) -> Run:
    """Compute a scope and store what differs."""
    order = runs.Order(account, ScopeKey(account.name, SYMBOL, method), up_to, since)
    begun: list[Run] = []
    mode = RunMode.FULL if since is None else RunMode.SYMBOL
    database.writer.submit(lambda c: begun.append(runs.log(c, order, mode, "a law", START)))
    database.writer.submit(lambda c: runs.perform(c, begun[0], order, mode, lambda: START))
    return begun[0]


def a_partial_recomputation_equals_one_from_scratch(case: Case) -> None:
    """Of late trades and corrections, from their instant on; the version before it stays as it was."""
    trades = case.arrived
    known = 1 + case.numbers[1] % len(trades)
    late = trades[known:]
    since = min((trade.executed_at for trade in late), default=at(case.numbers[2] % 7))
    with closing(Copy()) as database:
        database.append(trades)
        first = perform(database, case.account, case.method, known)
        before = content_of(stored_in(database, case.method))

        second = perform(database, case.account, case.method, len(trades), since)

        after = content_of(stored_in(database, case.method))
        old = content_of(stored_in(database, case.method, first.version))
        new = content_of(stored_in(database, case.method, second.version))
    _, from_scratch = batch_of(trades, case.account, case.method)
    assert after == new == content_of_batch(from_scratch)
    assert old == before == content_of_batch(batch_of(trades[:known], case.account, case.method)[1])


def a_full_recomputation_repairs_what_is_stored(case: Case) -> None:
    """Whatever versions there were before: rows that are missing, stale or doubled are noticed."""
    trades = case.arrived
    with closing(Copy()) as database:
        database.append(trades)
        perform(database, case.account, case.method, 1 + case.numbers[1] % len(trades))
        perform(database, case.account, case.method, 1 + case.numbers[0] % len(trades))
        database.run(f"DELETE FROM fifo_allocations WHERE id % 5 = {case.numbers[2] % 5}")

        perform(database, case.account, case.method, len(trades))

        rows = content_of(stored_in(database, case.method))
    assert rows == content_of_batch(batch_of(trades, case.account, case.method)[1])


def what_the_daemon_stores_equals_a_batch(case: Case) -> None:
    """Fill by fill as they arrive, with a kill, flushes and late trades on the way."""
    asyncio.run(_follow(case))


async def _follow(case: Case) -> None:
    trades = in_account(case.arrived, case.account)
    with closing(Copy()) as database:
        service = _service(database)
        await service.start()
        for number, trade in enumerate(trades):
            database.append([trade])
            await service.on_facts(FactsRecorded((trade,)))
            if number in case.numbers[:2]:
                await service.flush()
            if number == case.numbers[2]:
                service = _service(database)  # the one before was killed
                await service.start()
        await service.flush()
        rows = content_of(stored_in(database, Method.FIFO))
    assert rows == content_of_batch(batch_of(trades, case.account)[1])
    position = service.position(case.account.name, SYMBOL)
    known = sum((row[8] for row in rows if isinstance(row[8], Decimal)), Decimal(0))
    assert position.realized_pnl == known


def _service(database: Database) -> PortfolioService:
    return PortfolioService(
        database.writer, database.reader, CLOCK, checkpoint_facts=7, fence=lambda _connection: None
    )


IN_MEMORY: list[Callable[[Case], None]] = [
    each_trade_is_allocated_exactly,
    no_lot_is_over_allocated,
    profit_is_net_proceeds_less_cost,
    fees_add_up,
    costs_add_up,
    cash_and_lots_add_up,
    what_a_fee_is_worth_or_nobody_knows_the_profit,
    a_closed_position_leaves_nothing,
    each_method_takes_its_own_lot,
    what_has_no_lot_is_unknown,
    choices_are_kept,
    a_restart_changes_nothing,
]
STORED: list[Callable[[Case], None]] = [
    streaming_equals_the_batch,
    nothing_closes_before_it_opened,
    the_order_of_arrival_changes_nothing,
    what_was_taken_back_never_was,
    a_partial_recomputation_equals_one_from_scratch,
    a_full_recomputation_repairs_what_is_stored,
    what_the_daemon_stores_equals_a_batch,
]
MICROSECOND = timedelta(microseconds=1)
