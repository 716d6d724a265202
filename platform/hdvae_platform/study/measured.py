"""Which metrics the runs of a study report: a search for one that some run lacks would fail after its last step."""

from __future__ import annotations

import json
from collections.abc import Iterator

from hdvae.errors import InputError, nearest
from hdvae.evaluation.metrics import metric_names, training_metric_names
from hdvae.experiment.experiment import Experiment
from hdvae_platform.study.space import Params
from hdvae_platform.study.study import Study


def reported(experiment: Experiment) -> list[str]:
    """The full names of all metrics in the last report of a run."""
    return [
        *(f"valid/{name}" for name in metric_names(experiment)),
        *(f"train/{name}" for name in training_metric_names(experiment)),
    ]


def check_measured(study: Study, metric: str, where: str) -> None:
    """Check that every run of a study reports a metric.

    Args:
        study: whose parameter sets are valid each on their own.
        metric: its full name.
        where: named in the error.

    Raises:
        InputError: a run does not report it; names the nearest metric, or the settings of such a run.
    """
    measured = [(params, reported(experiment)) for params, experiment in _arms(study)]
    lacking = [(params, names) for params, names in measured if metric not in names]
    if not lacking:
        return
    params, names = lacking[0]
    if len(lacking) == len(measured):
        raise InputError(f"{where}: {metric} is not measured{nearest(metric, names)}")
    settings = ", ".join(f"{path} = {json.dumps(value)}" for path, value in params.items())
    raise InputError(f"{where}: {metric} is not measured with {settings}: choose a metric that every run has")


def _arms(study: Study) -> Iterator[tuple[Params, Experiment]]:
    """Parameter sets in which each value of the space stands at least once, if it makes a valid experiment."""
    sets = study.grid() if study.search.method.name == "grid" else [_completed(study, {}), *_examples(study)]
    for params in sets:
        try:
            yield params, study.experiment_at(params)
        except InputError:  # values that are valid each on their own, but not together: such a run fails by itself
            continue


def _examples(study: Study) -> Iterator[Params]:
    for path, dimension in study.space.items():
        for value in dimension.examples():
            yield _completed(study, {path: value})


def _completed(study: Study, chosen: Params) -> Params:
    """A whole parameter set with some values chosen, and those that they depend on."""
    params: dict[str, object] = {}
    needed = dict(chosen)
    for path in reversed(study.space):
        if path in needed:
            for other, value in study.space[path].when.items():
                needed.setdefault(other, value[0] if isinstance(value, list) else value)
    for path, dimension in study.space.items():
        if path in needed:
            params[path] = needed[path]
        elif dimension.applies(params):
            params[path] = dimension.examples()[0]
    return params
