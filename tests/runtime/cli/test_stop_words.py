"""What `bots` says of protective stops."""

import pytest

from runtime.cli.stop_words import stops_text
from tests.signals.stage import SMA, bot

GUARDED = bot(SMA, stop_loss_pct="1.5", trailing_stop_pct=2, take_profit_pct=4)
LEVELS = {
    "average_cost": "59796.95431472",
    "stop_loss": "58900",
    "trailing_stop": "59780",
    "take_profit": None,
    "high_water_mark": "61000",
    "triggered": None,
}
NOWHERE = dict.fromkeys(LEVELS)


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        (LEVELS, "stop 58,900.00 (-1.5 %), trailing 59,780.00 from 61,000.00"),
        ({**NOWHERE, "average_cost": "100", "take_profit": "104"}, "target 104.00 (+4 %)"),
        ({**NOWHERE, "average_cost": "100", "stop_loss": "101.5"}, "stop 101.50 (+1.5 %)"),  # of a short position
        ({**LEVELS, "triggered": "trailing_stop"}, "trailing stop closes the position"),
        (NOWHERE, "stop 1.5 %, trailing 2 %, target 4 %"),
        (None, "stop 1.5 %, trailing 2 %, target 4 %"),
    ],
)
def test_stops_are_told_as_prices_and_without_a_position_as_distances(levels: dict[str, object], text: str) -> None:
    assert stops_text(levels, GUARDED) == text


def test_a_bot_without_stops_says_nothing_of_them() -> None:
    assert stops_text(None, bot(SMA)) == ""
    assert stops_text(None, None) == ""
