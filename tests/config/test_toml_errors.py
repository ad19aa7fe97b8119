"""Faults carry file, line, key, value and expectation, and never a secret."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from config.pydantic_errors import faults_from_pydantic
from config.toml_errors import ConfigurationInvalid, Fault, TomlDocument, key_text, value_text

EVERYTHING = '''\
# a comment with [brackets] and key = 1
title = "fill # book"

[broker]
port = 1883
"quoted key" = 'literal \\'
site."example.com".on = true
inline = { a = 1, b = { c = [1, 2] } }

[[signals]]
name = "rsi"
  [signals.parameters]
  period = 14
  [[signals.parameters.steps]]
  x = 1

[[signals]]
name = """
several
lines \\
""""
tail = 1
numbers = [
  1, # one
  { two = 2 },

  [ 3,
    4 ],
]
when = 1979-05-27 07:32:00
[signals.parameters]
period = 21
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("broker",), 4),
        (("broker", "port"), 5),
        (("broker", "quoted key"), 6),
        (("broker", "site"), 7),
        (("broker", "site", "example.com", "on"), 7),
        (("broker", "inline", "b", "c", 1), 8),
        (("signals", 0), 10),
        (("signals", 0, "name"), 11),
        (("signals", 0, "parameters"), 12),
        (("signals", 0, "parameters", "period"), 13),
        (("signals", 0, "parameters", "steps", 0, "x"), 15),
        (("signals", 1), 17),
        (("signals", 1, "name"), 18),
        (("signals", 1, "tail"), 22),
        (("signals", 1, "numbers"), 23),
        (("signals", 1, "numbers", 0), 24),
        (("signals", 1, "numbers", 1, "two"), 25),
        (("signals", 1, "numbers", 2), 27),
        (("signals", 1, "numbers", 2, 1), 28),
        (("signals", 1, "when"), 30),
        (("signals", 1, "parameters", "period"), 32),
        (("broker", "not there"), 4),
        (("nothing",), 1),
    ],
)
def test_every_key_has_its_line(path: tuple[str | int, ...], line: int) -> None:
    assert TomlDocument.parse(EVERYTHING, "f.toml").line_of(path) == line


def test_lines_are_right_with_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_bytes(b"\xef\xbb\xbfa = 1\r\n\r\n[t]\r\nb = 2\r\n")
    document = TomlDocument.read(file)
    assert document.data == {"a": 1, "t": {"b": 2}}
    assert document.line_of(("t", "b")) == 4


def test_numbers_with_a_point_are_exact() -> None:
    value = TomlDocument.parse("x = 0.10", "f.toml").data["x"]
    assert isinstance(value, Decimal)
    assert str(value) == "0.10"


def faults_of(text: str) -> list[str]:
    with pytest.raises(ConfigurationInvalid) as caught:
        TomlDocument.parse(text, "f.toml")
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = = 2\n", "f.toml:2: expected valid TOML (invalid value)"),
        ("a = 1\n\nb 2\n", "f.toml:3: expected valid TOML (expected '=' after a key in a key/value pair)"),
        ('a = 1\nb = "open', "f.toml:2: expected valid TOML (unterminated string)"),
        ("a = [1,\n2\n", "f.toml:2: expected valid TOML (unclosed array)"),
        ("a = " + "[" * 5000, "f.toml: expected less deeply nested values"),
        ("a" + ".a" * 3000 + " = 1", "f.toml: expected less deeply nested values"),
        ("a = " + "9" * 5000, "f.toml: expected numbers of a sensible size"),
        ("a = 1e" + "9" * 50, "f.toml: expected numbers of a sensible size"),
    ],
)
def test_bad_syntax_is_a_fault_with_its_line(text: str, message: str) -> None:
    assert faults_of(text) == [message]


def test_every_doubled_key_is_a_fault_with_the_line_of_the_first() -> None:
    text = "a = 1\na = 2\n[t]\nb.c = 1\nb.c = 2\n[u]\nx = {y = 1, y = 2}\n[t]\n"
    assert faults_of(text) == [
        "f.toml:2: a: expected each key only once (first on line 1)",
        "f.toml:5: t.b.c: expected each key only once (first on line 4)",
        "f.toml:7: u.x.y: expected each key only once (first on line 7)",
        "f.toml:8: t: expected each key only once (first on line 3)",
    ]


def test_a_bad_place_and_the_doubled_keys_after_it_are_all_named() -> None:
    assert faults_of("a = 2020-13-45\nb = 1\nb = 2\n") == [
        "f.toml:1: expected valid TOML (expected newline or end of document after a statement)",
        "f.toml:3: b: expected each key only once (first on line 2)",
    ]


def test_a_super_table_after_its_child_is_not_a_doubled_key() -> None:
    assert TomlDocument.parse("[a.b]\nx = 1\n[a]\ny = 2\n", "f").data == {"a": {"b": {"x": 1}, "y": 2}}


def test_unreadable_files_are_faults(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"nowhere\.toml: expected a readable file \(no such file"):
        TomlDocument.read(tmp_path / "nowhere.toml")
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'a = 1\nb = "\xe4"\n')
    with pytest.raises(ConfigurationInvalid, match=r"latin\.toml:2: expected text in UTF-8"):
        TomlDocument.read(latin)


def test_the_message_lists_every_fault() -> None:
    faults = [Fault("f", 1, "a", "1", "x"), Fault("f", 2, "b", None, "y")]
    assert str(ConfigurationInvalid(faults)) == (
        "2 faults in the configuration:\n  f:1: a = 1: expected x\n  f:2: b: expected y"
    )


def test_keys_and_values_are_shown_as_in_a_file() -> None:
    assert key_text(("feed", "candles", "BRK.B", 0, "x")) == 'feed.candles."BRK.B"[0].x'
    assert value_text(Decimal("1E+2")) == "100"
    assert value_text(Decimal("1E+999999")) == "1E+999999"
    assert value_text("a\nb") == '"a\\nb"'
    assert value_text(True) == "true"
    assert value_text({"a": 1}) == "{...}"
    assert len(value_text("x" * 1000)) == 80


def test_passwords_in_urls_are_masked() -> None:
    text = value_text("postgresql://me:canary@h:p@host/db?password=canary&x=1")
    assert "canary" not in text
    assert text == '"postgresql://me:***@host/db?password=***&x=1"'


class Signal(BaseModel):
    model_config = ConfigDict(extra="forbid")
    weight: Annotated[Decimal, Field(gt=0, le=1)]
    mapper: Literal["band", "cross"] = "band"


class Broker(BaseModel):
    model_config = ConfigDict(extra="forbid")
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    password: SecretStr | None = Field(None, max_length=5)


class Root(BaseModel):
    model_config = ConfigDict(extra="forbid")
    broker: Broker = Broker()
    signals: list[Signal] = []
    count: int | None = None
    on: bool = True
    name: str = "x"
    either: int | bool = 1

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if name == "bad":
            raise ValueError("a good name")
        return name


def pydantic_faults(text: str) -> list[str]:
    document = TomlDocument.parse(text, "f.toml")
    with pytest.raises(ValidationError) as caught:
        Root.model_validate(document.data)
    return [str(fault) for fault in faults_from_pydantic(document, caught.value, Root)]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ('[broker]\nport = "abc"', ['f.toml:2: broker.port = "abc": expected a whole number from 1 to 65535']),
        ("[broker]\n\nport = 70000", ["f.toml:3: broker.port = 70000: expected a whole number from 1 to 65535"]),
        ("[broker]\nprot = 1", ["f.toml:2: broker.prot = ***: expected a known key (did you mean port?)"]),
        ("nmae = 1", ["f.toml:1: nmae = 1: expected a known key (did you mean name?)"]),
        ("zzz = 1", ["f.toml:1: zzz = 1: expected a known key (one of broker, signals, count, on, name, either)"]),
        ("[[signals]]\nmapper = 'band'", ["f.toml:1: signals[0].weight: expected a value (this key is required)"]),
        ("[[signals]]\nweight = 1.5", ["f.toml:2: signals[0].weight = 1.5: expected a number above 0 and up to 1"]),
        (
            "signals = [{weight = 1}, {weight = 1, mapper = 'x'}]",
            ['f.toml:1: signals[1].mapper = "x": expected one of "band" or "cross"'],
        ),
        ("on = 'perhaps'", ['f.toml:1: on = "perhaps": expected true or false']),
        ("name = 1", ["f.toml:1: name = 1: expected a text in quotes"]),
        ("name = 'bad'", ['f.toml:1: name = "bad": expected a good name']),
        ("broker = 3", ["f.toml:1: broker = ***: expected a table"]),
        ("signals = 3", ["f.toml:1: signals = 3: expected a list in [ ]"]),
        ("count = 1.5", ["f.toml:1: count = 1.5: expected a whole number"]),
        ("either = 'x'", ['f.toml:1: either = "x": expected a whole number or true or false']),
    ],
)
def test_pydantic_errors_are_said_in_plain_words(text: str, messages: list[str]) -> None:
    assert pydantic_faults(text) == messages


def test_all_faults_come_at_once_in_the_order_of_the_lines() -> None:
    text = "name = 1\non = 2\n[broker]\nport = 0\n[[signals]]\nweight = 0\nwieght = 1\n"
    assert [fault.split(": ")[0] for fault in pydantic_faults(text)] == [
        "f.toml:1",
        "f.toml:2",
        "f.toml:4",
        "f.toml:6",
        "f.toml:7",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[broker]\npassword = 'canary-5711'",
        "[broker]\npassword = ['canary-5711']",
        "[broker]\npasword = 'canary-5711'",
        "[broker]\npw = 'canary-5711'",
        "broker = 'canary-5711'",
        "api_key = 'canary-5711'",
        "name = ['canary-5711']",
    ],
)
def test_a_secret_never_shows_its_value(text: str) -> None:
    assert "canary" not in "".join(pydantic_faults(text))


def test_a_part_of_a_document_keeps_its_place() -> None:
    document = TomlDocument.parse("[bot]\n[bot.signal]\nweight = 7\n", "f.toml")
    data: Any = document.data["bot"]["signal"]
    with pytest.raises(ValidationError) as caught:
        Signal.model_validate(data)
    faults = faults_from_pydantic(document, caught.value, Signal, prefix=("bot", "signal"))
    assert [str(fault) for fault in faults] == [
        "f.toml:3: bot.signal.weight = 7: expected a number above 0 and up to 1"
    ]


def test_a_reader_of_a_document_can_name_a_place_itself() -> None:
    document = TomlDocument.parse("[bot]\nname = 'a'\nsteps = [1,\n2]\n", "f.toml")
    assert str(document.fault(("bot", "name"), "another name")) == 'f.toml:2: bot.name = "a": expected another name'
    assert str(document.fault(("bot", "steps", 1), "1")) == "f.toml:4: bot.steps[1] = 2: expected 1"
    assert str(document.fault(("bot", "name"), "x", secret=True)) == "f.toml:2: bot.name = ***: expected x"
    assert str(document.fault(("bot", "name", "x"), "y")) == "f.toml:2: bot.name.x: expected y"
    assert document.value_at(("bot", "steps", 9)) is None


def test_a_huge_number_is_shown_short() -> None:
    assert value_text(10**5000) == "a number of several hundred digits"
    assert value_text(0.1) == "0.1"


def test_an_unclosed_multi_line_value_does_not_hide_the_doubled_key_before_it() -> None:
    assert faults_of('a = 1\na = 2\nb = [\n"""x\n') == ["f.toml:2: a: expected each key only once (first on line 1)"]
