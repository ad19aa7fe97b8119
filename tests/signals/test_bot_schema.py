"""The JSON Schema of bot files, judged by a validator that is not ours."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

from config.toml_errors import ConfigurationInvalid
from signals.bot_schema import SCHEMA_FILE, bot_file_schema, schema_text
from signals.loading import load_bots

CONFIG = Path(__file__).parents[2] / "config"
STORED = CONFIG / "bots" / SCHEMA_FILE
SHIPPED = sorted(CONFIG.glob("*/*.toml"))
VALIDATOR = Draft202012Validator(bot_file_schema())

WEIGHTED = 'name = "a"\nsymbol = "BTC-USD"\n[[signals]]\nfunction = "RSI"\nweight = 1\n'
CROSS = 'name = "a"\nsymbol = "BTC-USD"\nclass = "sma-cross"\n'


def faults(text: str) -> list[ValidationError]:
    return list(VALIDATOR.iter_errors(tomllib.loads(text)))


def said(text: str) -> str:
    """The message that the most relevant fault has, with its place."""
    worst = best_match(VALIDATOR.iter_errors(tomllib.loads(text)))
    assert worst is not None, f"accepted: {text}"
    return f"{worst.json_path}: {worst.message}"


def with_keys(base: str, keys: str) -> str:
    return keys + "\n" + base


def test_the_stored_schema_is_current() -> None:
    current = STORED.read_text(encoding="utf-8") == schema_text(bot_file_schema())
    assert current, f"write it anew: ./run fillbook config schema bot > config/bots/{SCHEMA_FILE}"


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(bot_file_schema())


def test_every_reference_leads_somewhere_and_no_word_is_pydantics_own() -> None:
    schema = bot_file_schema()
    words: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                words.add(key)
                if key == "$ref":
                    assert value.removeprefix("#/$defs/") in schema["$defs"]
                walk(value)
        elif isinstance(node, list):
            for item in node:
                walk(item)

    walk(schema)
    assert not words & {"ge", "gt", "le", "lt"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_bot_is_valid(path: Path) -> None:
    assert [fault.message for fault in faults(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("path", sorted((CONFIG / "bots").glob("*.toml")), ids=lambda path: path.name)
def test_every_example_names_the_schema_in_its_first_line(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"#:schema ./{SCHEMA_FILE}"
    assert (path.parent / SCHEMA_FILE).exists()


def test_there_is_something_to_check() -> None:
    assert len(SHIPPED) >= 6


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (with_keys(WEIGHTED, "nmae = 1"), "$", "'nmae' was unexpected"),
        (with_keys(WEIGHTED, "fast = 10"), "$", "'fast' was unexpected"),  # of another class
        (with_keys(CROSS, "threshold = 0.3"), "$", "'threshold' was unexpected"),
        (with_keys(WEIGHTED, "threshold = true"), "$.threshold", "is not of type 'number'"),
        (with_keys(WEIGHTED, 'enabled = "yes"'), "$.enabled", "is not of type 'boolean'"),
        (with_keys(WEIGHTED, "threshold = 1.5"), "$.threshold", "greater than the maximum of 1"),
        (with_keys(WEIGHTED, "confirmation_minutes = -1"), "$.confirmation_minutes", "less than the minimum of 0"),
        (with_keys(CROSS, "fast = 2.5"), "$.fast", "is not of type 'integer'"),
        (with_keys(CROSS, 'exit = "never"'), "$.exit", "is not one of ['size', 'close']"),
        (with_keys(WEIGHTED, "notional = 5\nquantity = 1"), "$", "should not be valid under {'required'"),
        (with_keys(CROSS, "quantity = 5\nfraction = 0.1"), "$", "should not be valid under {'required'"),
        (with_keys(WEIGHTED, "stop_loss_pct = 100"), "$.stop_loss_pct", "100 is"),
        (with_keys(WEIGHTED, "notional = 0"), "$.notional", "0 is"),
        (WEIGHTED.replace('"a"', '"signals"'), "$.name", "should not be valid under"),
        (WEIGHTED.replace("BTC-USD", "btc-usd"), "$.symbol", "does not match"),
        (WEIGHTED.replace('symbol = "BTC-USD"\n', ""), "$", "'symbol' is a required property"),
        (WEIGHTED.replace("weight = 1", ""), "$.signals[0]", "'weight' is a required property"),
        (WEIGHTED.replace('"RSI"', '"RIS"'), "$.signals[0].function", "is not one of"),
        (WEIGHTED + "params = { period = 3 }", "$.signals[0].params", "'period' was unexpected"),
        (WEIGHTED + 'mapper = "macd"', "$.signals[0].mapper", "is not one of"),
        ('name = "a"\nsymbol = "BTC-USD"\nsignals = []', "$.signals", "should be non-empty"),
        ('name = "a"\nsymbol = "BTC-USD"\n', "$", "'signals' is a required property"),
    ],
)
def test_a_fault_is_named_at_its_place_and_loading_refuses_it_too(
    text: str, place: str, message: str, tmp_path: Path
) -> None:
    found = said(text)
    assert found.startswith(f"{place}: "), found
    assert message in found
    path = tmp_path / "bot.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationInvalid):
        load_bots([path])


@pytest.mark.parametrize(
    "text",
    [
        WEIGHTED,
        CROSS,
        with_keys(WEIGHTED, 'class = "weighted"\nfraction = 0.25\nstop_loss_pct = 3\n'),
        'name = "mine"\nsymbol = "BTC-USD"\nclass = "my_bots.breakout:Breakout"\nparams = { window = 20 }\n',
    ],
)
def test_what_is_right_is_accepted(text: str) -> None:
    assert faults(text) == []


def test_the_editor_gets_a_word_on_every_key() -> None:
    properties = bot_file_schema()["properties"]
    assert [key for key, described in properties.items() if not described.get("description")] == []


def test_short_things_stand_on_one_line() -> None:
    text = schema_text({"a": {"b": [1, 2]}, "long": ["x" * 60, "y" * 60]})
    assert text == '{\n  "a": {"b": [1, 2]},\n  "long": [\n    "' + "x" * 60 + '",\n    "' + "y" * 60 + '"\n  ]\n}\n'
