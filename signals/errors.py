"""The base class of this package's errors."""


class SignalsError(Exception):
    """Something in the bots, their files or their stored state is not as it must be."""


class UnknownBot(SignalsError, KeyError):
    """No bot of that name is configured."""


class BotNotTaken(SignalsError):
    """A bot of a valid file that cannot be built, or that fails on the stored candles."""


class UnknownCommand(SignalsError, ValueError):
    """A bot can be told to start, stop or evaluate, and nothing else."""
