"""Settings of tracked runs, by their dotted paths."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

from hdvae.errors import InputError
from hdvae_platform.study.file import read_yaml
from hdvae_platform.tracking.client import TrackedRun
from hdvae_platform.tracking.names import Tag

PART = "evaluation.part"
"""The setting that says on which part of the validation images a run is evaluated."""


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


def setting(run: TrackedRun, path: str) -> Any:
    """A setting of a run as a value; None if the run has no such setting."""
    varied = varied_in(run)
    return varied[path] if path in varied else value_of(run.params[path]) if path in run.params else None


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
