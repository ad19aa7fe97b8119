"""The limits that hold for every account, and how a broken one is said."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from config.exact import ZERO
from execution.model import Reason

RATE_WINDOW = timedelta(seconds=60)
"""`max_orders_per_minute` counts the orders accepted within this time before now."""

LIMIT = "limit:"
"""How the `by` of a halt begins that no person asked for; the code of the limit follows."""


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """Limits that hold for every account; zero switches one off. Exactly at a limit is still allowed.

    In the account's currency: `maximum_notional` of one order, `max_symbol_exposure` and `max_total_exposure`
    of what is held and on order, `max_daily_loss` since 00:00 UTC. In percent: `max_drawdown_pct` of the highest
    equity, `price_collar_pct` of the last price. `stale_price` is the greatest age of a last price,
    `request_expiry` how long a request that names no expiry stays valid.
    """

    maximum_notional: Decimal = ZERO
    stale_price: timedelta = timedelta(0)
    request_expiry: timedelta = timedelta(seconds=60)
    max_symbol_exposure: Decimal = ZERO
    max_total_exposure: Decimal = ZERO
    max_orders_per_minute: int = 0
    max_daily_loss: Decimal = ZERO
    max_drawdown_pct: Decimal = ZERO
    price_collar_pct: Decimal = ZERO

    @property
    def on_exposure(self) -> bool:
        """Whether what is held and on order is limited."""
        return bool(self.max_symbol_exposure or self.max_total_exposure)

    @property
    def on_losses(self) -> bool:
        """Whether losses are watched: only then does a candle or price cost anything."""
        return bool(self.max_daily_loss or self.max_drawdown_pct)


class Refusal(Exception):
    """Carries the reason of the first failed check out of the checks."""

    def __init__(self, code: str, field: str | None = None, value: str | None = None, expected: str | None = None):
        super().__init__(code)
        self.reason = Reason(code, field, value, expected)
