"""All settings of Fillbook; its tables are in `config.sections`.

`config.loading` fills them from `--set`, the environment, fillbook.toml and these defaults. The models are
frozen; money and basis points are exact Decimals, durations are seconds unless the name says otherwise.
"""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from config.sections.base import TOGETHER
from config.sections.machinery import BrokerSettings, HttpSettings, LimitSettings, LogSettings, WriterSettings
from config.sections.services import FeedSettings, PortfolioSettings, SignalSettings
from config.sections.trading import AccountSettings, ExecutionSettings, LiveSettings, PaperSettings, RiskSettings
from config.setting_types import Topic

__all__ = [
    "DATABASE_FILE", "SHIPPED_BOTS", "TOGETHER", "AccountSettings", "BrokerSettings", "ExecutionSettings",
    "FeedSettings", "HttpSettings", "LimitSettings", "LiveSettings", "LogSettings", "PaperSettings",
    "PortfolioSettings", "RiskSettings", "Settings", "SignalSettings", "WriterSettings", "settings_schema",
]  # fmt: skip

SHIPPED_BOTS = Path(__file__).resolve().parent / "bots"
DATABASE_FILE = "fillbook.db"

_SQLITE_FILE = re.compile(r"sqlite:///(?!:memory:)[^?#]+")


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
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` hands over: it layers the sources itself, to know where each value is from."""
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
