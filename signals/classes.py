"""From a checked bot file to a bot."""

from signals.bot import Bot
from signals.bot_file import BotFile
from signals.custom_file import CustomFile
from signals.errors import SignalsError
from signals.isolation.client import IsolatedBot
from signals.isolation.limits import BotLimits
from signals.sma_cross import SmaCross
from signals.sma_cross_file import SmaCrossFile
from signals.weighted_build import build_weighted
from signals.weighted_file import WeightedFile


def build_bot(file: BotFile, limits: BotLimits | None = None) -> Bot:
    """A fresh, cold bot as its file describes it; a user-written class gets a process of its own.

    Raises SignalsError when nothing can be made of a user-written class.
    """
    if isinstance(file, CustomFile):
        return IsolatedBot(file.name, file.target, file.params, file.folder, limits or BotLimits())
    if isinstance(file, WeightedFile):
        return build_weighted(file)
    if isinstance(file, SmaCrossFile):
        return SmaCross(file.fast, file.slow)
    raise SignalsError(f"no bot class for {file.kind!r}")
