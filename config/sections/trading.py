"""Settings of what is traded, where, and within which limits."""

from decimal import Decimal
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from config.sections.base import TOGETHER, Section
from config.setting_types import Bps, Currency, Exact, Name, Seconds, Whole


class AccountSettings(Section):
    """The paper account that a new database starts with. Later changes are made with `fillbook account`."""

    name: Name = Field(
        "main", description="Name of the account that bots and people trade for unless they say otherwise."
    )
    initial_deposit: Exact = Field(
        Decimal(10_000),
        ge=Decimal(0),
        le=Decimal(10) ** 15,
        description="Deposit booked when the account is created, in the account's currency. 0 = none.",
    )
    currency: Currency = Field("USD", description="Currency of the account's cash.")
    mode: Literal["spot", "margin"] = Field(
        "spot",
        description="spot: only what is held can be sold. margin: selling more than is held opens a short position.",
    )


class PaperSettings(Section):
    """The paper exchange: what a simulated fill costs. Basis points (bps): 100 bps = 1 %. 0 is possible for
    all."""

    taker_fee_bps: Bps = Field(
        Decimal(60), description="Fee of fills that take at once (market orders), in bps of the notional."
    )
    maker_fee_bps: Bps = Field(
        Decimal(40), description="Fee of fills of resting limit orders, in bps of the notional."
    )
    half_spread_bps: Bps = Field(
        Decimal("0.5"),
        description="Half of the spread between bid and ask, in bps of the price, paid by market orders.",
    )
    slippage_bps: Bps = Field(
        Decimal(5),
        description="Slippage of a market order as large as the whole volume of the bar, in bps of the "
        "price; less in proportion.",
    )
    slippage_cap_bps: Bps = Field(Decimal(50), description="Most slippage a fill can have, in bps of the price.")
    max_volume_share: Exact = Field(
        Decimal("0.1"),
        ge=Decimal(0),
        le=Decimal(1),
        description="Largest share of a bar's volume that one bar fills (0.1 = 10 %). 0 = no cap.",
    )


class ExecutionSettings(Section):
    """How requests become orders."""

    request_expiry_seconds: Seconds = Field(
        60.0, ge=0.1, le=86_400, description="Seconds a request stays valid when it does not say so itself."
    )
    max_in_flight: Whole = Field(
        64, ge=1, le=10_000, description="Requests worked on at once; more wait in the broker."
    )
    totals_facts: Whole = Field(
        5_000,
        ge=1,
        le=1_000_000,
        description="Trades and cash flows after which the sums over the ledger are saved, so that a start is quick.",
    )
    maximum_notional: Exact = Field(
        Decimal(0),
        ge=Decimal(0),
        le=Decimal(10) ** 15,
        description="Largest value of one order, in the account's currency; larger ones are refused. 0 = no limit.",
    )
    stale_price_seconds: Seconds = Field(
        86_400.0,
        ge=0,
        le=31_536_000,
        description="An order at the last known price is refused when that price is older than this, in "
        "seconds. The default, "
        "one day, suits daily candles; with live prices set a few minutes. 0 = any age will do.",
    )
    lease_wait_seconds: Seconds = Field(
        5.0,
        ge=0,
        le=600,
        description="Seconds a starting daemon waits for another one to give up its role (execution, "
        "portfolio) before it ends.",
    )


class LiveSettings(Section):
    """Live venues, of which none comes along yet: how their orders and trades are found out about. Nothing here
    matters to the paper exchange."""

    poll_seconds: Seconds = Field(
        2.0,
        ge=0.05,
        le=3_600,
        description="Seconds between two rounds in which a venue is asked for every open order and for new trades.",
    )
    timeout_seconds: Seconds = Field(
        5.0, ge=0.05, le=600, description="Seconds to wait for a venue's answer to one call."
    )
    send_seconds: Seconds = Field(
        10.0,
        ge=0.1,
        le=600,
        description="Seconds within which an order has to reach the venue; one that is later on its way is dropped "
        "by venues that can do so, and asked for.",
    )
    grace_seconds: Seconds = Field(
        30.0,
        ge=0.2,
        le=86_400,
        description="Seconds after its sending for which an order that the venue does not show is only waited for. "
        "After that it is sent again where that is safe, else closed. More than live.send_seconds.",
    )
    missing_seconds: Seconds = Field(
        60.0,
        ge=0.2,
        le=86_400,
        description="Seconds for which a venue may answer that it does not have an order that it had shown before; "
        "after that the order is UNKNOWN, its symbol is frozen and an alert says so, until the venue shows it again.",
    )
    overlap_seconds: Seconds = Field(
        60.0,
        ge=0,
        le=86_400,
        description="Trades are fetched from so many seconds before the last stored one: venues show them late.",
    )
    deep_poll_seconds: Seconds = Field(
        300.0, ge=0.1, le=86_400, description="Seconds between two rounds that look back much further."
    )
    deep_overlap_seconds: Seconds = Field(
        172_800.0,
        ge=0,
        le=31_536_000,
        description="How far those rounds look back, in seconds (2 days); more than a clock may ever be wrong.",
    )
    max_in_flight: Whole = Field(
        64,
        ge=1,
        le=10_000,
        description="Orders of an account that may be on their way to its venue at once; further ones are refused "
        "(venue_busy). Also the calls that may hang without an end before no more are made.",
    )
    reconnect_max_seconds: Seconds = Field(
        30.0,
        ge=0.1,
        le=3_600,
        description="Longest pause before a lost stream of trades is opened again, in seconds.",
    )

    @field_validator("grace_seconds")
    @classmethod
    def _grace_is_longer_than_sending(cls, grace: float, info: ValidationInfo) -> float:
        if grace <= info.data.get("send_seconds", 0):
            raise PydanticCustomError(TOGETHER, "more than live.send_seconds")
        return grace


class RiskSettings(Section):
    """Limits that hold for each account, whoever asks. 0 = no limit. Exactly at a limit is allowed. See
    docs/risk.md."""

    max_symbol_exposure: Exact = Field(
        Decimal(0),
        ge=Decimal(0),
        le=Decimal(10) ** 15,
        description="Most that may be held and on order of one symbol, at the last price, in the account's "
        "currency. Orders that reduce a position are never refused for it.",
    )
    max_total_exposure: Exact = Field(
        Decimal(0),
        ge=Decimal(0),
        le=Decimal(10) ** 15,
        description="The same over all symbols of the account together.",
    )
    max_orders_per_minute: Whole = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Most orders accepted within 60 seconds. Orders that close a position are exempt, but count.",
    )
    max_daily_loss: Exact = Field(
        Decimal(0),
        ge=Decimal(0),
        le=Decimal(10) ** 15,
        description="Most an account may lose since 00:00 UTC, in its currency; more halts its trading. Deposits "
        "and withdrawals are neither profit nor loss.",
    )
    max_drawdown_pct: Exact = Field(
        Decimal(0),
        ge=Decimal(0),
        le=Decimal(100),
        description="How far an account's equity may fall below its highest, in percent of it; more halts its "
        "trading.",
    )
    price_collar_pct: Exact = Field(
        Decimal(0),
        ge=Decimal(0),
        le=Decimal(100),
        description="How far a limit price may be on the wrong side of the last price (a BUY above, a SELL "
        "below), in percent. 5 keeps most slips of the finger out.",
    )
