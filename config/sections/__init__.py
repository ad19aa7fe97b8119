"""The tables of fillbook.toml: each setting with its default, bounds, and what it means, in the unit it names."""
