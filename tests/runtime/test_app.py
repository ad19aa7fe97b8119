"""The daemon as a process: a stop is heard at any time."""

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Connection

from config.loading import load_settings
from config.settings import Settings
from execution.errors import StorageUnavailable
from portfolio.verify import CheckResult
from runtime import schema
from runtime.app import Daemon
from runtime.bus import Bus
from runtime.core import ROLES
from runtime.database import ThreadReader, open_database, reader_engine, sqlite_url
from runtime.locks import RoleLocks
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


def settings_of(folder: Path, *more: str) -> Settings:
    """Settings of a daemon in a folder, with a free port."""
    overrides = [f"data_dir={folder}", f"broker.port={free_port()}", *more]
    return load_settings(config_file=None, overrides=overrides, environ={}, cwd=folder).settings


async def ends(life: "asyncio.Task[None]") -> None:
    """The daemon ends by itself, and nothing of it is left in the event loop."""
    async with asyncio.timeout(PATIENCE):
        await life
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left


async def test_a_stop_ends_a_start_that_waits_for_an_external_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, connect = asyncio.Event(), Operations.connect

    async def connecting(operations: Operations, bus: Bus) -> None:
        began.set()
        await connect(operations, bus)

    monkeypatch.setattr(Operations, "connect", connecting)
    daemon = Daemon(settings_of(tmp_path, "broker.embedded=false", "broker.start_timeout_seconds=300"), [])
    life = asyncio.create_task(daemon.run())
    async with asyncio.timeout(PATIENCE):
        await began.wait()
    daemon.stop()
    await ends(life)


async def test_a_stop_ends_a_start_whose_broker_does_not_become_ready_and_the_broker_with_it(tmp_path: Path) -> None:
    program, started = tmp_path / "program", tmp_path / "started"
    program.write_text(f"#!/bin/sh\necho $$ > {started}.new; mv {started}.new {started}; exec sleep 3600\n")
    program.chmod(0o700)
    daemon = Daemon(settings_of(tmp_path, f'broker.command=["{program}"]', "broker.start_timeout_seconds=300"), [])
    life = asyncio.create_task(daemon.run())
    async with asyncio.timeout(PATIENCE):
        while not started.exists():
            await asyncio.sleep(0.02)  # the script tells nobody else
    daemon.stop()
    await ends(life)
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


async def test_a_stop_ends_the_wait_for_another_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path, "execution.lease_wait_seconds=600")
    other, asked = RoleLocks(tmp_path / "fillbook.db", ROLES), asyncio.Event()
    other.acquire()
    acquire = RoleLocks.acquire

    def asking(locks: RoleLocks) -> None:
        asked.set()
        acquire(locks)

    monkeypatch.setattr(RoleLocks, "acquire", asking)
    daemon = Daemon(settings, [])
    life = asyncio.create_task(daemon.run())
    async with asyncio.timeout(PATIENCE):
        await asked.wait()
    daemon.stop()
    await ends(life)
    other.release()


@pytest.mark.parametrize("failing", [False, True])
async def test_whoever_cancels_a_daemon_that_starts_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: bool
) -> None:
    """Also one whose start fails just then."""
    began = asyncio.Event()

    async def start(_operations: Operations) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if failing:
                raise StorageUnavailable("disk I/O error") from None
            raise

    monkeypatch.setattr(Operations, "start", start)
    life = asyncio.create_task(Daemon(settings_of(tmp_path), []).run())
    async with asyncio.timeout(PATIENCE):
        await began.wait()
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ends(life)
    assert asyncio.all_tasks() == {asyncio.current_task()}
