"""Caveats of settings: what a reader must know of runs with them. One line each, beginning with the kind of caveat."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hdvae.errors import InputError
from hdvae.experiment.experiment import Experiment
from hdvae_platform.study.annealing import annealing, longest
from hdvae_platform.study.idle import idle_settings
from hdvae_platform.study.settled import settled
from hdvae_platform.study.space import count_sets
from hdvae_platform.study.study import Study

MEDIAN_NEEDS = 5
"""Complete trials with a value at a step, before which `pruner: median` prunes none there."""
TIME_CONSTANTS = 3
"""An average of weights over fewer than this many times 1/(1 − decay) steps has a caveat."""


def caveats_of_study(study: Study, images: int, machine: Mapping[str, float] | None = None) -> list[str]:
    """The caveats of a study before anything of it runs.

    They are those of the space, of the search, and of all experiments of a grid, or of the base experiment of another
    search.

    Args:
        study: the study.
        images: the number of validation images.
        machine: the resources of the only machine it will run on, by Ray's names for them; None if that is not known.
    """
    grid = study.search.method.name == "grid"
    experiments = [study.experiment_at(params) for params in study.grid()] if grid else [study.experiment]
    found = (
        idle_settings(study) + caveats_of_search(study) + ([] if machine is None else missing_resources(study, machine))
    )
    for experiment in experiments:
        found += caveats_of_experiment(experiment, images)
    return list(dict.fromkeys(found))


def caveats_of_experiment(experiment: Experiment, images: int | None = None) -> list[str]:
    """The caveats of one experiment.

    Args:
        experiment: the experiment.
        images: the number of validation images; None if that is not known.
    """
    training = experiment.training
    return [
        *short_average(training.ema, training.steps),
        *idle_revival(experiment),
        *late_evaluation(experiment),
        *too_few_images(experiment, images),
    ]


def caveats_of_search(study: Study) -> list[str]:
    """The caveats of how the space is searched."""
    study = settled(study)
    search, trials, found = study.search, study.parameter_sets(), []
    if search.method.name == "grid" and trials is not None and trials < (size := count_sets(study.space)):
        found.append(
            f"search: the grid has {size:,} parameter sets, and search.trials is {trials:,}: the last "
            f"{size - trials:,} are left out; leave out trials to try all, or choose method: random"
        )
    start = search.method.start
    if trials is not None and trials <= start:
        found.append(
            f"search: {search.method.name} draws its first {start} trials at random, and this study has {trials}: it "
            "does not search; ask for more trials, or for method: random"
        )
    if study.confirm is not None and trials is not None and study.confirm.top > trials:
        found.append(f"confirm: top is {study.confirm.top}, but the study has {trials} trials: all are confirmed")
    return [*found, *_caveats_of_pruner(study)]


def _caveats_of_pruner(study: Study) -> list[str]:
    """That the pruner of a settled study never acts, or acts too early."""
    pruner, trials = study.search.pruner, study.parameter_sets()
    if pruner is None or pruner.grace is None:
        return []
    every, steps, last = study.experiment.evaluation.every, longest(study), annealing(study)
    first = math.ceil(pruner.grace / every) * every
    waits = last is not None and pruner.grace >= last.end
    if first >= steps:
        why = f", where {last.setting} ends" if last is not None and pruner.grace == last.end else ""
        return [
            f"pruner: {pruner.name} judges runs from step {pruner.grace:,} on{why}, and the next evaluation is at step "
            f"{first:,} of {steps:,}: it never acts; lower search.pruner.{pruner.name}.grace or evaluation.every"
        ]
    found = []
    if last is not None and not waits:
        found.append(
            f"pruner: {pruner.name} judges runs from step {pruner.grace:,} on, but {last.setting} ends at step "
            f"{last.end:,}: what is best before may not be best after; leave out grace, and it waits"
        )
    if pruner.name == "median" and trials is not None and trials <= MEDIAN_NEEDS:
        found.append(
            f"pruner: median prunes no trial before {MEDIAN_NEEDS} are complete, and this study has {trials}: it never "
            "acts"
        )
    return found


def missing_resources(study: Study, machine: Mapping[str, float]) -> list[str]:
    """The caveat about runs that the machine has no room for."""
    resources = study.resources
    try:
        runs = resources.concurrent_runs([machine])
    except InputError as fault:
        return [f"{fault}"]
    if runs < resources.concurrent:
        return [f"resources: {resources.concurrent} runs at a time were asked for; there is room for {runs}"]
    return []


def late_evaluation(experiment: Experiment) -> list[str]:
    """The caveat that a run is evaluated at its end only."""
    every, steps = experiment.evaluation.every, experiment.training.steps
    if every <= steps:
        return []
    return [
        f"evaluation: evaluation.every is {every:,}, but training has {steps:,} steps: a run is evaluated, and saved, "
        "at its end only"
    ]


def too_few_images(experiment: Experiment, images: int | None) -> list[str]:
    """The caveat that fewer images are there than were asked for."""
    asked = experiment.evaluation.images
    if images is None or asked <= images:
        return []
    return [f"images: evaluation.images is {asked:,}, but there are {images:,} validation images: all are used"]


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
