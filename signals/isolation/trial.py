"""Constructing a user's bot once, to find what is wrong with its class before anything starts."""

from collections.abc import Iterator

from signals.custom_file import CustomFile
from signals.errors import SignalsError
from signals.isolation.client import IsolatedBot
from signals.isolation.errors import BotUnusable
from signals.isolation.limits import BotLimits


def class_faults(file: CustomFile, limits: BotLimits) -> Iterator[tuple[tuple[str, ...], object, str]]:
    """(key, value in the file, what was expected) of each fault; none when the bot can be made.

    The user's code is imported in a process of its own, never in this one, and that process ends at once.
    """
    try:
        IsolatedBot(file.name, file.target, file.params, file.folder, limits).close()
    except BotUnusable as unusable:
        if unusable.params:
            for name, expected in unusable.params.items():
                yield ("params", name), file.params.get(name), expected
        elif unusable.stage == "params":
            yield ("params",), None, unusable.expected
        else:
            yield ("class",), file.kind, unusable.expected
    except SignalsError as error:
        yield ("class",), file.kind, f"a bot that can be made; {error}"
