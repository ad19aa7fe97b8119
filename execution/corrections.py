"""Correcting a wrong fact: the entry that takes it back, and the trade that takes its place.

Facts are never changed. The entry has the opposite side, the same quantity, price and time, and fee and cash
effect negated, so that cash and quantities net to nothing; the matching leaves both out (spec 2). Who did it and
why stands in the signal context of both new trades.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from execution import fees, ledger
from execution.errors import LedgerError
from execution.importers.common import instrument_of
from execution.ledger import LedgerTail, NewTrade, derived_id
from execution.model import Account, Side, Source, Trade

KEY = "correction"
"""Where the signal context says who corrected what, and why."""


class NotCorrectable(LedgerError):
    """The trade cannot be taken back; the message says why."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a trade should have been; None: as it is."""

    side: Side | None = None
    quantity: Decimal | None = None
    price: Decimal | None = None
    fee: Decimal | None = None
    fee_asset: str | None = None
    executed_at: datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be changed."""
        return self == Change()


@dataclass(frozen=True, slots=True)
class Correction:
    """Why a trade is taken back, by whom, and what it should have been (`change` None: it never was)."""

    trade_id: str
    reason: str
    triggered_by: str
    change: Change | None = None


def correct(connection: Connection, correction: Correction, recorded_at: datetime) -> list[Trade]:
    """Append what a correction takes, inside a write transaction: the entries that take the trade (and the
    disposal of its fee) back, then what takes its place. Raises NotCorrectable."""
    trade = _correctable(connection, correction.trade_id)
    account = ledger.accounts(connection)[trade.account]
    disposal = ledger.find_trade(connection, fees.disposal_id(trade.id))
    new = [_taken_back(trade, correction)]
    if disposal is not None:
        new.append(_taken_back(disposal, correction))
    if correction.change is not None:
        mark = None if disposal is None else disposal.price
        new += _replacement(connection, trade, account, correction, correction.change, mark)
    known = ledger.instruments(connection)
    for symbol in {entry.symbol for entry in new} - known.keys():
        ledger.add_instrument(connection, instrument_of(symbol, account.currency))
    tail = LedgerTail()
    tail.append_new(connection, new, recorded_at)
    tail.before_commit(connection)
    appended = ledger.find_trades(connection, [entry.id for entry in new])
    return [appended[entry.id] for entry in new]


def _correctable(connection: Connection, trade_id: str) -> Trade:
    trade = ledger.find_trade(connection, trade_id)
    if trade is None:
        raise NotCorrectable(f"the id of a trade (as in `fillbook trades --json`), not {trade_id!r}")
    if trade.corrects is not None:
        raise NotCorrectable(f"{trade_id} takes back {trade.corrects}: an entry like that is not corrected")
    taken = ledger.corrected_by(connection).get(trade_id)
    if taken is not None:
        raise NotCorrectable(f"{trade_id} was taken back already, by {taken}")
    given = trade.venue_trade_id or ""
    if given.endswith(fees.FEE_SUFFIX) and trade_id == fees.disposal_id(given.removesuffix(fees.FEE_SUFFIX)):
        raise NotCorrectable(f"{trade_id} pays the fee of {given.removesuffix(fees.FEE_SUFFIX)}: correct that one")
    return trade


def _taken_back(trade: Trade, correction: Correction) -> NewTrade:
    """The compensating entry of a trade."""
    return NewTrade(
        id=derived_id("trade", trade.id, "taken back"),
        account=trade.account,
        symbol=trade.symbol,
        side=Side.SELL if trade.side is Side.BUY else Side.BUY,
        quantity=trade.quantity,
        price=trade.price,
        executed_at=trade.executed_at,
        fee=-trade.fee,
        fee_asset=trade.fee_asset,
        cash_effect=-trade.cash_effect,
        venue=trade.venue,
        source=Source.MANUAL,
        triggered_by=correction.triggered_by,
        order_id=trade.order_id,
        venue_sequence=trade.venue_sequence,
        order_type=trade.order_type,
        signal_context=_context(None, correction, None),
        corrects=trade.id,
    )


def _replacement(
    connection: Connection,
    trade: Trade,
    account: Account,
    correction: Correction,
    change: Change,
    mark: Decimal | None,
) -> list[NewTrade]:
    """What the trade should have been, with the tag and the scores of the trade that it replaces. `mark`: the
    price at which a fee in a third asset was disposed of before."""
    fee = trade.fee if change.fee is None else change.fee
    fee_asset = change.fee_asset or trade.fee_asset
    side = change.side or trade.side
    quantity = trade.quantity if change.quantity is None else change.quantity
    price = trade.price if change.price is None else change.price
    new = NewTrade(
        id=derived_id("trade", trade.id, "replacement"),
        account=trade.account,
        symbol=trade.symbol,
        side=side,
        quantity=quantity,
        price=price,
        executed_at=change.executed_at or trade.executed_at,
        fee=fee,
        fee_asset=fee_asset,
        cash_effect=fees.cash_effect(side, quantity, price, fee, fee_asset, account.currency),
        venue=trade.venue,
        source=Source.MANUAL,
        triggered_by=trade.triggered_by,
        order_id=trade.order_id,
        venue_sequence=trade.venue_sequence,
        order_type=trade.order_type,
        signal_context=_context(trade.signal_context, correction, trade.id),
    )
    if not fees.is_third_asset(fee, fee_asset, trade.symbol, account.currency):
        return [new]
    if mark is not None and fee_asset == trade.fee_asset:
        return list(fees.dispose(new, account.currency, mark))
    settled, disposal = fees.settled(connection, new, account.currency)
    return [settled] if disposal is None else [settled, disposal]


def _context(known: Mapping[str, Any] | None, correction: Correction, replaces: str | None) -> dict[str, Any]:
    said = {"reason": correction.reason, "by": correction.triggered_by}
    if replaces is not None:
        said["replaces"] = replaces
    return {**(known or {}), KEY: said}


def replaced(trade: Trade) -> str | None:
    """The trade whose place a trade took; None when it is no replacement."""
    said = (trade.signal_context or {}).get(KEY)
    found = said.get("replaces") if isinstance(said, Mapping) else None
    return found if isinstance(found, str) else None
