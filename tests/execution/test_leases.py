"""The lease of a role."""

from collections.abc import Callable

import pytest

from execution import leases
from execution.errors import LeaseLost
from execution.leases import Fence
from tests.execution.house import START, Books, House, snapshot


class TestLease:
    """Two daemons can never both write."""

    async def test_a_daemon_that_lost_its_lease_commits_nothing_any_more(
        self, books: Books, build: Callable[..., House]
    ) -> None:
        epoch = books.do(lambda c: leases.take(c, "execution", "first", START))
        house = build(participants=[Fence({"execution": epoch})])
        await house.open()
        await house.price("100")
        assert (await house.buy("1")).status == "filled"
        before = snapshot(house.state)
        assert books.do(lambda c: leases.take(c, "execution", "second", START)) == epoch + 1
        with pytest.raises(LeaseLost, match="role execution, epoch 1; now epoch 2, held by second"):
            await house.buy("1")
        assert len(house.trades()) == 1
        assert books.count("orders") == 1
        assert snapshot(house.state) == before

    def test_a_lease_that_is_gone_is_lost(self, books: Books) -> None:
        with pytest.raises(LeaseLost, match="now gone"):
            books.do(Fence({"portfolio": 1}).check)

    def test_the_holder_of_a_role_is_known(self, books: Books) -> None:
        assert books.ask(lambda c: leases.holder(c, "execution")) is None
        books.do(lambda c: leases.take(c, "execution", "me", START))
        assert books.ask(lambda c: leases.holder(c, "execution")) == "me"
