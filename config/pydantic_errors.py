"""Pydantic's errors in plain words: what was expected, and where it stands."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, get_args

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from config.exact import plain
from config.toml_errors import MASK, Fault, TomlDocument, key_text, value_text
from config.toml_lines import TomlPath

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
