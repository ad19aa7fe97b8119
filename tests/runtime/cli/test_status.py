"""`status`: what it says of live venues."""

import json
from datetime import UTC, datetime
from pathlib import Path

from execution.model import VenueChanged
from runtime import wire
from runtime.cli.status import _books, live_venues, venue_rows
from runtime.topics import Topics
from tests.execution.exchanges import LiveHouse, ScriptedExchange, open_live_account
from tests.execution.house import Books, at

TOPICS = Topics("fillbook")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def said(*changes: VenueChanged) -> dict[str, dict[str, object]]:
    """What the bus retains after these."""
    found = {TOPICS.venue(change.account): json.loads(wire.encode(wire.venue_wire(change))) for change in changes}
    return {TOPICS.price("BTC-USD"): {"price": "1"}, "elsewhere": {}, **found}


def test_status_names_every_account_whose_venue_does_not_answer_and_since_when() -> None:
    silent = VenueChanged("b-live", "sim", False, NOON, "no answer within 5 s")
    venues = live_venues(TOPICS, said(silent, VenueChanged("a-live", "sim", True, NOON)))
    assert [(line["account"], line["venue"], line["answers"]) for line in venues] == [
        ("a-live", "sim", True), ("b-live", "sim", False),
    ]  # fmt: skip
    (_, good), (title, bad) = venue_rows(venues)
    assert "sim for a-live: answers" in str(good)
    assert (title, str(bad)) == (
        "VENUE",
        "sim for b-live: no answer since 2026-01-01T12:00:00Z (no answer within 5 s); new orders are refused",
    )


def test_without_live_venues_status_says_nothing_of_them() -> None:
    assert live_venues(TOPICS, said()) == []
    assert venue_rows([]) == []


async def test_an_order_of_which_nobody_knows_what_became_of_it_is_shown_with_its_age(tmp_path: Path) -> None:
    books = Books(tmp_path)
    open_live_account(books)
    house = LiveHouse(books, ScriptedExchange())
    await house.open()
    lost = await house.buy_lost("1", limit="90")
    (order,) = books.ask(lambda connection: _books(connection, at(2)))["open_orders"]
    assert (order["id"], order["status"], order["age_seconds"]) == (lost.order_id, "unknown", 120)
    house.close()
    books.close()
