"""`fillbook db` and `fillbook bankroll`, and what the daemon does with books of an older schema."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from runtime.database import SCHEMA_REVISION
from runtime.locks import RoleLocks
from tests.integration.brokers import free_port
from tests.runtime.cli.terminal import SMA_CROSS, candle_file, fillbook, interrupt, process


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """The folder of books with trades."""
    candles = candle_file(tmp_path / "btc.csv")
    folder = tmp_path / "books"
    folder.mkdir()
    command = ("replay", "--bots", SMA_CROSS, "--candles", f"BTC-USD={candles}", "--cash", "1000")
    done = fillbook(*command, "--set", "bots.sma-cross.quantity=0.01", "--db", folder / "fillbook.db")
    assert done.code == 0, done.err
    return folder


def test_down_and_up_again_each_with_a_backup(books: Path) -> None:
    before = fillbook("trades", "--json", "--data-dir", books).json
    down = fillbook("db", "downgrade", "0003", "--json", "--data-dir", books)
    assert down.code == 0, down.err
    assert (down.json["before"], down.json["after"]) == (SCHEMA_REVISION, "0003")
    assert Path(down.json["backup"]).is_file()
    assert Path(down.json["backup"]).parent == books / "backups"
    assert fillbook("db", "current", "--json", "--data-dir", books).json["revision"] == "0003"
    up = fillbook("db", "upgrade", "--data-dir", books)
    assert (up.code, up.out.strip()) == (
        0, f"the books were at revision 0003 and are now at {SCHEMA_REVISION}",
    )  # fmt: skip
    assert "backup, verified: " in up.err
    assert len(list((books / "backups").iterdir())) == 2
    assert fillbook("trades", "--json", "--data-dir", books).json == before
    again = fillbook("db", "upgrade", "--data-dir", books)
    assert again.out.strip() == f"the books are at revision {SCHEMA_REVISION} already"


def test_without_a_backup_only_when_it_is_said(books: Path) -> None:
    done = fillbook("db", "downgrade", "0003", "--no-backup", "--json", "--data-dir", books)
    assert done.json == {"before": SCHEMA_REVISION, "after": "0003", "backup": None}
    assert not (books / "backups").exists()


def test_a_folder_that_takes_no_backup_leaves_the_books_alone(books: Path) -> None:
    (books / "backups").write_text("not a folder")
    done = fillbook("db", "downgrade", "0003", "--data-dir", books)
    assert done.code == 3
    assert fillbook("db", "current", "--json", "--data-dir", books).json["revision"] == SCHEMA_REVISION


def test_facts_are_never_dropped_and_the_refusal_names_the_backup(books: Path) -> None:
    done = fillbook("db", "downgrade", "base", "--data-dir", books)
    assert done.code == 1
    assert "the ledger holds" in done.err
    assert str(next((books / "backups").iterdir())) in done.err


def test_books_that_fail_a_check_are_not_changed(books: Path) -> None:
    with closing(sqlite3.connect(books / "fillbook.db", isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER trades_refuse_update")
        connection.execute("UPDATE trades SET price = '1' WHERE sequence = 2")
    done = fillbook("db", "downgrade", "0003", "--data-dir", books)
    assert done.code == 1
    assert "nothing was changed" in done.err
    assert fillbook("db", "current", "--json", "--data-dir", books).json["revision"] == SCHEMA_REVISION


def test_books_that_somebody_works_on_are_not_changed(books: Path) -> None:
    locks = RoleLocks(books / "fillbook.db", ("execution",))
    locks.acquire()
    try:
        done = fillbook("db", "downgrade", "0003", "--data-dir", books)
    finally:
        locks.release()
    assert done.code == 3
    assert "the role execution of these books is held by" in done.err


@pytest.mark.parametrize("revision", ["0099", "head", "5"])
def test_an_unknown_revision_is_a_usage_error(books: Path, revision: str) -> None:
    done = fillbook("db", "downgrade", revision, "--data-dir", books)
    assert done.code == 2
    assert "base, 0001" in done.err


def test_other_commands_say_how_older_books_are_upgraded(books: Path) -> None:
    fillbook("db", "downgrade", "0003", "--data-dir", books)
    for command in ("portfolio", "bankroll"):
        done = fillbook(command, "--data-dir", books)
        assert done.code == 3
        assert "`fillbook db upgrade`" in done.err


def test_there_is_nothing_to_change_without_books(tmp_path: Path) -> None:
    for arguments in (["upgrade"], ["downgrade", "0001"]):
        assert fillbook("db", *arguments, "--data-dir", tmp_path).code == 3
    found = fillbook("db", "current", "--json", "--data-dir", tmp_path).json
    assert (found["revision"], found["newest"]) == (None, SCHEMA_REVISION)


def test_the_bankroll_is_that_of_the_view(books: Path) -> None:
    (said,) = fillbook("bankroll", "--json", "--data-dir", books).json["items"]
    with closing(sqlite3.connect(books / "fillbook.db")) as connection:
        trades = connection.execute("SELECT count(*) FROM trades WHERE side = 'SELL'").fetchone()[0]
    assert said["total_trades"] == trades > 0
    assert said["balance"] == fillbook("portfolio", "--json", "--data-dir", books).json["cash"]
    assert "ROI" in fillbook("bankroll", "--data-dir", books).out


def test_a_starting_daemon_upgrades_older_books_behind_a_backup(books: Path) -> None:
    fillbook("db", "downgrade", "0003", "--no-backup", "--data-dir", books)
    with process("run", "--data-dir", books, "--set", f"broker.port={free_port()}") as running:
        assert running.stderr is not None
        line = next(line for line in running.stderr if "schema upgraded" in line)
        next(line for line in running.stderr if '"started"' in line)
        interrupt(running)
    (backup,) = (books / "backups").iterdir()
    assert str(backup) in line
    assert fillbook("db", "current", "--json", "--data-dir", books).json["revision"] == SCHEMA_REVISION
