"""Which model a bot file is checked against."""

from signals.bot_file import BotFile
from signals.sma_cross_file import SmaCrossFile
from signals.weighted_file import WeightedFile

CLASSES: dict[str, type[BotFile]] = {"weighted": WeightedFile, "sma-cross": SmaCrossFile}
"""The value of `class` -> the model of the file. Without `class` a bot is weighted."""
