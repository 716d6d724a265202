"""YAML as study files may have it: the core schema of YAML 1.2, of bounded size, with the line of each field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError

from hdvae.errors import InputError

MOST_VALUES = 100_000
"""Largest number of values of a document; what an alias refers to counts again."""
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2's core schema: `no`, `1:40` and `2020-01-31` are texts, `040` is 40, and `2e-3` is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - of each object in PyYAML's types
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (*(f"{_TAG}{kind}" for kind in ("null", "bool", "str", "seq", "map")), None)
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != f"{_TAG}str":
                raise ConstructorError(None, None, "a field's name must be a text", key.start_mark)
            if key.value in seen:
                raise ConstructorError(None, None, f"field {key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def number(self, node: yaml.ScalarNode) -> int | float:
        """An integer, in base 8 or 16 if it says so, or a real number."""
        text = self.construct_scalar(node)
        try:
            if node.tag == f"{_TAG}int":
                return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise ConstructorError(None, None, f"no number: {text[:20]}", node.start_mark) from None


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(rf"(?:{_pattern})\Z"), _first)
for _kind in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _Loader.number)


@dataclass(frozen=True)
class Document:
    """A YAML document.

    Attributes:
        where: its name in messages, e.g. the file.
        plain: its value: mappings, lists, texts, numbers, truth values and None.
    """

    where: str
    plain: Any
    _root: yaml.Node | None

    @staticmethod
    def read(text: str, where: str) -> Document:
        """Parse YAML.

        Raises:
            InputError: the text is not valid YAML, or too large; one line with the place.
        """
        try:
            loader = _Loader(text)
            root = loader.get_single_node()
            _check_size(root)
            return Document(where, None if root is None else loader.construct_document(root), root)
        except RecursionError:
            raise InputError(f"{where}: nested too deeply") from None
        except yaml.YAMLError as fault:
            raise InputError(f"{where}{_what_is_wrong(fault, text)}") from None

    def located(self, message: str) -> str:
        """An error message with the numbers of the lines, where its lines begin with the path of a field.

        Its lines are in the order of those of the document; first come those that name none.
        """
        found = sorted(map(self._located, message.splitlines()), key=lambda one: one[0])
        return "\n".join(line for _, line in found)

    def _located(self, message: str) -> tuple[int, str]:
        start = f"{self.where}: "
        named = re.match(r"(?:unknown field )?([^\s:;,]+)", message.removeprefix(start))
        if named is None or not message.startswith(start):
            return 0, message
        path = named[1]
        while path not in self._lines and "." in path:
            path = path.rpartition(".")[0]
        if path not in self._lines:
            return 0, message
        return self._lines[path], f"{self.where}:{self._lines[path]}: {message.removeprefix(start)}"

    @cached_property
    def _lines(self) -> dict[str, int]:
        """Dotted path → the line on which the field stands."""
        return dict(_lines(self._root, "")) if self._root is not None else {}


def read_yaml(text: str, where: str) -> Any:
    """The value of a YAML document.

    Raises:
        InputError: the text is not valid YAML; one line with the place.
    """
    return Document.read(text, where).plain


def _check_size(root: yaml.Node | None) -> None:
    """Check that a document is no larger than allowed once its aliases are written out."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = None
            sizes[id(node)] = 1 + sum(map(size, _inner(node)))
        found = sizes[id(node)]
        if found is None:
            raise ConstructorError(None, None, "a value holds itself", node.start_mark)
        if found > MOST_VALUES:
            raise ConstructorError(None, None, f"more than {MOST_VALUES} values", node.start_mark)
        return found

    if root is not None:
        size(root)


def _inner(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _lines(node: yaml.Node, path: str) -> Iterator[tuple[str, int]]:
    start = f"{path}." if path else ""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield f"{start}{key.value}", key.start_mark.line + 1
            yield from _lines(value, f"{start}{key.value}")
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield f"{start}{place}", value.start_mark.line + 1
            yield from _lines(value, f"{start}{place}")


def _what_is_wrong(fault: yaml.YAMLError, text: str) -> str:
    """The place of a fault in YAML, what it is, and the line."""
    problem = getattr(fault, "problem", None) or str(fault).splitlines()[0]
    mark = getattr(fault, "problem_mark", None)
    if mark is None:
        return f": not valid YAML: {problem}"
    lines = text.splitlines() or [""]
    line = lines[min(mark.line, len(lines) - 1)]
    if isinstance(fault, ConstructorError):
        return f":{mark.line + 1}: {problem}: {_excerpt(line)}"
    if line.lstrip(" ").startswith("\t"):
        problem = "a line begins with a tab; indent it with spaces"
    elif problem == "mapping values are not allowed here":
        problem += "; is the line indented as its neighbours are, and a text with a colon in quotes?"
    return f":{mark.line + 1}: not valid YAML: {problem}: {_excerpt(line)}"


def _excerpt(line: str) -> str:
    return json.dumps(line.strip()[:60], ensure_ascii=False)
