"""A running daemon computes allocations on request, says what differed, and who sold what was not there."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Connection

from execution import raw
from execution.ledger import LedgerTail, NewTrade
from execution.model import Side, Source
from portfolio import allocations, validation
from portfolio.lots import Method
from tests.integration.daemons import Books, Ear, serving
from tests.runtime.cli.terminal import fillbook

START = datetime(2026, 1, 1, 10, 0, tzinfo=UTC)
QUIET = ("log.level=warning",)


def imported(number: int, side: Side, quantity: str, price: str, *, minute: int | None = None) -> NewTrade:
    """A fill of another place, as an import beside the daemon appends it."""
    at = START + timedelta(minutes=number if minute is None else minute)
    effect = -side.sign * Decimal(quantity) * Decimal(price)
    return NewTrade(
        f"t{number}", "main", "BTC-USD", side, Decimal(quantity), Decimal(price), at, Decimal(0), "USD", effect,
        "elsewhere", Source.IMPORT, "import:test", venue_trade_id=str(number),
    )  # fmt: skip


def append(books: Books, *trades: NewTrade) -> None:
    def work(connection: Connection) -> None:
        tail = LedgerTail()
        tail.append_new(connection, trades, datetime.now(UTC))
        tail.before_commit(connection)

    books.write(work)


def problems(books: Books) -> list[str]:
    found: list[str] = []

    def work(connection: Connection) -> None:
        scopes = validation.current_scopes(connection)
        validation.validate(connection, scopes, lambda _check, text: found.append(text))

    books.read(work)
    return found


async def test_a_recomputation_is_answered_with_what_it_did_and_once_for_each_id(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", settings=QUIET) as server, Ear(server.port) as ear:
        append(server.books, imported(1, Side.BUY, "2", "100"), imported(2, Side.SELL, "1", "130"))
        await ear.on("main/trade", lambda heard: heard.body["id"] == "t2")

        body = {"request_id": "r1", "full": True, "note": "to be sure"}
        answer = await ear.ask(body, "recompute")
        assert (answer["status"], answer["sequence"]) == ("done", 3)
        (run,) = answer["result"]["runs"]
        assert (run["symbol"], run["mode"], run["unchanged"], run["ended"], run["added"]) == (
            "BTC-USD", "full", 1, 0, 0,
        )  # fmt: skip
        assert run["realized_pnl"] == "30"
        assert ear.all("main/response/r1")[0].body["status"] == "accepted"

        await ear.say("main/request/recompute", body)
        await ear.until(lambda: len(ear.all("main/response/r1")) == 3)
        again = ear.all("main/response/r1")[2].body
        assert again == answer
        nothing = await ear.ask({"request_id": "r2"}, "recompute")
        assert nothing["result"]["runs"] == []
        await ear.say("main/request/recompute", {"request_id": "r2", "full": True})
        refused = await ear.on("main/response/r2", lambda heard: heard.body["status"] == "refused")
        assert refused.body["reason"]["code"] == "idempotency_conflict"


async def test_what_cannot_be_computed_is_refused_by_name(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", settings=QUIET) as server, Ear(server.port) as ear:
        append(server.books, imported(1, Side.BUY, "2", "100"))
        cases: list[tuple[str, dict[str, object], str]] = [
            ("main", {"symbol": "ETH-USD"}, "unknown_symbol"),
            ("other", {}, "unknown_account"),
            ("main", {"method": "best"}, "unknown_method"),
            ("main", {"full": True, "since": "2026-01-01T00:00:00Z"}, "since"),
            ("main", {"symbols": "BTC-USD"}, "unknown_field"),
        ]
        for number, (account, more, code) in enumerate(cases):
            answer = await ear.ask({"request_id": f"r{number}", **more}, "recompute", account)
            assert (answer["status"], answer["reason"]["code"]) == ("refused", code)


async def test_a_stored_row_that_somebody_changed_is_found_replaced_and_told(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", settings=QUIET) as server, Ear(server.port) as ear:
        append(server.books, imported(1, Side.BUY, "2", "100"), imported(2, Side.SELL, "1", "130"))
        await ear.ask({"request_id": "first"}, "recompute")
        server.books.write(lambda c: raw.execute(c, "UPDATE fifo_allocations SET pnl = '7'"))
        assert problems(server.books)

        await ear.ask({"request_id": "second", "full": True}, "recompute")

        alert = await ear.alert("allocations_differed")
        assert (alert.body["severity"], alert.body["about"]["symbol"]) == ("high", "BTC-USD")
        assert problems(server.books) == []


async def test_other_methods_are_computed_beside_the_method_of_record(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", settings=QUIET) as server, Ear(server.port) as ear:
        buys = imported(1, Side.BUY, "1", "100"), imported(2, Side.BUY, "1", "110")
        append(server.books, *buys, imported(3, Side.SELL, "1", "130"))

        answer = await ear.ask({"request_id": "l", "method": "lifo"}, "recompute")
        assert [run["realized_pnl"] for run in answer["result"]["runs"]] == ["20"]
        again = await ear.ask({"request_id": "l2", "method": "lifo"}, "recompute")
        assert again["result"]["runs"] == []

        rows = server.books.read(lambda c: list(allocations.stored(c, method=None)))
        assert {row.method: row.pnl for row in rows} == {Method.FIFO: 30, Method.LIFO: 20}


async def test_a_sell_of_what_was_not_there_is_an_alert_and_a_review_that_a_person_settles(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with serving(data, settings=QUIET) as server, Ear(server.port) as ear:
        append(server.books, imported(1, Side.BUY, "1", "100"), imported(2, Side.SELL, "3", "130"))

        alert = await ear.alert("unmatched_sell")
        assert (alert.body["severity"], alert.body["about"]["trade"]) == ("high", "t2")

        listed = fillbook("review", "list", "--data-dir", data, "--json")
        (review,) = listed.json["items"]
        assert (review["id"], review["quantity"]) == (alert.body["about"]["review"], "2")
        done = fillbook(
            "review", "resolve", review["id"], "--by", "ann", "--how", "bought in cash", "--data-dir", data, "--json"
        )
        assert (done.code, done.json["status"], done.json["resolved_by"]) == (0, "resolved", "ann")
        append(server.books, imported(3, Side.BUY, "2", "90", minute=0))
        await ear.on("main/trade", lambda heard: heard.body["id"] == "t3")
        await ear.ask({"request_id": "r"}, "recompute")
        assert problems(server.books) == []
        assert not fillbook("review", "list", "--data-dir", data, "--json").json["items"]


async def test_the_portfolio_role_in_a_process_of_its_own_answers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with (
        serving(data, settings=QUIET, roles=("execution", "signals")) as first,
        serving(data, port=first.port, settings=QUIET, roles=("portfolio",)),
        Ear(first.port) as ear,
    ):
        append(first.books, imported(1, Side.BUY, "2", "100"), imported(2, Side.SELL, "1", "130"))
        await ear.on("main/trade", lambda heard: heard.body["id"] == "t2")

        answer = await ear.ask({"request_id": "r", "full": True}, "recompute")

        assert [run["realized_pnl"] for run in answer["result"]["runs"]] == ["30"]
        refused = await ear.ask({"request_id": "bad", "symbol": "?"}, "recompute")
        assert refused["status"] == "refused"
        assert len([heard for heard in ear.all("main/response/bad") if heard.body["final"]]) == 1
