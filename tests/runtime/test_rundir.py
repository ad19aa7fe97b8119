"""The running daemon's file: believed only while its lock is held."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from config.loading import load_settings
from config.settings import Settings
from runtime.locks import FileLock, lock_path
from runtime.rundir import (
    DaemonInfo,
    daemon_file,
    read_daemon_file,
    remove_daemon_file,
    running_daemon,
    write_daemon_file,
)

ROLES = ("execution", "portfolio", "signals")


def settings_of(folder: Path, *sets: str) -> Settings:
    """Settings with this data folder."""
    overrides = [f"data_dir={folder}", *sets]
    return load_settings(config_file=None, overrides=overrides, environ={}, cwd=folder).settings


def info_of(folder: Path, roles: tuple[str, ...] = ROLES) -> DaemonInfo:
    """A daemon on the usual database with an unusual port."""
    started = datetime(2026, 1, 1, tzinfo=UTC)
    database = f"sqlite:///{folder / 'fillbook.db'}"
    return DaemonInfo(7, started, roles, "127.0.0.1", 18830, "fillbook", database, "a feed")


def test_the_file_reads_back_as_written(tmp_path: Path) -> None:
    write_daemon_file(tmp_path, info_of(tmp_path))
    assert read_daemon_file(tmp_path) == info_of(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["daemon.json"]


def test_the_file_is_believed_only_while_the_lock_is_held(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    write_daemon_file(tmp_path, info_of(tmp_path))
    assert running_daemon(settings) is None
    lock = FileLock(lock_path(tmp_path / "fillbook.db", "execution"))
    assert lock.acquire()
    assert running_daemon(settings) == info_of(tmp_path)
    lock.release()
    assert running_daemon(settings) is None


def test_a_daemon_on_other_books_is_not_the_one(tmp_path: Path) -> None:
    write_daemon_file(tmp_path, info_of(tmp_path))
    lock = FileLock(lock_path(tmp_path / "fillbook.db", "execution"))
    assert lock.acquire()
    assert running_daemon(settings_of(tmp_path, f"database_url=sqlite:///{tmp_path / 'other.db'}")) is None
    lock.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', "null"])
def test_a_file_that_makes_no_sense_is_no_daemon(tmp_path: Path, text: str) -> None:
    (tmp_path / "daemon.json").write_text(text, encoding="utf-8")
    assert running_daemon(settings_of(tmp_path)) is None


def test_a_process_without_execution_has_a_file_of_its_own(tmp_path: Path) -> None:
    write_daemon_file(tmp_path, info_of(tmp_path))
    write_daemon_file(tmp_path, info_of(tmp_path, ("portfolio",)))
    assert daemon_file(tmp_path, ("portfolio",)).exists()
    remove_daemon_file(tmp_path, ("portfolio",))
    assert read_daemon_file(tmp_path) == info_of(tmp_path)
    remove_daemon_file(tmp_path, ROLES)
    remove_daemon_file(tmp_path, ROLES)
    assert list(tmp_path.iterdir()) == []
