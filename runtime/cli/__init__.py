"""The command line: `fillbook COMMAND`."""
