"""One call at a time: while one waits for its commit, no other may see or change what it works on."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="TakesTurns")


class TakesTurns:
    """What has methods that wait for each other. `one_caller`: nobody else ever calls, so that nothing must wait."""

    def __init__(self, *, one_caller: bool) -> None:
        self._one_caller = one_caller
        self._turn = asyncio.Lock()

    def in_its_turn(self, call: Callable[[], Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, T]:
        """The call, once all calls before it have ended; for whoever is cancelled before that it is not made."""
        return call() if self._one_caller else self._when_free(call)

    async def _when_free(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._turn:
            return await call()


def in_turn(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """A method that runs in its turn, to its end."""

    @wraps(method)
    def waits(owner: S, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return owner.in_its_turn(partial(method, owner, *args, **kwargs))

    return waits
