"""Requests in, immutable facts out. Knows nothing of bots, portfolios, buses or processes."""
