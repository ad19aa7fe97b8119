"""A real daemon says whether its books are sound, and stops trading when a fact is not what it must be."""

from pathlib import Path

from sqlalchemy import Connection

from execution import guards
from tests.integration.daemons import Ear, retains, serving
from tests.integration.test_kills import COMMON, FEED
from tests.integration.test_life import MANUAL


async def test_the_books_are_said_to_be_sound_until_a_forged_fact_halts_the_account(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", settings=[*FEED, *COMMON]) as server, Ear(server.port) as ear:
        assert (await ear.ask({**MANUAL, "request_id": "before"}))["status"] == "filled"
        await retains(server.port, lambda kept: kept["main/integrity"]["ok"])

        def forge(connection: Connection) -> None:
            guards.drop_guards(connection)
            connection.exec_driver_sql(
                "INSERT INTO cash_flows SELECT (SELECT sequence + 1 FROM ledger_head), 'forged', account, kind,"
                " '999999', currency, effective_at, recorded_at, triggered_by, 'forged', note, hash"
                " FROM cash_flows LIMIT 1"
            )
            connection.exec_driver_sql(
                "UPDATE ledger_head SET sequence = sequence + 1, hash = (SELECT hash FROM cash_flows LIMIT 1)"
            )
            guards.create_guards(connection)

        server.books.write(forge)

        halt = await ear.on("main/halt", lambda heard: heard.body["halted"])
        assert halt.body["by"] == "integrity"
        await ear.on("main/alert", lambda heard: heard.body["code"] == "integrity")
        assert (await ear.ask({**MANUAL, "request_id": "after"}))["reason"]["code"] == "trading_halted"
        said = await ear.on("main/integrity", lambda heard: not heard.body["ok"])
        assert "cash flow forged" in said.body["problems"][0]
        await retains(server.port, lambda kept: not kept["main/integrity"]["ok"])
