"""The base class of this package's errors."""


class ConfigError(Exception):
    """Something in settings, bot files or the instrument catalogue is not as it must be."""
