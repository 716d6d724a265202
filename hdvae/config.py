"""Strict configuration: from JSON-like values to immutable, typed settings, or to an error of one line."""

from __future__ import annotations

import json
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
        InputError: a field is unknown or missing, or has a wrong value. The message names it and suggests a correction.
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
        raise InputError(f"{where}: {one_line(kind, fault)}") from None


def one_line(kind: type[BaseModel], fault: ValidationError) -> str:
    """The first error of a validation in one line. Unknown fields come before all other errors."""
    errors = sorted(fault.errors(), key=lambda error: error["type"] != "extra_forbidden")
    error = errors[0]
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
        message = f"{message[0].lower()}{message[1:]}, got {shown}"
    return f"{path}: {message}" if path else message


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
