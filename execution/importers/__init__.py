"""Importers: files of fills from elsewhere, parsed, checked and appended to the ledger."""
