"""What values a position while no candle and no price is known: the symbol's last trade."""

from decimal import Decimal

from execution.model import Price
from portfolio.service import PortfolioService
from tests.portfolio.bookkeeping import Database, Line, at, deliver, started

D = Decimal


def mark(service: PortfolioService) -> tuple[Decimal | None, object]:
    position = service.position("main", "BTC-USD")
    return position.mark_price, position.mark_time


async def test_the_last_trade_in_time_is_the_mark_until_a_price_is_known(database: Database) -> None:
    line, service = Line(), await started(database)
    await deliver(service, database, [line.deposit("1000"), line.buy("1", "100", minute=10)])
    assert mark(service) == (D(100), at(10))
    await deliver(service, database, [line.buy("1", "90", minute=5)])  # late: executed before
    assert mark(service) == (D(100), at(10))
    assert service.portfolio("main").equity == D(1010)
    service.on_price(Price("BTC-USD", D(80), at(7)))  # older than the trade, but a price
    assert mark(service) == (D(80), at(7))
    await deliver(service, database, [line.buy("1", "120", minute=20)])
    assert mark(service) == (D(80), at(7))


async def test_the_price_of_a_trade_that_was_taken_back_is_no_mark(database: Database) -> None:
    line, service = Line(), await started(database)
    await deliver(service, database, [line.buy("1", "100", minute=10)])
    wrong = line.buy("1", "900", minute=20)
    await deliver(service, database, [wrong])
    assert mark(service)[0] == D(900)
    service.take_changes()
    await deliver(service, database, [line.take_back(wrong)])
    assert mark(service) == (D(100), at(10))
    again = await started(database)
    assert mark(again) == mark(service)


async def test_a_trade_of_one_account_values_the_position_of_another(database: Database) -> None:
    line, service = Line(), await started(database)
    await deliver(service, database, [line.buy("1", "100")])
    service.take_changes()
    await deliver(service, database, [line.buy("1", "130", account="margin")])
    assert mark(service)[0] == D(130)
    changed = {(change.account, type(change).__name__) for change in service.take_changes()}
    assert {("main", "PositionChanged"), ("main", "PortfolioChanged")} <= changed
