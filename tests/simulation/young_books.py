"""The books that every world begins with."""

import random
import tempfile
from decimal import Decimal
from functools import cache
from pathlib import Path

from sqlalchemy import Connection

from execution import candles, raw
from execution.ledger import NewCashFlow
from execution.model import Account, AccountKind, CashFlowKind
from runtime.composition import OPENING
from runtime.database import ensure_account, open_database, seed_catalogue, sqlite_url
from tests.simulation.daemon import true_time
from tests.simulation.exchange import SimExchange
from tests.simulation.people import history
from tests.simulation.setting import HISTORY, SYMBOLS
from tests.simulation.storage import Young
from tests.simulation.venue_invariants import LIVE


@cache
def young_books(live: bool) -> Young:
    """A migrated database with candles that warm the bots, made once; `live`: and with an account at the venue."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "young.db"
        _make_young_books(path, live)
        return Young(path.read_bytes())


def _make_young_books(path: Path, live: bool) -> None:
    engine = open_database(sqlite_url(path), synchronous="OFF")
    with engine.connect() as connection, connection.begin():
        for symbol in SYMBOLS:
            candles.store(connection, history(symbol, random.Random(f"history {symbol}"), HISTORY))
        if live:
            _open_live_account(connection)
        _drop_views(connection)
    engine.dispose()


def _drop_views(connection: Connection) -> None:
    """They are for people; no daemon reads them, and every connection would spend most of its opening on them."""
    for (name,) in raw.execute(connection, "SELECT name FROM sqlite_master WHERE type = 'view'").fetchall():
        raw.execute(connection, f'DROP VIEW "{name}"')


def _open_live_account(connection: Connection) -> None:
    seed_catalogue(connection)
    now = true_time(0)
    deposit = NewCashFlow(
        account=LIVE,
        kind=CashFlowKind.DEPOSIT,
        amount=Decimal(20_000),
        currency="USD",
        effective_at=now,
        triggered_by="manual",
        idempotency_key=OPENING,
        note=None,
    )
    ensure_account(connection, Account(LIVE, kind=AccountKind.LIVE, venue=SimExchange.name), deposit, now)
