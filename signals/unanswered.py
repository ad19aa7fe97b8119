"""The requests of all bots, from the decision to the final answer."""

from collections.abc import Iterable
from itertools import chain

from execution.model import OrderRequest, Responded
from signals.outbox import bot_of


class Unanswered:
    """What was asked for and has no final answer yet.

    Live, a request is stored first (`unsaved`) and leaves then. In replay it leaves before it is stored
    (`let_go`), and the transaction that it causes commits together with it.
    """

    __slots__ = ("_acknowledged", "_answered", "_open", "_unstored", "unsaved")

    def __init__(self) -> None:
        self.unsaved: list[OrderRequest] = []
        """Decided and not durable yet: these must not leave."""
        self._open: dict[str, OrderRequest] = {}
        self._acknowledged: set[str] = set()
        self._unstored: dict[str, OrderRequest] = {}
        self._answered: list[str] = []

    def restore(self, requests: Iterable[OrderRequest]) -> None:
        """Begin with what is stored as open."""
        self._open = {request.request_id: request for request in requests}

    def get(self, request_id: str) -> OrderRequest | None:
        """A request that left and has no final answer."""
        return self._open.get(request_id)

    def to_repeat(self) -> list[OrderRequest]:
        """Those that nobody answered at all."""
        return [request for key, request in self._open.items() if key not in self._acknowledged]

    def of_bot(self, name: str) -> OrderRequest | None:
        """The latest request of a bot."""
        mine = [request for request in self._all() if bot_of(request) == name]
        return mine[-1] if mine else None

    def is_closing(self, account: str, symbol: str) -> bool:
        """Whether a bot has asked to close this position: one order is enough."""
        return any(
            request.close and request.symbol == symbol and request.account == account for request in self._all()
        )

    def _all(self) -> Iterable[OrderRequest]:
        return chain(self._open.values(), self.unsaved)

    def let_go(self) -> list[OrderRequest]:
        """What waits leaves before it is stored."""
        requests, self.unsaved = self.unsaved, []
        for request in requests:
            self._unstored[request.request_id] = self._open[request.request_id] = request
        return requests

    def acknowledged(self, response: Responded) -> OrderRequest | None:
        """The request that this answers, which is no longer repeated; None when it is none of these."""
        request = self._open.get(response.request_id)
        if request is None or request.account != response.account:
            return None
        self._acknowledged.add(response.request_id)
        return request

    def forget_answer(self, request_id: str) -> None:
        """The answer could not be taken: the request is repeated until it can."""
        self._acknowledged.discard(request_id)

    def settle(self, request_id: str) -> None:
        """The final answer is here. The mark in the outbox may wait for the next transaction: a lost mark costs
        one repetition, which gets the same answer."""
        self._acknowledged.discard(request_id)
        self._open.pop(request_id, None)
        if self._unstored.pop(request_id, None) is None:
            self._answered.append(request_id)

    def take(self) -> "Taken":
        """All that a transaction must store."""
        taken = Taken(list(self._unstored.values()), self.unsaved, self._answered)
        self.unsaved, self._answered = [], []
        return taken

    def give_back(self, taken: "Taken") -> None:
        """The transaction failed."""
        self.unsaved = taken.unsaved + self.unsaved
        self._answered = taken.answered + self._answered

    def stored(self, taken: "Taken") -> list[OrderRequest]:
        """The transaction is durable: the requests that may leave now."""
        self._unstored.clear()
        self._open.update((request.request_id, request) for request in taken.unsaved)
        return taken.unsaved


class Taken:
    """What `Unanswered.take` gave."""

    __slots__ = ("answered", "left", "unsaved")

    def __init__(self, left: list[OrderRequest], unsaved: list[OrderRequest], answered: list[str]) -> None:
        self.left = left
        self.unsaved = unsaved
        self.answered = answered

    def __bool__(self) -> bool:
        return bool(self.left or self.unsaved or self.answered)
