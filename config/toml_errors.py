"""Faults of configuration that a person can act on: file, line, key, value, what was expected.

`tomllib` gives values but no positions, pydantic gives paths but no lines. A `TomlDocument` joins them:
`toml_lines` walks the text once more and notes the line of every key, table and array element.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from pathlib import Path
from typing import Any

from config.errors import ConfigError
from config.exact import plain
from config.toml_lines import BARE_KEY, LineScanner, scan_lines

_AT = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")
_URL_PASSWORD = re.compile(r"(://[^:/?#\s]*):.*@", re.DOTALL)
_PASSWORD_PARAMETER = re.compile(r"((?:password|token|secret|key)=)[^&\s]+", re.IGNORECASE)
_LONGEST_VALUE = 80
_DEEPEST = 64
MASK = "***"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    `file` is a file name, or "environment" or "--set"; `line` counts from 1 (None outside files). `value`
    is already fit to be shown: shortened, secrets masked. `expected` reads on from "expected".
    """

    file: str
    line: int | None
    key: str | None
    value: str | None
    expected: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        subject = self.key or ""
        if self.value is not None:
            subject = f"{subject} = {self.value}" if subject else self.value
        return f"{place}: {subject}: expected {self.expected}" if subject else f"{place}: expected {self.expected}"


class ConfigurationInvalid(ConfigError):
    """The configuration has faults; nothing may start. Carries and lists all of them."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        heading = "1 fault in the configuration" if count == 1 else f"{count} faults in the configuration"
        super().__init__("\n".join([f"{heading}:", *(f"  {fault}" for fault in self.faults)]))


def key_text(path: Sequence[str | int]) -> str:
    """A path as written in a TOML file: `signals[1].weight`, `feed.candles."BRK.B"`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = part if BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            text += f".{word}" if text else word
    return text


def value_text(value: object, longest: int = _LONGEST_VALUE) -> str:
    """A value as a person would write it, on one line and at most `longest` characters; passwords inside URLs are
    masked."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        value = Decimal(repr(value))
    if isinstance(value, Decimal):
        # format(1E+999999, "f") would be a million digits long.
        text = plain(value) if value.is_finite() and abs(value.adjusted()) < _LONGEST_VALUE else str(value)
    elif isinstance(value, str):
        masked = _PASSWORD_PARAMETER.sub(rf"\1{MASK}", _URL_PASSWORD.sub(rf"\1:{MASK}@", value))
        text = json.dumps(masked, ensure_ascii=False)
    elif isinstance(value, Mapping):
        text = "{...}" if value else "{}"
    elif isinstance(value, (list, tuple)):
        text = "[...]" if value else "[]"
    elif isinstance(value, int) and value.bit_length() > 1024:
        text = "a number of several hundred digits"  # str() of a huge int raises
    else:
        text = str(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."


class TomlDocument:
    """A TOML text with its data (numbers with a point as Decimal) and the line of each key."""

    def __init__(self, name: str, text: str, data: dict[str, Any]) -> None:
        self.name = name
        self.text = text
        self.data = data
        self.folder: Path | None = None
        """Where its file is; None when it was not read from one."""

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> "TomlDocument":
        """The document in a file, shown as `name` in faults (default: the path as given).

        Raises ConfigurationInvalid when it cannot be read, is not UTF-8, or is not TOML.
        """
        shown = name or str(path)
        try:
            raw = path.read_bytes()
        except OSError as error:
            problem = f"a readable file ({(error.strerror or 'cannot be read').lower()})"
            raise ConfigurationInvalid([Fault(shown, None, None, None, problem)]) from error
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise ConfigurationInvalid([Fault(shown, line, None, None, "text in UTF-8")]) from error
        document = cls.parse(text, shown)
        document.folder = path.absolute().parent
        return document

    @classmethod
    def parse(cls, text: str, name: str) -> "TomlDocument":
        """The document in a text. Raises ConfigurationInvalid for bad syntax and for doubled keys."""
        try:
            data = tomllib.loads(text, parse_float=Decimal)
            _must_be_shallow(data)
            return cls(name, text, data)
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationInvalid(_syntax_faults(text, name, str(error))) from error
        except RecursionError as error:
            fault = Fault(name, None, None, None, "less deeply nested values")
            raise ConfigurationInvalid([fault]) from error
        except (ValueError, InvalidOperation) as error:  # a number beyond what int() or Decimal() takes
            fault = Fault(name, None, None, None, "numbers of a sensible size")
            raise ConfigurationInvalid([fault]) from error

    @cached_property
    def _scan(self) -> LineScanner:
        return scan_lines(self.text)

    def line_of(self, path: Sequence[str | int]) -> int:
        """The line (from 1) of a key or array element; of its nearest parent when it is not there."""
        for length in range(len(path), 0, -1):
            line = self._scan.lines.get(tuple(path[:length]))
            if line is not None:
                return line
        return 1

    def value_at(self, path: Sequence[str | int]) -> object:
        """The value at a path; None when there is none."""
        return _walk(self.data, path)

    def fault(self, path: Sequence[str | int], expected: str, *, secret: bool = False) -> Fault:
        """A fault at a path of this document, with its line and its value (masked if secret)."""
        value = self.value_at(path)
        shown = None if value is None else MASK if secret else value_text(value)
        return Fault(self.name, self.line_of(path), key_text(path), shown, expected)


def _must_be_shallow(data: object) -> None:
    """Raise RecursionError for values that tomllib reads without recursion (`a.a.a...`) but nothing else could."""
    level = [data]
    for _ in range(_DEEPEST):
        level = [inner for value in level for inner in _parts(value)]
        if not level:
            return
    raise RecursionError


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _walk(data: object, path: Sequence[str | int]) -> object:
    for part in path:
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _syntax_faults(text: str, name: str, message: str) -> list[Fault]:
    """tomllib's message with our line; for doubled keys every one of them, and where the first is."""
    scan = scan_lines(text)
    at = _AT.search(message)
    line = int(at[1]) if at is not None and at[1] else text.rstrip("\n").count("\n") + 1
    doubled = [
        Fault(name, second, key_text(path), None, f"each key only once (first on line {first})")
        for path, first, second in scan.doubled
    ]
    if any(fault.line is not None and fault.line <= line for fault in doubled):
        return doubled  # tomllib stops at the first bad place, and that was it
    problem = _AT.sub("", message)
    return [Fault(name, line, None, None, f"valid TOML ({problem[:1].lower()}{problem[1:]})"), *doubled]
