"""What importers have in common: rows, faults, and appending fills to the ledger so that a file adds once.

A fill with the venue's trade id is known by it. One without is known by its content and by how many like it
came before in the same file: two real fills that look alike stay two, and the same file again (or grown at
its end) adds only what is new.
"""

from bisect import bisect_right, insort_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection

from config.exact import plain
from config.instruments import Instrument, default_instrument
from config.times import stored_time, time_text
from execution import fees, ledger
from execution.errors import ExecutionError
from execution.ledger import LedgerTail, NewTrade, derived_id, same_trade, trade_id
from execution.model import Account, Side, Source, Trade

VENUE = "import"
"""The venue of imported trades, unless a person names it."""


class FileInvalid(ExecutionError):
    """A file as a whole cannot be read as what it is said to be; nothing of it was taken."""


class Fault(NamedTuple):
    """What is wrong with a row of a file, for a person."""

    line: int
    field: str | None
    value: str | None
    expected: str

    def __str__(self) -> str:
        what = "" if self.field is None else f"{self.field}: "
        value = "" if self.value is None else f", not {self.value!r}"
        return f"line {self.line}: {what}{self.expected}{value}"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be taken, with everything that is wrong with it."""

    line: int
    faults: tuple[Fault, ...]


class FillRow(NamedTuple):
    """A fill as a file has it. None: the file does not say.

    `fee_mark`: the price at which the file itself disposes of a fee in a third asset (`rows`: 2 then).
    """

    line: int
    executed_at: datetime
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_asset: str | None
    order_id: str | None
    venue_trade_id: str | None
    triggered_by: str | None
    venue_sequence: int | None = None
    fee_mark: Decimal | None = None
    rows: int = 1


Row = FillRow | BadRow


@dataclass(slots=True)
class Tally:
    """What an import did: read = added + duplicate + rejected, in rows of the file.

    `disposals` are trades that pay fees in a third asset, beside the rows; `flagged` counts such fees without
    a known mark, `consumed` those in the base asset that leave nothing of their fill; `conflicts` the rejected
    rows whose id is in the books with other content.
    """

    read: int = 0
    added: int = 0
    duplicate: int = 0
    rejected: int = 0
    disposals: int = 0
    flagged: int = 0
    consumed: int = 0
    conflicts: int = 0
    faults: list[Fault] = field(default_factory=list)
    registered: list[str] = field(default_factory=list)


class FillAppender:
    """Appends the fills of ONE file to an account, some rows in each transaction.

    `venue` is where the trade ids are unique; `triggered_by` the tag of rows that have none.
    """

    def __init__(self, account: Account, *, venue: str, triggered_by: str) -> None:
        self._account = account
        self._venue = venue
        self._triggered_by = triggered_by
        self._seen: Counter[bytes] = Counter()

    def identify(self, rows: Iterable[FillRow]) -> list[tuple[FillRow, NewTrade]]:
        """The trades that rows stand for; to be called once for each row, in the file's order."""
        return [(row, self._trade(row)) for row in rows]

    def append(
        self, connection: Connection, fills: Sequence[tuple[FillRow, NewTrade]], recorded_at: datetime
    ) -> Tally:
        """Append what is new, inside a transaction of its own. Raises nothing for a row: see `Tally.faults`."""
        chunk = _Chunk(connection, self._account, fills)
        for row, trade in fills:
            chunk.take(row, trade)
        chunk.store(recorded_at)
        return chunk.tally

    def _trade(self, row: FillRow) -> NewTrade:
        account = self._account
        fee_asset = account.currency if row.fee_asset is None else row.fee_asset
        return NewTrade(
            id=self._id(row, fee_asset),
            account=account.name,
            symbol=row.symbol,
            side=row.side,
            quantity=row.quantity,
            price=row.price,
            executed_at=row.executed_at,
            fee=row.fee,
            fee_asset=fee_asset,
            cash_effect=fees.cash_effect(row.side, row.quantity, row.price, row.fee, fee_asset, account.currency),
            venue=self._venue,
            source=Source.IMPORT,
            triggered_by=row.triggered_by or self._triggered_by,
            order_id=row.order_id,
            venue_trade_id=row.venue_trade_id,
            venue_sequence=row.venue_sequence,
        )

    def _id(self, row: FillRow, fee_asset: str) -> str:
        if row.venue_trade_id is not None:
            return trade_id(self._venue, self._account.name, row.symbol, row.venue_trade_id)
        content = (
            row.symbol, row.side, stored_time(row.executed_at), plain(row.quantity), plain(row.price), plain(row.fee),
            fee_asset, "-" if row.order_id is None else f"={row.order_id}", str(row.venue_sequence),
        )  # fmt: skip
        key = derived_id("", *content).encode()
        occurrence = self._seen[key]
        self._seen[key] = occurrence + 1
        return derived_id("trade", self._venue, self._account.name, "content", *content, str(occurrence))


class _Chunk:
    """The rows of one transaction."""

    def __init__(self, connection: Connection, account: Account, fills: Sequence[tuple[FillRow, NewTrade]]) -> None:
        self.tally = Tally()
        self._connection = connection
        self._account = account
        self._instruments = ledger.instruments(connection)
        self._known: dict[str, Trade | NewTrade] = dict(
            ledger.find_trades(connection, [name for row, trade in fills for name in _names(row, trade)])
        )
        self._new: list[NewTrade] = []
        self._prices: dict[str, list[fees.TradedAt]] = {}
        """Those of the new trades by symbol, in the order of their time and then of the file."""
        self._unregistered: dict[str, Instrument] = {}

    def take(self, row: FillRow, trade: NewTrade) -> None:
        """Decide about one row."""
        tally = self.tally
        tally.read += row.rows
        known = self._find(row, trade)
        if known is not None:
            fault = _conflict(row, trade, known)
            if fault is None:
                tally.duplicate += row.rows
                return
            tally.conflicts += row.rows
        else:
            fault = self._foreign_currency(row)
        if fault is not None:
            tally.rejected += row.rows
            tally.faults.append(fault)
            return
        self._add(row, trade)
        tally.added += row.rows

    def store(self, recorded_at: datetime) -> None:
        """Append what is new, and register its symbols."""
        for instrument in self._unregistered.values():
            ledger.add_instrument(self._connection, instrument)
            self.tally.registered.append(instrument.symbol)
        tail = LedgerTail()
        tail.append_new(self._connection, self._new, recorded_at)
        tail.before_commit(self._connection)

    def _find(self, row: FillRow, trade: NewTrade) -> Trade | NewTrade | None:
        """The trade that is there already under one of a row's names."""
        for name in _names(row, trade):
            known = self._known.get(name)
            if known is not None and (known.account, known.symbol) == (trade.account, trade.symbol):
                return known
        return None

    def _foreign_currency(self, row: FillRow) -> Fault | None:
        currency = self._instrument(row.symbol).currency
        if currency == self._account.currency:
            return None
        return Fault(
            row.line,
            "symbol",
            row.symbol,
            f"a symbol traded in {self._account.currency}, the currency of account {self._account.name} (this one is"
            f" traded in {currency}; there are no exchange rates yet)",
        )

    def _instrument(self, symbol: str) -> Instrument:
        return self._instruments.get(symbol) or instrument_of(symbol, self._account.currency)

    def _add(self, row: FillRow, trade: NewTrade) -> None:
        currency = self._account.currency
        disposal: NewTrade | None = None
        if fees.is_third_asset(trade.fee, trade.fee_asset, trade.symbol, currency):
            if row.fee_mark is None:
                last = self._last_new(fees.disposal_symbol(trade.fee_asset, currency), trade.executed_at)
                trade, disposal = fees.settled(self._connection, trade, currency, last)
            else:
                trade, disposal = fees.dispose(trade, currency, row.fee_mark)
            if disposal is None:
                self.tally.flagged += 1
        self.tally.consumed += fees.leaves_nothing(trade, currency)
        for new in (trade, disposal):
            if new is not None:
                self._known[new.id] = new
                self._new.append(new)
                if new.price:
                    price = fees.TradedAt(new.executed_at, new.price)
                    insort_right(self._prices.setdefault(new.symbol, []), price, key=_time_of)
                if new.symbol not in self._instruments:
                    self._unregistered[new.symbol] = self._instrument(new.symbol)
        self.tally.disposals += disposal is not None

    def _last_new(self, symbol: str, instant: datetime) -> fees.TradedAt | None:
        """The last of the new trades of a symbol until an instant: they are not stored yet."""
        prices = self._prices.get(symbol, [])
        index = bisect_right(prices, instant, key=_time_of)
        return prices[index - 1] if index else None


def _time_of(traded: fees.TradedAt) -> datetime:
    return traded.executed_at


def instrument_of(symbol: str, currency: str) -> Instrument:
    """The catalogue entry for a symbol that is unknown: with what stands behind the dash as its currency, when
    that looks like one ("ETH-EUR", not "BRK-B"), else the account's."""
    _, dash, quote = symbol.rpartition("-")
    named = bool(dash) and 3 <= len(quote) <= 5 and quote.isalpha()
    return replace(default_instrument(symbol), currency=quote if named else currency)


def _names(row: FillRow, trade: NewTrade) -> Iterator[str]:
    """The ids under which the trade of a row may be there: a file that was exported from these very books names
    trades by our own ids."""
    yield trade.id
    given = row.venue_trade_id
    if given is not None:
        if given.startswith("trade-"):
            yield given
        if given.endswith(fees.FEE_SUFFIX):
            yield fees.disposal_id(given.removesuffix(fees.FEE_SUFFIX))


def _conflict(row: FillRow, trade: NewTrade, known: Trade | NewTrade) -> Fault | None:
    """Why a row is not the trade that is there under its id; None when it is."""
    if same_trade(known, trade) and row.order_id in (None, known.order_id):
        return None
    was = f"{known.side} {plain(known.quantity)} @ {plain(known.price)}, fee {plain(known.fee)} {known.fee_asset},"
    return Fault(
        row.line,
        "venue_trade_id",
        row.venue_trade_id,
        f"the content that this trade has in the books: {was} {time_text(known.executed_at)},"
        f" order {known.order_id or 'unknown'} (trade {known.id}; a wrong fact is corrected with `fillbook correct`)",
    )
