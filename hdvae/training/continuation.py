"""Going on from a run that has ended: the same network and seed, with other settings, such as more steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hdvae.errors import InputError
from hdvae.experiment.experiment import Experiment
from hdvae.experiment.schedules import LEARNED

FREE = "dropout"
"""The setting of the network that may differ: it changes no tensor."""
MOST_LISTED = 3
"""The most differing settings that a message lists."""


def check_continuation(experiment: Experiment, before: Experiment, step: int) -> None:
    """Check that a run can go on from another.

    Args:
        experiment: of the run.
        before: of the run that it goes on from.
        step: of the checkpoint that it goes on from.

    Raises:
        InputError: the networks differ, the run would have no step left, or it needs what the other does not have.
    """
    old, new = (dict(_leaves(one.plain()["model"], "model")) for one in (before, experiment))
    differing = [path for path in {**old, **new} if path != f"model.{FREE}" and old.get(path) != new.get(path)]
    if differing:
        listed = ", ".join(f"{path} was {_text(old, path)}, is {_text(new, path)}" for path in differing[:MOST_LISTED])
        more = f" and {len(differing) - MOST_LISTED} more" if len(differing) > MOST_LISTED else ""
        raise InputError(f"the network must be the same, but for model.{FREE}: {listed}{more}")
    steps = experiment.training.steps
    if steps <= step:
        raise InputError(f"its checkpoint is of step {step:,}: training.steps must be larger, not {steps:,}")
    if LEARNED == experiment.training.temperature != before.training.temperature:
        raise InputError(f"training.temperature: {LEARNED} needs a run whose temperature was learned too")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The dotted paths of JSON-like values that are neither mappings nor lists, each with its value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
    else:
        for key, inner in items:
            yield from _leaves(inner, f"{path}.{key}")


def _text(leaves: Mapping[str, Any], path: str) -> str:
    return json.dumps(leaves[path]).strip('"') if path in leaves else "not there"
