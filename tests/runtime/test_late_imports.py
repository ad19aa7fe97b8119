"""Old trades that another process imports are matched again with all that follow them: not once for each few."""

from execution.model import FactsRecorded
from runtime.core import Core
from runtime.follower import PAGE, LedgerFollower
from tests.portfolio.bookkeeping import Database, Line, service_of


async def test_the_pages_of_old_trades_grow_and_those_of_new_ones_do_not() -> None:
    database, line = Database(), Line()
    database.append([line.buy("1", "100", minute=number) for number in range(10_000, 10_000 + 4 * PAGE)])
    sizes: list[int] = []

    async def note(recorded: FactsRecorded) -> None:
        sizes.append(len(recorded.facts))

    service = service_of(database)
    core = Core(lambda _event: None, LedgerFollower(database.reader), None, service, None)
    await core.start()
    core.follower.add(note)
    database.append([line.buy("1", "90", minute=number) for number in range(7 * PAGE // 2)])
    await core.follower.poll()
    assert sizes == [PAGE, 2 * PAGE, PAGE // 2]

    sizes.clear()
    database.append([line.buy("1", "90", minute=number) for number in range(20_000, 20_000 + 5 * PAGE // 2)])
    await core.follower.poll()
    assert sizes == [PAGE, PAGE, PAGE // 2]
    assert service.portfolio("main").positions[0].quantity == 10 * PAGE
    database.close()
