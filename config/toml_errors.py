"""Faults of configuration that a person can act on: file, line, key, value, what was expected.

`tomllib` gives values but no positions, pydantic gives paths but no lines. A `TomlDocument` joins them:
`toml_lines` walks the text once more and notes the line of every key, table and array element.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from config.errors import ConfigError
from config.exact import plain
from config.toml_lines import BARE_KEY, LineScanner, TomlPath, scan_lines

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


# ---- pydantic's errors in plain words -----------------------------------------------------------------

_SECRET_NAME = re.compile(r"(?:.*_)?(?:pass(?:word|wd|phrase)?|secret|token|api_?key|credentials?)")

MISSING_HERE = "missing_here"
"""The type of a validator's own error for a key that has a default, but not in this place."""

_EXPECTED_BY_TYPE = {
    "missing": "a value (this key is required)",
    "none_required": "no value",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of sensible size",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "string_type": "a text in quotes",
    "string_sub_type": "a text in quotes",
    "path_type": "a path in quotes",
    "list_type": "a list in [ ]",
    "tuple_type": "a list in [ ]",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dataclass_type": "a table",
    "string_pattern_mismatch": "a text that matches {pattern}",
    "string_too_short": "a text of at least {min_length} characters",
    "string_too_long": "a text of at most {max_length} characters",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "one of {expected}",
    "enum": "one of {expected}",
}
_NUMBER_ERRORS = frozenset(
    {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
    | {name for name in _EXPECTED_BY_TYPE if name.startswith(("int_", "float_", "decimal_"))}
)


def faults_from_pydantic(
    document: TomlDocument,
    error: ValidationError,
    model: type[BaseModel] | None = None,
    prefix: Sequence[str | int] = (),
    select: Callable[[str], bool] = bool,
) -> list[Fault]:
    """Each of pydantic's errors as a Fault of `document`, in the order of the lines.

    `model` is what was validated: it gives the known keys for suggestions, the bounds of numbers and the
    secrets; `prefix` is where in the document it was taken from; `select` says by pydantic's error type
    which errors count. A validator's own ValueError must
    read on from "expected" and must not contain the value.
    """
    faults: dict[tuple[int, TomlPath], Fault] = {}
    for path, value, expected in explained(error, model, document.data, prefix, select):
        line = document.line_of(path)
        known = faults.get((line, path))
        if known is not None:  # the branches of a union
            if expected not in known.expected:
                faults[line, path] = replace(known, expected=f"{known.expected} or {expected}")
            continue
        faults[line, path] = Fault(document.name, line, key_text(path) or None, value, expected)
    return sorted(faults.values(), key=lambda fault: fault.line or 0)


def explained(
    error: ValidationError,
    model: type[BaseModel] | None,
    data: Mapping[str, Any],
    prefix: Sequence[str | int] = (),
    select: Callable[[str], bool] = bool,
) -> Iterator[tuple[TomlPath, str | None, str]]:
    """(path in `data`, value fit to be shown or None, what was expected) of each of pydantic's errors."""
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        kind = detail["type"]
        if not select(kind):
            continue
        owner, field = _field_at(model, location)
        # A key that was left out, or one whose default breaks a rule, is not in the data.
        is_key = kind == "missing" or (owner is not None and location[-1] in owner.model_fields)
        path = _path_in(data, (*prefix, *location), keep_last=is_key)
        secret = _is_secret(path, field) or (field is None and owner is not None and _has_secret(owner))
        if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
            expected = _known_key(str(location[-1]), owner)
        elif field is not None and kind in _NUMBER_ERRORS:
            expected = number_phrase(field) or _phrase(kind, detail)
        else:
            expected = _phrase(kind, detail)
        # The input of "missing" is the table around the key.
        value = None if kind in {"missing", MISSING_HERE} else MASK if secret else value_text(detail["input"])
        yield path, value, expected


def _phrase(kind: str, detail: Mapping[str, Any]) -> str:
    context = detail.get("ctx", {})
    if kind in {"value_error", "assertion_error"}:
        return str(context.get("error", detail["msg"]))
    words = _EXPECTED_BY_TYPE.get(kind)
    if words is None:
        message = str(detail["msg"])
        return message[:1].lower() + message[1:]
    return words.format_map(context).replace("'", '"')


def number_phrase(field: FieldInfo) -> str | None:
    """ "a whole number from 1 to 65535", from a field's type and bounds; None when it is no number."""
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind in (int, float, Decimal)]
    if not kinds:
        return None
    words = "a whole number" if kinds == [int] else "a number"
    bounds: dict[str, str] = {}
    for rule in field.metadata:
        for name in ("ge", "gt", "le", "lt"):
            if (bound := getattr(rule, name, None)) is not None:
                bounds[name] = plain(bound) if isinstance(bound, Decimal) else str(bound)
    if "ge" in bounds and "le" in bounds:
        return f"{words} from {bounds['ge']} to {bounds['le']}"
    names = {"gt": "above", "ge": "of at least", "le": "of at most", "lt": "below"}
    limits = [f"{name} {bounds[rule]}" for rule, name in names.items() if rule in bounds]
    if limits[1:] and "gt" in bounds and "le" in bounds:
        limits = [f"above {bounds['gt']}", f"up to {bounds['le']}"]
    return " ".join([words, " and ".join(limits)]).strip()


def _known_key(name: str, owner: type[BaseModel] | None) -> str:
    if owner is None:
        return "no such key"
    known = [field.alias or key for key, field in owner.model_fields.items()]
    nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    if nearest:
        return f"a known key (did you mean {nearest[0]}?)"
    return f"a known key (one of {', '.join(known)})"


def _field_at(
    model: type[BaseModel] | None, location: Sequence[str | int]
) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """The model that holds the key at a location, and its field (None when the model has no such key)."""
    owner, field = model, None
    for part in location:
        if isinstance(part, int):
            continue
        fields = {} if owner is None else owner.model_fields
        found = fields.get(part) or next((f for f in fields.values() if part in (f.alias, f.validation_alias)), None)
        if found is None:
            if field is not None and owner is None:
                continue  # a key of a dict or the tag of a union below a field
            return owner, None
        field = found
        inner = _model_in(found.annotation)
        if inner is None and part == location[-1]:
            return owner, field
        owner = inner
    return owner, field


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The one pydantic model inside an annotation such as `list[Model]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [inner for part in get_args(annotation) if (inner := _model_in(part)) is not None]
    return found[0] if len(found) == 1 else None


def _path_in(data: object, location: Sequence[str | int], *, keep_last: bool) -> TomlPath:
    """The location without what pydantic adds (tags of unions, "[key]"): only what is in the data."""
    path: TomlPath = ()
    for index, part in enumerate(location):
        if isinstance(data, Mapping) and part in data:
            data = data[str(part)]
        elif isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif not (keep_last and index == len(location) - 1):
            continue
        path = (*path, part)
    return path


def _is_secret(path: TomlPath, field: FieldInfo | None) -> bool:
    last = path[-1] if path else None
    named = isinstance(last, str) and _SECRET_NAME.fullmatch(last) is not None
    return named or (field is not None and _holds_secret(field.annotation))


def _holds_secret(annotation: object) -> bool:
    model = _model_in(annotation)
    # A text where a table with a secret was expected may be that secret.
    return _has_secret_type(annotation) or (model is not None and _has_secret(model))


def _has_secret_type(annotation: object) -> bool:
    return annotation in (SecretStr, SecretBytes) or any(map(_has_secret_type, get_args(annotation)))


def _has_secret(model: type[BaseModel]) -> bool:
    """Whether a misspelled key of this table could be a secret."""
    return any(_has_secret_type(field.annotation) for field in model.model_fields.values())
