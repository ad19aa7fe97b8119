"""Every setting of Fillbook: its name, default, bounds, and what it means, in the unit it names.

`config.loading` fills them from `--set`, the environment, fillbook.toml and these defaults. The models are
frozen; money and basis points are exact Decimals, durations are seconds unless the name says otherwise.
"""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from config.setting_types import Bps, Currency, Exact, Host, Name, Port, Seconds, Symbol, SyncInterval, Topic, Whole

SHIPPED_BOTS = Path(__file__).resolve().parent / "bots"
DATABASE_FILE = "fillbook.db"
TOGETHER = "settings_together"
"""The pydantic error type of rules over several settings, which one source alone cannot break."""

_SQLITE_FILE = re.compile(r"sqlite:///(?!:memory:)[^?#]+")


class Section(BaseModel):
    """A table of settings: unknown keys are refused, values never appear in pydantic's own messages."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)


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


class BrokerSettings(Section):
    """The MQTT broker: one that Fillbook starts and watches itself, or one that runs elsewhere."""

    embedded: bool = Field(
        True,
        description="true: start and supervise an own broker on host and port. false: connect to the one "
        "that runs there.",
    )
    host: Host = Field(
        "127.0.0.1",
        description="Address to listen on (embedded) or to connect to. Anything but 127.0.0.1 lets other "
        "machines in.",
    )
    port: Port = Field(1883, description="TCP port of the broker, for the embedded one too.")
    username: str | None = Field(
        None, min_length=1, max_length=128, description="User name for an external broker; unset = no login."
    )
    password: SecretStr | None = Field(
        None,
        description="Password for an external broker. Better given as FILLBOOK_BROKER__PASSWORD than written here.",
    )
    command: tuple[str, ...] = Field(
        (),
        description="Program and arguments of the embedded broker's server, a nats-server; empty = the bundled one.",
    )
    sync_interval: SyncInterval = Field(
        "1s",
        description="How often the embedded broker forces its store to disk. Nothing is lost when a process "
        "is killed, "
        'whatever this says; "always" also survives a power cut, at about 40 % of the speed.',
    )
    max_ack_pending: Whole = Field(
        64,
        ge=1,
        le=65_535,
        description="Messages on their way to the daemon at once. 1 keeps strict order over a crash, at a "
        "third of the speed.",
    )
    ack_wait_seconds: Whole = Field(
        1, ge=1, le=3_600, description="Seconds until the embedded broker sends an unacknowledged message again."
    )
    max_payload_bytes: Whole = Field(
        1_048_576,
        ge=1_024,
        le=67_108_864,
        description="Largest message the embedded broker takes, in bytes; a larger one closes its sender's "
        "connection.",
    )
    max_store_bytes: Whole = Field(
        2_147_483_648,
        ge=16_777_216,
        le=10**15,
        description="Disk space for queued and retained messages of the embedded broker, in bytes (2 GB).",
    )
    keepalive_seconds: Whole = Field(
        30, ge=1, le=65_535, description="Seconds of silence after which a connection is tested with a ping."
    )
    publish_timeout_seconds: Seconds = Field(
        10.0,
        ge=0.1,
        le=600,
        description="Seconds to wait for the broker to confirm a message before it is sent again.",
    )
    start_timeout_seconds: Seconds = Field(
        10.0, ge=0.1, le=600, description="Seconds the embedded broker may take until it answers."
    )
    reconnect_min_seconds: Seconds = Field(
        0.2,
        ge=0.01,
        le=600,
        description="Seconds before the first attempt to connect again; doubled after each failure.",
    )
    reconnect_max_seconds: Seconds = Field(
        5.0, ge=0.01, le=600, description="Longest pause between two attempts to connect again, in seconds."
    )

    @field_validator("password")
    @classmethod
    def _password_needs_a_user(cls, password: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if password is not None and info.data.get("username") is None and "username" in info.data:
            raise PydanticCustomError(TOGETHER, "broker.username beside broker.password")
        return password

    @field_validator("reconnect_max_seconds")
    @classmethod
    def _maximum_is_not_below_the_minimum(cls, maximum: float, info: ValidationInfo) -> float:
        if maximum < info.data.get("reconnect_min_seconds", maximum):
            raise PydanticCustomError(TOGETHER, "at least broker.reconnect_min_seconds")
        return maximum


class HttpSettings(Section):
    """The REST API and the dashboard. Accepted already, used by a later version: nothing listens yet."""

    host: Host = Field("127.0.0.1", description="Address the REST API and the dashboard will listen on.")
    port: Port = Field(8000, description="TCP port the REST API and the dashboard will listen on.")


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


class WriterSettings(Section):
    """The one thread that writes to the database."""

    group_max: Whole = Field(256, ge=1, le=100_000, description="Most pieces of work that share one commit.")
    busy_timeout_ms: Whole = Field(
        5_000, ge=0, le=600_000, description="Milliseconds to wait for a database that another process is writing to."
    )


class LimitSettings(Section):
    """What is taken from outside before it is refused."""

    payload_bytes: Whole = Field(
        65_536, ge=256, le=67_108_864, description="Largest bus message that is read, in bytes."
    )
    json_depth: Whole = Field(16, ge=2, le=100, description="Deepest nesting of a JSON message.")
    dead_letter_bytes: Whole = Field(
        4_096, ge=0, le=1_048_576, description="Bytes of an unreadable message that are kept with its dead letter."
    )
    future_seconds: Seconds = Field(
        300.0,
        ge=0,
        le=315_360_000,
        description="Prices and candles from the bus whose time is further in the future than this, in seconds, "
        "are refused: one of them would keep all later ones out.",
    )
    queue: Whole = Field(
        10_000, ge=1, le=10_000_000, description="Messages that may wait inside the daemon, per queue."
    )


class LogSettings(Section):
    """What the daemon writes to stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least important messages that are shown."
    )
    format: Literal["auto", "console", "json"] = Field(
        "auto",
        description="console: coloured lines. json: one object per line. auto: console on a terminal, json "
        "otherwise.",
    )


class Settings(BaseSettings):
    """All settings. Use `config.loading.load_settings`; this class alone reads no file and no environment."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    data_dir: Path = Field(
        Path("./fillbook-data"),
        description="Folder of the books, the broker's store and the run files. Created when missing.",
    )
    database_url: str | None = Field(
        None,
        description=f"Database of the books, such as sqlite:////srv/fillbook/books.db; "
        f"unset = {DATABASE_FILE} in data_dir.",
    )
    bots_dir: Path | None = Field(
        None, description="Folder of the bot files (*.toml); unset = the examples that come along."
    )
    base_topic: Topic = Field(
        "fillbook", description="First level of every bus topic; give each Fillbook on a shared broker its own."
    )
    account: AccountSettings = Field(default_factory=AccountSettings)
    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    paper: PaperSettings = Field(default_factory=PaperSettings)
    execution: ExecutionSettings = Field(default_factory=ExecutionSettings)
    live: LiveSettings = Field(default_factory=LiveSettings)
    risk: RiskSettings = Field(default_factory=RiskSettings)
    signals: SignalSettings = Field(default_factory=SignalSettings)
    portfolio: PortfolioSettings = Field(default_factory=PortfolioSettings)
    feed: FeedSettings = Field(default_factory=FeedSettings)
    writer: WriterSettings = Field(default_factory=WriterSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` hands over: it layers the sources itself, to know where each value is "
        "from."""
        return (init_settings,)

    @field_validator("database_url")
    @classmethod
    def _only_sqlite_yet(cls, url: str | None) -> str | None:
        if url is None or _SQLITE_FILE.fullmatch(url):
            return url
        if url.startswith(("postgres://", "postgresql://", "postgresql+")):
            raise ValueError("a sqlite:/// address (PostgreSQL comes in a later version of Fillbook)")
        raise ValueError("the address of a database file, such as sqlite:////srv/fillbook/books.db")

    @property
    def database_file(self) -> Path:
        """The SQLite file of the books."""
        if self.database_url is None:
            return self.data_dir / DATABASE_FILE
        return Path(self.database_url.removeprefix("sqlite:///"))

    @property
    def resolved_database_url(self) -> str:
        """The database as an SQLAlchemy address."""
        return f"sqlite:///{self.database_file}"

    @property
    def bots_folder(self) -> Path:
        """Where the bot files are."""
        return self.bots_dir if self.bots_dir is not None else SHIPPED_BOTS


def settings_schema() -> dict[str, Any]:
    """The JSON Schema of fillbook.toml, with every description, default and bound."""
    schema: dict[str, Any] = _with_bounds(Settings.model_json_schema())
    return schema


_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _with_bounds(node: Any) -> Any:
    """pydantic leaves the bounds of a field with a validator before it as "ge" and "le"."""
    if isinstance(node, list):
        return [_with_bounds(item) for item in node]
    if not isinstance(node, dict):
        return node
    is_field = "type" in node or "anyOf" in node
    return {
        _BOUNDS[key] if is_field and key in _BOUNDS else key: _number(value)
        if is_field and key in _BOUNDS
        else _with_bounds(value)
        for key, value in node.items()
    }


def _number(bound: object) -> int | float:
    exact = Decimal(str(bound))
    return int(exact) if exact == exact.to_integral_value() else float(exact)
