"""Which model a bot file is checked against."""

from signals.bot_file import BotFile
from signals.custom_file import CustomFile, is_target, registered
from signals.sma_cross_file import SmaCrossFile
from signals.weighted_file import WeightedFile

CLASSES: dict[str, type[BotFile]] = {"weighted": WeightedFile, "sma-cross": SmaCrossFile}
"""The value of `class` -> the model of the file. Without `class` a bot is weighted."""
DEFAULT_CLASS = "weighted"


def model_of(kind: object) -> type[BotFile] | None:
    """The model for a value of `class`; None when there is no such class. Built-in names come first."""
    if not isinstance(kind, str):
        return None
    known = CLASSES.get(kind)
    if known is None and (is_target(kind) or kind in registered()):
        return CustomFile
    return known


def known_classes() -> str:
    """What `class` may be, in words."""
    names = dict.fromkeys([*sorted(CLASSES), *sorted(registered())])
    return f'one of {", ".join(names)}, or a class of your own as "module:Class"'
