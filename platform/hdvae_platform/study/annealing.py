"""Where the schedules of a study end, and when its pruner may judge a run.

While a temperature falls or free bits rise, the curves of runs say little about their ends: a pruner waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from hdvae.errors import InputError
from hdvae.experiment.experiment import Experiment
from hdvae.experiment.schedules import LEARNED, end_of
from hdvae_platform.study.space import PRESET, Dimension, Space, parameter_sets
from hdvae_platform.study.study import Study

SCHEDULES = ("temperature", "freebits", "learning_rate", "memory_learning_rate")
"""The settings of `training` that may be schedules."""
OF_MEMORIES = ("temperature", "memory_learning_rate")
"""Those of them that a Gaussian model does not use."""
MOST_SETS = 1000
"""Parameter sets that are looked at, at most."""


@dataclass(frozen=True)
class Annealing:
    """The schedule that ends last, over all trials of a study.

    Attributes:
        setting: its path in the experiment.
        end: the first step from which on it is constant.
    """

    setting: str
    end: int


def annealing(study: Study) -> Annealing | None:
    """The schedule of a study that ends last; None if all are constant."""
    found = [
        Annealing(f"training.{name}", end)
        for one in experiments_of(study)
        for name, end in _ends(one).items()
        if end > 0
    ]
    return max(found, key=lambda one: one.end, default=None)


def default_grace(study: Study) -> int:
    """The step before which a pruner judges no run unless the study says otherwise: the end of the schedules.

    It is at least the first evaluation step.
    """
    last = annealing(study)
    return max(0 if last is None else last.end, study.experiment.evaluation.every)


def longest(study: Study) -> int:
    """The training steps of the longest run."""
    return max(experiment.training.steps for experiment in experiments_of(study))


def _ends(experiment: Experiment) -> dict[str, int]:
    """The ends of the schedules that an experiment uses."""
    used = [name for name in SCHEDULES if experiment.model.latent == "categorical" or name not in OF_MEMORIES]
    specs = {name: getattr(experiment.training, name) for name in used}
    return {name: math.ceil(end_of(spec)) for name, spec in specs.items() if spec != LEARNED}


def experiments_of(study: Study) -> list[Experiment]:
    """The experiments of all trials as far as their schedules and lengths differ; of a range, those of its ends."""
    space = {path: corners(study.space[path]) for path in study.space if path in set(_relevant(study.space))}
    found = []
    for params in islice(parameter_sets(space, np.random.default_rng(0)), MOST_SETS):
        try:
            found.append(study.experiment_at(params))
        except InputError:  # values that are valid one by one, but not together; their run fails, and says so
            continue
    return found or [study.experiment]


def _relevant(space: Space) -> Iterator[str]:
    """The paths of the space that change a schedule or the length of a run, and those that their conditions name."""
    for path, dimension in space.items():
        name = path.removeprefix("training.").partition(".")[0]
        if path in (PRESET, "model.latent", "training.steps") or (path.startswith("training.") and name in SCHEDULES):
            yield path
            yield from conditions(space, dimension)


def conditions(space: Space, dimension: Dimension) -> Iterator[str]:
    """The paths that the condition of a dimension names, and those that their conditions name."""
    for path in dimension.when:
        yield path
        yield from conditions(space, space[path])


def corners(dimension: Dimension) -> Dimension:
    """A dimension with the ends of its range alone; choices stay."""
    if dimension.choices is not None:
        return dimension
    assert dimension.low is not None
    assert dimension.high is not None
    ends = tuple(dict.fromkeys((dimension.low, dimension.high)))
    return dimension.model_copy(update={"choices": ends, "low": None, "high": None})
