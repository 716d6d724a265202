"""Settings of tracked runs, by their dotted paths."""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hdvae.errors import InputError
from hdvae_platform.study.yaml_document import read_yaml
from hdvae_platform.tracking.client import TrackedRun
from hdvae_platform.tracking.names import Tag

PART = "evaluation.part"
"""The setting that says on which part of the validation images a run is evaluated."""
SIGNS = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
"""What the signs of a `Condition` mean."""


def parse_settings(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Parse the `path=value` arguments of a command-line option; values are YAML.

    >>> parse_settings(["model.width=8", "model.latent=normal"], "--where")
    {'model.width': 8, 'model.latent': 'normal'}

    Raises:
        InputError: one does not have this form.
    """
    parsed: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise InputError(f"{option} {text}: write {option} path=value, e.g. {option} model.latent=categorical")
        parsed[path] = read_yaml(value, f"{option} {text}")
    return parsed


@dataclass(frozen=True)
class Condition:
    """A condition on a setting of a run, as in `training.freebits<2`.

    Attributes:
        path: the dotted path of the setting, see `setting`.
        sign: `=`, `<`, `<=`, `>` or `>=`.
        value: what the setting is compared with.
    """

    path: str
    sign: str
    value: Any

    @staticmethod
    def parsed(text: str, option: str) -> Condition:
        """The condition that an option of a command was given; its value is YAML.

        Raises:
            InputError: it does not have this form, or compares the size of what is no number.
        """
        parts = re.fullmatch(r"([^<>=]+)(<=|>=|=|<|>)(.*)", text, re.DOTALL)
        if parts is None:
            raise InputError(f"{option} {text}: write {option} path=value, e.g. {option} model.latent=categorical")
        path, sign, value = parts[1].strip(), parts[2], read_yaml(parts[3], f"{option} {text}")
        if sign != "=" and not is_number(value):
            raise InputError(f"{option} {text}: {json.dumps(value)} is no number: compare it by =")
        return Condition(path, sign, value)

    def holds(self, run: TrackedRun) -> bool:
        """Whether a run fulfils it."""
        own = setting(run, self.path)
        return bool((self.sign == "=" or is_number(own)) and SIGNS[self.sign](own, self.value))

    def __str__(self) -> str:
        return f"{self.path}{self.sign}{json.dumps(self.value)}"


def is_number(value: Any) -> bool:
    """Whether a value of YAML is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def setting(run: TrackedRun, path: str) -> Any:
    """A setting of a run as a value; None if the run has no such setting.

    The end of a path is enough where only one setting that the study varied ends so, as in the labels of arms.
    """
    varied = varied_in(run)
    if path in varied or path in run.params:
        return varied[path] if path in varied else value_of(run.params[path])
    ending = [known for known in varied if known.endswith(f".{path}")]
    return varied[ending[0]] if len(ending) == 1 else None


def varied_in(run: TrackedRun) -> dict[str, Any]:
    """The settings that the study varied, with their values in this run."""
    return dict(json.loads(run.tags.get(Tag.ARM, "{}")))


@functools.lru_cache(4096)
def value_of(text: str) -> Any:
    """The value of a parameter, which MLflow stores as text.

    >>> value_of("0.5"), value_of("[[0, 0.8]]"), value_of("None"), value_of("normal")
    (0.5, [[0, 0.8]], None, 'normal')
    """
    named = {"None": None, "True": True, "False": False}
    if text in named:
        return named[text]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def evaluation_on_test(run: TrackedRun) -> dict[str, Any]:
    """The settings of a run's evaluation on test images: `images`, `draws`, `samples`, `tau`, `kappa`.

    Empty if the run was not evaluated on test images.
    """
    return dict(json.loads(run.tags.get(Tag.TEST_MEASURED, "{}")))
