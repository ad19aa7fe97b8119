"""A late trade or a correction changes what was computed: an alert says from which instant on."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Connection

from config.times import time_text
from execution import alerts, raw
from execution.model import AlertRaised, Severity
from portfolio import history
from portfolio.allocations import ScopeKey
from portfolio.fifo import ENGINE_VERSION
from tests.execution.house import START
from tests.portfolio.bookkeeping import CLOCK, Database, Line, deliver, started


def told(database: Database) -> list[AlertRaised]:
    """What waits for the broker, as far as it is about history."""
    with database.connection() as connection:
        return [alert for alert in alerts.waiting(connection, 1000) if alert.code == alerts.HISTORY_CHANGED]


async def test_a_late_trade_says_from_when_on_history_changed_of_what_and_with_which_version(
    database: Database,
) -> None:
    service = await started(database)
    line = Line()
    await deliver(service, database, [line.buy("1", "100", minute=10), line.sell("1", "130", minute=20)])
    await service.flush()
    assert told(database) == []
    late = line.buy("1", "90", minute=5)

    await deliver(service, database, [late])
    await service.flush()

    (alert,) = told(database)
    with database.connection() as connection:
        (version,) = connection.exec_driver_sql("SELECT version FROM fifo_pointers").scalars()
    at = time_text(late.executed_at)
    assert alert.severity is Severity.INFO
    assert alert.account == "main"
    assert alert.about == {"symbol": "BTC-USD", "from": at, "version": str(version)}
    assert f"history changed from {at}" in alert.message
    assert "main" in alert.message
    assert "BTC-USD" in alert.message


async def test_trades_in_order_change_no_history(database: Database) -> None:
    service = await started(database)
    line = Line()
    for minute in range(5):
        await deliver(service, database, [line.buy("1", "100", minute=minute), line.sell("1", "130", minute=minute)])
        await service.flush()
    await service.stop()
    await started(database)
    assert told(database) == []


async def test_what_changes_before_the_broker_has_the_last_alert_is_one_alert_from_the_earliest_instant(
    database: Database,
) -> None:
    service = await started(database)
    line = Line()
    await deliver(service, database, [line.buy("9", "100", minute=50), line.sell("1", "130", minute=60)])
    await deliver(service, database, [line.buy("9", "100", minute=50, symbol="ETH-USD")])
    await service.flush()
    for minute in (30, 10, 20, 40):
        await deliver(service, database, [line.buy("1", "90", minute=minute)])
        await service.flush()
    await deliver(service, database, [line.buy("1", "90", minute=45, symbol="ETH-USD")])
    await service.flush()

    bitcoin, ether = sorted(told(database), key=lambda alert: alert.about["symbol"])
    with database.connection() as connection:
        versions = dict(raw.execute(connection, "SELECT symbol, version FROM fifo_pointers").fetchall())
    assert bitcoin.about["from"] == time_text(line.buy("1", "1", minute=10).executed_at)
    assert ether.about["from"] == time_text(line.buy("1", "1", minute=45).executed_at)
    assert bitcoin.about["version"] == str(versions["BTC-USD"])
    assert ether.about["version"] == str(versions["ETH-USD"])


async def test_what_the_broker_was_given_is_not_mixed_with_what_changes_afterwards(database: Database) -> None:
    service = await started(database)
    line = Line()
    await deliver(service, database, [line.buy("9", "100", minute=50)])
    await service.flush()
    await deliver(service, database, [line.buy("1", "90", minute=10)])
    await service.flush()
    (first,) = told(database)
    assert first.id is not None
    ids = [first.id]
    database.writer.submit(lambda connection: alerts.told(connection, ids))

    later = line.buy("1", "90", minute=20)
    await deliver(service, database, [later])
    await service.flush()

    (second,) = told(database)
    assert second.about["from"] == time_text(later.executed_at)
    assert second.id != first.id


async def test_a_trade_that_is_taken_back_changes_history_from_its_instant_on(database: Database) -> None:
    service = await started(database)
    line = Line()
    wrong = line.buy("1", "50", minute=5)
    await deliver(service, database, [wrong, line.buy("1", "100", minute=10)])
    await service.flush()

    await deliver(service, database, [line.take_back(wrong)])
    await service.flush()

    (alert,) = told(database)
    assert alert.about["from"] == time_text(wrong.executed_at)


@pytest.mark.parametrize("correction", [False, True])
async def test_a_kill_before_it_was_stored_changes_nothing_the_next_start_says_it(
    database: Database, correction: bool
) -> None:
    service = await started(database)
    line = Line()
    first, last = line.buy("1", "100", minute=10), line.buy("1", "110", minute=15)
    await deliver(service, database, [first, last])
    await service.flush()
    late = line.take_back(last) if correction else line.buy("1", "90", minute=5)
    await deliver(service, database, [late])
    # killed here

    await started(database)
    assert [alert.about["from"] for alert in told(database)] == [time_text(late.executed_at)]

    await started(database)
    assert len(told(database)) == 1, "it is said once"


def test_within_one_instant_the_order_of_trades_decides_what_changes_history(database: Database) -> None:
    line = Line()
    stored, behind, before = (line.sell("1", "110", minute=10) for _ in range(3))
    database.append([stored, behind, replace(before, venue_sequence=0)])
    with database.connection() as connection:
        key = ScopeKey("main", "BTC-USD")
        assert history.changed_from(connection, key, 1, 2) is None
        assert history.changed_from(connection, key, 1, 3) == stored.executed_at


async def test_the_first_computation_of_a_symbol_changes_no_history(database: Database) -> None:
    line = Line()
    database.append([line.buy("1", "100", minute=10), line.buy("1", "90", minute=5)])
    service = await started(database)
    await service.flush()
    assert told(database) == []


async def test_computing_again_or_by_a_new_engine_changes_no_history(database: Database) -> None:
    service = await started(database)
    line = Line()
    await deliver(service, database, [line.buy("1", "100", minute=10), line.sell("1", "130", minute=20)])
    await service.flush()
    await service.compute(reason="requested")
    old = ENGINE_VERSION - 1
    database.writer.submit(lambda c: raw.execute(c, "UPDATE fifo_pointers SET engine_version = ?", (old,)))
    await started(database)
    assert told(database) == []


def test_what_another_account_or_symbol_says_stays(database: Database) -> None:
    def work(connection: Connection) -> None:
        for account, symbol in (("main", "BTC-USD"), ("main", "BTC-USDT"), ("other", "BTC-USD")):
            history.keep(connection, ScopeKey(account, symbol), START + timedelta(hours=1), 3, CLOCK.recorded_now())
        history.keep(connection, ScopeKey("main", "BTC-USD"), START, 4, CLOCK.recorded_now())

    database.writer.submit(work)
    found = {(alert.account, alert.about["symbol"]): alert.about["version"] for alert in told(database)}
    assert found == {("main", "BTC-USD"): "4", ("main", "BTC-USDT"): "3", ("other", "BTC-USD"): "3"}
