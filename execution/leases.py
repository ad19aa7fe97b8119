"""Role leases: one process per role, fenced by an epoch that every write of the role checks.

The lock itself (a file lock beside a SQLite database) belongs to the runtime; here is what the database
knows: whoever takes a role raises its epoch, and a process that still holds an older one can no longer
commit.
"""

from datetime import datetime

from sqlalchemy import Connection

from config.times import stored_time
from execution import raw
from execution.errors import LeaseLost


def take(connection: Connection, role: str, holder: str, now: datetime) -> int:
    """Take a role; returns the new epoch."""
    row = raw.execute(connection, "SELECT epoch FROM leases WHERE role = ?", (role,)).fetchone()
    epoch = 1 if row is None else int(row[0]) + 1
    raw.execute(
        connection,
        "INSERT INTO leases (role, epoch, holder, acquired_at) VALUES (?, ?, ?, ?) ON CONFLICT (role)"
        " DO UPDATE SET epoch = excluded.epoch, holder = excluded.holder, acquired_at = excluded.acquired_at",
        (role, epoch, holder, stored_time(now)),
    )
    return epoch


def holder(connection: Connection, role: str) -> str | None:
    """Who took a role last."""
    row = raw.execute(connection, "SELECT holder FROM leases WHERE role = ?", (role,)).fetchone()
    return None if row is None else str(row[0])


class Fence:
    """Takes part in every transaction of a role: a commit under a lost lease fails (`LeaseLost`)."""

    def __init__(self, epochs: dict[str, int]) -> None:
        self._epochs = epochs

    def check(self, connection: Connection) -> None:
        """Raise LeaseLost if any of the roles has a newer holder."""
        rows = raw.execute(connection, "SELECT role, epoch, holder FROM leases").fetchall()
        found = {role: (epoch, holder) for role, epoch, holder in rows}
        for role, epoch in self._epochs.items():
            row = found.get(role)
            if row is None or row[0] != epoch:
                newer = "gone" if row is None else f"epoch {row[0]}, held by {row[1]}"
                raise LeaseLost(f"lease lost: role {role}, epoch {epoch}; now {newer}")

    def begin(self) -> None:
        """Nothing to do before the transaction."""

    def before_commit(self, connection: Connection) -> None:
        """See `check`."""
        self.check(connection)

    def committed(self) -> None:
        """Nothing to remember."""

    def rolled_back(self) -> None:
        """Nothing to undo."""
