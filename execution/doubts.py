"""Orders whose outcome nobody knows. What was known of one before goes with its reason, over restarts as well: an
order that the venue has shown is never sent again and never given up.
"""

from execution.model import Order, OrderStatus, Reason

NOT_SHOWN = "not_shown"
"""Why an order is unknown that the venue had shown and then showed no more."""

_BEFORE = "status"
_SHOWN = (OrderStatus.PENDING, OrderStatus.PARTIALLY_FILLED)


def doubted(order: Order, reason: Reason | None) -> Order:
    """The order as unknown. If the venue had shown it, the reason also says how it stood (`status`) before."""
    before = _status_before(order)
    if before is not None:
        reason = reason or Reason("unknown")
        reason = Reason(reason.code, _BEFORE, before, reason.expected)
    return order.with_status(OrderStatus.UNKNOWN, reason)


def was_shown(order: Order) -> bool:
    """Whether the venue has ever shown an open order of a live account."""
    return _status_before(order) is not None


def _status_before(order: Order) -> str | None:
    """How an order stood at its venue when that was last known; None when it never was."""
    if order.status in _SHOWN:
        return str(order.status)
    reason = order.reason
    if order.status is OrderStatus.UNKNOWN and reason is not None and reason.field == _BEFORE:
        return reason.value
    return None
