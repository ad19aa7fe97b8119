"""How far each follower of the ledger has come."""

from sqlalchemy import Connection

from execution import raw

ANNOUNCER = "announcer"
"""The follower that tells facts on the bus."""


def position(connection: Connection, name: str) -> int:
    """The last sequence that follower `name` has dealt with; 0 at first."""
    row = raw.execute(connection, "SELECT sequence FROM followers WHERE name = ?", (name,)).fetchone()
    return 0 if row is None else int(row[0])


def advance(connection: Connection, name: str, sequence: int) -> None:
    """Store how far the follower has come."""
    raw.execute(
        connection,
        "INSERT INTO followers (name, sequence) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET sequence = excluded.sequence",
        (name, sequence),
    )
