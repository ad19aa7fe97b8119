"""`status`: what it says of live venues."""

import json
from datetime import UTC, datetime

from execution.model import VenueChanged
from runtime import wire
from runtime.cli.status import live_venues, venue_rows
from runtime.topics import Topics

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
