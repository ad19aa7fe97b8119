"""Where candles come from: files, and an invented market that says that it is one."""
