"""`status` and `topics`: is it running, and how does one talk to it?"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer

from runtime.cli.base import Place, command
from runtime.cli.books import page

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from execution.model import Price
    from runtime.cli.output import Cell
    from runtime.topics import Topics

PANEL = "Look"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    from runtime.cli.doctor import doctor

    command(app, "status", json=True, panel=PANEL)(status)
    command(app, "topics", json=True, panel="Check")(topics)
    command(app, "doctor", json=True, panel="Check")(doctor)


def status(place: Place) -> None:
    """Daemon, broker, feed, halts, limits and their use, ledger, last candles, open orders, dead letters."""
    from runtime.cli.output import show_json
    from runtime.clock import WallClock
    from runtime.limits import books_time

    wall = WallClock().now()
    daemon, prices = _daemon(place)
    now = place.read(lambda c: books_time(c, wall, played=_is_played(place)))
    limits = place.read(lambda c: _limits(c, place, now, prices))
    books = place.read(lambda c: _books(c, now))
    found = {"daemon": daemon, "database": str(place.database), **books, "limits": limits}
    if place.json:
        show_json(found)
    else:
        _show(found)


def _daemon(place: Place) -> "tuple[dict[str, Any], list[Price]]":
    """The daemon as its file describes it, whether its broker answers, and the last prices on its bus."""
    import asyncio

    from runtime.bus import BusUnavailable
    from runtime.client import address_of, retained
    from runtime.topics import RouteName

    info = place.daemon
    address = address_of(place.settings, info)
    reachable, services = False, {}
    prices: list[Price] = []
    venues: list[dict[str, Any]] = []
    if address is not None:
        topics = address.topics
        routes = (RouteName.SERVICE_STATUS, RouteName.PRICE, RouteName.VENUE)
        filters = [topics.status(), *(topics.filter(route) for route in routes)]
        try:
            found = asyncio.run(retained(address, filters, timeout=3.0))
            reachable = True
            services = {
                topic.split("/")[-2]: body.get("state") for topic, body in found.items() if "/service/" in topic
            }
            prices = _prices(topics, found)
            venues = live_venues(topics, found)
        except BusUnavailable:
            pass
    shown = {
        "running": info is not None,
        **({} if info is None else info.to_wire()),
        "broker_reachable": reachable,
        "services": services,
        "venues": venues,
    }
    shown.pop("limits", None)  # they have a place of their own
    return shown, prices


def live_venues(topics: "Topics", found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether the live venues answer, as the daemon said last, by account."""
    from runtime.topics import RouteName

    told = {topics.parse(topic): body for topic, body in found.items()}
    return [
        {key: body.get(key) for key in ("account", "venue", "answers", "since", "reason")}
        for match, body in sorted(told.items(), key=lambda item: (item[0] and item[0].account) or "")
        if match is not None and match.route is RouteName.VENUE
    ]


def _prices(topics: "Topics", found: dict[str, dict[str, Any]]) -> "list[Price]":
    """The retained prices that can be understood."""
    from config.exact import parse_decimal
    from config.times import parse_time
    from execution.model import Price
    from runtime.topics import RouteName

    prices = []
    for topic, body in found.items():
        match = topics.parse(topic)
        if match is None or match.route is not RouteName.PRICE or match.symbol is None:
            continue
        with suppress(ValueError, KeyError, TypeError):  # anybody may publish prices
            prices.append(Price(match.symbol, parse_decimal(body["price"]), parse_time(body["time"])))
    return prices


def _is_played(place: Place) -> bool:
    """Whether candles come from a file or are invented, so that the books have their time."""
    from runtime.feeding import describe

    info, feed = place.daemon, place.settings.feed
    return bool(feed.candles or feed.synthetic) if info is None else info.feed != describe(None)


def _limits(connection: "Connection", place: Place, now: "datetime", prices: "list[Price]") -> dict[str, Any]:
    """The limits that the daemon runs with; without one, those of the settings."""
    from runtime.limits import configured, limits_wire

    info = place.daemon
    values = info.limits if info is not None and info.limits else configured(place.settings)
    return limits_wire(connection, values, now, prices)


def _books(connection: "Connection", now: "datetime") -> dict[str, Any]:
    from config.exact import plain
    from config.times import time_text
    from execution import candles, followers, ledger, orders, raw

    head = ledger.head(connection)
    latest = candles.latest(connection).values()
    buried = raw.execute(connection, "SELECT COUNT(*) FROM dead_letters").fetchone()
    return {
        "ledger": {
            "sequence": head.sequence,
            "hash": head.hash,
            "announced": followers.position(connection, followers.ANNOUNCER),
        },
        "halts": [
            {"account": name, "by": halt.by, "reason": halt.reason, "at": time_text(halt.at)}
            for name, halt in sorted(orders.halts(connection).items())
        ],
        "candles": [
            {
                "symbol": candle.symbol,
                "timeframe": candle.timeframe,
                "time": time_text(candle.time),
                "close": plain(candle.close),
            }
            for candle in sorted(latest)
        ],
        "open_orders": [
            {
                "id": order.id,
                "account": order.account,
                "symbol": order.symbol,
                "side": str(order.side),
                "status": str(order.status),
                "triggered_by": order.triggered_by,
                "created_at": time_text(order.created_at),
                "age_seconds": max(0, int((now - order.created_at).total_seconds())),
            }
            for order in orders.open_orders(connection)
        ],
        "dead_letters": 0 if buried is None else buried[0],
    }


def _show(found: dict[str, Any]) -> None:
    from runtime.cli.limits import show_limits
    from runtime.cli.output import pairs, show

    pairs([*_daemon_rows(found["daemon"]), *_book_rows(found)])
    show()
    show_limits(found["limits"])
    show()
    _show_candles(found["candles"])
    show()
    _show_open_orders(found["open_orders"])


def _daemon_rows(daemon: dict[str, Any]) -> "list[tuple[str, Cell]]":
    from rich.text import Text

    from config.times import parse_time
    from runtime.cli.output import moment

    if not daemon["running"]:
        return [("daemon", Text("not running", style="yellow"))]
    running = f"running, process {daemon['pid']}, since {moment(parse_time(daemon['started_at']))}"
    answers = "answers" if daemon["broker_reachable"] else "does not answer"
    return [
        ("daemon", Text(running, style="green")),
        ("broker", f"{daemon['broker_host']}:{daemon['broker_port']}, {answers}"),
        ("services", ", ".join(f"{name} {state}" for name, state in daemon["services"].items()) or "-"),
        ("feed", daemon["feed"]),
        *venue_rows(daemon["venues"]),
    ]


def venue_rows(venues: list[dict[str, Any]]) -> "list[tuple[str, Cell]]":
    """One row for each account at a live venue."""
    from rich.text import Text

    rows: list[tuple[str, Cell]] = []
    for line in venues:
        who = f"{line['venue']} for {line['account']}"
        if line["answers"]:
            rows.append(("venue", f"{who}: answers, since {line['since']}"))
        else:
            why = f"no answer since {line['since']} ({line['reason']}); new orders are refused"
            rows.append(("VENUE", Text(f"{who}: {why}", style="bold red")))
    return rows


def _book_rows(found: dict[str, Any]) -> "list[tuple[str, Cell]]":
    from rich.text import Text

    ledger = found["ledger"]
    waiting = ledger["sequence"] - ledger["announced"]
    announced = f"; {waiting:,} to be announced" if waiting else ""
    rows: list[tuple[str, Cell]] = [
        ("books", found["database"]),
        ("ledger", f"{ledger['sequence']:,} facts, head {ledger['hash'][:16]}{announced}"),
    ]
    for halt in found["halts"]:
        why = f": {halt['reason']}" if halt["reason"] else ""
        rows.append(("HALTED", Text(f"{halt['account']} by {halt['by']} at {halt['at']}{why}", style="bold red")))
    return [*rows, ("dead letters", f"{found['dead_letters']:,}")]


def _show_candles(candles: list[dict[str, Any]]) -> None:
    from config.times import parse_time
    from runtime.cli.output import moment, price, show_table, to_decimal

    show_table(
        ["symbol", "timeframe", "last candle", ">close"],
        [
            [item["symbol"], item["timeframe"], moment(parse_time(item["time"])), price(to_decimal(item["close"]))]
            for item in candles
        ],
        empty="no candles yet",
    )


def _show_open_orders(orders: list[dict[str, Any]]) -> None:
    from runtime.cli.output import age, show_table

    show_table(
        ["open order", "status", "age", "side", "symbol", "account", "by"],
        [
            [
                item["id"],
                item["status"].replace("_", " "),
                age(item["age_seconds"]),
                item["side"],
                item["symbol"],
                item["account"],
                item["triggered_by"],
            ]
            for item in orders
        ],
        empty="no open orders",
    )


def topics(place: Place) -> None:
    """Every topic of the bus: who publishes it, whether it is retained, what it carries."""
    from dataclasses import asdict

    from runtime.cli.output import show_json, show_table
    from runtime.topics import Topics

    rows = Topics(place.settings.base_topic).table_rows()
    if place.json:
        show_json(page(map(asdict, rows)))
        return
    show_table(
        ["topic", "direction", "QoS", "retained", "published by", "message", "payload"],
        [
            [r.topic, r.direction, str(r.qos), "yes" if r.retain else "no", r.publisher, r.message, r.payload]
            for r in rows
        ],
        empty="",
    )
