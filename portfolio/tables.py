"""The portfolio's own tables: caches only. Every row can be deleted; the ledger brings it back."""

from sqlalchemy import Column, Integer, MetaData, Table, Text

from execution import tables as execution_tables

metadata = MetaData(naming_convention=execution_tables.metadata.naming_convention)

portfolio_checkpoints = Table(
    "portfolio_checkpoints",
    metadata,
    # ("", ""): the head row; (account, ""): its cash; (account, symbol): its lots.
    Column("account", Text, primary_key=True),
    Column("symbol", Text, primary_key=True),
    Column("sequence", Integer, nullable=False),
    Column("engine_version", Integer, nullable=False),
    Column("content", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""The books at the ledger sequence of the head row, one row for each scope, as JSON text with its SHA-256.

A scope's row keeps the sequence at which it last changed; only changed scopes are written again. The head
row's content covers the digests of all others, so that a lost or foreign row is noticed.
"""
