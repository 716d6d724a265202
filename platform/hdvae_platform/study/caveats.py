"""Caveats of settings: what a reader must know of runs with them. One line each, beginning with the kind of caveat."""

from __future__ import annotations

from hdvae.experiment.experiment import Experiment
from hdvae_platform.study.study import Study

TIME_CONSTANTS = 3
"""An average of weights over fewer than this many times 1/(1 − decay) steps has a caveat."""


def caveats_of_study(study: Study) -> list[str]:
    """The caveats of all experiments of a grid, or of the base experiment of another search, each once."""
    grid = study.search.method == "grid"
    experiments = [study.experiment_at(params) for params in study.grid()] if grid else [study.experiment]
    return list(dict.fromkeys(caveat for experiment in experiments for caveat in caveats_of_experiment(experiment)))


def caveats_of_experiment(experiment: Experiment) -> list[str]:
    """The caveats of one experiment."""
    return short_average(experiment.training.ema, experiment.training.steps) + idle_revival(experiment)


def idle_revival(experiment: Experiment) -> list[str]:
    """The caveat that `training.revive` cannot act on a memory, because no slot can be known to be dead in time."""
    training, categorical = experiment.training, experiment.model.latent == "categorical"
    if not training.revive or not categorical:
        return []
    largest = max(layer.classes for layer in experiment.model.layers)
    window = training.dead_window(largest)
    if window < training.steps:
        return []
    return [
        f"revive: training.revive does nothing for memories of {largest:,} slots: a slot is dead after {window:,} "
        f"steps without use, but training has {training.steps:,}; train for longer, or lower training.dead_after"
    ]


def short_average(decay: float | None, steps: int) -> list[str]:
    """The caveat about averaged weights if decay^steps is not small, so that the average covers the whole training.

    >>> short_average(0.99, 1500)
    []
    >>> short_average(0.9999, 1500)
    ['ema: training.ema 0.9999 averages over about 10,000 steps, but training has 1,500: ...']

    Args:
        decay: the decay of the average; None without one.
        steps: the number of training steps.
    """
    if decay is None or steps >= (enough := round(TIME_CONSTANTS / (1 - decay))):
        return []
    return [
        f"ema: training.ema {decay:g} averages over about {round(1 / (1 - decay)):,} steps, "
        f"but training has {steps:,}: the evaluated weights include those of early steps; train for {enough:,} steps, "
        "or lower training.ema"
    ]
