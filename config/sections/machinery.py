"""Settings of the broker, the API, the database, the log, and of how much is taken from outside."""

from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from config.sections.base import TOGETHER, Section
from config.setting_types import Host, Port, Seconds, SyncInterval, Whole


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
    older_in_flight: Whole = Field(
        8,
        ge=1,
        le=200,
        description="Older trades and cash flows (of an import) on their way to the broker at once. More is faster, "
        "fewer leave more room for orders.",
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
