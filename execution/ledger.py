"""The ledger: append facts, read them by sequence or in the order of trades.

Every fact (trade, cash flow) gets the next gap-free sequence and a hash of its content and of its
predecessor's hash, assigned inside the transaction that stores it; `ledger_head` holds the last of both.
The plain functions here read; `LedgerTail` appends.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from heapq import merge
from typing import Any

from sqlalchemy import Connection

from config.exact import plain
from config.instruments import Instrument, InstrumentKind
from config.times import stored_time
from execution import raw, tables
from execution.errors import ConflictingFact, LedgerError
from execution.model import (
    Account,
    AccountKind,
    AccountMode,
    CashFlow,
    CashFlowKind,
    Fact,
    OrderType,
    Side,
    Source,
    Trade,
)

_insert_trade = raw.Insert(tables.trades)
_insert_flow = raw.Insert(tables.cash_flows)
_select_trades = raw.Select(tables.trades)
_select_flows = raw.Select(tables.cash_flows)
_SIDES = {str(side): side for side in Side}
_SOURCES = {str(source): source for source in Source}
_TYPES: dict[str | None, OrderType | None] = {str(kind): kind for kind in OrderType}
_TYPES[None] = None
_IDS_AT_A_TIME = 5000


@dataclass(frozen=True, slots=True)
class Head:
    """The last fact of the ledger; sequence 0 and the genesis hash when it is empty."""

    sequence: int
    hash: str


@dataclass(frozen=True, slots=True)
class NewTrade:
    """A trade before it is in the ledger; the fields mean what they mean in `Trade`."""

    id: str
    account: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    executed_at: datetime
    fee: Decimal
    fee_asset: str
    cash_effect: Decimal
    venue: str
    source: Source
    triggered_by: str
    order_id: str | None = None
    venue_trade_id: str | None = None
    venue_sequence: int | None = None
    order_type: OrderType | None = None
    signal_context: Any = None
    corrects: str | None = None


@dataclass(frozen=True, slots=True)
class NewCashFlow:
    """A cash flow before it is in the ledger; the fields mean what they mean in `CashFlow`."""

    account: str
    kind: CashFlowKind
    amount: Decimal
    currency: str
    effective_at: datetime
    triggered_by: str
    idempotency_key: str
    note: str | None = None

    @property
    def id(self) -> str:
        """Derived from account and idempotency key: a retry can never make a second one."""
        return derived_id("flow", self.account, self.idempotency_key)


def derived_id(prefix: str, *parts: str) -> str:
    """An id that follows from what it names: the same parts give the same id, on any machine."""
    return f"{prefix}-{_short_digest(parts)}"


@lru_cache(maxsize=256)  # an order and its client order id follow from the same parts
def _short_digest(parts: tuple[str, ...]) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:20]


def trade_id(venue: str, account: str, symbol: str, venue_trade_id: str) -> str:
    """The id of the trade that a venue knows by `venue_trade_id`."""
    return derived_id("trade", venue, account, symbol, venue_trade_id)


# ---- hashing ------------------------------------------------------------------------------------------


def _digest(previous: str, content: Sequence[str | None]) -> str:
    # Each field with its length, so that no text can be moved from one field to the next; "-" is no value.
    text = "".join(["-" if value is None else f"{len(value)}:{value}" for value in content])
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()


def _optional(value: Any) -> str | None:
    return None if value is None else str(value)


def content_hash(fact: Fact, previous: str) -> str:
    """SHA-256 over the predecessor's hash and every field of the fact, as they are stored."""
    if isinstance(fact, Trade):
        context = fact.signal_context
        return _digest(
            previous,
            [
                "trade",
                str(fact.sequence),
                fact.id,
                fact.account,
                fact.symbol,
                fact.side,
                plain(fact.quantity),
                plain(fact.price),
                stored_time(fact.executed_at),
                stored_time(fact.recorded_at),
                plain(fact.fee),
                fact.fee_asset,
                plain(fact.cash_effect),
                fact.order_id,
                fact.venue,
                fact.venue_trade_id,
                _optional(fact.venue_sequence),
                _optional(fact.order_type),
                fact.source,
                fact.triggered_by,
                None if context is None else tables.json_text(context),
                fact.corrects,
            ],
        )
    return _digest(
        previous,
        [
            "cash_flow",
            str(fact.sequence),
            fact.id,
            fact.account,
            fact.kind,
            plain(fact.amount),
            fact.currency,
            stored_time(fact.effective_at),
            stored_time(fact.recorded_at),
            fact.triggered_by,
            fact.idempotency_key,
            fact.note,
        ],
    )


def stored_hash(kind: str, row: Sequence[Any], previous: str) -> str:
    """`content_hash` of a stored row, straight from the driver's values in column order (the hash is the last);
    `kind` is "trade" or "cash_flow". What is stored in another form than we write it has another hash."""
    return _digest(previous, [kind, *[None if value is None else str(value) for value in row[:-1]]])


# ---- appending ----------------------------------------------------------------------------------------


class LedgerTail:
    """Appends facts inside a write transaction; takes part in it (see `TransactionParticipant`).

    The head row is read when the first fact of a transaction is appended and written once before the
    commit. A process that only appends now and then uses one per transaction.
    """

    def __init__(self) -> None:
        self._head: Head | None = None
        self._stored: Head | None = None

    def begin(self) -> None:
        """A transaction starts: another process may have appended since."""
        self._head = self._stored = None

    def before_commit(self, connection: Connection) -> None:
        """Write the head, if facts were appended."""
        head = self._head
        if head is None or head is self._stored:
            return
        raw.execute(
            connection, "UPDATE ledger_head SET sequence = ?, hash = ? WHERE id = 1", (head.sequence, head.hash)
        )
        self._stored = head

    def committed(self) -> None:
        """The head is durable."""

    def rolled_back(self) -> None:
        """Nothing was appended."""
        self._head = self._stored = None

    def _next(self, connection: Connection) -> Head:
        if self._head is None:
            # PostgreSQL: two writers queue here; SQLite's BEGIN IMMEDIATE has queued them already.
            self._head = self._stored = head(connection, lock=True)
        return self._head

    def append_trade(
        self, connection: Connection, new: NewTrade, recorded_at: datetime, *, surely_new: bool = False
    ) -> Trade | None:
        """Store a trade; None when the same trade is there already.

        `surely_new` saves the look-up where the caller knows; the database would still refuse a second one.
        Raises ConflictingFact when its id is there with other content.
        """
        existing = None if surely_new else find_trade(connection, new.id)
        if existing is not None:
            if not same_trade(existing, new):
                raise ConflictingFact(
                    f"trade {new.venue_trade_id or new.id} of {new.venue} arrived again with other content"
                    f" (recorded as {existing.id}, sequence {existing.sequence})"
                )
            return None
        trade = _next_trade(self._next(connection), new, recorded_at)
        _insert_trade.rows(connection, [_trade_row(trade)])
        self._head = Head(trade.sequence, trade.hash)
        return trade

    def append_new(self, connection: Connection, trades: Sequence[NewTrade], recorded_at: datetime) -> None:
        """Store trades, in this order, that the caller knows to be new (the database refuses a second one): many
        at a time cost a third of one by one."""
        if not trades:
            return
        sequence, last = (before := self._next(connection)).sequence, before.hash
        recorded = stored_time(recorded_at)
        rows = []
        for new in trades:
            sequence += 1
            row = _driver_row(new, sequence, recorded)
            row[-1] = last = stored_hash("trade", row, last)
            rows.append(row)
        _insert_trade.driver_rows(connection, rows)
        self._head = Head(sequence, last)

    def append_flow(self, connection: Connection, new: NewCashFlow, recorded_at: datetime) -> CashFlow | None:
        """Store a cash flow; None when the same one is there already. Raises ConflictingFact."""
        existing = find_flow(connection, new.account, new.idempotency_key)
        if existing is not None:
            if (existing.kind, existing.amount, existing.currency) != (new.kind, new.amount, new.currency):
                raise ConflictingFact(
                    f"cash flow {new.idempotency_key} of {new.account} arrived again with other content"
                )
            return None
        before = self._next(connection)
        values: dict[str, Any] = {
            "id": new.id,
            "sequence": before.sequence + 1,
            "account": new.account,
            "kind": new.kind,
            "amount": new.amount,
            "currency": new.currency,
            "effective_at": new.effective_at,
            "recorded_at": recorded_at,
            "triggered_by": new.triggered_by,
            "idempotency_key": new.idempotency_key,
            "note": new.note,
        }
        flow = CashFlow(**values, hash=content_hash(CashFlow(**values, hash=""), before.hash))
        _insert_flow.rows(connection, [[getattr(flow, column.name) for column in tables.cash_flows.columns]])
        self._head = Head(flow.sequence, flow.hash)
        return flow


def _next_trade(before: Head, new: NewTrade, recorded_at: datetime) -> Trade:
    """The fact that a trade becomes behind `before`."""
    unhashed = Trade(
        id=new.id,
        sequence=before.sequence + 1,
        account=new.account,
        symbol=new.symbol,
        side=new.side,
        quantity=new.quantity,
        price=new.price,
        executed_at=new.executed_at,
        recorded_at=recorded_at,
        fee=new.fee,
        fee_asset=new.fee_asset,
        cash_effect=new.cash_effect,
        order_id=new.order_id,
        venue=new.venue,
        venue_trade_id=new.venue_trade_id,
        venue_sequence=new.venue_sequence,
        order_type=new.order_type,
        source=new.source,
        triggered_by=new.triggered_by,
        signal_context=new.signal_context,
        corrects=new.corrects,
        hash="",
    )
    return _with_hash(unhashed, content_hash(unhashed, before.hash))


def _driver_row(new: NewTrade, sequence: int, recorded_at: str) -> list[Any]:
    """A row of `trades` as the driver's values; its hash, the last, is still missing."""
    context = new.signal_context
    return [
        sequence,
        new.id,
        new.account,
        new.symbol,
        new.side.value,
        plain(new.quantity),
        plain(new.price),
        stored_time(new.executed_at),
        recorded_at,
        plain(new.fee),
        new.fee_asset,
        plain(new.cash_effect),
        new.order_id,
        new.venue,
        new.venue_trade_id,
        new.venue_sequence,
        None if new.order_type is None else new.order_type.value,
        new.source.value,
        new.triggered_by,
        None if context is None else tables.json_text(context),
        new.corrects,
        None,
    ]


def _with_hash(trade: Trade, value: str) -> Trade:
    # The object is not shared yet; dataclasses.replace would cost 5 us on every fill.
    object.__setattr__(trade, "hash", value)
    return trade


def _trade_row(trade: Trade) -> list[Any]:
    return [
        trade.sequence,
        trade.id,
        trade.account,
        trade.symbol,
        trade.side,
        trade.quantity,
        trade.price,
        trade.executed_at,
        trade.recorded_at,
        trade.fee,
        trade.fee_asset,
        trade.cash_effect,
        trade.order_id,
        trade.venue,
        trade.venue_trade_id,
        trade.venue_sequence,
        trade.order_type,
        trade.source,
        trade.triggered_by,
        trade.signal_context,
        trade.corrects,
        trade.hash,
    ]


def same_trade(trade: Trade | NewTrade, new: NewTrade) -> bool:
    """Whether a trade that arrives under an id that is there already has the same content."""
    return (trade.side, trade.quantity, trade.price, trade.fee, trade.fee_asset, trade.executed_at) == (
        new.side,
        new.quantity,
        new.price,
        new.fee,
        new.fee_asset,
        new.executed_at,
    )


# ---- reading ------------------------------------------------------------------------------------------


def head(connection: Connection, *, lock: bool = False) -> Head:
    """The last sequence and hash. `lock` makes PostgreSQL hold the row until the commit."""
    suffix = " FOR UPDATE" if lock and connection.dialect.name == "postgresql" else ""
    row = raw.execute(connection, f"SELECT sequence, hash FROM ledger_head WHERE id = 1{suffix}").fetchone()
    if row is None:
        raise LedgerError("the ledger has no head row: the database was not set up by `fillbook`")
    return Head(*row)


def _trade(row: Sequence[Any]) -> Trade:
    (
        sequence, id_, account, symbol, side, quantity, price, executed_at, recorded_at, fee, fee_asset, cash_effect,
        order_id, venue, venue_trade_id, venue_sequence, order_type, source, triggered_by, context, corrects, hash_,
    ) = row  # fmt: skip
    return Trade(
        id_, sequence, account, symbol, _SIDES[side], quantity, price, executed_at, recorded_at, fee, fee_asset,
        cash_effect, order_id, venue, venue_trade_id, venue_sequence, _TYPES[order_type], _SOURCES[source],
        triggered_by, context, corrects, hash_,
    )  # fmt: skip


def _flow(row: Sequence[Any]) -> CashFlow:
    sequence, id_, account, kind, amount, currency, effective_at, recorded_at, triggered_by, key, note, hash_ = row
    return CashFlow(
        id_, sequence, account, CashFlowKind(kind), amount, currency, effective_at, recorded_at, triggered_by, key,
        note, hash_,
    )  # fmt: skip


def facts_since(connection: Connection, sequence: int, limit: int = 1000) -> list[Fact]:
    """The next at most `limit` facts after `sequence`, in sequence order, without a hole."""
    rest = "WHERE sequence > ? ORDER BY sequence LIMIT ?"
    found_trades: list[Fact] = [_trade(row) for row in _select_trades.rows(connection, rest, (sequence, limit))]
    found_flows: list[Fact] = [_flow(row) for row in _select_flows.rows(connection, rest, (sequence, limit))]
    if not found_flows:
        return found_trades
    return list(merge(found_trades, found_flows, key=_sequence))[:limit]


def _sequence(fact: Fact) -> int:
    return fact.sequence


def trades_in_order(connection: Connection, account: str, symbol: str) -> Iterator[Trade]:
    """All trades of one symbol in one account, in the total order of trades (`Trade.order_key`)."""
    rest = "WHERE account = ? AND symbol = ? ORDER BY executed_at, sequence"
    instant: list[Trade] = []
    for row in _select_trades.rows(connection, rest, (account, symbol)):
        trade = _trade(row)
        if instant and trade.executed_at != instant[0].executed_at:
            yield from _settle(instant)
            instant = []
        instant.append(trade)
    yield from _settle(instant)


def _settle(instant: list[Trade]) -> list[Trade]:
    """Trades of one instant in their order: sorted here, so that it is the same on every database."""
    return sorted(instant, key=lambda trade: trade.order_key) if len(instant) > 1 else instant


def trades(
    connection: Connection,
    *,
    account: str | None = None,
    symbol: str | None = None,
    order_id: str | None = None,
    triggered_by: str | None = None,
    after_sequence: int = 0,
    limit: int | None = None,
    newest_first: bool = False,
    before_sequence: int | None = None,
) -> list[Trade]:
    """Trades by sequence, filtered; `after_sequence` and `before_sequence` are cursors for pages."""
    where, parameters = ["sequence > ?"], [after_sequence]
    filters = {"account": account, "symbol": symbol, "order_id": order_id, "triggered_by": triggered_by}
    for column, value in filters.items():
        if value is not None:
            where.append(f"{column} = ?")
            parameters.append(value)  # type: ignore[arg-type]  # driver values of mixed type
    if before_sequence is not None:
        where.append("sequence < ?")
        parameters.append(before_sequence)
    rest = f"WHERE {' AND '.join(where)} ORDER BY sequence {'DESC' if newest_first else 'ASC'}"
    if limit is not None:
        rest += " LIMIT ?"
        parameters.append(limit)
    return [_trade(row) for row in _select_trades.rows(connection, rest, parameters)]


def fills(connection: Connection, account: str, order_id: str) -> list[Trade]:
    """What the venue filled of one of our orders, by sequence: no corrections of it, and no imported trade whose
    own order id reads the same."""
    sources = f"'{Source.EXCHANGE}', '{Source.RECONCILED}'"
    rest = f"WHERE order_id = ? AND account = ? AND source IN ({sources}) ORDER BY sequence"
    return [_trade(row) for row in _select_trades.rows(connection, rest, (order_id, account))]


def cash_flows(connection: Connection, account: str | None = None) -> list[CashFlow]:
    """Cash flows by sequence, of one account or of all."""
    where, parameters = ("WHERE account = ? ", (account,)) if account is not None else ("", ())
    return [_flow(row) for row in _select_flows.rows(connection, f"{where}ORDER BY sequence", parameters)]


def flows_between(connection: Connection, after: int, up_to: int) -> list[CashFlow]:
    """Cash flows of all accounts by sequence, those later than `after` and up to `up_to`."""
    rest = "WHERE sequence > ? AND sequence <= ? ORDER BY sequence"
    return [_flow(row) for row in _select_flows.rows(connection, rest, (after, up_to))]


def find_trade(connection: Connection, trade_id: str) -> Trade | None:
    """A trade by its id."""
    for row in _select_trades.rows(connection, "WHERE id = ?", (trade_id,)):
        return _trade(row)
    return None


def last_executed(connection: Connection, venue: str, account: str, *, after_sequence: int = 0) -> datetime | None:
    """When the latest trade of an account at a venue was executed, of those stored after a sequence."""
    sql = "SELECT MAX(executed_at) FROM trades WHERE sequence > ? AND venue = ? AND account = ?"
    row = raw.execute(connection, sql, (after_sequence, venue, account)).fetchone()
    return None if row is None or row[0] is None else datetime.fromisoformat(row[0])


def find_trades(connection: Connection, ids: Sequence[str]) -> dict[str, Trade]:
    """Those of the trades that are there, by id."""
    found = {}
    for start in range(0, len(ids), _IDS_AT_A_TIME):
        part = ids[start : start + _IDS_AT_A_TIME]
        rest = f"WHERE id IN ({', '.join('?' for _ in part)})"
        for row in _select_trades.rows(connection, rest, part):
            trade = _trade(row)
            found[trade.id] = trade
    return found


def corrected_by(connection: Connection) -> dict[str, str]:
    """The trades that were taken back, each with the id of the entry that did it."""
    sql = "SELECT corrects, id FROM trades WHERE corrects IS NOT NULL"
    return {row[0]: row[1] for row in raw.execute(connection, sql).fetchall()}


def find_flow(connection: Connection, account: str, idempotency_key: str) -> CashFlow | None:
    """A cash flow by its idempotency key."""
    rest = "WHERE account = ? AND idempotency_key = ?"
    for row in _select_flows.rows(connection, rest, (account, idempotency_key)):
        return _flow(row)
    return None


# ---- accounts and instruments -------------------------------------------------------------------------

_insert_account = raw.Insert(tables.accounts)
_select_accounts = raw.Select(tables.accounts)
_insert_instrument = raw.Insert(tables.instruments)
_select_instruments = raw.Select(tables.instruments)


def accounts(connection: Connection) -> dict[str, Account]:
    """All accounts by name."""
    return {
        row[0]: Account(row[0], AccountKind(row[1]), AccountMode(row[2]), row[3], row[4])
        for row in _select_accounts.rows(connection, "ORDER BY name")
    }


def account_created(connection: Connection, name: str) -> datetime:
    """When an account was added."""
    row = raw.execute(connection, "SELECT created_at FROM accounts WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise LedgerError(f"there is no account {name!r}")
    return datetime.fromisoformat(row[0])


def add_account(connection: Connection, account: Account, created_at: datetime) -> None:
    """Store an account. Raises LedgerError when the name is taken."""
    if account.name in accounts(connection):
        raise LedgerError(f"account {account.name!r} exists already")
    row = [account.name, account.kind, account.mode, account.currency, account.venue, created_at]
    _insert_account.rows(connection, [row])


def instruments(connection: Connection) -> dict[str, Instrument]:
    """The catalogue by symbol."""
    return {
        row[0]: Instrument(row[0], InstrumentKind(row[1]), *row[2:])
        for row in _select_instruments.rows(connection, "ORDER BY symbol")
    }


def add_instrument(connection: Connection, instrument: Instrument) -> None:
    """Store a catalogue entry. Raises LedgerError when the symbol is taken."""
    if raw.execute(connection, "SELECT 1 FROM instruments WHERE symbol = ?", (instrument.symbol,)).fetchone():
        raise LedgerError(f"instrument {instrument.symbol!r} exists already")
    row = [getattr(instrument, column.name) for column in tables.instruments.columns]
    _insert_instrument.rows(connection, [row])
