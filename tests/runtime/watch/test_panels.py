"""What is read on the screen, as text: bars, ages, what a bot waits for, columns that go when there is no room."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from rich.text import Text

from runtime.watch import panels, rows
from runtime.watch.forms import Moment, mark_age, moment_of, score_bar
from runtime.watch.health import health_lines
from runtime.watch.layout import share
from runtime.watch.model import BooksSeen, DayStart, Watch
from runtime.watch.snapshot import snapshot, snapshot_lines
from runtime.watch.tables import Column, lay_out
from tests.runtime.watch.house import FEED, NOW, TOPICS, Told, advice, bot, halt, portfolio, position, trade

MOMENT = Moment(NOW, NOW)


@pytest.mark.parametrize(
    ("score", "bar"),
    [
        (None, "[    |    ]"),
        (0.0, "[----|----]"),
        (0.75, "[----|###-]"),
        (1.0, "[----|####]"),
        (-0.5, "[--##|----]"),
        (-1.0, "[####|----]"),
    ],
)
def test_a_score_bar_grows_from_its_middle(score: float | None, bar: str) -> None:
    assert score_bar(score).plain == bar


@pytest.mark.parametrize(
    ("score", "threshold", "bar"),
    [
        (0.0, 0.5, "[--:-|-:--]"),
        (0.25, 0.5, "[--:-|#:--]"),
        (0.5, 0.5, "[--:-|##--]"),  # covered: enough to act
        (-0.75, 0.5, "[-###|-:--]"),
        (None, 0.5, "[    |    ]"),
        (0.0, 0.01, "[---:|:---]"),
        (0.0, 1.0, "[:---|---:]"),
        (0.0, 7.0, "[----|----]"),  # never reached
    ],
)
def test_a_score_bar_marks_the_threshold(score: float | None, threshold: float, bar: str) -> None:
    assert score_bar(score, 4, threshold).plain == bar


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.34, 0.5, 0.62, 0.9])
@pytest.mark.parametrize("half", [4, 8])
def test_whatever_reaches_the_threshold_covers_its_mark(threshold: float, half: int) -> None:
    assert ":" not in score_bar(threshold, half, threshold).plain.partition("|")[2]


def test_a_mark_is_as_old_as_the_silence_of_its_market() -> None:
    old = NOW - timedelta(minutes=3)
    assert mark_age(old, NOW, NOW).plain == "3m"
    assert mark_age(None, old, NOW).plain == "3m"
    assert mark_age(None, None, NOW).plain == "-"
    assert mark_age(None, NOW.replace(year=2000), NOW).plain == "2000-03-02"  # a feed that plays the past


def test_times_of_a_feed_that_plays_another_year_are_times_of_day() -> None:
    told = Told()
    told(TOPICS.price("BTC-USD"), {"price": "1", "time": "2000-01-01T05:00:00Z"})
    moment = moment_of(told.watch, NOW)
    assert moment.text(moment.feed) == "05:00:00"
    assert moment.text(moment.feed - timedelta(days=1)) == "12-31 05:00"
    assert moment.text(NOW) == "12:00:00"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (bot(), ""),
        (bot(last_recommendation=None), "waits for a candle"),
        (bot(status="STOPPED"), "stopped since 11:59:00"),
        (bot(status="ERROR", last_error="ValueError: no"), "ValueError: no"),
        (bot(last_recommendation=advice(ready_to_trade=True)), "order sent"),
        (bot(last_recommendation=advice(confirmed_since=FEED)), "confirmed 11:59:00"),
        (
            bot(last_recommendation=advice(waiting_for="confirmation", confirmation_due="2026-03-02T12:04:00Z")),
            "confirms until 12:04:00",
        ),
        (
            bot(last_recommendation=advice(waiting_for="cooldown", cooldown_until="2026-03-02T12:01:30Z")),
            "cooldown, 2m 30s left",
        ),
        (bot(last_recommendation=advice(waiting_for="cash")), "no cash"),
        (bot(last_recommendation=advice(waiting_for="a_word_of_later")), "a word of later"),
    ],
)
def test_a_bot_says_what_it_waits_for(state: dict[str, Any], said: str) -> None:
    assert panels.at_work(rows.bot_row(state), MOMENT).plain == said


def test_a_bot_shows_where_its_stops_stand_and_which_one_closes() -> None:
    levels = {"stop_loss": "58000", "trailing_stop": None, "take_profit": "65000.5", "triggered": None}
    assert panels.at_work(rows.bot_row(bot(stops=levels)), MOMENT).plain == "stop 58,000.00 target 65,000.50"
    closing = {**levels, "triggered": "stop_loss"}
    assert panels.at_work(rows.bot_row(bot(stops=closing)), MOMENT).plain == "stop loss closes the position"


def furnished() -> Watch:
    """A state with one of everything."""
    told = Told()
    told.watch.connected(NOW)
    told(TOPICS.portfolio("main"), portfolio(position(), position("ETH-USD", quantity="2", market_value="6000.125")))
    told(TOPICS.bot_state("trend"), bot())
    told(TOPICS.trade("main"), trade(8))
    return told.watch


def test_points_stand_below_each_other_and_the_total_below_them() -> None:
    table = panels.positions_table(furnished(), ["main"], MOMENT, None)
    lines = [table.heading.plain, *(line.plain for line in table.lines)]
    assert "market value" not in lines[0]
    assert [line.split()[0] for line in lines] == ["POSITIONS", "BTC-USD", "ETH-USD"]
    assert {line.index(".", line.index("-USD") + 20) for line in lines[1:]} == {lines[1].index(".", 27)}
    assert table.total is not None
    assert table.total.plain.split() == ["total", "30,500.00", "+500.00", "+1.67", "%", "+12.50"]


def test_columns_go_when_there_is_no_room_and_no_line_is_wider_than_the_screen() -> None:
    watch = furnished()
    for width in range(30, 160):
        for table in (
            panels.positions_table(watch, ["main"], MOMENT, width),
            panels.bots_table(watch, ["main"], MOMENT, width),
            panels.trades_table(watch, ["main"], MOMENT, width),
        ):
            if width >= 60:
                assert table.width <= width
            assert "BTC-USD" in "".join(line.plain for line in table.lines) or width < 60


def test_a_long_cell_is_cut_where_it_may_be() -> None:
    table = lay_out([Column("a"), Column("b", grow=True)], [[Text("1"), Text("long " * 20)]], width=30)
    assert table.lines[0].cell_len == 30
    assert table.lines[0].plain.endswith("…")


def test_wide_letters_count_for_two_cells() -> None:
    table = lay_out([Column("a"), Column("b")], [[Text("漢字"), Text("x")], [Text("abcd"), Text("y")]], width=None)
    assert {line.cell_len for line in table.lines} == {7}


def test_with_one_account_its_name_is_in_the_title_with_several_in_the_rows() -> None:
    watch = furnished()
    assert "account" not in panels.positions_table(watch, ["main"], MOMENT, None).heading.plain
    assert "account" in panels.positions_table(watch, ["main", "other"], MOMENT, None).heading.plain
    assert "account main" in panels.title_line(watch, ["main"], MOMENT).plain
    assert "all 2 accounts" in panels.title_line(watch, ["main", "other"], MOMENT).plain


def test_accounts_of_different_currencies_have_no_common_total() -> None:
    told = Told()
    told(TOPICS.portfolio("main"), portfolio(position()))
    told(TOPICS.portfolio("euro"), portfolio(position(), account="euro", currency="EUR"))
    table = panels.positions_table(told.watch, ["main", "euro"], MOMENT, None)
    assert table.total is not None
    assert table.total.plain.split() == ["total", "-", "-", "-", "-"]


def test_the_day_begins_where_execution_keeps_it_else_with_the_screen() -> None:
    watch = furnished()
    (line,) = panels.money_lines(watch, ["main"], MOMENT)
    assert "since 12:00 0.00" in line.plain
    day = DayStart("main", NOW.date(), Decimal("-10"))
    watch.take_books(BooksSeen(8, 0, 0, (), (), (day,)))
    (line,) = panels.money_lines(watch, ["main"], MOMENT)
    assert "day +10.25" in line.plain  # equity 40,000.25 less 40,000 paid in, from -10 on


def test_what_does_not_fit_in_the_header_is_left_out_from_the_end() -> None:
    (line,) = panels.money_lines(furnished(), ["main"], MOMENT, 60)
    assert line.cell_len <= 60
    assert line.plain.startswith("equity 40,000.25 USD  P&L +512.50 (+1.28 %)")
    assert "fees" not in line.plain


def test_health_begins_with_what_is_wrong() -> None:
    told = Told()
    told.watch.connected(NOW)
    told(TOPICS.bot_state("trend"), bot(status="ERROR", last_error="ValueError: no"))
    told(TOPICS.halt("main"), halt())
    told(TOPICS.service_status("execution"), {"state": "offline", "time": None, "version": None})
    told(
        TOPICS.alert("main"), {"severity": "high", "code": "c", "message": "m " * 60, "account": "main", "time": FEED}
    )
    lines = [line.plain for line in health_lines(told.watch, MOMENT, 60)]
    assert lines[0].split(maxsplit=1) == ["HALTED", "main by manual:ann at 11:59:00: lunch"]
    assert lines[1].split(maxsplit=1) == ["ERROR", "trend: ValueError: no"]
    assert any("execution offline" in line for line in lines)
    assert sum("m m m" in line for line in lines) > 1  # in several lines, so that all of it can be read
    assert max(map(len, lines)) <= 60


def test_what_was_not_understood_is_said() -> None:
    told = Told()
    told("nothing/of/ours", b"")
    assert any("1 not understood" in line.plain for line in health_lines(told.watch, MOMENT))


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("room", [12, 16, 20, 42, 100])
def test_the_parts_share_exactly_the_room_that_there_is(room: int, wide: bool) -> None:
    for positions in (2, 5, 40, 400):
        for bots in (2, 7, 60):
            found = share(room, positions=positions, bots=bots, health=9, wide=wide)
            below = found.trades if wide else found.trades + found.health
            assert found.positions + found.bots + below == room
            assert min(found.positions, found.bots, found.trades, found.health) >= 2


def test_the_document_has_plain_decimals_and_times_in_z() -> None:
    document = snapshot(furnished(), NOW)
    assert document["time"] == "2026-03-02T12:00:00Z"
    (account,) = document["accounts"]
    assert account["portfolio"]["equity"] == "40000.25"
    assert account["portfolio"]["return"] == "0.0128125"
    assert document["positions"][0]["mark_time"] == FEED
    assert document["bots"][0]["advice"]["score"] == 0.75
    assert document["trades"][0]["price"] == "60000.5"
    assert document["ledger_sequence"] == 8


def test_the_text_has_all_parts_below_each_other() -> None:
    text = "\n".join(line.plain for line in snapshot_lines(furnished(), NOW, None))
    order = [text.index(title) for title in ("Fillbook", "equity", "POSITIONS", "total", "BOTS", "TRADES", "HEALTH")]
    assert order == sorted(order)
