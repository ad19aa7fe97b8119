"""One process per role: a file lock beside the database, held until the process is gone."""

import fcntl
import json
import os
import socket
from pathlib import Path

from runtime.errors import RoleTaken


class FileLock:
    """An exclusive lock on a file that says who holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if nobody has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder_text().encode(), 0)
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lock up."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> str:
        """Who holds the lock, for a message."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return f"process {found['pid']} on {found['host']}"
        except (OSError, ValueError, KeyError):
            return "another process"


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock now."""
    if not path.exists():
        return False
    lock = FileLock(path)
    if lock.acquire():
        lock.release()
        return False
    return True


def holder_text() -> str:
    """This process, as the lock file and the lease name it."""
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname()})


def lock_path(database: Path, role: str) -> Path:
    """Where the lock of a role lies: beside the database, whatever its name."""
    return database.with_name(f"{database.name}.{role}.lock")


class RoleLocks:
    """The locks of several roles, taken together or not at all."""

    def __init__(self, database: Path, roles: tuple[str, ...]) -> None:
        self._locks = {role: FileLock(lock_path(database, role)) for role in roles}

    def acquire(self) -> None:
        """Raises RoleTaken, naming the role and its holder."""
        for role, lock in self._locks.items():
            if not lock.acquire():
                self.release()
                raise RoleTaken(
                    f"the role {role} of these books is held by {lock.holder()}; stop that one first"
                    " (two would send every order twice)"
                )

    def release(self) -> None:
        """Give all of them up."""
        for lock in self._locks.values():
            lock.release()
