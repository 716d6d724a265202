"""Going on from a run that has ended: the same network and seed, with other settings, such as more steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hdvae.errors import InputError
from hdvae.experiment.experiment import Experiment
from hdvae.experiment.schedules import LEARNED

FREE = "dropout"
"""The setting of the network that may differ: it changes no tensor."""


def check_continuation(experiment: Experiment, before: Experiment, step: int) -> None:
    """Check that a run can go on from another.

    Args:
        experiment: of the run.
        before: of the run that it goes on from.
        step: of the checkpoint that it goes on from.

    Raises:
        InputError: the networks differ, the run would have no step left, or it needs what the other does not have.
    """
    old, new = (_network(one) for one in (before, experiment))
    differing = [f"model.{name} was {old[name]}, is {new[name]}" for name in new if old[name] != new[name]]
    if differing:
        raise InputError(f"the network must be the same, but for model.{FREE}: {differing[0]}")
    steps = experiment.training.steps
    if steps <= step:
        raise InputError(f"its checkpoint is of step {step:,}: training.steps must be larger, not {steps:,}")
    if LEARNED == experiment.training.temperature != before.training.temperature:
        raise InputError(f"training.temperature: {LEARNED} needs a run whose temperature was learned too")


def _network(experiment: Experiment) -> Mapping[str, Any]:
    return {name: value for name, value in experiment.plain()["model"].items() if name != FREE}
