"""What the documents name exists: commands with their options, settings with their defaults."""

import re
import shlex
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from pydantic import BaseModel

from config.settings import Settings
from runtime.cli.app import app
from runtime.topics import ROUTES

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOT_COMMAND: Any = typer.main.get_command(app)

_TYPED = re.compile(r"^(?:    |\$ )(?:\./run )?(?:fillbook (?!demo \d)|(?=demo ))(.+)$")
_ALONE = re.compile(r"^    ((?:allocations|report|review|db|bot|export) [a-z].*)$")
_IN_A_SENTENCE = re.compile(r"`(?:\./run )?fillbook ([a-z][^`]*)`")


class Mention(NamedTuple):
    """A command line in a document."""

    where: str
    words: list[str]


def mentions() -> Iterator[Mention]:
    """Every command line of the documents, comments left out."""
    for path in DOCUMENTS:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            typed = _TYPED.match(line) or _ALONE.match(line)
            found = [typed[1]] if typed else _IN_A_SENTENCE.findall(line)
            for text in found:
                plain = re.split(r"\s{2,}#|\s#\s", text)[0].replace("[", "").replace("]", "")
                yield Mention(f"{path.name}:{number}", shlex.split(plain))


def fault(words: list[str]) -> str | None:
    """What does not exist of a command line."""
    command = ROOT_COMMAND
    rest = list(words)
    while rest and hasattr(command, "commands"):
        if rest[0] not in command.commands:
            return f"no command {rest[0]}"
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in rest if word.startswith("--") and word.split("=")[0] not in known]
    return f"{command.name} has no {unknown[0]}" if unknown else None


def test_every_command_and_option_in_the_documents_exists() -> None:
    found = list(mentions())
    assert len(found) > 80
    assert [(where, wrong) for where, words in found if (wrong := fault(words))] == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("verify --json", None),
        ("allocations list --version 12", None),
        ("allocations lists", "no command lists"),
        ("verify --jason", "verify has no --jason"),
    ],
)
def test_what_does_not_exist_is_told_from_what_does(line: str, wrong: str | None) -> None:
    assert fault(line.split()) == wrong


# ---- the bus --------------------------------------------------------------------------------------------


def _named(template: str) -> str:
    """A topic as documents name it."""
    named = template.replace("{bot}", "{name}").replace("{service}", "{name}").replace("{command}", "{what}")
    return f"fillbook/v1/{named}".replace("{", "<").replace("}", ">")


def test_every_topic_is_in_the_page_of_the_bus() -> None:
    page = (ROOT / "docs" / "bus.md").read_text(encoding="utf-8")
    short = set(re.findall(r"`\.\.\.(/[a-z<>_/]+)`", page))
    full = {topic for line in page.splitlines() for topic in re.findall(r"`(fillbook/v1/[^`]+)`", line)}
    full |= {topic.rsplit("/", ending.count("/"))[0] + ending for topic in full for ending in short}
    assert {_named(route.template) for route in ROUTES} - full == set()


@pytest.mark.parametrize("given", [r"Severity\.\w+,\s*", r"Reason\(\s*"], ids=["alerts", "reasons"])
def test_every_code_that_the_product_names_is_in_the_page_of_the_bus(given: str) -> None:
    page = (ROOT / "docs" / "bus.md").read_text(encoding="utf-8")
    paths = [
        path
        for package in ("execution", "signals", "portfolio", "runtime")
        for path in (ROOT / package).rglob("*.py")
    ]
    pattern = re.compile(given + r'"([a-z_]+)"')
    named = {code for path in paths for code in pattern.findall(path.read_text(encoding="utf-8"))}
    assert len(named) > 10
    assert {code for code in named if f"`{code}`" not in page} == set()


# ---- settings -------------------------------------------------------------------------------------------


def _settings(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _settings(kind, f"{before}{name}.")
        else:
            yield before + name, field.default


DEFAULTS = dict(_settings(Settings))
_SECTIONS = "|".join(sorted({name.split(".")[0] for name in DEFAULTS if "." in name}))
_SETTING = re.compile(rf"(?<![\w./-])(?:{_SECTIONS})\.[a-z_]+")
_NO_SETTING = re.compile(r"\.(?:py|toml|md|api)$|^bots\.")
_WITH_DEFAULT = re.compile(rf"`((?:{_SECTIONS})\.[a-z_]+)`(?: \(| \| )(\d[\d.,]*)")


def test_every_setting_in_the_documents_exists() -> None:
    found = {
        (path.name, name)
        for path in DOCUMENTS
        for name in _SETTING.findall(path.read_text(encoding="utf-8"))
        if not _NO_SETTING.search(name)
    }
    assert len(found) > 20
    assert {item for item in found if item[1] not in DEFAULTS} == set()


def test_the_defaults_in_the_documents_are_those_of_the_settings() -> None:
    found = {
        (path.name, name, text)
        for path in DOCUMENTS
        for name, text in _WITH_DEFAULT.findall(path.read_text(encoding="utf-8"))
    }
    assert len(found) > 6
    wrong = {
        item for item in found if Decimal(item[2].strip(".,").replace(",", "")) != Decimal(str(DEFAULTS[item[1]]))
    }
    assert wrong == set()
