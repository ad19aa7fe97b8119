"""The promises towards a live venue: our books and its books tell the same."""

from collections import Counter
from collections.abc import Iterator
from operator import attrgetter

from sqlalchemy import Connection

from execution import leases, orders, raw
from execution.model import Order, OrderStatus, Trade
from execution.reconcile import NEVER_AT_VENUE
from tests.simulation.exchange import SimExchange
from tests.simulation.venue_book import Booked

LIVE = "live"
"""The account at the venue."""
EXTERNAL = "external"
"""What triggered the trades of strangers."""

_SAME = {
    OrderStatus.FILLED: {OrderStatus.FILLED},
    OrderStatus.CANCELLED: {OrderStatus.CANCELLED, OrderStatus.EXPIRED},
}
"""What ours may be called when the venue's has ended so."""
_SECONDS_TO_SAY_SO = 2.0
"""Between an answer of the venue and what comes of it in the books, while the storage works."""
_NEVER_THERE = {OrderStatus.REJECTED, OrderStatus.CANCELLED, OrderStatus.EXPIRED}
_content = attrgetter(
    "symbol", "venue_trade_id", "side", "quantity", "price", "fee", "fee_asset", "executed_at", "venue_sequence"
)
"""What a trade at the venue and the one in our books have in common."""


def unlike_venue(connection: Connection, venue: SimExchange) -> Iterator[str]:
    """What has not been told yet."""
    for booked in venue.orders:
        if booked.is_open:
            yield f"I5 the venue's order {booked.id} of {booked.client_order_id} is {booked.status}"
    (count,) = raw.execute(connection, "SELECT count(*) FROM trades WHERE account = ?", (LIVE,)).fetchall()[0]
    if count < len(venue.happened):
        yield f"I3 {count} of the venue's {len(venue.happened)} trades are in the books"


def at_venue(venue: SimExchange, placed: list[Order], trades: list[Trade]) -> Iterator[str]:
    """Everything, at rest."""
    own = [order for order in placed if order.account == LIVE and order.triggered_by != EXTERNAL]
    booked = [trade for trade in trades if trade.account == LIVE]
    yield from _one_to_one(venue, booked)
    yield from _owners(venue, own, booked)
    yield from _ends(venue, own)


def untold_strangers(venue: SimExchange, told: set[str]) -> Iterator[str]:
    """I5: whoever reads the alerts knows of every order that was filled and that nobody here placed."""
    filled = {booked.id for booked in venue.orders if booked.stranger and booked.filled}
    if filled != told:
        yield f"I5 strangers' orders {sorted(filled)} were filled, alerts told of {sorted(told)}"


def _one_to_one(venue: SimExchange, booked: list[Trade]) -> Iterator[str]:
    """I3: the venue's trades, each once, to the last digit."""
    theirs = Counter(_content(one.trade) for one in venue.happened)
    ours = Counter(_content(trade) for trade in booked)
    missing, invented = list((theirs - ours).elements()), list((ours - theirs).elements())
    if missing or invented:
        count = len(venue.happened)
        yield f"I3 of {count} trades at the venue missing: {missing[:2]}, not the venue's: {invented[:2]}"


def _owners(venue: SimExchange, placed: list[Order], booked: list[Trade]) -> Iterator[str]:
    """I5: own trades are of their order, those of strangers are external, and only they."""
    by_client: dict[str | None, Order] = {order.client_order_id: order for order in placed}
    own = {order.id for order in placed}
    clients = {(one.trade.symbol, one.trade.venue_trade_id): one.trade.client_order_id for one in venue.happened}
    for trade in booked:
        client = clients.get((trade.symbol, trade.venue_trade_id or ""))
        order = by_client.get(client)
        told = f"I5 the trade {trade.symbol} {trade.venue_trade_id} of {client}"
        if order is None and (trade.order_id in own or trade.triggered_by != EXTERNAL):
            yield f"{told} was taken for {trade.triggered_by} {trade.order_id}"
        elif order is not None and (trade.order_id, trade.triggered_by) != (order.id, order.triggered_by):
            yield f"{told} is not of {order.request_id} but of {trade.triggered_by} {trade.order_id}"


def _ends(venue: SimExchange, placed: list[Order]) -> Iterator[str]:
    """I5: an order that is closed here is closed there, in the same way."""
    there = {booked.client_order_id: booked for booked in venue.orders if not booked.stranger}
    ours = {order.client_order_id for order in placed}
    for client in there.keys() - ours:
        yield f"I1 the venue has an order {client} that is not in the books"
    for order in placed:
        yield from _end(order, there.get(order.client_order_id))


def called_unknown(connection: Connection, booked: Booked, missing: float, times: tuple[float, float]) -> str | None:
    """I5: an order that the venue had shown, and then answered for `missing` seconds and longer that it does not
    have, is unknown to whoever was told so and still has the execution role. `times`: from when on that could be
    stored, and now."""
    first, now = times
    told = booked.missed.get(leases.holder(connection, "execution") or "", [])
    in_time = [asked for asked, known in told if asked > first and known < now - _SECONDS_TO_SAY_SO]
    if not in_time or in_time[-1] - in_time[0] < missing:
        return None
    order = orders.find_by_client_id(connection, booked.client_order_id or "")
    if order is None or order.status is not OrderStatus.PENDING:
        return None
    return f"I5 order {order.request_id} is {order.status}, though the venue had not shown it for {missing:g} s"


def _end(order: Order, booked: Booked | None) -> Iterator[str]:
    given_up = order.reason is not None and order.reason.code == NEVER_AT_VENUE
    if booked is not None and booked.was_forgotten and given_up:
        yield f"I5 order {order.request_id} was given up though the venue had shown it"
    if booked is None:
        if order.status not in _NEVER_THERE:
            yield f"I5 order {order.request_id} is {order.status}, the venue never had it"
    elif order.status not in _SAME.get(booked.status, set()):
        yield f"I5 order {order.request_id} is {order.status}, the venue's {booked.id} {booked.status}"
