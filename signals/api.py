"""All that a bot of one's own needs; this module stays as it is. The guide is docs/writing-a-bot.md."""

from execution.model import Candle, Side
from signals.bot import Bar, BaseBot, Floats, PositionView, Verdict
from signals.model import Part

__all__ = ["Bar", "BaseBot", "Candle", "Floats", "Part", "PositionView", "Side", "Verdict"]
