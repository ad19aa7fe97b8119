"""What a sender is told: answers built from orders, fills and reasons."""

from collections.abc import Sequence

from execution.model import Order, OrderStatus, Reason, Request, Responded, ResponseStatus, Trade

UNTOUCHED = (OrderStatus.REQUESTED, OrderStatus.PENDING)
"""Statuses of an order of which nothing is filled and nothing is in doubt."""


_TOLD = {
    status: ResponseStatus.ACCEPTED if status in UNTOUCHED else ResponseStatus(status.value) for status in OrderStatus
}


def answer(order: Order, fills: Sequence[Trade]) -> Responded:
    """What an order's sender is told about it now."""
    status = order.status
    sequence = fills[-1].sequence if fills else None
    return Responded(
        order.account,
        order.request_id,
        _TOLD[status],
        status.is_final,
        order.reason,
        order.id,
        tuple(fills),
        sequence,
    )


def refused(request: Request, reason: Reason) -> Responded:
    """Nothing was done, and why."""
    return Responded(request.account, request.request_id, ResponseStatus.REFUSED, final=True, reason=reason)


def done(request: Request, order_id: str | None = None, sequence: int | None = None) -> Responded:
    """A request that is no order was carried out."""
    return Responded(
        request.account, request.request_id, ResponseStatus.DONE, final=True, order_id=order_id, sequence=sequence
    )


def conflict(request: Request) -> Reason:
    """The request id was used with another body before."""
    expected = "a new request_id for a new request; this one was used with another body"
    return Reason("idempotency_conflict", "request_id", request.request_id, expected)
