"""Strict configuration: from JSON-like values to immutable, typed settings, or to one line for each error."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hdvae.errors import InputError, nearest


class Config(BaseModel):
    """A strict, immutable group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    list_means: ClassVar[str | None] = None
    """The field that someone means who gives a list in place of the group, for the error message."""


C = TypeVar("C", bound=Config)


def parse(kind: type[C], plain: Any, where: str) -> C:
    """Read a strict configuration from JSON-like values.

    Args:
        kind: the configuration class.
        plain: the values, e.g. of a YAML or JSON file.
        where: the name of the source in error messages, e.g. the file.

    Raises:
        InputError: fields are unknown or missing, or have wrong values. The message has a line for each of them, which
            names it and suggests a correction.
    """
    if not isinstance(plain, Mapping):
        raise InputError(f"{where}: expected a mapping of fields, got {type(plain).__name__}")
    try:
        text = json.dumps(plain)
    except (TypeError, ValueError, RecursionError) as fault:
        raise InputError(f"{where}: {fault}; use numbers, strings, lists and mappings only") from None
    try:
        return kind.model_validate_json(text)
    except ValidationError as fault:
        raise InputError("\n".join(f"{where}: {line}" for line in faults(kind, fault))) from None


def faults(kind: type[BaseModel], fault: ValidationError) -> list[str]:
    """The errors of a validation, one line for each field that is wrong. Lines begin with the path of the field."""
    lines: dict[tuple[int | str, ...], str] = {}
    errors = sorted(fault.errors(), key=lambda error: error["type"] != "extra_forbidden")
    mistyped = {error["loc"][:-1] for error in errors if error["type"] == "extra_forbidden"}
    for error in errors:
        if error["type"] == "missing" and error["loc"][:-1] in mistyped:
            continue  # most likely it is there under the wrong name
        lines.setdefault(_field_at(kind, error["loc"]), _line(kind, error))
    inner = {path[:end] for path in lines for end in range(len(path))}  # a list is too short where its items are wrong
    return [line for path, line in lines.items() if path not in inner]


def _line(kind: type[BaseModel], error: Any) -> str:
    """An error of pydantic (`ErrorDetails`) in one line."""
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown field {path}{nearest(str(error['loc'][-1]), _fields_at(kind, error['loc'][:-1]))}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{path} is missing"
    shown = json.dumps(error["input"])[:80]
    if error["type"] in ("tuple_type", "list_type"):
        return f"{path}: must be a list, got {shown}: write [{shown}]"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        field = getattr(_config_at(kind, error["loc"]), "list_means", None)
        hint = f": write {{{field}: {shown}}}" if field is not None and isinstance(error["input"], list) else ""
        return f"{path}: must be a mapping of fields, got {shown}{hint}"
    if error["type"] != "value_error":
        message = f"{_plain(message)}, got {shown}"
    return f"{path}: {message}" if path else message


def _plain(message: str) -> str:
    """What pydantic says, as a user would.

    >>> _plain("Input should be a valid integer"), _plain("Tuple should have at least 1 item after validation, not 0")
    ('must be an integer', 'must have at least 1 item')
    """
    message = re.sub(r"^(Input|Tuple|List|Dictionary|String) should ", "must ", message)
    message = re.sub("|".join(_WORDS), lambda found: _WORDS[found[0]], message)
    return re.sub(r" after validation, not \d+$", "", message)


_WORDS = {
    "a valid integer": "an integer",
    "a valid number": "a number",
    "a valid string": "a text",
    "a valid boolean": "true or false",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
}
"""What pydantic says → the same in the words of the other messages."""


def _field_at(kind: type[BaseModel], path: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The part of an error's path that names a field; what follows tells which of several types was tried."""
    for place, part in enumerate(path):
        if isinstance(part, str) and part in kind.model_fields:
            inner = _inner_config(kind.model_fields[part].annotation)
            if inner is None:
                return path[: place + 1]
            kind = inner
    return path


def _fields_at(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The fields of the configuration class at `path` below `kind`."""
    found = _config_at(kind, path)
    return [] if found is None else list(found.model_fields)


def _config_at(kind: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The configuration class at `path` below `kind`; None if there is none."""
    for part in path:
        if isinstance(part, str) and part in kind.model_fields:
            inner = _inner_config(kind.model_fields[part].annotation)
            if inner is None:
                return None
            kind = inner
    return kind


def _inner_config(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        inner = _inner_config(argument)
        if inner is not None:
            return inner
    return None
