"""The topic table: every topic of the bus, who publishes it, whether it is retained, what it carries.

Nothing else in the code knows a topic. `Topics` builds topics from checked parts and parses incoming ones
into a typed `Match`; whitespace, wildcards, NUL and slashes never get into a topic through a part.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from config.errors import ConfigError
from config.instruments import NAME_PATTERN, SYMBOL_PATTERN

VERSION = "v1"
REQUEST_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}"
BASE_PATTERN = r"[A-Za-z0-9_-]{1,32}(?:/[A-Za-z0-9_-]{1,32}){0,3}"
TIMEFRAME_PATTERN = r"[1-9][0-9]{0,3}[smhdw]"

RESERVED_ACCOUNTS = frozenset({"market", "bot", "service", "status", "alert"})
"""Names that an account cannot have, since its topics would be those of something else."""


class NotATopicPart(ConfigError, ValueError):
    """A text that must not become part of a topic."""


class Direction(StrEnum):
    """Seen from the daemon."""

    IN = "in"
    OUT = "out"
    BOTH = "in/out"


class Publisher(StrEnum):
    """Who may publish on the embedded broker."""

    DAEMON = "daemon"
    ANYONE = "anyone"


class Command(StrEnum):
    """The requests of people, the last level of `<base>/v1/<account>/request/<command>`."""

    TRADE = "trade"
    CANCEL = "cancel"
    DEPOSIT = "deposit"
    WITHDRAW = "withdraw"
    HALT = "halt"
    RESUME = "resume"
    RECOMPUTE = "recompute"


class RouteName(StrEnum):
    """One name per row of the table."""

    STATUS = "status"
    SERVICE_STATUS = "service_status"
    CANDLE = "candle"
    PRICE = "price"
    RECOMMENDATION = "recommendation"
    BOT_STATE = "bot_state"
    BOT_SET = "bot_set"
    REQUEST = "request"
    BOT_REQUEST = "bot_request"
    RESPONSE = "response"
    TRADE = "trade"
    CASH_FLOW = "cash_flow"
    POSITION = "position"
    PORTFOLIO = "portfolio"
    HALT = "halt"
    ALERT = "alert"
    SYSTEM_ALERT = "system_alert"
    INTEGRITY = "integrity"
    VENUE = "venue"


@dataclass(frozen=True, slots=True)
class Route:
    """One row: `template` has parts in braces, `message` is the type, `payload` says what it holds."""

    name: RouteName
    template: str
    direction: Direction
    retain: bool
    message: str
    payload: str
    qos: int = 1
    publisher: Publisher = Publisher.DAEMON


_REQUEST_PAYLOADS = (
    "trade {symbol, side, notional|quantity|close, limit_price, time_in_force, expires_in, request_id, note}; "
    "cancel {order_id}; deposit, withdraw {amount, effective_at, note}; halt, resume {note}; "
    "recompute {symbol, method, full, since, note}"
)

ROUTES: tuple[Route, ...] = (
    Route(
        RouteName.STATUS, "status", Direction.OUT, True, "Status", "{state online|offline, time}; last will: offline"
    ),
    Route(
        RouteName.SERVICE_STATUS,
        "service/{service}/status",
        Direction.OUT,
        True,
        "Status",
        "{state online|offline, time}; last will: offline",
    ),
    Route(
        RouteName.CANDLE,
        "market/{symbol}/candle/{timeframe}",
        Direction.BOTH,
        False,
        "Candle",
        "{time (of the open), open, high, low, close, volume}, closed candles only",
        publisher=Publisher.ANYONE,
    ),
    Route(
        RouteName.PRICE,
        "market/{symbol}/price",
        Direction.BOTH,
        True,
        "Price",
        "{price, time}",
        publisher=Publisher.ANYONE,
    ),
    Route(
        RouteName.RECOMMENDATION,
        "bot/{bot}/recommendation",
        Direction.OUT,
        False,
        "Recommendation",
        "{bot, symbol, side, score, temperature, signals, ready_to_trade, time, ...}",
    ),
    Route(
        RouteName.BOT_STATE, "bot/{bot}/state", Direction.OUT, True, "BotState", "{bot, status, reason, time, ...}"
    ),
    Route(
        RouteName.BOT_SET,
        "bot/{bot}/set",
        Direction.IN,
        False,
        "BotCommand",
        '{"action": "start"|"stop"|"evaluate"} or the bare word',
        publisher=Publisher.ANYONE,
    ),
    Route(
        RouteName.REQUEST,
        "{account}/request/{command}",
        Direction.IN,
        False,
        "OrderRequest, CancelRequest, CashRequest, HaltRequest, RecomputeRequest",
        _REQUEST_PAYLOADS,
        publisher=Publisher.ANYONE,
    ),
    Route(
        RouteName.BOT_REQUEST,
        "{account}/request/trade/bot/{bot}",
        Direction.IN,
        False,
        "OrderRequest",
        "a policy's order; the topic says whose, so that only the daemon may publish here",
    ),
    Route(
        RouteName.RESPONSE,
        "{account}/response/{request_id}",
        Direction.OUT,
        False,
        "Responded",
        "{request_id, status, final, reason {code, field, value, expected}, order_id, trades}",
    ),
    Route(RouteName.TRADE, "{account}/trade", Direction.OUT, False, "Trade", "one fill, with its ledger sequence"),
    Route(
        RouteName.CASH_FLOW, "{account}/cash", Direction.OUT, False, "CashFlow", "a flow, with its ledger sequence"
    ),
    Route(
        RouteName.POSITION,
        "{account}/position/{symbol}",
        Direction.OUT,
        True,
        "Position",
        "{sequence, symbol, quantity, cost_basis, average_cost, mark_price, market_value, ...}",
    ),
    Route(
        RouteName.PORTFOLIO,
        "{account}/portfolio",
        Direction.OUT,
        True,
        "Portfolio",
        "{sequence, account, cash, market_value, equity, realized_pnl, unrealized_pnl, fees, positions}",
    ),
    Route(RouteName.HALT, "{account}/halt", Direction.OUT, True, "HaltChanged", "{halted, by, reason, at}"),
    Route(
        RouteName.ALERT,
        "{account}/alert",
        Direction.OUT,
        False,
        "AlertRaised",
        "{id, severity, code, message, about}",
    ),
    Route(
        RouteName.SYSTEM_ALERT, "alert", Direction.OUT, False, "AlertRaised", "{id, severity, code, message, about}"
    ),
    Route(
        RouteName.INTEGRITY,
        "{account}/integrity",
        Direction.OUT,
        True,
        "Integrity",
        "{account, ok, checked_at, sequence, problems}",
    ),
    Route(
        RouteName.VENUE,
        "{account}/venue",
        Direction.OUT,
        True,
        "VenueChanged",
        "{account, venue, answers, since, reason}; of accounts at live venues",
    ),
)

_PART_PATTERNS = {
    "account": NAME_PATTERN,
    "bot": NAME_PATTERN,
    "service": NAME_PATTERN,
    "symbol": SYMBOL_PATTERN,
    "timeframe": TIMEFRAME_PATTERN,
    "request_id": REQUEST_ID_PATTERN,
    "command": "|".join(Command),
}
_PARTS = {part: re.compile(pattern, re.ASCII) for part, pattern in _PART_PATTERNS.items()}
_REQUEST_ID = _PARTS["request_id"]
_BRACES = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Match:
    """An incoming topic, understood: its route and the parts that the route has (None where it has none)."""

    route: RouteName
    account: str | None = None
    bot: str | None = None
    symbol: str | None = None
    timeframe: str | None = None
    request_id: str | None = None
    service: str | None = None
    command: Command | None = None


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of `fillbook topics`."""

    topic: str
    direction: str
    qos: int
    retain: bool
    publisher: str
    message: str
    payload: str


def is_request_id(text: str) -> bool:
    """Whether a text can be a request id: it becomes the last level of the response's topic."""
    return _REQUEST_ID.fullmatch(text) is not None


def is_account(text: str) -> bool:
    """Whether a text can name an account on the bus."""
    return _PARTS["account"].fullmatch(text) is not None and text not in RESERVED_ACCOUNTS


def topic_matches(pattern: str, topic: str) -> bool:
    """Whether an MQTT topic filter matches a topic (`+` one level, `#` the rest; neither matches `$...`)."""
    if pattern == topic:
        return True
    if topic.startswith("$") and pattern[:1] in ("+", "#"):
        return False
    wanted, levels = pattern.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)


class Topics:
    """The table under one base. Every builder raises NotATopicPart for a part that does not belong."""

    def __init__(self, base: str = "fillbook") -> None:
        if re.fullmatch(BASE_PATTERN, base, re.ASCII) is None:
            raise NotATopicPart(f"a topic base of letters, digits, _ and -, not {base!r}")
        self.base = base
        self.root = f"{base}/{VERSION}"
        self._templates = {route.name: f"{self.root}/{route.template}" for route in ROUTES}
        self._patterns = [
            (route.name, re.compile(re.escape(self.root + "/") + _as_regex(route.template), re.ASCII))
            for route in ROUTES
        ]
        # Topics repeat: thousands of distinct ones at most, so parsing is a dictionary hit.
        self.parse = lru_cache(maxsize=4096)(self._parse)
        self._build = lru_cache(maxsize=4096)(self._format)

    def _parse(self, topic: str) -> Match | None:
        """The route and parts of a topic, or None when it is not one of the table's."""
        for name, pattern in self._patterns:
            found = pattern.fullmatch(topic)
            if found is None:
                continue
            parts = found.groupdict()
            if parts.get("account") in RESERVED_ACCOUNTS:
                continue
            command = parts.pop("command", None)
            return Match(route=name, command=None if command is None else Command(command), **parts)
        return None

    def _format(self, name: RouteName, parts: tuple[tuple[str, str], ...]) -> str:
        for part, text in parts:
            if _PARTS[part].fullmatch(text) is None or (part == "account" and text in RESERVED_ACCOUNTS):
                raise NotATopicPart(f"{text[:64]!r} cannot be the {part.replace('_', ' ')} of a topic")
        return self._templates[name].format(**dict(parts))

    def status(self) -> str:
        """Whether the daemon is there."""
        return self._build(RouteName.STATUS, ())

    def service_status(self, service: str) -> str:
        """Whether one service is there."""
        return self._build(RouteName.SERVICE_STATUS, (("service", service),))

    def candle(self, symbol: str, timeframe: str) -> str:
        """Closed candles of a symbol."""
        return self._build(RouteName.CANDLE, (("symbol", symbol), ("timeframe", timeframe)))

    def price(self, symbol: str) -> str:
        """The last price of a symbol."""
        return self._build(RouteName.PRICE, (("symbol", symbol),))

    def recommendation(self, bot: str) -> str:
        """A bot's advice."""
        return self._build(RouteName.RECOMMENDATION, (("bot", bot),))

    def bot_state(self, bot: str) -> str:
        """A bot's status."""
        return self._build(RouteName.BOT_STATE, (("bot", bot),))

    def bot_set(self, bot: str) -> str:
        """Start, stop or evaluate a bot."""
        return self._build(RouteName.BOT_SET, (("bot", bot),))

    def request(self, account: str, command: Command | str) -> str:
        """A person's request."""
        return self._build(RouteName.REQUEST, (("account", account), ("command", str(command))))

    def bot_request(self, account: str, bot: str) -> str:
        """A policy's order request."""
        return self._build(RouteName.BOT_REQUEST, (("account", account), ("bot", bot)))

    def response(self, account: str, request_id: str) -> str:
        """The answer to one request. Not cached: every request id is new."""
        return self._format(RouteName.RESPONSE, (("account", account), ("request_id", request_id)))

    def trade(self, account: str) -> str:
        """Fills of an account."""
        return self._build(RouteName.TRADE, (("account", account),))

    def cash_flow(self, account: str) -> str:
        """Deposits and withdrawals of an account."""
        return self._build(RouteName.CASH_FLOW, (("account", account),))

    def position(self, account: str, symbol: str) -> str:
        """The position in one symbol."""
        return self._build(RouteName.POSITION, (("account", account), ("symbol", symbol)))

    def portfolio(self, account: str) -> str:
        """The totals of an account."""
        return self._build(RouteName.PORTFOLIO, (("account", account),))

    def halt(self, account: str) -> str:
        """Whether trading of an account is halted."""
        return self._build(RouteName.HALT, (("account", account),))

    def alert(self, account: str | None = None) -> str:
        """Alerts of an account, or of the whole system."""
        if account is None:
            return self._build(RouteName.SYSTEM_ALERT, ())
        return self._build(RouteName.ALERT, (("account", account),))

    def integrity(self, account: str) -> str:
        """The state of an account's books."""
        return self._build(RouteName.INTEGRITY, (("account", account),))

    def venue(self, account: str) -> str:
        """Whether an account's live venue answers."""
        return self._build(RouteName.VENUE, (("account", account),))

    def filter(self, name: RouteName, **parts: str) -> str:
        """The MQTT filter of a route: parts not given match any one level."""
        route = next(route for route in ROUTES if route.name is name)
        for part, text in parts.items():
            if _PARTS[part].fullmatch(text) is None:
                raise NotATopicPart(f"{text[:64]!r} cannot be the {part.replace('_', ' ')} of a topic")
        return f"{self.root}/" + _BRACES.sub(lambda brace: parts.get(brace[1], "+"), route.template)

    def protected_filters(self) -> tuple[str, ...]:
        """The topics that only the daemon may publish: what the embedded broker denies to everybody else."""
        return tuple(self.filter(route.name) for route in ROUTES if route.publisher is Publisher.DAEMON)

    def table_rows(self) -> list[TableRow]:
        """The table for people (`fillbook topics`)."""
        return [
            TableRow(
                topic=_BRACES.sub(lambda brace: f"<{brace[1]}>", f"{self.root}/{route.template}"),
                direction=str(route.direction),
                qos=route.qos,
                retain=route.retain,
                publisher=str(route.publisher),
                message=route.message,
                payload=route.payload,
            )
            for route in ROUTES
        ]


@lru_cache(maxsize=16)
def topics_of(base: str) -> Topics:
    """The table under a base, made once: it remembers what it has parsed, and making one compiles its patterns."""
    return Topics(base)


def _as_regex(template: str) -> str:
    """A template as a regular expression with one named group for each part."""
    return "/".join(
        f"(?P<{brace[1]}>{_PART_PATTERNS[brace[1]]})" if (brace := _BRACES.fullmatch(level)) else re.escape(level)
        for level in template.split("/")
    )
