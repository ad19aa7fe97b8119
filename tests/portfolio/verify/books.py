"""Sound books of every kind, and what `verify` says of them."""

from dataclasses import replace
from decimal import Decimal

from sqlalchemy import Connection

from config.instruments import default_instrument
from execution import ledger
from execution.fees import disposal_id
from execution.model import FactsRecorded, Trade
from portfolio.verify import CHECKS, CheckResult, verify
from tests.portfolio.bookkeeping import Database, Line, service_of

SELLS, LOTS, SUMS, ORPHANS, ORDER, CASH, POSITIONS, INCREMENTAL, CHAIN, GUARDS, REVIEWS = range(1, CHECKS + 1)
SYMBOLS = ("BTC-USD", "ETH-USD", "BNB-USD")


def register(connection: Connection) -> None:
    """The symbols that the trades are of."""
    for symbol in SYMBOLS:
        ledger.add_instrument(connection, default_instrument(symbol))


def mixed_line() -> Line:
    """Two accounts, both modes, every kind of fee, an unmatched sell, a back-dated trade."""
    line = Line()
    line.deposit("100000")
    line.deposit("100000", account="margin")
    for number in range(4):
        line.buy("0.3", f"{30000 + number}", fee="0.07", triggered_by="bot:a")
        line.buy("2", f"{1500 + number}", fee="0.001", fee_asset="ETH", symbol="ETH-USD")
        line.sell("0.7", "1600", fee="0.003", fee_asset="ETH", symbol="ETH-USD")
        line.sell("0.2", f"{30500 - number}", fee="0.05", triggered_by="stop:a")
        line.sell("1.7", f"{31000 + number}", fee="0.01", account="margin")
        line.buy("1.1", f"{30000 - number}", fee="0.01", fee_asset="BNB", account="margin")
    line.buy("9", "29000", fee="1", account="margin")
    line.sell("1", "40000", minute=25)
    line.buy("0.1", "20000", minute=2)
    line.take_back(line.buy("3", "1000", fee="2", symbol="ETH-USD"))
    valued_fee(line)
    return line


def valued_fee(line: Line, quantity: str = "0.01", mark: str = "500") -> tuple[Trade, Trade]:
    """A buy whose fee in BNB was valued at a mark, and the sell that disposes of the BNB."""
    buy = line.buy("0.2", "30000", fee=quantity, fee_asset="BNB")
    value = Decimal(quantity) * Decimal(mark)
    line.facts[-1] = buy = rehashed(replace(buy, cash_effect=buy.cash_effect - value), line)
    disposal = line.sell(quantity, mark, symbol="BNB-USD")
    line.facts[-1] = disposal = rehashed(replace(disposal, id=disposal_id(buy.id)), line)
    return buy, disposal


def rehashed(trade: Trade, line: Line) -> Trade:
    """The last trade of a line, changed, with the hash that it then has."""
    return replace(trade, hash=ledger.content_hash(trade, line.facts[-2].hash))


async def keep_books(database: Database, line: Line, *, rest: int = 5) -> None:
    """Store facts and a checkpoint that lacks the last ones."""
    service = service_of(database, checkpoint_facts=10**6)
    await service.start()
    database.append(line.facts[:-rest])
    await service.on_facts(FactsRecorded(tuple(line.facts[:-rest])))
    await service.stop()
    database.append(line.facts[-rest:])


async def keep_all(database: Database, line: Line) -> None:
    """Store facts, and everything that the portfolio makes of them."""
    await keep_books(database, line, rest=1)
    service = service_of(database, checkpoint_facts=10**6)
    await service.start()
    await service.stop()


def broken(results: list[CheckResult]) -> set[int]:
    """The numbers of the checks that failed."""
    return {result.number for result in results if not result.ok}


def run(database: Database, **scope: str) -> list[CheckResult]:
    with database.connection() as connection:
        return verify(connection, **scope)  # type: ignore[arg-type]  # account and symbol only


def problems(results: list[CheckResult], number: int) -> str:
    """What a check found, as one text."""
    return "\n".join(results[number - 1].problems)
