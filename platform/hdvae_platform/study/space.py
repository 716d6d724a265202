"""The space of a study: which paths of the experiment vary, over which values, and the parameter sets this makes."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field, JsonValue

from hdvae.config import Config
from hdvae.errors import InputError, nearest
from hdvae.experiment.schedules import Ramp

Params = Mapping[str, Any]
"""One parameter set: dotted paths into the experiment → values."""
RAMP_FIELDS = tuple(Ramp.model_fields)
PRESET = "preset"
"""A path of the space that is no field of the experiment: its values are presets, merged in before all other values."""


class Dimension(Config):
    """The values of one path of the experiment: listed choices, or a range."""

    list_means = "choices"
    choices: Annotated[tuple[JsonValue, ...], Field(max_length=1000)] | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    when: dict[str, JsonValue] = Field(default_factory=dict)
    """Other paths of the space and the value (or list of values) that they must have for this one to vary."""

    def applies(self, params: Params) -> bool:
        """Whether the conditions of `when` hold in a parameter set."""
        return all(
            path in params and params[path] in (value if isinstance(value, list) else [value])
            for path, value in self.when.items()
        )

    @property
    def is_integer(self) -> bool:
        """Whether a range is of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def size(self) -> float:
        """The number of values; infinite for a range of real numbers."""
        if self.choices is not None:
            return len(self.choices)
        low, high = self._ends()
        return high - low + 1 if self.is_integer else math.inf if low < high else 1

    def values(self, random: np.random.Generator) -> Iterator[Any]:
        """All values in order; for a range of real numbers, one random value."""
        if self.choices is not None:
            yield from self.choices
            return
        low, high = self._ends()
        if self.is_integer:
            yield from range(int(low), int(high) + 1)
        elif self.log:
            drawn = math.exp(random.uniform(math.log(low), math.log(high)))
            yield min(max(drawn, low), high)  # rounding may lead out of the range
        else:
            yield float(random.uniform(low, high))

    def examples(self) -> list[Any]:
        """Values that together show whether every value of this dimension is valid."""
        if self.choices is not None:
            return list(self.choices)
        low, high = self._ends()
        if self.is_integer and high - low < 10_000:
            return list(range(int(low), int(high) + 1))
        return [low, high]

    def admits(self, value: Any) -> bool:
        """Whether a value is one of this dimension."""
        if self.choices is not None:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        low, high = self._ends()
        kinds = int if self.is_integer else int | float
        return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high

    def __str__(self) -> str:
        """Its values in words."""
        if self.choices is not None:
            return f"one of {', '.join(json.dumps(choice) for choice in self.choices)}"
        return f"{'a whole number ' if self.is_integer else ''}from {self.low:g} to {self.high:g}"

    def _ends(self) -> tuple[float, float]:
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high


Space = Mapping[str, Dimension]
"""Dotted path into the experiment → its values. A condition may only name paths that come earlier."""


def parameter_sets(space: Space, random: np.random.Generator) -> Iterator[dict[str, Any]]:
    """The parameter sets of a space in the order of the file, each once; real numbers are drawn at random."""
    return _extended(space, list(space), {}, random)


def _extended(
    space: Space, paths: Sequence[str], begun: dict[str, Any], random: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """The parameter sets that extend a begun one, which has the paths before these, by these paths."""
    if not paths:
        yield begun
    elif not space[paths[0]].applies(begun):
        yield from _extended(space, paths[1:], begun, random)
    else:
        for value in space[paths[0]].values(random):
            yield from _extended(space, paths[1:], {**begun, paths[0]: value}, random)


def count_sets(space: Space) -> float:
    """The number of different parameter sets of a space; infinite with a range of real numbers."""
    return _count(space, list(space), {})


def _count(space: Space, paths: Sequence[str], begun: dict[str, Any]) -> float:
    if not paths:
        return 1
    path, *rest = paths
    dimension = space[path]
    if not dimension.applies(begun):
        return _count(space, rest, begun)
    if not any(path in space[other].when for other in rest):
        return dimension.size * _count(space, rest, begun)
    return sum(_count(space, rest, {**begun, path: choice}) for choice in dimension.choices or ())


def set_key(params: Params) -> str:
    """A text that is the same for equal parameter sets."""
    return json.dumps(params, sort_keys=True)


def fits(path: str, pattern: str) -> bool:
    """Whether a dotted path matches a pattern, in which a star stands for any one part.

    >>> fits("model.layers.0.variables", "model.layers.*.variables"), fits("model.width", "model.*.variables")
    (True, False)
    """
    return re.fullmatch(re.escape(pattern).replace(r"\*", r"[^.]+"), path) is not None


def set_at(plain: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Set the field at a dotted path, e.g. `model.layers.0.classes`, in JSON-like values.

    Raises:
        InputError: there is no such field; names the nearest.
    """
    at: Any = plain
    done: list[str] = []
    parts = path.split(".")
    while parts:
        key, rest = _first_key(at, parts, f"{where}: {'.'.join(done) or 'the experiment'}")
        if not rest:
            at[key] = copy.deepcopy(value)
            return
        at, done, parts = at[key], done + parts[: len(parts) - len(rest)], rest


def _first_key(at: Any, parts: Sequence[str], inside: str) -> tuple[Any, list[str]]:
    """The key of JSON-like values with which a path begins, and what is left of the path.

    A key may have dots itself, as those of `space` do.

    Raises:
        InputError: there is no such key.
    """
    known = list(at) if isinstance(at, dict) else [str(i) for i in range(len(at))] if isinstance(at, list) else []
    for count in range(len(parts), 0, -1):
        if (key := ".".join(parts[:count])) in known:
            return int(key) if isinstance(at, list) else key, list(parts[count:])
    if parts[0] in RAMP_FIELDS and not isinstance(at, dict):
        given = json.dumps(at)[:60]
        raise InputError(f"{inside} is {given}: to vary its {parts[0]}, set it to {{start, end, steps, shape}}")
    raise InputError(f"{inside} has no field {parts[0]}{nearest(parts[0], known)}")
