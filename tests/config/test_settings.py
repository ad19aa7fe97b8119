"""Settings: defaults, sources, precedence, faults of all sources at once, secrets."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

import config.settings
from config.loading import LoadedSettings, effective_rows, load_settings
from config.settings import SHIPPED_BOTS, Settings, settings_schema
from config.toml_errors import ConfigurationInvalid

DEFAULT_TOML = Path(config.settings.__file__).with_name("default.toml")


def load(
    tmp_path: Path,
    toml: str | None = None,
    *,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> LoadedSettings:
    if toml is not None:
        (tmp_path / "fillbook.toml").write_text(toml)
    return load_settings(config_file=file, overrides=overrides, environ=environ or {}, cwd=tmp_path)


def faults(tmp_path: Path, toml: str | None = None, **given: Any) -> list[str]:
    with pytest.raises(ConfigurationInvalid) as caught:
        load(tmp_path, toml, **given)
    return [str(fault) for fault in caught.value.faults]


def every_field(
    model: type[BaseModel] = Settings, prefix: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], FieldInfo]]:
    found: list[tuple[tuple[str, ...], FieldInfo]] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += every_field(inner, (*prefix, name))
        else:
            found.append(((*prefix, name), field))
    return found


# ---- default.toml ---------------------------------------------------------------------------------------


def test_default_toml_gives_exactly_the_defaults() -> None:
    data = tomllib.loads(DEFAULT_TOML.read_text(), parse_float=Decimal)
    assert Settings(**data) == Settings()


def test_default_toml_has_every_setting_with_a_comment_above_and_nothing_else() -> None:
    table: tuple[str, ...] = ()
    seen: dict[tuple[str, ...], str] = {}
    above = ""
    for line in DEFAULT_TOML.read_text().splitlines():
        header = re.fullmatch(r"\[([a-z.]+)\]", line)
        pair = re.fullmatch(r"(# )?([a-z_]+) = (.*)", line)
        if header:
            assert above.startswith("# "), f"[{header[1]}] has no comment"
            table = tuple(header[1].split("."))
        elif pair and (*table, pair[2]) not in seen:
            assert above.startswith("# "), f"{line} has no comment"
            seen[*table, pair[2]] = pair[1] or ""
        above = line
    known = dict(every_field())
    assert seen.keys() == known.keys()
    for path, commented_out in seen.items():
        has_default = known[path].get_default(call_default_factory=True, validated_data={}) is not None
        assert has_default is not bool(commented_out), path


def test_every_number_has_bounds_and_every_setting_a_description_in_words() -> None:
    for path, field in every_field():
        assert field.description, path
        assert len(field.description.split()) >= 4, path
        assert field.description.endswith((".", "?")), path
        if field.annotation in (int, float, Decimal):
            names = {name for rule in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(rule, name)}
            assert names & {"ge", "gt"}, path
            assert names & {"le", "lt"}, path


def test_every_duration_and_size_names_its_unit() -> None:
    for path, field in every_field():
        if path[-1].endswith("_seconds"):
            assert "econds" in (field.description or ""), path
        if path[-1].endswith("_bytes"):
            assert "ytes" in (field.description or ""), path
        if path[-1].endswith("_bps"):
            assert "bps" in (field.description or ""), path


def test_the_schema_describes_every_table() -> None:
    schema = settings_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Settings.model_fields)
    assert schema["$defs"]["BrokerSettings"]["properties"]["port"]["maximum"] == 65535
    assert schema["$defs"]["PaperSettings"]["properties"]["taker_fee_bps"]["maximum"] == 10_000
    assert '"ge"' not in json.dumps(schema)


# ---- sources --------------------------------------------------------------------------------------------


def test_defaults_need_no_file_and_no_environment(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.config_file is None
    assert loaded.sources == {}
    assert loaded.settings.data_dir == tmp_path / "fillbook-data"
    assert loaded.settings.database_file == tmp_path / "fillbook-data" / "fillbook.db"
    assert loaded.settings.resolved_database_url == f"sqlite:///{tmp_path}/fillbook-data/fillbook.db"
    assert loaded.settings.bots_folder == SHIPPED_BOTS


def test_set_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    toml = "[broker]\nport = 1\nhost = 'a'\nkeepalive_seconds = 7\n"
    environ = {"FILLBOOK_BROKER__PORT": "2", "FILLBOOK_BROKER__HOST": "b"}
    loaded = load(tmp_path, toml, environ=environ, overrides=["broker.port=3"])
    assert loaded.settings.broker.port == 3
    assert loaded.settings.broker.host == "b"
    assert loaded.settings.broker.keepalive_seconds == 7
    assert loaded.settings.broker.max_ack_pending == 64
    assert loaded.sources == {
        "broker.host": "FILLBOOK_BROKER__HOST",
        "broker.port": "--set",
        "broker.keepalive_seconds": "fillbook.toml:4",
    }


def test_the_file_is_the_named_one_else_here_else_in_the_data_folder(tmp_path: Path) -> None:
    for folder, port in (("named", 1), ("books", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "fillbook.toml").write_text(f"http.port = {port}")
    environ = {"FILLBOOK_DATA_DIR": "books"}
    in_data_dir = load(tmp_path, environ=environ)
    assert in_data_dir.settings.http.port == 2
    assert in_data_dir.config_file == tmp_path / "books" / "fillbook.toml"
    assert load(tmp_path, overrides=["data_dir=books"]).settings.http.port == 2
    assert load(tmp_path, "http.port = 3", environ=environ).settings.http.port == 3
    named = load(tmp_path, environ=environ, file=tmp_path / "named" / "fillbook.toml")
    assert named.settings.http.port == 1


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    assert faults(tmp_path, file=Path("nowhere.toml")) == [
        "nowhere.toml: expected a readable file (no such file or directory)"
    ]


def test_paths_are_meant_from_the_folder_of_their_source(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "fillbook.toml"
    file.write_text("data_dir = 'books'\nbots_dir = 'bots'\n[feed.candles]\nAAPL = 'aapl.csv'\nMSFT = 'x'\n")
    loaded = load(tmp_path, file=file, overrides=["feed.candles.MSFT=msft.csv", "database_url=sqlite:///b.db"])
    assert loaded.settings.data_dir == tmp_path / "etc" / "books"
    assert loaded.settings.bots_folder == tmp_path / "etc" / "bots"
    assert loaded.settings.feed.candles == {"AAPL": tmp_path / "etc" / "aapl.csv", "MSFT": tmp_path / "msft.csv"}
    assert loaded.settings.database_file == tmp_path / "b.db"


def test_numbers_are_exact_from_every_source(tmp_path: Path) -> None:
    toml = "[paper]\ntaker_fee_bps = 0.1\nmaker_fee_bps = '0.2'\n"
    loaded = load(
        tmp_path, toml, environ={"FILLBOOK_PAPER__SLIPPAGE_BPS": "0.3"}, overrides=["paper.half_spread_bps=0.4"]
    )
    paper = loaded.settings.paper
    shown = [str(x) for x in (paper.taker_fee_bps, paper.maker_fee_bps, paper.slippage_bps, paper.half_spread_bps)]
    assert shown == ["0.1", "0.2", "0.3", "0.4"]


def test_lists_and_tables_come_from_text_as_toml_or_json(tmp_path: Path) -> None:
    environ = {
        "FILLBOOK_BROKER__COMMAND": '["nats-server", "-c"]',
        "FILLBOOK_FEED__CANDLES": '{"BTC-USD": "btc.csv"}',
    }
    overrides = ["feed.candles.BRK.B=brk.csv", 'feed.candles."X.Y"=xy.csv', "feed.synthetic_symbols=['A', 'B']"]
    loaded = load(tmp_path, environ=environ, overrides=overrides)
    assert loaded.settings.broker.command == ("nats-server", "-c")
    assert loaded.settings.feed.candles == {
        "BTC-USD": tmp_path / "btc.csv",
        "BRK.B": tmp_path / "brk.csv",
        "X.Y": tmp_path / "xy.csv",
    }
    assert loaded.settings.feed.synthetic_symbols == ("A", "B")


def test_texts_stay_texts_also_when_they_look_like_numbers(tmp_path: Path) -> None:
    overrides = [
        "broker.username=007",
        "broker.password=1234",
        "account.name=42",
        "log.level='debug'",
        "data_dir=2024",
    ]
    loaded = load(tmp_path, overrides=overrides)
    assert loaded.settings.broker.username == "007"
    assert loaded.settings.broker.password == SecretStr("1234")
    assert loaded.settings.account.name == "42"
    assert loaded.settings.log.level == "debug"
    assert loaded.settings.data_dir == tmp_path / "2024"


def test_the_last_set_of_a_key_counts(tmp_path: Path) -> None:
    assert load(tmp_path, overrides=["http.port=1", "http.port=2"]).settings.http.port == 2


def test_set_reaches_any_key_of_a_bot(tmp_path: Path) -> None:
    overrides = [
        "bots.sma-cross.symbol=AAPL",
        "bots.sma-cross.quantity=0.5",
        "bots.sma-cross.enabled=true",
        "bots.other.sizing.fraction='0.1'",
        "bots.other.note=a\nb = 2",
    ]
    assert load(tmp_path, overrides=overrides).bot_overrides == {
        "sma-cross": {"symbol": "AAPL", "quantity": Decimal("0.5"), "enabled": True},
        "other": {"sizing": {"fraction": "0.1"}, "note": "a\nb = 2"},
    }


def test_foreign_and_empty_variables_are_left_alone(tmp_path: Path) -> None:
    environ = {
        "PATH": "/bin",
        "FILLBOOK_HTTP__PORT": "",
        "FILLBOOK_SERVICE_HOST": "10.0.0.1",
        "FILLBOOK_PORT_1883_TCP_ADDR": "10.0.0.1",
    }
    assert load(tmp_path, environ=environ).sources == {}


# ---- faults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[broker]\nport = "abc"', 'fillbook.toml:2: broker.port = "abc": expected a whole number from 1 to 65535'),
        ("broker.port = true", "fillbook.toml:1: broker.port = true: expected a whole number from 1 to 65535"),
        ("broker.port = 1.0", "fillbook.toml:1: broker.port = 1: expected a whole number from 1 to 65535"),
        ("broker.port = '١٢'", 'fillbook.toml:1: broker.port = "١٢": expected a whole number from 1 to 65535'),
        ("broker.prot = 1", "fillbook.toml:1: broker.prot = ***: expected a known key (did you mean port?)"),
        ("[brokr]\nx = 1", "fillbook.toml:1: brokr = {...}: expected a known key (did you mean broker?)"),
        (
            "paper.taker_fee_bps = -1",
            "fillbook.toml:1: paper.taker_fee_bps = -1: expected a number from 0 to 10000",
        ),
        (
            "paper.taker_fee_bps = nan",
            "fillbook.toml:1: paper.taker_fee_bps = NaN: expected a number from 0 to 10000",
        ),
        (
            "paper.max_volume_share = 1e999",
            "fillbook.toml:1: paper.max_volume_share = 1E+999: expected a number from 0 to 1",
        ),
        (
            "paper.slippage_bps = '1_0'",
            'fillbook.toml:1: paper.slippage_bps = "1_0": expected a number from 0 to 10000',
        ),
        ("account.mode = 'cash'", 'fillbook.toml:1: account.mode = "cash": expected one of "spot" or "margin"'),
        (
            "account.name = 'Main'",
            'fillbook.toml:1: account.name = "Main": expected a name matching [a-z0-9][a-z0-9-]{0,31}',
        ),
        (
            "account.currency = 'usd'",
            'fillbook.toml:1: account.currency = "usd": expected a currency of 3 to 5 capital letters, such as USD',
        ),
        (
            "broker.sync_interval = '1h'",
            'fillbook.toml:1: broker.sync_interval = "1h"'
            ': expected "always" or an interval such as "500ms", "1s", "1m"',
        ),
        ("broker.host = 'a b'", 'fillbook.toml:1: broker.host = "a b": expected a host name or an IP address'),
        ("broker.command = 'x'", 'fillbook.toml:1: broker.command = "x": expected a list in [ ]'),
        (
            "base_topic = 'a/#'",
            'fillbook.toml:1: base_topic = "a/#": expected 1 to 4 levels of letters, digits, _ and -, parted by /',
        ),
        (
            "[feed.candles]\n'a b' = 'x'",
            'fillbook.toml:2: feed.candles."a b" = "a b": expected a symbol matching [A-Z0-9][A-Z0-9._-]{0,31}',
        ),
        (
            "feed.synthetic_symbols = ['A', 'A']",
            "fillbook.toml:1: feed.synthetic_symbols = [...]: expected each symbol only once",
        ),
        (
            "feed.synthetic_symbols = ['A',\n'b']",
            'fillbook.toml:2: feed.synthetic_symbols[1] = "b": expected a symbol matching [A-Z0-9][A-Z0-9._-]{0,31}',
        ),
        ("data_dir = 1", "fillbook.toml:1: data_dir = 1: expected a path in quotes"),
        (
            "database_url = 'postgresql+psycopg://me:canary@host/db'",
            'fillbook.toml:1: database_url = "postgresql+psycopg://me:***@host/db": expected a sqlite:/// address '
            "(PostgreSQL comes in a later version of Fillbook)",
        ),
        (
            "database_url = 'sqlite:///:memory:'",
            'fillbook.toml:1: database_url = "sqlite:///:memory:": expected the address of a database file, '
            "such as sqlite:////srv/fillbook/books.db",
        ),
        ("broker.port = = 1", "fillbook.toml:1: expected valid TOML (invalid value)"),
        ("a.b = 1\na.b = 2", "fillbook.toml:2: a.b: expected each key only once (first on line 1)"),
    ],
)
def test_a_bad_file_is_said_with_line_key_value_and_expectation(tmp_path: Path, toml: str, message: str) -> None:
    assert faults(tmp_path, toml) == [message]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("broker.port=abc", '--set: broker.port = "abc": expected a whole number from 1 to 65535'),
        ("broker.nope=1", "--set: broker.nope = ***: expected a known key (one of embedded, host, port, "),
        ("nonsense", '--set: "nonsense": expected KEY=VALUE, such as paper.taker_fee_bps=10'),
        ("=1", '--set: "=1": expected KEY=VALUE, such as paper.taker_fee_bps=10'),
        ("a..b=1", '--set: "a..b=1": expected KEY=VALUE, such as paper.taker_fee_bps=10'),
        ("a.=1", '--set: "a.=1": expected KEY=VALUE, such as paper.taker_fee_bps=10'),
        ("broker.password:canary", "--set: ***: expected KEY=VALUE, such as paper.taker_fee_bps=10"),
        ("bots.x=1", "--set: bots.x: expected bots.<name>.<key>=VALUE with a name matching [a-z0-9][a-z0-9-]{0,31}"),
        ("bots.X.a=1", "--set: bots.X.a: expected bots.<name>.<key>=VALUE with a name matching"),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    (fault,) = faults(tmp_path, overrides=[override])
    assert fault.startswith(message)


def test_a_fault_of_the_environment_names_the_variable(tmp_path: Path) -> None:
    environ = {"FILLBOOK_BROKER__PORT": "0", "FILLBOOK_LOGG__LEVEL": "x", "FILLBOOK_FEED__CANDLES": "[1"}
    assert faults(tmp_path, environ=environ) == [
        "environment: FILLBOOK_BROKER__PORT = 0: expected a whole number from 1 to 65535",
        'environment: FILLBOOK_FEED__CANDLES = "[1": expected a table',
        "environment: FILLBOOK_LOGG__LEVEL: expected a known key (did you mean log?)",
    ]


def test_faults_of_all_sources_come_at_once_also_of_covered_values(tmp_path: Path) -> None:
    assert faults(
        tmp_path,
        "[http]\nport = 0\nprot = 1\n[broker]\nreconnect_min_seconds = 3\nreconnect_max_seconds = 2\n",
        environ={"FILLBOOK_HTTP__PORT": "x", "FILLBOOK_ACCOUNT__NAME": "A B"},
        overrides=["http.port=80", "log.level=loud", "nonsense"],
    ) == [
        "fillbook.toml:2: http.port = 0: expected a whole number from 1 to 65535",
        "fillbook.toml:3: http.prot = 1: expected a known key (did you mean port?)",
        'environment: FILLBOOK_ACCOUNT__NAME = "A B": expected a name matching [a-z0-9][a-z0-9-]{0,31}',
        'environment: FILLBOOK_HTTP__PORT = "x": expected a whole number from 1 to 65535',
        '--set: "nonsense": expected KEY=VALUE, such as paper.taker_fee_bps=10',
        '--set: log.level = "loud": expected one of "debug", "info", "warning" or "error"',
        "fillbook.toml:6: broker.reconnect_max_seconds = 2: expected at least broker.reconnect_min_seconds",
    ]


def test_rules_over_several_settings_hold_across_sources(tmp_path: Path) -> None:
    toml = "[broker]\nreconnect_min_seconds = 9\npassword = 'canary'\n[feed]\nsynthetic = true\n"
    assert faults(tmp_path, toml, overrides=["feed.candles.AAPL=x.csv"]) == [
        "fillbook.toml:3: broker.password = ***: expected broker.username beside broker.password",
        "fillbook.toml:1: broker.reconnect_max_seconds = 5: expected at least broker.reconnect_min_seconds",
        "fillbook.toml:5: feed.synthetic = true: expected false, because feed.candles names candle files",
    ]
    environ = {"FILLBOOK_BROKER__USERNAME": "me", "FILLBOOK_BROKER__RECONNECT_MAX_SECONDS": "10"}
    assert load(tmp_path, toml, environ=environ).settings.broker.reconnect_max_seconds == 10.0


# ---- secrets --------------------------------------------------------------------------------------------

CANARY = "canary-8423"


def test_a_loaded_secret_never_shows(tmp_path: Path) -> None:
    loaded = load(tmp_path, f"[broker]\nusername = 'me'\npassword = '{CANARY}'\n")
    password = loaded.settings.broker.password
    assert password is not None
    assert password.get_secret_value() == CANARY
    for text in (repr(loaded), str(loaded.settings), loaded.settings.model_dump_json(), str(effective_rows(loaded))):
        assert CANARY not in text


@pytest.mark.parametrize(
    "given",
    [
        {"toml": f"[broker]\npassword = ['{CANARY}']"},
        {"toml": f"[broker]\npassword = '{CANARY}'"},
        {"toml": f"[broker]\npasswort = '{CANARY}'"},
        {"toml": f"broker = '{CANARY}'"},
        {"toml": f"[broker]\npassword = '{CANARY}'\nport = '"},
        {"environ": {"FILLBOOK_BROKER__PASSWORD": CANARY}},
        {"environ": {"FILLBOOK_BROKER__PASWORD": CANARY}},
        {"environ": {"FILLBOOK_BROKER": CANARY}},
        {"environ": {"FILLBOOK_PASSWORD": CANARY}},
        {"overrides": [f"broker.password={CANARY}"]},
        {"overrides": [f"broker.pw={CANARY}"]},
        {"overrides": [f"broker.password {CANARY}"]},
        {"overrides": [f"database_url=postgresql://me:{CANARY}@host/db"]},
    ],
)
def test_a_fault_never_shows_a_secret(tmp_path: Path, given: dict[str, Any]) -> None:
    assert CANARY not in "".join(faults(tmp_path, **given))


# ---- config show ----------------------------------------------------------------------------------------


def test_every_setting_is_shown_with_its_value_and_source(tmp_path: Path) -> None:
    toml = "[broker]\nusername = 'me'\npassword = 'x'\n[feed]\ncandles = {'BTC-USD' = '/c.csv'}\n"
    loaded = load(tmp_path, toml, environ={"FILLBOOK_LOG__LEVEL": "debug"}, overrides=["paper.taker_fee_bps=10.50"])
    rows = {row.key: (row.value, row.source) for row in effective_rows(loaded)}
    assert list(rows) == [".".join(path) for path, _ in every_field()]
    assert rows["broker.password"] == ("***", "fillbook.toml:3")
    assert rows["broker.username"] == ('"me"', "fillbook.toml:2")
    assert rows["feed.candles"] == ('{ BTC-USD = "/c.csv" }', "fillbook.toml:5")
    assert rows["log.level"] == ('"debug"', "FILLBOOK_LOG__LEVEL")
    assert rows["paper.taker_fee_bps"] == ("10.5", "--set")
    assert rows["broker.command"] == ("[]", "default")
    assert rows["broker.reconnect_min_seconds"] == ("0.2", "default")
    assert rows["bots_dir"] == ("(unset)", "default")
    assert rows["data_dir"] == (f'"{tmp_path}/fillbook-data"', "default")


def test_a_long_path_is_shown_whole(tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["a-folder-with-a-long-name"] * 8)
    rows = {row.key: row.value for row in effective_rows(load(tmp_path, "", overrides=[f"data_dir={deep}"]))}
    assert rows["data_dir"] == f'"{deep}"'
