"""Bots advise, policies ask: closed candles in, recommendations and order requests out. No trades, no P&L."""
