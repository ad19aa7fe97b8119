"""Why an order that was accepted ended without its fill, in full: a code, the field, its value, what was expected."""

from config.times import time_text
from execution.model import Halt, Order, Reason


def expired(order: Order) -> Reason:
    """The time of an order was over."""
    until = None if order.expires_at is None else time_text(order.expires_at)
    return Reason("expired", "expires_at", until, "a fill before the order's expiry")


def halted(account: str, halt: Halt | None) -> Reason:
    """Trading of an account is halted. `halt` None: it is not known here by whom."""
    if halt is None:
        return Reason("trading_halted", "account", account, "trading resumed")
    said = f" ({halt.reason})" if halt.reason else ""
    expected = f"trading resumed; halted by {halt.by} at {time_text(halt.at)}{said}"
    return Reason("trading_halted", "account", account, expected)
