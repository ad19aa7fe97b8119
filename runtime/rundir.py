"""How a command finds the running daemon: a small file in the data folder, believed only while its lock is held."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from config.settings import Settings
from config.times import NotATime, parse_time, time_text
from runtime.files import write_whole
from runtime.locks import is_locked, lock_path

FILE = "daemon.json"
_LEADER = "execution"
"""The role that answers requests: its process is the one that commands talk to."""


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """What a running daemon says of itself once it is ready. Holds no secrets."""

    pid: int
    started_at: datetime
    roles: tuple[str, ...]
    broker_host: str
    broker_port: int
    base_topic: str
    database_url: str
    feed: str
    limits: Mapping[str, str] = field(default_factory=dict)
    """The limits of risk that it runs with, see `runtime.limits.configured`."""
    bots: tuple[str, ...] = ()
    """The files and folders that its bots are from."""

    @property
    def database(self) -> Path:
        """The file of the books."""
        return Path(self.database_url.removeprefix("sqlite:///"))

    def to_wire(self) -> dict[str, Any]:
        """The JSON form."""
        lists = {"roles": list(self.roles), "bots": list(self.bots)}
        return {**asdict(self), "started_at": time_text(self.started_at), **lists}


def daemon_file(data_dir: Path, roles: Sequence[str]) -> Path:
    """Where a process with these roles leaves its note: those without execution have a file of their own."""
    return data_dir / (FILE if _LEADER in roles else f"daemon-{'-'.join(sorted(roles))}.json")


def write_daemon_file(data_dir: Path, info: DaemonInfo) -> None:
    """Say that a daemon is ready; whole or not at all."""
    write_whole(daemon_file(data_dir, info.roles), json.dumps(info.to_wire(), indent=2) + "\n")


def remove_daemon_file(data_dir: Path, roles: Sequence[str] = (_LEADER,)) -> None:
    """The daemon is going."""
    with contextlib.suppress(FileNotFoundError):
        daemon_file(data_dir, roles).unlink()


def read_daemon_file(data_dir: Path) -> DaemonInfo | None:
    """What the file says, true or not; None when there is none or it cannot be understood."""
    try:
        found = json.loads((data_dir / FILE).read_text(encoding="utf-8"))
        return DaemonInfo(
            pid=int(found["pid"]),
            started_at=parse_time(found["started_at"]),
            roles=tuple(found["roles"]),
            broker_host=str(found["broker_host"]),
            broker_port=int(found["broker_port"]),
            base_topic=str(found["base_topic"]),
            database_url=str(found["database_url"]),
            feed=str(found["feed"]),
            limits={str(name): str(value) for name, value in dict(found.get("limits", {})).items()},
            bots=tuple(str(path) for path in found.get("bots", ())),
        )
    except (OSError, ValueError, KeyError, TypeError, NotATime):
        return None


def running_daemon(settings: Settings) -> DaemonInfo | None:
    """The daemon that runs on these books, wherever its broker listens; None when there is none.

    The file alone proves nothing (its writer may have been killed): the lock of the execution role does.
    """
    info = read_daemon_file(settings.data_dir)
    if info is None:
        return None
    if settings.database_url is not None and settings.database_file != info.database:
        return None  # it runs on other books
    return info if is_locked(lock_path(info.database, _LEADER)) else None
