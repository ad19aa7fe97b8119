"""`allocations`, `explain`, `report pnl`, `review`: on imported fills, without a daemon."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from tests.runtime.cli.terminal import SMA_CROSS, Result, candle_file, fillbook

FILLS = """executed_at,symbol,side,quantity,price,fee,fee_asset,order_id,venue_trade_id,triggered_by
2025-12-31T10:00:00Z,BTC-USD,BUY,0.5,30000,1,USD,o1,v1,manual:ann
2025-12-31T10:05:00Z,BTC-USD,BUY,0.3,31000,0.01,USD,o2,v2,manual
2025-12-31T23:59:59.999999Z,BTC-USD,SELL,0.7,32000,0.03,USD,o3,v3,bot:x
2026-01-01T00:00:00Z,ETH-USD,SELL,1,2000,,,o4,v4,bot:x
2026-02-03T10:10:00Z,BTC-USD,SELL,0.1,20000,,,o5,v5,bot:y
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Books with the fills above."""
    file = tmp_path / "fills.csv"
    file.write_text(FILLS, encoding="utf-8")
    assert fillbook("import", file, "--data-dir", tmp_path / "data").code == 0
    return tmp_path / "data"


def on(data: Path, *arguments: str) -> Result:
    return fillbook(*arguments, "--data-dir", data)


def trade_ids(data: Path) -> dict[str, str]:
    """The ids of the trades by what their file called them."""
    return {item["venue_trade_id"]: item["id"] for item in on(data, "trades", "--json").json["items"]}


# ---- list -----------------------------------------------------------------------------------------------


def test_list_shows_each_pair_with_its_exact_parts(data: Path) -> None:
    ids = trade_ids(data)
    items = on(data, "allocations", "list", "--json").json["items"]

    first = items[0]
    assert (first["sell_trade"], first["buy_trade"], first["symbol"]) == (ids["v3"], ids["v1"], "BTC-USD")
    assert (first["quantity"], first["cost_basis"], first["proceeds"]) == ("0.5", "15001", "16000")
    assert (first["buy_at"], first["sell_at"]) == ("2025-12-31T10:00:00Z", "2025-12-31T23:59:59.999999Z")
    assert first["to_version"] is None
    for item in items:
        assert Decimal(item["net_proceeds"]) == Decimal(item["proceeds"]) - Decimal(item["fees"])
        if item["buy_trade"] is not None:
            assert Decimal(item["pnl"]) == Decimal(item["net_proceeds"]) - Decimal(item["cost_basis"])
    (unmatched,) = [item for item in items if item["buy_trade"] is None]
    assert (unmatched["cost_basis"], unmatched["pnl"], unmatched["buy_at"]) == (None, None, None)


def test_pages_of_the_list_join_to_the_whole(data: Path) -> None:
    whole = on(data, "allocations", "list", "--json").json
    assert whole["next"] is None
    pages: list[object] = []
    after: list[str] = []
    while True:
        page = on(data, "allocations", "list", "--limit", "1", *after, "--json").json
        pages += page["items"]
        if page["next"] is None:
            break
        after = ["--after", page["next"]]
    assert pages == whole["items"]


def test_the_list_can_be_filtered(data: Path) -> None:
    def sells(*options: str) -> int:
        return len(on(data, "allocations", "list", *options, "--json").json["items"])

    assert sells("--symbol", "ETH-USD") == 1
    assert sells("--trade", "v2") == 2
    assert sells("--account", "main") == 4
    assert sells("--method", "lifo") == 0
    assert "`allocations compute --method lifo`" in on(data, "allocations", "list", "--method", "lifo").out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--symbol", "SOL-USD"], "traded were: BTC-USD, ETH-USD"),
        (["--account", "nobody"], "there are: main"),
        (["--version", "99"], "one of 1 to "),
        (["--trade", "nothing"], "the last trade is trade-"),
        (["--method", "best"], "fifo, lifo, hifo, lofo, average, specific"),
        (["--after", "x"], "of the page before"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(data: Path, options: Sequence[str], said: str) -> None:
    found = on(data, "allocations", "list", *options)

    assert found.code == 2
    assert said in " ".join(found.err.replace("│", " ").split())


# ---- compute, validate, compare ---------------------------------------------------------------------------


def test_compute_says_what_it_did(data: Path) -> None:
    on(data, "allocations", "list")
    assert "nothing to do" in on(data, "allocations", "compute").out
    full = on(data, "allocations", "compute", "--full", "--json").json["items"]
    assert [(run["symbol"], run["mode"], run["unchanged"], run["ended"], run["added"]) for run in full] == [
        ("BTC-USD", "full", 3, 0, 0), ("ETH-USD", "full", 1, 0, 0),
    ]  # fmt: skip
    since = on(data, "allocations", "compute", "--since", "2026-01-01", "--symbol", "BTC-USD", "--json").json["items"]
    assert [(run["mode"], run["allocations"]) for run in since] == [("symbol", 1)]
    assert "Nothing differed." in on(data, "allocations", "compute", "--full").out


def test_a_late_fill_is_a_new_version_and_compare_shows_what_it_changed(data: Path, tmp_path: Path) -> None:
    before = on(data, "allocations", "list", "--symbol", "BTC-USD", "--json").json["items"][0]["from_version"]
    late = tmp_path / "late.csv"
    late.write_text(
        "executed_at,symbol,side,quantity,price,venue_trade_id\n2025-12-30T00:00:00Z,BTC-USD,BUY,0.1,10000,v0\n"
    )
    fillbook("import", late, "--data-dir", data)

    after = on(data, "allocations", "list", "--symbol", "BTC-USD", "--json").json["items"]
    version = after[0]["from_version"]
    assert version > before
    old = on(data, "allocations", "list", "--symbol", "BTC-USD", "--version", str(before), "--json").json["items"]
    assert [row["quantity"] for row in old] == ["0.5", "0.2", "0.1"]
    compared = on(data, "allocations", "compare", str(before), str(version), "--json").json["items"]
    ids = trade_ids(data)
    found = {(row["sell_trade"], row["buy_trade"]): (row["a"] is not None, row["b"] is not None) for row in compared}
    assert found[ids["v3"], ids["v0"]] == (False, True)
    assert on(data, "allocations", "compare", str(version), str(version)).out.startswith("no difference")
    assert on(data, "allocations", "validate").code == 0
    assert on(data, "allocations", "validate", "--version", str(before)).code == 0


def test_validate_names_a_changed_row_and_compute_repairs_it(data: Path) -> None:
    import sqlite3

    on(data, "allocations", "list")
    with sqlite3.connect(data / "fillbook.db") as database:
        database.execute("UPDATE fifo_allocations SET pnl = '1' WHERE quantity = '0.5'")
    database.close()

    found = on(data, "allocations", "validate", "--json")
    assert (found.code, found.json["ok"]) == (1, False)
    failed = {check["name"]: check["problems"] for check in found.json["checks"] if not check["ok"]}
    assert "main/BTC-USD fifo: allocation 1 (sell " in failed["P&L, costs and fees add up"][0]
    repaired = on(data, "allocations", "compute", "--full", "--json").json["items"]
    assert [(run["symbol"], run["ended"] > 0) for run in repaired] == [("BTC-USD", True), ("ETH-USD", False)]
    assert on(data, "allocations", "validate").code == 0


def test_methods_are_compared_by_symbol(data: Path) -> None:
    items = on(data, "allocations", "compare", "--methods", "fifo,hifo", "--symbol", "BTC-USD", "--json").json[
        "items"
    ]

    assert [(item["method"], item["quantity"]) for item in items] == [("fifo", "0"), ("hifo", "0")]
    assert on(data, "allocations", "compare").code == 2
    assert on(data, "allocations", "compare", "1", "99").code == 2


def test_chosen_lots_are_taken_and_every_bad_line_is_named(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "chosen.csv"
    file.write_text("closing_trade,opening_trade,quantity\nv5,v1,0.1\n")
    compute = ("allocations", "compute", "--method", "specific")
    assert on(data, *compute, "--selections", str(file), "--json").code == 2  # nothing is left of v1 by then
    file.write_text("closing_trade,opening_trade,quantity\nv3,v2,0.3\nv3,v1,0.4\n")
    assert on(data, *compute, "--selections", str(file), "--json").code == 0
    rows = on(data, "allocations", "list", "--method", "specific", "--symbol", "BTC-USD", "--json").json["items"]
    ids = trade_ids(data)
    assert [(row["buy_trade"], row["quantity"]) for row in rows] == [
        (ids["v2"], "0.3"), (ids["v1"], "0.4"), (ids["v1"], "0.1"),
    ]  # fmt: skip

    file.write_text(
        "closing_trade,opening_trade,quantity\nnone,v1,1\nv3,v4,0.1\nv3,v5,0.1\nv3,v1,0.9\nv3,v1,x\nv1,v3,0.1\n"
    )
    found = on(data, *compute, "--selections", str(file))
    assert found.code == 2
    for said in (
        "line 2: expected a trade's id", "line 3: opening_trade: expected a trade of main BTC-USD",
        "line 4: opening_trade: expected the other side", "line 5: quantity: 0.9 of", "line 6: quantity: expected",
        "line 7: opening_trade: ",
    ):  # fmt: skip
        assert said in found.err


# ---- explain ------------------------------------------------------------------------------------------------


def test_explain_adds_up_to_the_realized_pnl(data: Path) -> None:
    found = on(data, "explain", "v3", "--json").json

    assert found["realized_pnl"] == "1198.963333333333333334"
    assert sum(Decimal(row["pnl"]) for row in found["closes"]) == Decimal(found["realized_pnl"])
    assert found["totals"]["fees"] == "0.03"
    assert [row["trade"]["venue_trade_id"] for row in found["closes"]] == ["v1", "v2"]
    said = on(data, "allocations", "explain", "v3").out
    assert "SELL 0.7 BTC-USD in main: realized +1,198.96" in said
    assert "(1,198.963333333333333334 exactly)" in said
    assert said.count("├─") >= 4


def test_explain_of_a_buy_names_who_closed_it_and_of_an_oversell_what_is_unknown(data: Path) -> None:
    assert "0.3 of 0.3 was closed since, by 2 trades" in on(data, "explain", "v2").out
    said = on(data, "explain", "v4").out
    assert "without a known buy" in said
    assert "realized P&L unknown" in said
    assert on(data, "explain", trade_ids(data)["v1"][:14], "--json").json["trade"]["venue_trade_id"] == "v1"


def test_explain_of_a_correction_says_what_was_taken_back_by_whom_and_why(data: Path) -> None:
    wrong = trade_ids(data)["v5"]
    corrected = on(data, "correct", wrong, "--price", "33000", "--by", "ann", "--reason", "typed wrong")
    assert corrected.code == 0, corrected.err
    entry, right = (item["id"] for item in reversed(on(data, "trades", "--limit", "2", "--json").json["items"]))

    assert "taken back, it has no effect" in (said := on(data, "explain", wrong).out)
    assert f"taken back by manual:ann, reason: typed wrong\n   └─ entry {entry}" in said
    assert f"takes back\n   └─ fill {wrong}" in on(data, "explain", entry).out
    assert f"corrected by manual:ann, in place of {wrong}, reason: typed wrong" in on(data, "explain", right).out
    assert on(data, "allocations", "validate").code == 0


def test_explain_of_an_ambiguous_name_lists_what_it_could_be(data: Path) -> None:
    found = on(data, "explain", "trade-")

    assert found.code == 2
    assert "fits several" in found.err


def test_explain_of_a_bots_sell_shows_orders_and_scores(tmp_path: Path) -> None:

    candles, book = candle_file(tmp_path / "btc.csv", 1_000), tmp_path / "book"
    replayed = fillbook(
        "replay", "--bots", SMA_CROSS, "--candles", f"BTC-USD={candles}", "--db", book / "fillbook.db",
        "--set", "bots.sma-cross.quantity=0.01",
    )  # fmt: skip
    assert replayed.code == 0, replayed.err
    trades = on(book, "trades", "--json", "--limit", "1000").json["items"]
    sell = next(trade for trade in trades if trade["side"] == "SELL")

    said = on(book, "explain", sell["id"])

    assert said.code == 0, said.err
    order = f"order {sell['order_id']}: SELL"
    assert order in said.out
    assert "by bot:" in said.out
    assert said.out.count("recommendation of bot") >= 2  # of the sell and of a buy
    assert "score" in said.out


# ---- fees without a price ---------------------------------------------------------------------------------------

BESIDE_A_FEE = """executed_at,symbol,side,quantity,price,fee,fee_asset,order_id,venue_trade_id,triggered_by
2026-01-01T10:00:00Z,BTC-USD,BUY,1,30000,0.01,BNB,o1,v1,manual
2026-01-01T10:05:00Z,BTC-USD,BUY,1,31000,1,USD,o2,v2,manual
2026-01-01T10:10:00Z,BTC-USD,SELL,0.5,32000,2,USD,o3,v3,bot:x
2026-01-01T10:15:00Z,BTC-USD,SELL,1,32000,,,o4,v4,bot:y
"""


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """Books with a fee in BNB, which has no price."""
    file = tmp_path / "fills.csv"
    file.write_text(BESIDE_A_FEE, encoding="utf-8")
    done = fillbook("import", file, "--data-dir", tmp_path / "data")
    assert done.code == 0, done.err
    assert "1 fees in a third asset have no known price at their time" in done.out + done.err
    return tmp_path / "data"


def test_what_is_realized_beside_a_fee_without_a_price_is_unknown_everywhere(unknown: Path) -> None:
    items = on(unknown, "allocations", "list", "--json").json["items"]
    assert [item["pnl"] for item in items] == [None, None, "499.5"]
    assert (items[0]["cost_basis"], items[0]["net_proceeds"], items[0]["buy_fee"]) == ("15000", "15998", "0")
    assert on(unknown, "allocations", "list").out.count("unknown") == 2
    exported = on(unknown, "export", "allocations", "--format", "jsonl").out.splitlines()
    assert [json.loads(line)["pnl"] for line in exported] == [None, None, "499.5"]

    said = on(unknown, "explain", "v3").out
    assert "SELL 0.5 BTC-USD in main: realized P&L unknown\n" in said
    assert "cost 15,000.00, without a fee whose value is unknown: so is the P&L" in said
    assert "- cost 15,000.00; P&L unknown" in said
    assert "realized P&L unknown (+499.50 of the known part)" in on(unknown, "explain", "v4").out
    assert on(unknown, "explain", "v3", "--json").json["realized_pnl"] is None

    (line,) = on(unknown, "report", "pnl", "--json").json["items"]
    assert (line["realized_pnl"], line["incomplete"], line["sells"], line["wins"]) == ("499.5", True, 2, 0)
    assert (line["quantity"], line["unvalued_quantity"]) == ("0.5", "1")
    by_bot = on(unknown, "report", "pnl", "--by", "triggered_by", "--json").json["items"]
    assert [(item["realized_pnl"], item["incomplete"]) for item in by_bot] == [("0", True), ("499.5", True)]
    shown = on(unknown, "portfolio")
    assert "a fee in a third asset without a price" in shown.out
    assert on(unknown, "portfolio", "--json").json["incomplete"]
    assert [item["incomplete"] for item in on(unknown, "bankroll", "--json").json["items"]] == [True]
    assert "a fee in a third asset without a price" in on(unknown, "bankroll").out
    methods = on(unknown, "allocations", "compare", "--methods", "fifo,lifo,average", "--json").json["items"]
    assert {item["method"]: (item["realized_pnl"], item["incomplete"]) for item in methods} == {
        "fifo": ("499.5", True), "lifo": ("997", True), "average": ("0", True),
    }  # fmt: skip
    assert on(unknown, "verify").code == 0


def test_books_in_which_an_older_engine_left_that_fee_out_are_upgraded_and_computed_anew(unknown: Path) -> None:
    downgraded = on(unknown, "db", "downgrade", "0006")
    assert downgraded.code == 0, downgraded.err
    with closing(sqlite3.connect(unknown / "fillbook.db")) as connection:
        connection.execute("UPDATE fifo_allocations SET pnl = '998' WHERE pnl IS NULL AND sell_fee = '2'")
        connection.execute("UPDATE fifo_allocations SET pnl = '1000' WHERE pnl IS NULL")
        for table in ("fifo_pointers", "fifo_inventory_snapshots", "fifo_computation_log"):
            connection.execute(f"UPDATE {table} SET engine_version = 2")
        connection.commit()

    upgraded = on(unknown, "db", "upgrade")

    assert upgraded.code == 0, upgraded.err
    items = on(unknown, "allocations", "list", "--json").json["items"]
    assert [item["pnl"] for item in items] == [None, None, "499.5"]
    assert on(unknown, "verify").code == 0


# ---- reports and reviews ----------------------------------------------------------------------------------------


def test_report_adds_up_and_calls_unknown_parts_incomplete(data: Path) -> None:
    report = on(data, "report", "pnl", "--json").json

    bitcoin, ether = report["items"]
    assert (bitcoin["symbol"], bitcoin["sells"], bitcoin["wins"], bitcoin["incomplete"]) == ("BTC-USD", 2, 1, False)
    assert Decimal(bitcoin["realized_pnl"]) == (
        Decimal(bitcoin["proceeds"]) - Decimal(bitcoin["fees"]) - Decimal(bitcoin["cost_basis"])
    )
    assert (ether["incomplete"], ether["unmatched_quantity"], ether["unmatched_proceeds"]) == (True, "1", "2000")
    assert (report["total"]["sells"], report["total"]["incomplete"]) == (3, True)
    assert "incomplete" in on(data, "report", "pnl").out


@pytest.mark.parametrize(
    ("period", "sells"),
    [
        ("2025", 1),
        ("2026", 2),
        ("2025-12", 1),
        ("2025-12-31", 1),
        ("2025-12-31..2026-01-01", 1),
        ("2026-01-01..2026-02-03T10:10:00Z", 1),
        ("2026-01-01..2026-02-03T10:10:00.000001Z", 2),
        ("..2026", 1),
        ("2026..", 2),
        ("last-1-day", 0),
    ],
)
def test_the_end_of_a_period_is_not_part_of_it(data: Path, period: str, sells: int) -> None:
    assert on(data, "report", "pnl", "--period", period, "--json").json["total"]["sells"] == sells


@pytest.mark.parametrize(
    "period", ["lately", "2025-13", "2025-02-30", "2026..2025", "last-0-days", "last-99999-weeks"]
)
def test_a_bad_period_is_explained(data: Path, period: str) -> None:
    found = on(data, "report", "pnl", "--period", period)

    assert found.code == 2
    assert "period" in found.err


def test_report_by_month_and_by_cause(data: Path) -> None:
    months = on(data, "report", "pnl", "--by", "month", "--json").json["items"]
    causes = on(data, "report", "pnl", "--by", "triggered_by", "--json").json["items"]

    assert [(item["month"], item["sells"]) for item in months] == [("2025-12", 1), ("2026-01", 1), ("2026-02", 1)]
    assert [(item["triggered_by"], item["sells"]) for item in causes] == [("bot:x", 2), ("bot:y", 1)]
    assert on(data, "report", "pnl", "--by", "week").code == 2


def test_the_report_from_the_books_equals_that_from_the_rows(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.cli import reports

    rows = on(data, "report", "pnl", "--json").json
    monkeypatch.setattr(reports, "_ROWS_SUMMED", 0)
    books = on(data, "report", "pnl", "--json").json
    detailed = on(data, "report", "pnl", "--details", "--json").json

    assert detailed == rows
    assert [item["quantity"] for item in books["items"]] == [None, None]
    for key in ("symbol", "sells", "wins", "realized_pnl", "unmatched_quantity", "incomplete"):
        assert [item[key] for item in books["items"]] == [item[key] for item in rows["items"]]


def test_a_review_is_resolved_once_by_whom_and_how(data: Path) -> None:
    (review,) = on(data, "review", "list", "--json").json["items"]
    assert (review["symbol"], review["quantity"], review["status"]) == ("ETH-USD", "1", "open")
    assert review["id"] in on(data, "review", "resolve", "nothing", "--by", "ann", "--how", "x").err

    done = on(data, "review", "resolve", review["id"][:12], "--by", "ann", "--how", "bought in cash")

    assert (done.code, done.out.strip()) == (0, f"{review['id']}: resolved by ann: bought in cash")
    assert on(data, "review", "list").out.startswith("nothing to review")
    assert "resolved by ann: bought in cash" in on(data, "review", "list", "--all").out
    again = on(data, "review", "resolve", review["id"], "--by", "bob", "--how", "y")
    assert (again.code, "is resolved by ann" in again.err) == (2, True)
    assert on(data, "report", "pnl", "--json").json["total"]["incomplete"]


def test_without_books_the_commands_say_how_to_start(tmp_path: Path) -> None:
    for words in (["allocations", "list"], ["allocations", "compute"], ["report", "pnl"], ["explain", "x"],
                  ["review", "list"], ["allocations", "validate"]):  # fmt: skip
        found = fillbook(*words, "--data-dir", tmp_path / "none")
        assert (found.code, "no books" in found.err) == (3, True)


# ---- long lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("trades",), ("allocations", "list")])
def test_programs_get_whole_lists_and_people_the_first_fifty(tmp_path: Path, command: tuple[str, ...]) -> None:
    times = [f"2026-01-01T{10 + number // 60}:{number % 60:02}:00Z" for number in range(122)]
    rows = [f"{time},BTC-USD,{'SELL' if number % 2 else 'BUY'},1,{number}" for number, time in enumerate(times)]
    file = tmp_path / "many.csv"
    file.write_text("\n".join(["executed_at,symbol,side,quantity,price", *rows]), encoding="utf-8")
    data = tmp_path / "data"
    assert fillbook("import", file, "--data-dir", data).code == 0

    whole = on(data, *command, "--json")
    seen = on(data, *command).out.splitlines()

    assert len(whole.json["items"]) == (122 if command == ("trades",) else 61)
    assert whole.json["next"] is None
    assert whole.out == json.dumps(whole.json, indent=2) + "\n"
    assert len(seen) == 1 + 50 + 1
    assert seen[-1].startswith("... ")


def test_a_list_of_nothing_is_the_same_document(tmp_path: Path) -> None:
    assert fillbook("account", "add", "ann", "--data-dir", tmp_path).code == 0
    assert on(tmp_path, "trades", "--json").out == json.dumps({"items": [], "next": None}, indent=2) + "\n"
