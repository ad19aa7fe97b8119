"""Facts cannot be changed, not even from a plain sqlite3 shell, and only exact decimals can be stored."""

import shutil
import subprocess

import pytest

from execution.model import Side
from tests.execution.house import Books, fill, flow

NEW, ONE = "'new'", "'1'"


def shell(books: Books, sql: str) -> subprocess.CompletedProcess[str]:
    """Run SQL in the plain sqlite3 shell: without our pragmas, functions and drivers."""
    program = shutil.which("sqlite3")
    assert program is not None, "the sqlite3 shell is missing: `./run test` installs it (apt install sqlite3)"
    return subprocess.run([program, str(books.path), sql], capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture
def filled(books: Books) -> Books:
    """Books with a deposit (1), two trades (2, 3) and a second deposit (4)."""
    books.record(fill(1), fill(2, Side.SELL, fee="0.25"), flow("second"))
    return books


def _copy(table: str, **changed: str) -> str:
    """A SELECT that is one row of the table with some columns changed."""
    columns = {
        "trades": "sequence, id, account, symbol, side, quantity, price, executed_at, recorded_at, fee, fee_asset,"
        " cash_effect, order_id, venue, venue_trade_id, venue_sequence, order_type, source, triggered_by,"
        " signal_context, corrects, hash",
        "cash_flows": "sequence, id, account, kind, amount, currency, effective_at, recorded_at, triggered_by,"
        " idempotency_key, note, hash",
    }[table].split(", ")
    return f"SELECT {', '.join(changed.get(name, name) for name in columns)} FROM {table}"


NEW_TRADE = {"sequence": "99", "id": NEW, "venue_trade_id": NEW}
NEW_FLOW = {"sequence": "99", "id": NEW, "idempotency_key": NEW}


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE trades SET price = '1' WHERE sequence = 2",
        "UPDATE trades SET hash = hash",
        "UPDATE OR IGNORE trades SET sequence = 3 WHERE sequence = 2",
        "UPDATE OR REPLACE trades SET sequence = 3 WHERE sequence = 2",
        "UPDATE cash_flows SET amount = '1'",
        "DELETE FROM trades",
        "DELETE FROM trades WHERE sequence = 3",
        "DELETE FROM cash_flows WHERE sequence = 4",
        f"REPLACE INTO trades {_copy('trades', price=ONE)} WHERE sequence = 2",
        f"INSERT OR REPLACE INTO trades {_copy('trades', id=NEW, venue_trade_id=NEW)} WHERE sequence = 2",
        f"INSERT OR REPLACE INTO trades {_copy('trades', sequence='99', venue_trade_id=NEW)} WHERE sequence = 2",
        f"INSERT OR REPLACE INTO trades {_copy('trades', sequence='99', id=NEW)} WHERE sequence = 2",
        f"INSERT OR IGNORE INTO trades {_copy('trades')} WHERE sequence = 2",
        f"INSERT INTO trades {_copy('trades')} WHERE sequence = 2",
        f"INSERT INTO trades {_copy('trades', price=ONE)} WHERE sequence = 2"
        " ON CONFLICT (sequence) DO UPDATE SET price = '1'",
        f"REPLACE INTO cash_flows {_copy('cash_flows', amount=ONE)} WHERE sequence = 4",
        f"INSERT OR REPLACE INTO cash_flows {_copy('cash_flows', sequence='99', id=NEW)} WHERE sequence = 4",
        f"INSERT INTO cash_flows {_copy('cash_flows')} WHERE sequence = 4",
        "DELETE FROM ledger_head",
        "UPDATE ledger_head SET sequence = 1",
        "UPDATE ledger_head SET hash = 'x'",
        "REPLACE INTO ledger_head (id, sequence, hash) VALUES (1, 0, 'x')",
        "INSERT OR REPLACE INTO ledger_head (id, sequence, hash) VALUES (1, 99, 'x')",
    ],
)
def test_the_database_refuses_to_change_what_is_recorded(filled: Books, sql: str) -> None:
    before = [shell(filled, f"SELECT * FROM {table}").stdout for table in ("trades", "cash_flows", "ledger_head")]
    answer = shell(filled, sql)
    assert answer.returncode != 0, f"accepted: {sql}"
    assert "facts" in answer.stderr or "ledger" in answer.stderr
    after = [shell(filled, f"SELECT * FROM {table}").stdout for table in ("trades", "cash_flows", "ledger_head")]
    assert after == before


def test_the_shell_can_add_a_well_formed_trade_so_the_refusals_are_not_for_another_reason(filled: Books) -> None:
    assert shell(filled, f"INSERT INTO trades {_copy('trades', **NEW_TRADE)} WHERE sequence = 2").returncode == 0
    assert (
        shell(filled, f"INSERT INTO cash_flows {_copy('cash_flows', **NEW_FLOW)} WHERE sequence = 4").returncode == 0
    )


@pytest.mark.parametrize("column", ["quantity", "price", "fee", "cash_effect"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "1e3",
        "+1",
        "1_000",
        "1,5",
        ".5",
        "5.",
        "1.2.3",
        "--5",
        "0x1",
        "NaN",
        "Infinity",
        "١",
        "1-",
        "-",
    ],
)
def test_only_plain_decimal_text_is_stored_in_trades(filled: Books, column: str, text: str) -> None:
    changed = {**NEW_TRADE, column: f"'{text}'"}
    answer = shell(filled, f"INSERT INTO trades {_copy('trades', **changed)} WHERE sequence = 2")
    assert answer.returncode != 0, f"{column} = {text!r} was accepted"
    assert "CHECK" in answer.stderr


@pytest.mark.parametrize(
    ("column", "text"), [("quantity", "0"), ("quantity", "0.0"), ("quantity", "-1"), ("price", "-1")]
)
def test_quantities_are_positive_and_prices_are_not_negative(filled: Books, column: str, text: str) -> None:
    changed = {**NEW_TRADE, column: f"'{text}'"}
    answer = shell(filled, f"INSERT INTO trades {_copy('trades', **changed)} WHERE sequence = 2")
    assert "CHECK" in answer.stderr


@pytest.mark.parametrize("text", ["0", "0.00", "-5", "abc", "1e3"])
def test_amounts_of_cash_flows_are_positive_decimals(filled: Books, text: str) -> None:
    changed = {**NEW_FLOW, "amount": f"'{text}'"}
    answer = shell(filled, f"INSERT INTO cash_flows {_copy('cash_flows', **changed)} WHERE sequence = 4")
    assert "CHECK" in answer.stderr


def test_fees_and_cash_effects_may_be_negative_and_prices_zero(filled: Books) -> None:
    changed = {**NEW_TRADE, "fee": "'-0.5'", "cash_effect": "'-12.000000000000000001'", "price": "'0'"}
    answer = shell(filled, f"INSERT INTO trades {_copy('trades', **changed)} WHERE sequence = 2")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    "changed",
    [
        {"quantity": "1"},
        {"quantity": "1.5"},
        {"sequence": "'one'"},
        {"price": "NULL"},
        {"side": "'buy'"},
        {"source": "'guess'"},
        {"price": "x'31'"},
    ],
)
def test_types_are_strict_and_names_are_known(filled: Books, changed: dict[str, str]) -> None:
    sql = f"INSERT INTO trades {_copy('trades', **{**NEW_TRADE, **changed})} WHERE sequence = 2"
    answer = shell(filled, sql)
    stored_as_text = shell(filled, "SELECT typeof(quantity) FROM trades WHERE sequence = 99").stdout.strip()
    assert answer.returncode != 0 or stored_as_text == "text"
    if "quantity" not in changed:
        assert answer.returncode != 0


def test_every_guard_comes_back_after_it_was_dropped(filled: Books) -> None:
    from execution.guards import create_guards, drop_guards

    count = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'trigger'"
    before = shell(filled, count).stdout
    filled.do(drop_guards)
    assert shell(filled, count).stdout.strip() == "0"
    filled.do(create_guards)
    assert shell(filled, count).stdout == before
