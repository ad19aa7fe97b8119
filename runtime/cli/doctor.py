"""`doctor`: everything that a daemon needs, each with what to do when it is not so."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli.base import FAILED, CommandFailed, Place

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from config.settings import Settings

OK, WARNING, BAD = "ok", "warning", "failed"
_PACKAGES = {
    "aiomqtt": "aiomqtt",
    "alembic": "alembic",
    "pydantic": "pydantic",
    "pydantic_settings": "pydantic-settings",
    "rich": "rich",
    "sqlalchemy": "SQLAlchemy",
    "structlog": "structlog",
    "talib": "TA-Lib",
    "typer": "typer",
}
_LOW_DISK, _FULL_DISK = 2 * 1024**3, 200 * 1024**2
_REINSTALL = "remove .venv and start ./run again"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `advice` says what to do unless it is ok."""

    name: str
    status: str
    detail: str
    advice: str | None = None


def doctor(place: Place) -> None:
    """Look at everything that a daemon needs, and say what to do about what is missing."""
    from runtime.cli.output import show_json

    findings = list(examine(place))
    bad = sum(finding.status == BAD for finding in findings)
    if place.json:
        show_json({"ok": not bad, "checks": [asdict(finding) for finding in findings]})
    else:
        _show(findings)
    if bad:
        raise CommandFailed(f"{bad} of {len(findings)} checks failed", FAILED)


def _show(findings: list[Finding]) -> None:
    from rich.text import Text

    from runtime.cli.output import show

    marks = {OK: ("✓", "green"), WARNING: ("!", "yellow"), BAD: ("✗", "bold red")}
    for finding in findings:
        show(Text.assemble(marks[finding.status], (f" {finding.name:<14}", "bold"), finding.detail))
        if finding.advice is not None:
            show(f"  {'':<14}-> {finding.advice}")


def examine(place: Place) -> Iterator[Finding]:
    """Every check that can be made here; without valid settings, those that need none."""
    yield _python()
    yield _packages()
    configuration = _configuration(place)
    yield configuration
    if configuration.status == BAD and not _has_settings(place):
        return
    settings = place.settings
    checks: tuple[Callable[[Place, Settings], Finding], ...]
    checks = (_folder, _disk, _database, _clock, _locks, _server, _port)
    for check in checks:
        yield check(place, settings)


def _has_settings(place: Place) -> bool:
    from config.errors import ConfigError

    try:
        return bool(place.settings)
    except ConfigError:
        return False


def _python() -> Finding:
    # An older one could not even read these files; ./run looks for 3.11 before it starts anything.
    return Finding("python", OK, f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}")


def _packages() -> Finding:
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    missing = [name for module, name in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        return Finding("packages", BAD, f"missing: {', '.join(missing)}", _REINSTALL)
    shown = []
    for name in ("SQLAlchemy", "pydantic", "aiomqtt", "TA-Lib"):
        try:
            shown.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            shown.append(name)
    return Finding("packages", OK, ", ".join(shown))


def _configuration(place: Place) -> Finding:
    from runtime.cli.inputs import gather

    try:
        inputs = gather(place, None, ())
    except CommandFailed as failed:
        return Finding(
            "configuration", BAD, str(failed), "correct these; `fillbook config schema` lists all settings"
        )
    source = place.loaded.config_file or "defaults"
    return Finding("configuration", OK, f"{source}, {len(inputs.bots)} bots, {len(inputs.files)} candle files")


def _nearest(path: Path) -> Path:
    """The path itself or the first folder above it that exists."""
    return next((candidate for candidate in (path, *path.parents) if candidate.exists()), Path("/"))


def _folder(_place: Place, settings: "Settings") -> Finding:
    import os

    folder = settings.data_dir
    existing = _nearest(folder)
    if not existing.is_dir():
        return Finding("data folder", BAD, f"{existing} is no folder", "name another one with --data-dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding("data folder", BAD, f"{existing} cannot be written", "give this user the right, or --data-dir")
    return Finding("data folder", OK, f"{folder}" if folder.exists() else f"{folder} (made at the first start)")


def _disk(_place: Place, settings: "Settings") -> Finding:
    import shutil

    free = shutil.disk_usage(_nearest(settings.data_dir)).free
    detail = f"{free / 1024**3:.1f} GB free"
    if free < _FULL_DISK:
        return Finding("disk", BAD, detail, "make room: trading halts when the books cannot be written")
    if free < _LOW_DISK:
        return Finding("disk", WARNING, detail, "make room soon: the broker alone may take broker.max_store_bytes")
    return Finding("disk", OK, detail)


def _database(place: Place, _settings: "Settings") -> Finding:
    from execution.errors import ExecutionError

    if not place.has_books:
        return Finding("database", OK, f"{place.database} (made at the first start)")

    try:
        sequence, problem = place.read(_look_into)
    except (CommandFailed, ExecutionError) as error:
        return Finding("database", BAD, str(error), "restore a backup, or name other books with --data-dir")
    if problem != "ok":
        return Finding("database", BAD, f"{place.database}: {problem}", "the file is damaged: restore a backup")
    return Finding("database", OK, f"{place.database}, schema up to date, {sequence:,} facts")


def _look_into(connection: "Connection") -> tuple[int, str]:
    """The ledger's length, and what SQLite's own check says."""
    from execution import ledger, raw

    found = raw.execute(connection, "PRAGMA quick_check(1)").fetchone()
    return ledger.head(connection).sequence, str(found[0] if found else "no answer")


def _clock(place: Place, _settings: "Settings") -> Finding:
    """The wall clock must not be behind what was recorded by it."""
    from datetime import UTC, datetime, timedelta

    from config.times import time_text
    from execution.errors import ExecutionError
    from runtime.clock import WallClock

    now = WallClock().now()
    advice = "set this machine's clock (timedatectl set-ntp true)"
    if now < datetime(2025, 1, 1, tzinfo=UTC):
        return Finding("clock", BAD, f"says {time_text(now)}", advice)
    try:
        last = place.read(_last_recorded) if place.has_books else None
    except (CommandFailed, ExecutionError):
        last = None
    if last is not None and last > now + timedelta(seconds=5):
        return Finding("clock", BAD, f"says {time_text(now)}, the books were written at {time_text(last)}", advice)
    return Finding("clock", OK, time_text(now))


def _last_recorded(connection: "Connection") -> "datetime | None":
    from execution import ledger

    facts = ledger.facts_since(connection, ledger.head(connection).sequence - 1, 1)
    return facts[0].recorded_at if facts else None


def _locks(place: Place, _settings: "Settings") -> Finding:
    from runtime.core import ROLES
    from runtime.locks import FileLock, is_locked, lock_path

    paths = {role: lock_path(place.database, role) for role in ROLES}
    held = [f"{role} by {FileLock(path).holder()}" for role, path in paths.items() if is_locked(path)]
    if not held:
        return Finding("locks", OK, "free: no daemon is running on these books")
    if place.daemon is None:
        return Finding("locks", WARNING, f"held: {', '.join(held)}", "that process is starting, stopping or hanging")
    return Finding("locks", OK, f"held by the running daemon: {', '.join(held)}")


def _server(_place: Place, settings: "Settings") -> Finding:
    import subprocess

    from runtime.broker import BrokerError, find_server

    if not settings.broker.embedded:
        return Finding("broker", OK, f"external, {settings.broker.host}:{settings.broker.port}")
    try:
        server = find_server(settings.broker.command)
        asked = [*server, "--version"]  # of what the daemon starts
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 - no shell
    except (BrokerError, OSError, subprocess.SubprocessError) as error:
        return Finding("broker", BAD, str(error), f"{_REINSTALL}, or name a nats-server with broker.command")
    return Finding("broker", OK, f"{server[0]}, {said.stdout.strip()}")


def _port(place: Place, settings: "Settings") -> Finding:
    import socket

    info = place.daemon
    host, port = settings.broker.host, settings.broker.port
    if info is not None:
        return Finding("port", OK, f"{info.broker_host}:{info.broker_port} is the running daemon's")
    if not settings.broker.embedded:
        return _reach(host, port)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            advice = "choose another one: --set broker.port=NUMBER or FILLBOOK_BROKER__PORT=NUMBER"
            return Finding("port", BAD, f"{host}:{port}: {(error.strerror or 'taken').lower()}", advice)
    return Finding("port", OK, f"{host}:{port} is free")


def _reach(host: str, port: int) -> Finding:
    import socket

    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError as error:
        return Finding(
            "port", BAD, f"{host}:{port}: {error.strerror or error}", "start that broker, or correct broker.host"
        )
    return Finding("port", OK, f"the external broker at {host}:{port} answers")
