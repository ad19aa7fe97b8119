"""Settings of the bots, the books and the candles."""

from decimal import Decimal
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from config.sections.base import TOGETHER, Section
from config.setting_types import Exact, Seconds, Symbol, Whole


class SignalSettings(Section):
    """How bots are run."""

    request_repeat_seconds: Seconds = Field(
        2.0,
        ge=0.1,
        le=600,
        description="Seconds without an answer after which a bot's request is sent again, under the same id.",
    )
    bot_time_budget_ms: Whole = Field(
        1_000,
        ge=10,
        le=60_000,
        description="Milliseconds a user-written bot may take for one candle; a slower one is killed and goes to "
        "ERROR. The daemon waits for it that long at most.",
    )
    bot_start_seconds: Seconds = Field(
        10.0,
        ge=0.5,
        le=600,
        description="Seconds a user-written bot may take to be imported and constructed, and again for every 1000 "
        "stored candles that warm it.",
    )
    bot_memory_mb: Whole = Field(
        512,
        ge=0,
        le=1_048_576,
        description="Most memory of a user-written bot's process, in MB (its data; Linux only). 0 = no limit.",
    )
    max_requests_per_hour: Whole = Field(
        120,
        ge=0,
        le=1_000_000,
        description="Order requests a bot of any class may make within an hour of the candles' time; one that "
        "wants more goes to ERROR. Stops do not count. 0 = no limit.",
    )
    reload_settle_ms: Whole = Field(
        300,
        ge=0,
        le=60_000,
        description="Milliseconds for which a changed bot file must stay as it is before it is taken: editors and "
        "copies write in pieces.",
    )
    reload_sweep_seconds: Seconds = Field(
        5.0,
        ge=0.1,
        le=3_600,
        description="Seconds after which bot files and the settings file are looked at although the system "
        "reported no change.",
    )


class PortfolioSettings(Section):
    """How positions and P&L are kept up to date."""

    publish_interval_ms: Whole = Field(
        100,
        ge=0,
        le=60_000,
        description="Changes of a position within this many milliseconds are published as one, the last.",
    )
    checkpoint_facts: Whole = Field(
        1_000,
        ge=1,
        le=1_000_000,
        description="Trades and cash flows after which the state is saved, so that a start is quick.",
    )
    republish_seconds: Seconds = Field(
        30.0,
        ge=1,
        le=86_400,
        description="Seconds after which all retained messages are published again from the database.",
    )
    catch_up_seconds: Seconds = Field(
        30.0,
        ge=1,
        le=86_400,
        description="Seconds that a command waits for a running portfolio that makes no progress.",
    )
    import_rows: Whole = Field(
        2_000,
        ge=1,
        le=100_000,
        description="Rows that an import appends in one transaction; the daemon's own commits wait so long.",
    )
    recompute_minutes: Whole = Field(
        1_440,
        ge=0,
        le=525_600,
        description="Minutes after which all allocations are computed anew from the trades and compared with the "
        "stored ones; a difference raises an alert. The default is once a day. 0 = never.",
    )
    verify_minutes: Whole = Field(
        60,
        ge=0,
        le=525_600,
        description="Minutes after which everything that is stored is proven (as by `fillbook verify`), at low "
        "priority; a failed check halts trading. 0 = never; the check after each fill is always on.",
    )


class FeedSettings(Section):
    """Where candles come from. With nothing set here, candles and prices are taken from the bus."""

    candles: dict[Symbol, Path] = Field(
        default_factory=dict,
        description='Candle files by symbol, such as { BTC-USD = "btc.csv" }: '
        "CSV with the columns time,open,high,low,close,volume.",
    )
    speed: Exact = Field(
        Decimal(0),
        ge=Decimal(0),
        le=Decimal(1_000_000),
        description="How fast candle files are played: 1 = real time, 600 = ten minutes a second, 0 = as "
        "fast as possible.",
    )
    synthetic: bool = Field(
        False, description="true: invent 1-minute candles, labelled as synthetic, instead of reading files."
    )
    synthetic_seed: Whole = Field(
        1, ge=0, le=2**63 - 1, description="The same seed gives the same synthetic candles."
    )
    synthetic_symbols: tuple[Symbol, ...] = Field(
        ("BTC-USD", "ETH-USD", "SOL-USD"),
        min_length=1,
        max_length=100,
        description="Symbols that get synthetic candles.",
    )
    candles_per_second: Exact = Field(
        Decimal(10),
        gt=Decimal(0),
        le=Decimal(100_000),
        description="Synthetic minutes per second: each symbol gets this many candles a second.",
    )
    warmup_candles: Whole = Field(
        300,
        ge=0,
        le=1_000_000,
        description="Synthetic candles per symbol before the first live one, to warm the indicators.",
    )

    file_warmup_candles: Whole = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Candles at the start of each file that only warm the indicators. 0 = bots decide from the "
        "first on.",
    )

    @field_validator("synthetic_symbols")
    @classmethod
    def _no_symbol_twice(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(symbols)) != len(symbols):
            raise ValueError("each symbol only once")
        return symbols

    @field_validator("synthetic")
    @classmethod
    def _one_feed(cls, synthetic: bool, info: ValidationInfo) -> bool:
        if synthetic and info.data.get("candles"):
            raise PydanticCustomError(TOGETHER, "false, because feed.candles names candle files")
        return synthetic
