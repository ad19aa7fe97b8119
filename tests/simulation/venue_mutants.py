"""Planted bugs of live venues. See `mutants`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import patch

from execution import adoption, ledger, orders, reconcile
from execution.exchange import ExchangeRefused, ExchangeTimeout
from execution.ledger import derived_id
from execution.lines import Line
from execution.live import LiveVenue
from execution.live_recorder import LiveRecorder
from execution.model import OrderStatus, Reason
from execution.reconcile import Reconciler
from execution.venue import VenueClosed
from runtime import composition

Mutant = Callable[[], AbstractContextManager[Any]]


def _replace(owner: Any, name: str, value: Any) -> Mutant:
    return partial(patch.object, owner, name, value)


async def _nothing(*_arguments: Any, **_named: Any) -> None:
    """Do nothing."""


def _times(**changed: float) -> Mutant:
    """Other times than configured."""
    real = composition.live_times
    return _replace(composition, "live_times", lambda settings: replace(real(settings), **changed))


async def _blind_retry(self: LiveVenue, order: Any, track: Any, seconds: float) -> Any:
    """No answer: send it again at once."""
    for _ in range(3):
        try:
            shown = await self.ask(order.account, self.exchange.place(order, seconds))
        except ExchangeTimeout:
            continue
        except ExchangeRefused as refusal:
            return VenueClosed(order.id, OrderStatus.REJECTED, Reason(refusal.code, None, None, refusal.message))
        track.acknowledged = True
        self.line(order.account).woken.set()
        return shown
    raise ExchangeTimeout("gave up")


def _timeout_is_refusal() -> AbstractContextManager[Any]:
    """No answer is taken for a refusal."""
    real = LiveVenue.send

    async def send(self: LiveVenue, order: Any, track: Any, seconds: float) -> Any:
        try:
            return await real(self, order, track, seconds)
        except ExchangeTimeout as error:
            return VenueClosed(order.id, OrderStatus.REJECTED, Reason("venue_out_of_reach", None, None, str(error)))

    return patch.object(LiveVenue, "send", send)


async def _always_resend(self: Reconciler, order: Any, track: Any) -> None:
    """Every venue is believed to know its client order ids for ever."""
    await self._resend(order, track)


async def _no_limit(_self: Line, call: Any) -> Any:
    """Whoever calls a venue waits until it answers."""
    return await call


def _cancelled_once() -> AbstractContextManager[Any]:
    """A cancel is sent once, whatever became of it."""
    real = LiveVenue.ask
    sent: set[tuple[int, str]] = set()

    async def ask(self: LiveVenue, account: str, call: Any) -> Any:
        if call.__name__ == "cancel":
            key = (id(self), call.cr_frame.f_locals["order"].id)
            if key in sent:
                call.close()
                return None
            sent.add(key)
        return await real(self, account, call)

    return patch.object(LiveVenue, "ask", ask)


async def _by_our_clock(self: Reconciler, account: str, deep: bool) -> Any:
    """Trades are fetched since a while ago, as our clock has it."""
    return self.venue.clock.now() - timedelta(seconds=self.venue.times.overlap)


def _closed_at_once(order: Any, report: Any, filled: Any) -> Any:
    """An order closes when the venue says so, with or without its trades."""
    return order if order.status is report.status else order.with_status(report.status, report.reason)


def _unknown_is_lost() -> AbstractContextManager[Any]:
    """What the venue does not show at once was never there."""
    return _times(grace=0.0)()


def _strangers_not_told() -> AbstractContextManager[Any]:
    """A stranger's order is recorded, and nobody is told."""
    real = adoption.alert
    return patch.object(adoption, "alert", lambda code, *more: real(code.replace("external", "some"), *more))


VENUE_MUTANTS: dict[str, Mutant] = {
    "live-blind-retry": _replace(LiveVenue, "send", _blind_retry),
    "live-no-grace": _unknown_is_lost,
    "live-timeout-is-refusal": _timeout_is_refusal,
    "live-resent-anywhere": _replace(Reconciler, "_give_up_or_resend", _always_resend),
    "live-sent-at-any-time": _replace(LiveVenue, "seconds_to_send", lambda *_: 30.0),
    "live-strangers-dropped": _replace(LiveRecorder, "_add_external", lambda *_: None),
    "live-own-trades-external": _replace(adoption, "own_order", lambda *_: None),
    "live-stream-only": _replace(Reconciler, "_fetch", _nothing),
    "live-no-overlap": _times(overlap=0.0, deep_overlap=0.0),
    "live-since-our-clock": _replace(Reconciler, "_since", _by_our_clock),
    "live-id-without-symbol": _replace(
        ledger, "trade_id", lambda venue, account, _symbol, number: derived_id("trade", venue, account, number)
    ),
    "live-closed-before-its-trades": _replace(LiveRecorder, "_as_shown", staticmethod(_closed_at_once)),
    "live-cancelled-once": _cancelled_once,
    "live-not-shown-ignored": _replace(Reconciler, "_shown_no_more", _nothing),
    "live-shown-forgotten-at-restart": _replace(reconcile, "was_shown", lambda _order: False),
    "live-waits-for-ever": _replace(Line, "_within", _no_limit),
    "live-cancel-forgotten-at-restart": _replace(orders, "unwanted", lambda _connection: frozenset()),
    "live-strangers-not-told": _strangers_not_told,
    "live-expiry-ignored": _replace(Reconciler, "_note_ending", lambda *_: None),
}
