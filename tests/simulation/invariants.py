"""The promises, checked against the database, the bus and the person's memory."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection

from config.exact import plain
from config.times import stored_time
from execution import alerts, followers, leases, ledger, orders, raw
from execution.doubts import was_shown
from execution.errors import LedgerError
from execution.model import Fact, Order, OrderStatus, Trade
from execution.service import STORAGE
from portfolio.position import Portfolio
from portfolio.recompute import open_books
from portfolio.reviews import reviews, unmatched_alert
from portfolio.service import read_portfolios
from portfolio.verify import verify
from runtime import wire
from runtime.topics import Command, RouteName, Topics
from tests.simulation.history_invariants import untold_changes
from tests.simulation.mark_invariants import wrongly_valued
from tests.simulation.venue_invariants import at_venue, unlike_venue, untold_strangers

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")

PAPER = "main"
TICK = timedelta(seconds=4)
"""Within which a daemon that works sees that an order's time is over."""
_UNMARKED = ("symbol", "quantity", "cost_basis", "average_cost", "realized_pnl", "fees", "lot_count", "open_lots")
"""What a retained position says that no price changes."""


# ---- while it runs -------------------------------------------------------------------------------------


def wrongly_sent(connection: Connection, order: Order, sender: str | None) -> str | None:
    """I1: an order that is sent was committed before, and its account is not halted. I2: no live venue has shown it.

    Whoever lost the execution role may not know of that.
    """
    stored = orders.find(connection, order.id)
    if stored is None:
        return f"I1 order {order.id} ({order.request_id}) was sent before it was stored"
    if leases.holder(connection, "execution") == sender and order.account != PAPER and was_shown(stored):
        return f"I2 order {order.id} ({order.request_id}) was sent again after the venue had shown it"
    halt = raw.execute(connection, "SELECT halted FROM halts WHERE account = ?", (order.account,)).fetchone()
    if halt is not None and halt[0] and leases.holder(connection, "execution") == sender:
        return f"I1 order {order.id} ({order.request_id}) was sent after trading of {order.account} was halted"
    return None


def asked_twice(connection: Connection, bot: str | None) -> str | None:
    """I2: a bot that asks for an order has no other request open, be it of its advice or of its stops."""
    sql = "SELECT request_id FROM signal_outbox WHERE bot = ? AND status = 'open' ORDER BY request_id"
    open_ = [row[0] for row in raw.execute(connection, sql, (bot,)).fetchall()]
    return f"I2 {bot} asked while it had a request open: {open_}" if len(open_) > 1 else None


def announced_sequence(topics: Topics, topic: str, payload: bytes) -> int | None:
    """The ledger sequence that a message announces; None when it is none of these."""
    match = topics.parse(topic)
    if match is None or match.route not in (RouteName.TRADE, RouteName.CASH_FLOW):
        return None
    return int(json.loads(payload)["sequence"])


# ---- at rest -------------------------------------------------------------------------------------------


def resting_requests(connection: Connection) -> list[str]:
    """Requests whose orders are open."""
    return [order.request_id for order in orders.open_orders(connection)]


def unrest(world: "World") -> str | None:
    """What is not finished yet; None when everything is at rest and everybody knows the same."""
    unanswered = world.person.unanswered
    if unanswered:
        return f"I5 without a final answer: {unanswered[:5]}"
    try:
        return world.read(lambda connection: next(_unfinished(connection, world), None))
    except LedgerError:
        return "L1 nobody has set up the books yet"


def _lost_deposits(connection: Connection, world: "World") -> Iterator[str]:
    """What the broker has confirmed arrives, unless a crash of the broker lost it or the storage refused it (whose
    amount the answer does not tell, so that only their number can be compared)."""
    if world.faults.broker_crash:
        return
    booked = {flow.amount for flow in ledger.cash_flows(connection)}
    nameless = world.person.nameless
    lost = [amount for amount, deposit in nameless.items() if deposit.confirmed and amount not in booked]
    if len(lost) > world.person.refused_nameless:
        yield f"I5 deposits that nobody can repeat were lost: {lost}, {world.person.refused_nameless} were refused"


def _unfinished(connection: Connection, world: "World") -> Iterator[str]:
    for order in orders.open_orders(connection):
        yield f"I5 order {order.request_id} is {order.status}"
    open_ = raw.execute(connection, "SELECT request_id FROM signal_outbox WHERE status = 'open'").fetchall()
    if open_:
        yield f"I5 requests of bots without an answer: {open_[:3]}"
    head = ledger.head(connection).sequence
    missing = [number for number in range(1, head + 1) if number not in world.announced]
    if missing:
        yield f"I9 facts that were never announced: {missing[:5]} of {head}"
    if followers.position(connection, followers.ANNOUNCER) != head:
        yield "I9 the announcer is not at the ledger's head"
    kept = alerts.waiting(connection, 3)
    if kept:
        yield f"I5 alerts that the broker was not given: {kept}"
    yield from _lost_deposits(connection, world)
    if world.venue is not None:
        yield from unlike_venue(connection, world.venue)
    yield from _retained(connection, world)


def _retained(connection: Connection, world: "World") -> Iterator[str]:
    """I7: what the broker keeps is what the database says. First what costs little to look at."""
    head = ledger.head(connection).sequence
    for account in world.accounts:
        sequence = _message(world.broker.retained.get(world.topics.portfolio(account))).get("sequence")
        if sequence != head:
            yield f"I7 the retained portfolio's sequence is {sequence}, the database says {head}"
    yield from _retained_switches(connection, world)
    portfolios = read_portfolios(connection)
    for account in world.accounts:
        yield from _retained_books(portfolios[account], world)
        yield from wrongly_valued(connection, portfolios[account], world)


def _retained_books(portfolio: Portfolio, world: "World") -> Iterator[str]:
    """Of one account."""
    account, kept = portfolio.account, world.broker.retained
    said = _message(kept.get(world.topics.portfolio(account)))
    for key, value in (("cash", plain(portfolio.cash)), ("sequence", portfolio.sequence)):
        if said.get(key) != value:
            yield f"I7 the retained portfolio's {key} is {said.get(key)}, the database says {value}"
    for position in portfolio.positions:
        wanted = position.to_wire()
        said = _message(kept.get(world.topics.position(account, position.symbol)))
        wrong = [key for key in _UNMARKED if said.get(key) != wanted[key]]
        if wrong:
            key = wrong[0]
            yield f"I7 the retained {position.symbol}'s {key} is {said.get(key)}, the database says {wanted[key]}"
    if not _message(kept.get(world.topics.integrity(account))).get("ok"):
        yield f"I6 the books are called unsound: {kept.get(world.topics.integrity(account))!r}"


def _retained_switches(connection: Connection, world: "World") -> Iterator[str]:
    """Halts and bots."""
    kept = world.broker.retained
    stored = {change.account: change for change in orders.halt_changes(connection)}
    for account in world.accounts:
        halt = _message(kept.get(world.topics.halt(account)))
        change = stored.get(account)
        if change is not None and halt != wire.halt_wire(change):
            yield f"I7 the retained halt is {halt}, the database says {wire.halt_wire(change)}"
        if change is None and halt and halt["by"] != STORAGE:
            yield f"I7 a halt is retained that is not stored: {halt}"
        if change is not None and change.halted:
            yield f"trading of {account} is halted"
    for bot, status in raw.execute(connection, "SELECT bot, status FROM bot_states").fetchall():
        said = _message(kept.get(world.topics.bot_state(bot))).get("status")
        if said != status:
            yield f"I7 the retained state of {bot} is {said}, the database says {status}"


def _message(payload: bytes | None) -> dict[str, Any]:
    found: dict[str, Any] = {} if payload is None else json.loads(payload)
    return found


# ---- at the end ----------------------------------------------------------------------------------------


def check(world: "World") -> list[str]:
    """Everything that must hold of a world at rest."""
    return world.read(lambda connection: list(_problems(connection, world)))


def _problems(connection: Connection, world: "World") -> Iterator[str]:
    placed, trades = orders.orders(connection), ledger.trades(connection)
    world.stats["orders"] = len(placed)
    world.stats["fills"] = len(trades)
    yield from _one_order_a_request(placed, trades)
    yield from _answers(connection, world, placed, trades)
    yield from _prices_and_times(world, placed, trades)
    yield from _expiries(connection, world)
    yield from _lost_candles(connection, world)
    yield from _deposits_without_id(connection, world)
    yield from _cash(connection, trades)
    yield from _sequences(connection, world)
    if world.venue is not None:
        yield from at_venue(world.venue, placed, trades)
        yield from untold_strangers(world.venue, world.strangers_told)
    untold = [review.id for review in reviews(connection) if unmatched_alert(review).id not in world.alerts_told]
    if untold:
        yield f"I5 sells without a lot that no alert told of: {untold}"
    yield from untold_changes(connection, world.history_told)
    for result in verify(connection):
        if not result.ok:
            yield f"I6 verify {result.name}: {result.problems[:2]}"
    letters = orders.dead_letters(connection, 1000)
    for letter in letters:
        if letter.reason.code in ("internal_error", "forged_request"):
            yield f"I5 a message failed inside: {letter.reason} {letter.payload[:200]!r}"
    for failure in world.loop.failures:
        if failure.get("exception") is not None:
            yield f"L1 nobody looked at {failure['exception']!r}: {failure}"


def _one_order_a_request(placed: list[Order], trades: list[Trade]) -> Iterator[str]:
    """I1 and I2 in the books."""
    known = {order.id: order for order in placed}
    for (account, request), count in Counter((order.account, order.request_id) for order in placed).items():
        if count > 1:
            yield f"I2 {account}/{request} became {count} orders"
    filled: Counter[str] = Counter()
    for trade in trades:
        order = known.get(trade.order_id or "")
        if order is None:
            yield f"I1 trade {trade.id} has no order"
            continue
        filled[order.id] += 1
        if (trade.side, trade.symbol, trade.triggered_by) != (order.side, order.symbol, order.triggered_by):
            yield f"I2 trade {trade.id} is not of its order {order.request_id}"
    for order in placed:
        total = sum((trade.quantity for trade in trades if trade.order_id == order.id), Decimal(0))
        if order.quantity is not None and total > order.quantity:
            yield f"I2 order {order.request_id} of {order.quantity} was filled with {total}"
        if order.status is OrderStatus.FILLED and not total:
            yield f"I2 order {order.request_id} is filled without a fill"


def _prices_and_times(world: "World", placed: list[Order], trades: list[Trade]) -> Iterator[str]:
    """I3 for the paper exchange: its fees to the last digit, and nothing filled after its time."""
    costs = world.settings.paper
    known = {order.id: order for order in placed}
    for trade in (trade for trade in trades if trade.account == PAPER):
        shares = (costs.taker_fee_bps, costs.maker_fee_bps)
        # Written out here and not taken from the exchange: basis points, half to even, 8 places.
        fees = [
            (trade.price * trade.quantity * bps / 10_000).quantize(Decimal("1e-8"), ROUND_HALF_EVEN) for bps in shares
        ]
        if trade.fee not in fees:
            yield f"I3 trade {trade.id} cost a fee of {trade.fee}, not one of {fees}"
        order = known.get(trade.order_id or "")
        if order is None or order.expires_at is None or order.decided_at is not None or world.faults.skew:
            continue
        if trade.executed_at >= order.expires_at:
            yield f"I5 order {order.request_id} was filled at {trade.executed_at}, it expired at {order.expires_at}"


def _expiries(connection: Connection, world: "World") -> Iterator[str]:
    """I5: an order whose time is over is called expired before anybody can cancel it, unless its process sleeps."""
    if world.faults.skew or world.faults.pause:
        return
    sql = (
        "SELECT request_id, expires_at, updated_at FROM orders WHERE account = ? AND status = 'cancelled'"
        " AND reason IS NULL AND decided_at IS NULL AND expires_at IS NOT NULL"
    )
    for request_id, expires_at, updated_at in raw.execute(connection, sql, (PAPER,)).fetchall():
        if datetime.fromisoformat(updated_at) > datetime.fromisoformat(expires_at) + TICK:
            yield f"I5 order {request_id} was cancelled at {updated_at}, it expired at {expires_at}"


def _answers(connection: Connection, world: "World", placed: list[Order], trades: list[Trade]) -> Iterator[str]:
    """What the person was told is what is in the books."""
    by_request = {order.request_id: order for order in placed}
    flows = {flow.idempotency_key: flow for flow in ledger.cash_flows(connection)}
    for wanted in world.person.wanted.values():
        answer = wanted.answer
        if answer is None:
            continue
        order = by_request.get(wanted.request_id)
        if wanted.command is Command.TRADE:
            mine = [trade.id for trade in trades if order is not None and trade.order_id == order.id]
            if (order is None) is not (answer["status"] == "refused"):
                yield f"I2 {wanted.request_id} was answered {answer['status']}, its order is {order}"
            elif [told["id"] for told in answer["trades"]] != mine:
                yield f"I2 {wanted.request_id} was told of other trades than {mine}: {answer['trades']}"
            elif order is not None and answer["status"] != order.status:
                yield f"I5 {wanted.request_id} was answered {answer['status']}, its order is {order.status}"
        elif wanted.command in (Command.DEPOSIT, Command.WITHDRAW):
            booked = wanted.request_id in flows
            if booked is not (answer["status"] == "done"):
                yield f"I2 {wanted.request_id} was answered {answer['status']}, booked: {booked}"


def _lost_candles(connection: Connection, world: "World") -> Iterator[str]:
    """I9: a candle that the broker has confirmed is stored before any later one, unless the broker crashed or a
    wrong clock took it for one of the future."""
    if world.faults.broker_crash or world.faults.skew:
        return
    stored: dict[str, set[str]] = {}
    for symbol, time in raw.execute(connection, "SELECT symbol, time FROM candles", ()).fetchall():
        stored.setdefault(symbol, set()).add(time)
    for symbol, opened in world.market.confirmed:
        time = stored_time(opened)
        if time not in stored[symbol] and time < max(stored[symbol]):
            yield f"I9 the candle of {symbol} of {time} was lost"


def _deposits_without_id(connection: Connection, world: "World") -> Iterator[str]:
    """I2: what the broker delivered once is one deposit, however often it was delivered again.

    A broker that crashed does not know what it had sent before, so that it looks new to everybody.
    """
    if world.faults.broker_crash:
        return
    booked = Counter(flow.amount for flow in ledger.cash_flows(connection))
    for amount, nameless in world.person.nameless.items():
        if booked[amount] > world.broker.copies[nameless.payload]:
            yield f"I2 the deposit of {amount} was booked {booked[amount]} times"


def _cash(connection: Connection, trades: list[Trade]) -> Iterator[str]:
    """I4: cash is the sum of the facts."""
    facts: list[Fact] = [*trades, *ledger.cash_flows(connection)]
    books = open_books(connection).books
    for account in books.accounts:
        cash = books.cash[account].cash if account in books.cash else Decimal(0)
        total = sum((fact.cash_effect for fact in facts if fact.account == account), Decimal(0))
        if cash != total:
            yield f"I4 {account}'s cash is {cash}, the facts sum up to {total}"
        if cash < 0 and account == PAPER:  # at a venue, strangers may spend what the books do not know of
            yield f"I4 a spot account owes {cash}"


def _sequences(connection: Connection, world: "World") -> Iterator[str]:
    """I8 and I9: without holes, each announced, always with the same words."""
    head = ledger.head(connection).sequence
    facts = {fact.sequence: fact for fact in ledger.facts_since(connection, 0, head + 1)}
    if sorted(facts) != list(range(1, head + 1)):
        yield f"I9 the ledger has holes: {len(facts)} facts, head {head}"
    for sequence, payloads in world.announced.items():
        fact = facts.get(sequence)
        if fact is None:
            yield f"I9 {sequence} was announced and is not in the ledger: {sorted(payloads)[0][:200]!r}"
            continue
        body = wire.trade_wire(fact) if isinstance(fact, Trade) else wire.cash_flow_wire(fact)
        stored = json.loads(wire.encode(body))
        for payload in sorted(payloads):
            if json.loads(payload) != stored:
                yield f"I8 {sequence} was announced as {payload!r}, stored is {stored}"
