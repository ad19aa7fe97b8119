"""The daemon as a process: a stop is heard at any time."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Connection

from config.loading import load_settings
from execution.errors import StorageUnavailable
from portfolio.verify import CheckResult
from runtime import schema
from runtime.app import Daemon
from runtime.database import ThreadReader, open_database, reader_engine, sqlite_url
from runtime.operations import Operations
from tests.integration.brokers import PATIENCE, free_port
from tests.runtime import full_books, revisions

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"


async def test_a_stop_ends_a_start_that_reads_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()

    def endless(connection: Connection) -> None:
        began.set()
        connection.exec_driver_sql(ENDLESS).fetchall()

    async def start(operations: Operations) -> None:
        await operations._ports.reader.read(endless)

    monkeypatch.setattr(Operations, "start", start)
    overrides = [f"data_dir={tmp_path}", f"broker.port={free_port()}"]
    settings = load_settings(config_file=None, overrides=overrides, environ={}, cwd=tmp_path).settings
    daemon = Daemon(settings, [])
    life = asyncio.create_task(daemon.run())
    assert await asyncio.to_thread(began.wait, PATIENCE)
    daemon.stop()
    async with asyncio.timeout(PATIENCE):
        await life
    assert not list(tmp_path.glob("daemon*")), "it never said that it runs"


async def test_a_stop_ends_an_upgrade_of_long_books_and_leaves_them_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = threading.Event()

    def endless(connection: Connection) -> list[CheckResult]:
        began.set()
        connection.exec_driver_sql(ENDLESS).fetchall()
        return []

    await asyncio.to_thread(full_books.make, tmp_path / "full.db")  # it runs a loop of its own
    full_books.make_at("0006", tmp_path / "fillbook.db", tmp_path / "full.db")
    before = revisions.objects(tmp_path / "fillbook.db")
    monkeypatch.setattr(schema, "proofs", SimpleNamespace(verify=endless))
    overrides = [f"data_dir={tmp_path}", f"broker.port={free_port()}"]
    settings = load_settings(config_file=None, overrides=overrides, environ={}, cwd=tmp_path).settings
    daemon = Daemon(settings, [])
    life = asyncio.create_task(daemon.run())
    assert await asyncio.to_thread(began.wait, PATIENCE)
    daemon.stop()
    async with asyncio.timeout(PATIENCE):
        await life
    assert revisions.objects(tmp_path / "fillbook.db") == before


async def test_an_abandoned_read_ends_at_once(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "books.db")
    open_database(url).dispose()
    reader = ThreadReader(reader_engine(url))
    began = threading.Event()

    def endless(connection: Connection) -> None:
        began.set()
        connection.exec_driver_sql(ENDLESS).fetchall()

    reading = asyncio.ensure_future(reader.read(endless))
    assert await asyncio.to_thread(began.wait, PATIENCE)
    async with asyncio.timeout(PATIENCE):
        await reader.abandon()
    with pytest.raises(StorageUnavailable, match="interrupted"):
        await reading
    reader.stop()
