"""The accounts and the instruments that facts are of."""

from datetime import datetime

from sqlalchemy import Connection

from config.instruments import Instrument, InstrumentKind
from execution import raw, tables
from execution.errors import LedgerError
from execution.model import (
    Account,
    AccountKind,
    AccountMode,
)

_insert_account = raw.Insert(tables.accounts)
_select_accounts = raw.Select(tables.accounts)
_insert_instrument = raw.Insert(tables.instruments)
_select_instruments = raw.Select(tables.instruments)


def accounts(connection: Connection) -> dict[str, Account]:
    """All accounts by name."""
    return {
        row[0]: Account(row[0], AccountKind(row[1]), AccountMode(row[2]), row[3], row[4])
        for row in _select_accounts.rows(connection, "ORDER BY name")
    }


def account_created(connection: Connection, name: str) -> datetime:
    """When an account was added."""
    row = raw.execute(connection, "SELECT created_at FROM accounts WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise LedgerError(f"there is no account {name!r}")
    return datetime.fromisoformat(row[0])


def add_account(connection: Connection, account: Account, created_at: datetime) -> None:
    """Store an account. Raises LedgerError when the name is taken."""
    if account.name in accounts(connection):
        raise LedgerError(f"account {account.name!r} exists already")
    row = [account.name, account.kind, account.mode, account.currency, account.venue, created_at]
    _insert_account.rows(connection, [row])


def instruments(connection: Connection) -> dict[str, Instrument]:
    """The catalogue by symbol."""
    return {
        row[0]: Instrument(row[0], InstrumentKind(row[1]), *row[2:])
        for row in _select_instruments.rows(connection, "ORDER BY symbol")
    }


def add_instrument(connection: Connection, instrument: Instrument) -> None:
    """Store a catalogue entry. Raises LedgerError when the symbol is taken."""
    if raw.execute(connection, "SELECT 1 FROM instruments WHERE symbol = ?", (instrument.symbol,)).fetchone():
        raise LedgerError(f"instrument {instrument.symbol!r} exists already")
    row = [getattr(instrument, column.name) for column in tables.instruments.columns]
    _insert_instrument.rows(connection, [row])
