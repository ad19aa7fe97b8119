"""The portfolio: what the facts in the ledger mean. Lots, positions, cash, P&L; all of it recomputable."""
