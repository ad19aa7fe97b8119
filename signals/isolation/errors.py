"""What can go wrong with a bot in a process of its own. Each ends only that bot."""

from collections.abc import Mapping

from signals.errors import SignalsError


class BotHung(SignalsError):
    """The bot took longer than it may; its process was killed."""


class BotDied(SignalsError):
    """The bot's process ended by itself, or by a signal."""


class BotRaised(SignalsError):
    """The bot's code raised. The cause carries the traceback of its process."""


class BadReply(SignalsError):
    """The bot gave something that is no verdict or no state."""


class BotFloods(SignalsError):
    """The bot asks for more orders than it may."""


class BotUnusable(SignalsError):
    """No bot can be made of what the file names. `stage` says what failed.

    `module`: it is not there or cannot be imported; `class`: there is no such class, or it is no bot;
    `params`: the constructor does not take them (`params` maps each guilty one to what was expected).
    The text reads on from "expected".
    """

    def __init__(self, stage: str, expected: str, params: Mapping[str, str] | None = None) -> None:
        super().__init__(f"expected {expected}")
        self.stage = stage
        self.expected = expected
        self.params = dict(params or {})


class WorkerTraceback(Exception):
    """The traceback of another process, as text, so that the log shows it as the cause."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"
