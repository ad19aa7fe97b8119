"""What is exported: trades in the format that `import` reads, allocations and cash flows; streamed, as texts.

A trade that was taken back and the entry that did it are left out: the import format knows no corrections, and
together they are nothing.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO

from sqlalchemy import Connection

from config.exact import plain
from config.times import time_text
from execution import fees, ledger
from execution.importers.common import VENUE
from execution.importers.fillbook import COLUMNS
from execution.model import CashFlow, Json, Source, Trade
from portfolio import allocations

ExportRow = Mapping[str, Json]

TRADE_COLUMNS: Sequence[str] = COLUMNS
ALL_TRADE_COLUMNS: Sequence[str] = (
    *COLUMNS, "id", "sequence", "account", "venue", "source", "recorded_at", "cash_effect", "corrects",
)  # fmt: skip
"""With those of trades that are not to be imported again."""
ALLOCATION_COLUMNS: Sequence[str] = (
    "account", "symbol", "method", "sell_trade", "buy_trade", "quantity", "buy_price", "sell_price", "cost_basis",
    "proceeds", "buy_fee", "fees", "net_proceeds", "pnl", "buy_at", "sell_at", "from_version", "to_version",
    "batch_id",
)  # fmt: skip
FLOW_COLUMNS: Sequence[str] = (
    "effective_at", "kind", "amount", "currency", "note", "triggered_by", "account", "id", "sequence", "recorded_at",
)  # fmt: skip
_PAGE = 5000


def trade_rows(
    connection: Connection, account: str, symbol: str | None = None, *, everything: bool = False
) -> Iterator[ExportRow]:
    """The trades of an account in the order in which they were recorded."""
    taken_back = ledger.corrected_by(connection)
    after = 0
    while page := ledger.trades(connection, account=account, symbol=symbol, after_sequence=after, limit=_PAGE):
        after = page[-1].sequence
        for trade in page:
            if everything:
                yield _trade_row(trade) | _more(trade)
            elif trade.corrects is None and trade.id not in taken_back:
                yield _trade_row(trade)


def _trade_row(trade: Trade) -> dict[str, Json]:
    return {
        "executed_at": time_text(trade.executed_at),
        "symbol": trade.symbol,
        "side": str(trade.side),
        "quantity": plain(trade.quantity),
        "price": plain(trade.price),
        "fee": plain(trade.fee),
        "fee_asset": trade.fee_asset,
        "order_id": trade.order_id,
        "venue_trade_id": _exported_id(trade),
        "triggered_by": trade.triggered_by,
        "venue_sequence": None if trade.venue_sequence is None else str(trade.venue_sequence),
    }


def _exported_id(trade: Trade) -> str | None:
    """An id under which an import into these very books finds the trade again: our own, unless the import would
    derive it from the row (it came from an import) or from the trade before (it pays a fee)."""
    given = trade.venue_trade_id
    if given is not None and given.endswith(fees.FEE_SUFFIX):
        return given
    if trade.venue == VENUE and trade.source is Source.IMPORT:
        return given
    return trade.id


def _more(trade: Trade) -> dict[str, Json]:
    return {
        "id": trade.id,
        "sequence": trade.sequence,
        "account": trade.account,
        "venue": trade.venue,
        "source": str(trade.source),
        "recorded_at": time_text(trade.recorded_at),
        "cash_effect": plain(trade.cash_effect),
        "corrects": trade.corrects,
    }


def allocation_rows(connection: Connection, account: str | None, symbol: str | None) -> Iterator[ExportRow]:
    """The current allocations of the method of record."""
    for allocation in allocations.stored(connection, account=account, symbol=symbol):
        yield allocation.to_wire()


def flow_rows(connection: Connection, account: str | None) -> Iterator[ExportRow]:
    """The cash flows in the order in which they were recorded."""
    return map(_flow_row, ledger.cash_flows(connection, account))


def _flow_row(flow: CashFlow) -> ExportRow:
    return {
        "effective_at": time_text(flow.effective_at),
        "kind": str(flow.kind),
        "amount": plain(flow.amount),
        "currency": flow.currency,
        "note": flow.note,
        "triggered_by": flow.triggered_by,
        "account": flow.account,
        "id": flow.id,
        "sequence": flow.sequence,
        "recorded_at": time_text(flow.recorded_at),
    }


def write_csv(file: IO[str], columns: Sequence[str], rows: Iterable[ExportRow]) -> int:
    """Rows as CSV with a header, null as nothing; returns how many."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    count = 0
    for row in rows:
        writer.writerow([row[column] for column in columns])
        count += 1
    return count


def write_jsonl(file: IO[str], columns: Sequence[str], rows: Iterable[ExportRow]) -> int:
    """Rows as one JSON object on each line; returns how many."""
    count = 0
    for row in rows:
        file.write(json.dumps({column: row[column] for column in columns}, ensure_ascii=False) + "\n")
        count += 1
    return count
