"""The little that a process needs of another's answers: the inverse of `wire.response_wire`, without trades."""

import json

from execution.model import Reason, Responded, ResponseStatus


def response_from(account: str, payload: bytes) -> Responded | None:
    """A response as published by the execution process; None when it is none."""
    try:
        body = json.loads(payload)
        reason = body["reason"]
        return Responded(
            account=account,
            request_id=body["request_id"],
            status=ResponseStatus(body["status"]),
            final=bool(body["final"]),
            reason=None if reason is None else Reason(**reason),
            order_id=body["order_id"],
            sequence=body["sequence"],
        )
    except (ValueError, KeyError, TypeError):
        return None
