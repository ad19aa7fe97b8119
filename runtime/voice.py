"""What a daemon says: messages as they come, retained state when it changed, requests until they are answered.

Retained state is said again from what the services know: the broker may have lost it.
"""

import asyncio
from collections.abc import Callable, Iterable

from execution.model import AlertRaised, Candle, HaltChanged, OrderRequest, Price, VenueChanged
from runtime import wire
from runtime.core import Core, Published
from runtime.publisher import Outgoing, Publisher
from runtime.topics import Topics
from signals.model import Recommendation


class Voice:
    """Everything goes out through `publisher`, and to whoever watches (`observe`). `halts`: those known at start;
    `repeat_seconds`: after how long a request without an answer is sent again."""

    def __init__(
        self,
        core: Core,
        publisher: Publisher,
        topics: Topics,
        observe: Callable[[object], None],
        *,
        halts: Iterable[HaltChanged],
        repeat_seconds: float,
    ) -> None:
        self._core = core
        self._publisher = publisher
        self._topics = topics
        self._observe = observe
        self._repeat_seconds = repeat_seconds
        self.on_kept: Callable[[], None] = lambda: None
        """Called when an alert was raised that is in the outbox; whoever has the execution role sends it."""
        self._halts = {change.account: change for change in halts}
        self._venues: dict[str, VenueChanged] = {}
        self._asked: dict[str, float] = {}
        self._shown: dict[str, Recommendation | None] = {}

    def say(self, message: Published) -> None:
        """What the services say, to the bus and to whoever watches."""
        if isinstance(message, OrderRequest):
            self._asked[message.request_id] = asyncio.get_running_loop().time()
        elif isinstance(message, HaltChanged):
            known = self._halts.get(message.account)
            if known is not None and known.order > message.order:
                self._observe(message)
                return  # of two at once the one stored last is said already, and is what holds
            self._halts[message.account] = message
        elif isinstance(message, VenueChanged):
            self._venues[message.account] = message
        if isinstance(message, AlertRaised) and message.kept:
            self.on_kept()
        else:
            self._publisher.publish(message)
        self._observe(message)

    def say_changes(self) -> None:
        """Positions and portfolios that changed."""
        if self._core.portfolio is not None:
            for change in self._core.portfolio.take_changes():
                self.say(change)

    def say_advice(self) -> None:
        """The retained state of bots that advised since the last time."""
        if self._core.signals is None:
            return
        for state in self._core.signals.states():
            if self._shown.get(state.bot) is not state.last_recommendation:
                self._shown[state.bot] = state.last_recommendation
                self._publisher.publish(state)

    def say_everything(self) -> None:
        """All retained state."""
        if self._core.execution is not None:
            for halt in self._halts.values():
                self._publisher.publish(halt)
            for venue in self._venues.values():
                self._publisher.publish(venue)
        if self._core.portfolio is not None:
            for change in self._core.portfolio.all_state():
                self._publisher.publish(change)
        if self._core.integrity is not None:
            for known in self._core.integrity.states:
                self._publisher.publish(known)
        if self._core.signals is not None:
            for state in self._core.signals.states():
                self._publisher.publish(state)

    def connected(self) -> None:
        """A connection is there (again): all state, and every request without an answer."""
        self.say_everything()
        if self._core.signals is not None:
            for request in self._core.signals.open_requests():
                self._publisher.publish(request)
        self._publisher.resume()

    def repeat_requests(self) -> None:
        """The sender repeats a request under the same id until somebody answers it."""
        if self._core.signals is None:
            return
        now = asyncio.get_running_loop().time()
        open_requests = self._core.signals.open_requests()
        for request in open_requests:
            asked = self._asked.setdefault(request.request_id, now)
            if now - asked >= self._repeat_seconds:
                self._asked[request.request_id] = now
                self._publisher.publish(request)
        if len(self._asked) > len(open_requests):
            still = {request.request_id for request in open_requests}
            self._asked = {key: asked for key, asked in self._asked.items() if key in still}

    def say_market(self, message: Candle | Price) -> None:
        """A candle or price of the daemon's own feed."""
        if isinstance(message, Candle):
            topic, body = self._topics.candle(message.symbol, message.timeframe), wire.candle_wire(message)
            self._publisher.put(Outgoing(topic, wire.encode(body)))
        else:
            self._publisher.put(
                Outgoing(self._topics.price(message.symbol), wire.encode(wire.price_wire(message)), retain=True)
            )
