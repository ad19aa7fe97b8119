"""Whoever reads the alerts knows from when on what had been computed is no longer right."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from sqlalchemy import Connection

from config.times import parse_time
from execution import raw
from portfolio.allocator import BACK_DATED


def untold_changes(connection: Connection, told: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """I5: a recomputation because of a late trade was told of, or a later one that began no later."""
    known = [(alert["account"], alert["symbol"], parse_time(alert["from"]), int(alert["version"])) for alert in told]
    sql = (
        "SELECT account, symbol, since, version FROM fifo_computation_log"
        " WHERE reason = ? AND mode = 'symbol' AND status = 'completed' ORDER BY id"
    )
    for account, symbol, since, version in raw.execute(connection, sql, (BACK_DATED,)).fetchall():
        began = datetime.fromisoformat(since)
        if not any(
            (owner, name) == (account, symbol) and told_from <= began and told_version >= version
            for owner, name, told_from, told_version in known
        ):
            yield f"I5 history of {account}/{symbol} changed from {since} (version {version}), and nobody was told"
