"""The topic table: what is built can be parsed, and nothing dangerous gets into a topic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.settings import Settings
from runtime.connections import Connections
from runtime.core import ROLES
from runtime.topics import (
    ROUTES,
    Command,
    Direction,
    Match,
    NotATopicPart,
    Publisher,
    RouteName,
    Topics,
    is_account,
    is_request_id,
    topic_matches,
)

TOPICS = Topics()


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        (TOPICS.status(), Match(RouteName.STATUS)),
        (TOPICS.service_status("execution"), Match(RouteName.SERVICE_STATUS, service="execution")),
        (TOPICS.candle("BRK.B", "1m"), Match(RouteName.CANDLE, symbol="BRK.B", timeframe="1m")),
        (TOPICS.price("BTC-USD"), Match(RouteName.PRICE, symbol="BTC-USD")),
        (TOPICS.recommendation("sma-cross"), Match(RouteName.RECOMMENDATION, bot="sma-cross")),
        (TOPICS.bot_state("sma-cross"), Match(RouteName.BOT_STATE, bot="sma-cross")),
        (TOPICS.bot_set("sma-cross"), Match(RouteName.BOT_SET, bot="sma-cross")),
        (TOPICS.request("main", "trade"), Match(RouteName.REQUEST, account="main", command=Command.TRADE)),
        (TOPICS.bot_request("main", "x"), Match(RouteName.BOT_REQUEST, account="main", bot="x")),
        (TOPICS.response("main", "r:1.2"), Match(RouteName.RESPONSE, account="main", request_id="r:1.2")),
        (TOPICS.trade("main"), Match(RouteName.TRADE, account="main")),
        (TOPICS.cash_flow("main"), Match(RouteName.CASH_FLOW, account="main")),
        (TOPICS.position("main", "BTC-USD"), Match(RouteName.POSITION, account="main", symbol="BTC-USD")),
        (TOPICS.portfolio("main"), Match(RouteName.PORTFOLIO, account="main")),
        (TOPICS.halt("main"), Match(RouteName.HALT, account="main")),
        (TOPICS.alert("main"), Match(RouteName.ALERT, account="main")),
        (TOPICS.alert(), Match(RouteName.SYSTEM_ALERT)),
        (TOPICS.integrity("main"), Match(RouteName.INTEGRITY, account="main")),
    ],
)
def test_a_built_topic_parses_to_its_parts(topic: str, expected: Match) -> None:
    assert TOPICS.parse(topic) == expected
    assert topic_matches(TOPICS.filter(expected.route), topic)


def test_every_route_is_in_the_list_above_and_in_the_table() -> None:
    assert {route.name for route in ROUTES} == set(RouteName)
    assert TOPICS.table_rows()[0].topic == "fillbook/v1/status"
    assert "fillbook/v1/<account>/request/<command>" in [row.topic for row in TOPICS.table_rows()]


@pytest.mark.parametrize("part", ["", "a b", "+", "#", "a/b", "a\0", "a\n", "BTC/USD", "x" * 200, "Ünicode", "$SYS"])
def test_no_dangerous_text_becomes_a_topic(part: str) -> None:
    for build in (TOPICS.price, TOPICS.bot_state, TOPICS.trade, TOPICS.service_status):
        with pytest.raises(NotATopicPart):
            build(part)
    with pytest.raises(NotATopicPart):
        TOPICS.response("main", part)
    with pytest.raises(NotATopicPart):
        TOPICS.filter(RouteName.PRICE, symbol=part)


@given(st.text(max_size=60))
def test_any_text_can_be_parsed(text: str) -> None:
    assert TOPICS.parse(text) is None
    TOPICS.parse(f"fillbook/v1/{text}")


@pytest.mark.parametrize("name", ["market", "bot", "service", "status", "alert"])
def test_an_account_cannot_take_another_things_topics(name: str) -> None:
    assert not is_account(name)
    assert TOPICS.parse(f"fillbook/v1/{name}/trade") is None
    with pytest.raises(NotATopicPart):
        TOPICS.trade(name)


@pytest.mark.parametrize("topic", ["", "fillbook", "fillbook/v1", "fillbook/v2/status", "other/v1/status",
                                   "fillbook/v1/main/request/explode", "fillbook/v1/main/request/trade/bot",
                                   "fillbook/v1/main/request/trade/", "/fillbook/v1/status"])  # fmt: skip
def test_other_topics_are_none_of_ours(topic: str) -> None:
    assert TOPICS.parse(topic) is None


def test_only_what_others_may_say_is_unprotected() -> None:
    assert [route.name for route in ROUTES if route.publisher is Publisher.ANYONE] == [
        RouteName.CANDLE,
        RouteName.PRICE,
        RouteName.BOT_SET,
        RouteName.REQUEST,
    ]
    assert all(route.publisher is Publisher.DAEMON for route in ROUTES if route.direction is Direction.OUT)
    assert not any(route.retain for route in ROUTES if route.direction is Direction.IN)


def test_the_daemon_subscribes_to_what_comes_in() -> None:
    subscribed = set(Connections(Settings(), ROLES, TOPICS).subscriptions())
    assert subscribed == {TOPICS.filter(route.name) for route in ROUTES if route.direction is not Direction.OUT}
    assert subscribed == {
        "fillbook/v1/market/+/candle/+",
        "fillbook/v1/market/+/price",
        "fillbook/v1/bot/+/set",
        "fillbook/v1/+/request/+",
        "fillbook/v1/+/request/trade/bot/+",
    }


def test_the_base_is_a_setting() -> None:
    topics = Topics("home/books")
    assert topics.parse(topics.trade("main")) == Match(RouteName.TRADE, account="main")
    for base in ("", "a b", "a/#", "/a", "a/", "a.b"):
        with pytest.raises(NotATopicPart):
            Topics(base)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [("a/#", "a", True), ("a/#", "a/b/c", True), ("+/b", "a/b", True), ("+", "a/b", False), ("a/+", "a", False),
     ("#", "$SYS/x", False), ("a", "a", True), ("a/b", "a", False)],
)  # fmt: skip
def test_filters_match_as_mqtt_says(pattern: str, topic: str, expected: bool) -> None:
    assert topic_matches(pattern, topic) is expected


def test_request_ids_are_safe_in_a_topic() -> None:
    assert is_request_id("b7c1:2026-01-31T12.00@x")
    assert not any(is_request_id(text) for text in ("", "-a", "a/b", "a+", "a#", "a b", "a\n", "x" * 129, "é"))
