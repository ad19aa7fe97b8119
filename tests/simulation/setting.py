"""What every world has: its symbols, bots and settings."""

import tempfile
from functools import cache
from pathlib import Path

from config.loading import load_settings
from config.settings import Settings
from config.toml_errors import TomlDocument
from signals.bot_file import BotFile
from signals.loading import check_bot
from tests.simulation.venue_invariants import LIVE

SYMBOLS = ["BTC-USD", "ETH-USD"]
HISTORY = 20
"""Candles of each symbol before the beginning."""
BOTS = ("crosser", "weigher", "guard")
LIVE_BOTS = ("crosser", "weigher")
SETTINGS = (
    "account.initial_deposit=20000",
    "portfolio.verify_minutes=0",
    "portfolio.recompute_minutes=0",
    "portfolio.publish_interval_ms=800",
    "portfolio.republish_seconds=5",
    "portfolio.checkpoint_facts=5",
    "execution.totals_facts=7",
    "execution.request_expiry_seconds=8",
    "paper.max_volume_share=0",
    # The grace covers a sending that began before its process was replaced: to send, to travel, to show itself.
    "live.send_seconds=1",
    "live.grace_seconds=4.5",
    "live.timeout_seconds=1.5",
    "live.missing_seconds=2.5",
    "live.poll_seconds=1.5",
    "live.deep_poll_seconds=6",
    "live.reconnect_max_seconds=2",
)
_BOT_FILES = """
name = "crosser"
class = "sma-cross"
symbol = "BTC-USD"
fast = 2
slow = 5
quantity = 0.8
timeframe = "1s"
---
name = "weigher"
symbol = "ETH-USD"
timeframe = "1s"
threshold = 0.05
confirmation_minutes = 0
cooldown_minutes = 0
backoff_minutes = 0
notional = 120
stop_loss_pct = 2
take_profit_pct = 3
signals = [{function = "WILLR", weight = 1, params = {timeperiod = 3}}]
---
name = "guard"
symbol = "BTC-USD"
timeframe = "1s"
threshold = 0.2
confirmation_minutes = 0
cooldown_minutes = 0.05
backoff_minutes = 0
notional = 90
trailing_stop_pct = 2
stop_loss_pct = 4
signals = [{function = "WILLR", weight = 1, params = {timeperiod = 2}}]
"""


def bot_texts() -> list[str]:
    """The files of the bots of every world."""
    return _BOT_FILES.split("---")


@cache
def bot_files(live: bool = False) -> tuple[BotFile, ...]:
    """The bots of every world; `live`: some of them trade at the venue."""
    found = []
    for text in bot_texts():
        if live and any(f'"{name}"' in text for name in LIVE_BOTS):
            text = f'account = "{LIVE}"\n{text}'
        bot, faults = check_bot(TomlDocument.parse(text, "bot.toml"), {})
        assert bot is not None, [str(fault) for fault in faults]
        found.append(bot)
    return tuple(found)


@cache
def settings() -> Settings:
    """The settings of every world."""
    return load_settings(config_file=None, overrides=SETTINGS, environ={}, cwd=Path(tempfile.gettempdir())).settings
