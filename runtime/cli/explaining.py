"""`explain TRADE`: from a P&L down to the fills, the orders and the recommendations behind them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.allocations.scope import MethodOption, fresh, method_of
from runtime.cli.base import USAGE, CommandFailed, Place
from runtime.cli.books import AccountFilter

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from execution.model import Order, Trade
    from portfolio.allocations import StoredAllocation
    from portfolio.explain import Explanation

_BRANCH, _LAST, _BAR, _GAP = "├─ ", "└─ ", "│  ", "   "


def explain(
    place: Place,
    trade: Annotated[
        str, typer.Argument(metavar="TRADE", help="Its id, the beginning of it, or its id at the venue.")
    ],
    method: MethodOption = "fifo",
    account: AccountFilter = None,
) -> None:
    """Where a trade's P&L comes from: lots, fills, orders, and the signals behind them."""
    from portfolio.errors import UnknownTrade
    from portfolio.explain import explain as explained
    from portfolio.explain import find_trade
    from runtime.cli.output import show, show_json

    chosen = method_of(method)
    fresh(place)

    def query(connection: "Connection") -> "Explanation":
        try:
            return explained(connection, find_trade(connection, trade, account=account), chosen)
        except UnknownTrade as error:
            raise CommandFailed(f"expected {error}", USAGE) from None

    found = place.read(query)
    if place.json:
        show_json(wire(found))
    else:
        for line in tree(found):
            show(line)


# ---- JSON ---------------------------------------------------------------------------------------------------


def wire(found: "Explanation") -> dict[str, Any]:
    """Everything, with the totals that the parts add up to."""
    from config.exact import plain
    from runtime.wire import order_wire, trade_wire

    def number(value: Any) -> str | None:
        return None if value is None else plain(value)

    def piece(row: "StoredAllocation") -> dict[str, Any]:
        other = found.other(row)
        order = None if other is None else found.order_of(other)
        return {
            **row.to_wire(),
            "trade": None if other is None else trade_wire(other),
            "order": None if order is None else order_wire(order),
        }

    order = found.order_of(found.trade)
    return {
        "trade": trade_wire(found.trade),
        "order": None if order is None else order_wire(order),
        "method": str(found.method),
        "version": found.version,
        "realized_pnl": number(found.realized_pnl),
        "totals": {
            "quantity": number(found.total("quantity")),
            "proceeds": number(found.total("proceeds")),
            "fees": number(found.total("sell_fee")),
            "net_proceeds": number(found.total("net_proceeds")),
            "cost_basis": number(found.total("cost_basis")),
            "pnl": number(found.realized_pnl),
            "known_pnl": number(found.known_pnl),
        },
        "closes": [piece(row) for row in found.closes],
        "closed_by": [piece(row) for row in found.closed_by],
        "taken_back_by": None if found.taken_back_by is None else trade_wire(found.taken_back_by),
        "takes_back": None if found.takes_back is None else trade_wire(found.takes_back),
    }


# ---- the tree -----------------------------------------------------------------------------------------------

_Node = tuple[str, list[Any]]
"""A line and what hangs below it."""


def tree(found: "Explanation") -> list[str]:
    """The explanation in words, a line for each thing."""
    trade = found.trade
    children: list[_Node] = [("fill " + fill_words(trade), []), *_order_nodes(found, trade)]
    children += [_correction(found)] if found.taken_back_by or found.takes_back else []
    if found.closes:
        rows = [_closing_node(found, number, row) for number, row in enumerate(found.closes, 1)]
        children.append((_matched_words(found), rows))
        children.append((_sum_words(found), []))
    if found.closed_by:
        rows = [_opened_node(found, number, row) for number, row in enumerate(found.closed_by, 1)]
        children.append((_closed_by_words(found), rows))
    if not found.closes and not found.closed_by and not found.taken_back_by and not found.takes_back:
        children.append(("nothing of it has been closed yet: it is an open lot", []))
    return list(_drawn((_headline(found), children)))


def _drawn(node: _Node) -> list[str]:
    text, children = node
    lines = [text]
    for index, child in enumerate(children):
        last = index == len(children) - 1
        first, *rest = _drawn(child)
        lines.append((_LAST if last else _BRANCH) + first)
        lines += [(_GAP if last else _BAR) + line for line in rest]
    return lines


def _headline(found: "Explanation") -> str:
    from runtime.cli.output import number, signed

    trade = found.trade
    head = f"{trade.side} {number(trade.quantity)} {trade.symbol} in {trade.account}"
    if found.taken_back_by is not None:
        return f"{head}: taken back, it has no effect"
    if found.takes_back is not None:
        return f"{head}: takes back an earlier trade, both have no effect"
    if not found.closes:
        return f"{head}: closed nothing, so it realized no P&L"
    if found.realized_pnl is None:
        return f"{head}: realized P&L unknown{_known_words(found)}"
    return f"{head}: realized {signed(found.realized_pnl)}"


def _known_words(found: "Explanation") -> str:
    from runtime.cli.output import signed

    if all(row.pnl is None for row in found.closes):
        return ""
    return f" ({signed(found.known_pnl)} of the known part)"


def fill_words(trade: "Trade") -> str:
    """A fill: id, when, how much, at what price and fee."""
    from runtime.cli.output import moment, money, number, price

    at_venue = "" if trade.venue_trade_id is None else f" ({trade.venue} {trade.venue_trade_id})"
    fee = f", fee {money(trade.fee)} {trade.fee_asset}" if trade.fee else ""
    return (
        f"{trade.id}{at_venue}, ledger sequence {trade.sequence}: {number(trade.quantity)} at {price(trade.price)},"
        f" {moment(trade.executed_at)}{fee}"
    )


def _order_nodes(found: "Explanation", trade: "Trade") -> list[_Node]:
    """Why there is a trade: its order and what was behind that; at least who triggered it."""
    order = found.order_of(trade)
    context = trade.signal_context or (None if order is None else order.signal_context)
    if order is None:
        where = "" if trade.order_id is None else f", order {trade.order_id} of its source"
        return [(f"{trade.source} by {trade.triggered_by}, no order of ours{where}", _context_nodes(context))]
    return [(order_words(order), _context_nodes(context))]


def order_words(order: "Order") -> str:
    """An order: id, request, status, who, why."""
    from runtime.cli.output import moment, money, number, price

    size = (
        f"{number(order.quantity)} units"
        if order.quantity is not None
        else "the whole position"
        if order.close
        else "of unknown size"
        if order.notional is None
        else f"for {money(order.notional)}"
    )
    limit = "" if order.limit_price is None else f", limit {price(order.limit_price)}"
    note = "" if order.note is None else f", note: {order.note}"
    return (
        f"order {order.id}: {order.side} {size}{limit}, {str(order.status).replace('_', ' ')},"
        f" by {order.triggered_by}, {moment(order.created_at)}, request {order.request_id}{note}"
    )


def _context_nodes(context: Mapping[str, Any] | None) -> list[_Node]:
    """The recommendation, signal by signal; what a bot of one's own noted, as it is."""
    from execution.corrections import KEY

    if not context:
        return []
    if isinstance(said := context.get(KEY), Mapping):
        replaces = f", in place of {said['replaces']}" if said.get("replaces") else ""
        rest = {key: value for key, value in context.items() if key != KEY}
        words = f"corrected by {said.get('by')}{replaces}, reason: {said.get('reason')}"
        return [(words, []), *_context_nodes(rest)]
    known = {"bot", "timeframe", "candle", "score", "temperature", "signals"}
    if not known & context.keys():
        return [(f"context: {_values(context)}", [])]
    score = context.get("score")
    parts: list[str] = []
    if score is not None:
        parts.append(f"score {_score(score)}")
    if context.get("temperature"):
        parts.append(f"temperature {context['temperature']}")
    if context.get("candle"):
        parts.append(f"{context.get('timeframe') or ''} candle of {_time(str(context['candle']))}".strip())
    head = f"recommendation of bot {context.get('bot') or '?'}: {', '.join(parts) or 'no score'}"
    signals: list[_Node] = [(_signal_words(part), []) for part in context.get("signals") or ()]
    if context.get("values"):
        signals.append((f"values: {_values(context['values'])}", []))
    rest = {key: value for key, value in context.items() if key not in known | {"values"}}
    if rest:
        signals.append((f"also: {_values(rest)}", []))
    return [(head, signals)]


def _signal_words(part: Mapping[str, Any]) -> str:
    value, score, weight = part.get("value"), part.get("score"), part.get("weight")
    said = str(part.get("name"))
    if value is not None:
        said += f" = {_plain(value)}"
    said += ": no vote" if score is None else f": score {_score(score)}"
    return said + ("" if weight is None else f", weight {_plain(weight)}")


def _score(value: Any) -> str:
    return f"{value:+.3g}" if isinstance(value, int | float) else str(value)


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_plain(value)}" for key, value in values.items())


def _time(text: str) -> str:
    from config.times import NotATime, parse_time
    from runtime.cli.output import moment

    try:
        return moment(parse_time(text))
    except NotATime:
        return text


# ---- allocations --------------------------------------------------------------------------------------------


def _matched_words(found: "Explanation") -> str:
    count = len(found.closes)
    return f"matched by {found.method} (version {found.version}) with {count} lot{'s' if count != 1 else ''}"


def _closing_node(found: "Explanation", number: int, row: "StoredAllocation") -> _Node:
    """One lot that the trade closed."""
    other = found.other(row)
    if other is None:
        return (f"{number}. {_unmatched_words(row)}", [])
    return (f"{number}. {_piece_words(row)}", [("fill " + fill_words(other), []), *_order_nodes(found, other)])


def _opened_node(found: "Explanation", number: int, row: "StoredAllocation") -> _Node:
    """One trade that closed a part of what this one opened."""
    other = found.other(row)
    assert other is not None
    return (f"{number}. {_piece_words(row)}", [("fill " + fill_words(other), []), *_order_nodes(found, other)])


def _piece_words(row: "StoredAllocation") -> str:
    from runtime.cli.output import number, price, signed

    fee = "" if not row.sell_fee else f" - fee {_exact(row.sell_fee)}"
    bought = "" if row.buy_price is None else f", bought at {price(row.buy_price)}"
    buy_fee = "" if not row.buy_fee else f" with fee {_exact(row.buy_fee)}"
    cost = f"cost {_exact(row.cost_basis)}{buy_fee}"
    said = f"{number(row.quantity)}{bought}: proceeds {_exact(row.proceeds)}{fee} - {cost}"
    if row.pnl is None:
        return f"{said}, without a fee whose value is unknown: so is the P&L"
    return f"{said} = {signed(row.pnl)}"


def _unmatched_words(row: "StoredAllocation") -> str:
    from runtime.cli.output import number

    return (
        f"{number(row.quantity)} without a known buy: proceeds {_exact(row.proceeds)}, cost and P&L unknown"
        " (`fillbook review list`)"
    )


def _sum_words(found: "Explanation") -> str:
    """The totals that the pieces add up to."""
    from runtime.cli.output import signed

    fees = found.total("sell_fee")
    fee = "" if not fees else f" - fees {_exact(fees)}"
    cost = found.total("cost_basis")
    if cost is None:
        return f"together: proceeds {_exact(found.total('proceeds'))}{fee}; cost and P&L are not complete"
    if found.realized_pnl is None:
        return f"together: proceeds {_exact(found.total('proceeds'))}{fee} - cost {_exact(cost)}; P&L unknown"
    return (
        f"together: proceeds {_exact(found.total('proceeds'))}{fee} - cost {_exact(cost)} ="
        f" {signed(found.realized_pnl)} ({_exact(found.realized_pnl)} exactly)"
    )


def _closed_by_words(found: "Explanation") -> str:
    from runtime.cli.output import number

    count = len(found.closed_by)
    return (
        f"{number(found.closed_quantity)} of {number(found.trade.quantity)} was closed since, by {count}"
        f" trade{'s' if count != 1 else ''}"
    )


def _exact(value: Any) -> str:
    """Every digit, so that the parts visibly add up."""
    from runtime.cli.output import number

    return number(value, least=2, most=36)


def _correction(found: "Explanation") -> _Node:
    from execution.corrections import KEY

    by = found.taken_back_by
    if by is not None:
        said = (by.signal_context or {}).get(KEY)
        reason = said.get("reason") if isinstance(said, Mapping) else None
        why = f", reason: {reason}" if reason else ""
        return (f"taken back by {by.triggered_by}{why}", [("entry " + fill_words(by), [])])
    original = found.takes_back
    assert original is not None
    return ("takes back", [("fill " + fill_words(original), [])])
