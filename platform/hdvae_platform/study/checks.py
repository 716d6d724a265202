"""The checks of a study that its fields alone cannot make: every parameter set is valid, every metric is measured."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from hdvae.errors import InputError, nearest
from hdvae.evaluation.metrics import check_tunable, metric_names
from hdvae.experiment.experiment import Experiment
from hdvae.randomness.shares import check_shares
from hdvae.training.continuation import FREE
from hdvae_platform.study.expectation import Expectation, Settings, fitting, sides
from hdvae_platform.study.measured import check_measured
from hdvae_platform.study.space import PRESET, Dimension, count_sets, fits, set_at
from hdvae_platform.study.start_sets import check_start_sets
from hdvae_platform.study.study import SearchConfig, Study

MOST_SETS = 10_000
"""Largest number of parameter sets of a grid."""


def check(study: Study, where: str, check_data: Callable[[str], None] | None = None) -> None:
    """Check a study as a whole.

    Args:
        study: whose fields are valid each on their own.
        where: named in errors, e.g. the study file.
        check_data: raises InputError if there is no data set of a name.

    Raises:
        InputError: one line for each fault, with the field, what is wrong and the nearest right thing.
    """
    experiments = [study.experiment]
    parts: list[Callable[[], None]] = [
        lambda: _check_data(study, where, check_data),
        lambda: _check_batch_size(study, study.experiment, f"{where}: experiment."),
        lambda: _check_search(study, where),
        lambda: _check_seeds(study, where),
        lambda: _check_source(study, where),
        lambda: _check_objectives(study.search, where),
        lambda: _check_pruner(study, where),
        *(partial(_check_dimension, study, path, where, experiments) for path in study.space),
        *(partial(_check_names, study, one, f"{where}: expect.{place}") for place, one in enumerate(study.expect)),
    ]
    _check_all(parts)
    if study.search.method.name == "grid":
        if (sets := count_sets(study.space)) > MOST_SETS:
            raise InputError(f"{where}: space: a grid of {sets} parameter sets; at most {MOST_SETS} are allowed")
        experiments = _grid(study, f"{where}: space")
    expectations = [
        partial(_check_expectation, study, expectation, f"{where}: expect.{place}", experiments)
        for place, expectation in enumerate(study.expect)
    ]
    measured = [
        partial(check_measured, study, metric, f"{where}: search.{field}")
        for metric, field in _metric_fields(study.search).items()
    ]
    _check_all([lambda: check_start_sets(study, where), *measured, *expectations])


def _grid(study: Study, at: str) -> list[Experiment]:
    """The experiments of a grid, whose values may be valid each on its own but not together."""
    try:
        return [study.experiment_at(params) for params in study.grid()]
    except InputError as fault:
        raise InputError(f"{at}: {str(fault).splitlines()[0]}") from None


def _check_all(parts: Sequence[Callable[[], None]]) -> None:
    """Make some checks.

    Raises:
        InputError: the faults that they found, each in a line.
    """
    faults = []
    for part in parts:
        try:
            part()
        except InputError as fault:
            faults.append(str(fault))
    if faults:
        raise InputError("\n".join(dict.fromkeys(faults)))


def _check_search(study: Study, where: str) -> None:
    """There is an end of the search, and no run of it sees what is held out for confirmations."""
    method = study.search.method.name
    if method != "grid" and study.search.trials is None and study.search.hours is None:
        raise InputError(f"{where}: search.trials is missing: {method} search needs a number of trials, or of hours")
    if study.holds_out and (study.experiment.evaluation.part != "all" or "evaluation.part" in study.space):
        raise InputError(
            f"{where}: confirm.images: held_out decides which part of the validation images a run is evaluated on: "
            "leave out evaluation.part"
        )


def _check_data(study: Study, where: str, check_data: Callable[[str], None] | None) -> None:
    name = study.experiment.data.name
    if check_data is None or name is None:
        return
    try:
        check_data(name)
    except InputError as fault:
        raise InputError(f"{where}: experiment.data.name: {fault}") from None


def _check_seeds(study: Study, where: str) -> None:
    if len(set(study.seeds)) != len(study.seeds):
        raise InputError(f"{where}: seeds: {list(study.seeds)} has a seed twice")


def _check_source(study: Study, where: str) -> None:
    """Runs that go on from others have their networks and their seeds."""
    if study.source is None:
        return
    if study.source[0] == study.name:
        raise InputError(f"{where}: start_from: {study.start_from} is a trial of this study: give it another name")
    if study.confirm is not None:
        raise InputError(
            f"{where}: confirm: fresh seeds have no checkpoint in {study.start_from} to go on from: leave out confirm, "
            "or start_from"
        )
    network = [path for path in study.space if path == PRESET or path.startswith("model.")]
    differing = [path for path in network if path != f"model.{FREE}"]
    if differing:
        raise InputError(
            f"{where}: space.{differing[0]}: the network is that of {study.start_from}: leave it out, or start_from"
        )


def check_images(study: Study, available: int) -> None:
    """Check that half of the validation images can be held out, if the study asks for it.

    Raises:
        InputError: there are fewer than two.
    """
    if study.holds_out and available < 2:
        raise InputError(f"confirm.images: held_out needs two validation images, and there is {available}")


def _check_dimension(study: Study, path: str, where: str, experiments: list[Experiment]) -> None:
    """Check a dimension of the space; experiments in which each of its values stands are added to `experiments`."""
    dimension, at = study.space[path], f"{where}: space.{path}"
    _check_conditions(study, path, at)
    if path != PRESET:
        _check_path(study, path, at)
    _check_values(dimension, at, study.search.method.name)
    for value in dimension.examples():
        for context in _contexts(study, path):
            try:
                experiments.append(study.experiment_at({**context, path: value}))
            except InputError as fault:
                first = str(fault).splitlines()[0]
                raise InputError(f"{at}: {first.removeprefix(f'space.{path}: ')}") from None
            if path in (PRESET, "training.batch_size"):
                _check_batch_size(study, experiments[-1], f"{at}: ")


def _check_path(study: Study, path: str, at: str) -> None:
    """A dimension is of one setting, which some experiment of the space has."""
    if "*" in path.split("."):
        one = next((known for known, _ in _leaves(study.experiment.plain()) if fits(known, path)), None)
        example = "" if one is None else f", e.g. {one}"
        raise InputError(f"{at}: a star is for expect and --trend; name one setting here{example}")
    for context in _contexts(study, path):
        try:
            plain = study.experiment_at(context).plain()
        except InputError:  # told with the values of this dimension
            continue
        set_at(plain, path, None, where=at)


def _metric_fields(search: SearchConfig) -> dict[str, str]:
    """The metrics that a search needs, each with the field that names it."""
    fields = {**dict.fromkeys(search.constraints, "constraints"), **dict.fromkeys(search.also, "also")}
    return {metric: fields.get(metric, "metric") for metric in search.measured}


def _check_objectives(search: SearchConfig, where: str) -> None:
    """Each metric of the search exists, and is named once."""
    for metric, field in _metric_fields(search).items():
        try:
            check_tunable(metric)
        except InputError as fault:
            raise InputError(f"{where}: search.{field}: {fault}") from None
    if search.metric in search.also:
        raise InputError(f"{where}: search.also: {search.metric} is search.metric already: name each metric once")


def _check_pruner(study: Study, where: str) -> None:
    """A pruner compares values of one metric, measured in every report, at steps that all runs share."""
    search, at = study.search, f"{where}: search.pruner"
    if search.pruner is None:
        return
    name = search.pruner.name
    if search.also:
        raise InputError(f"{at}: {name} prunes by one metric, but search.also names more: leave out one of the two")
    late = [metric for metric in search.measured if metric.startswith("valid/iw_elbo")]
    if late:
        raise InputError(
            f"{at}: {late[0]} is measured at the end only; a pruner needs metrics of every report, such as valid/elbo"
        )
    if "evaluation.every" in study.space:
        raise InputError(
            f"{at}: {name} compares runs at the same steps, but evaluation.every is varied: leave it out of space, or "
            "the pruner"
        )
    if "training.patience" in study.space or study.experiment.training.patience is not None:
        raise InputError(
            f"{at}: {name} compares runs with those that reached a later step, which training.patience stops early: "
            "leave out one of the two"
        )


def _check_names(study: Study, expectation: Expectation, at: str) -> None:
    """The metric of an expectation is one that a study can be tuned on, and the settings of its sides are varied."""
    try:
        check_tunable(expectation.metric)
    except InputError as fault:
        raise InputError(f"{at}.metric: {fault}") from None
    for path in [path for side in expectation.pair or () for path in side]:
        if path not in study.space:
            raise InputError(f"{at}: {path} is not varied{nearest(path, study.space)}")


def _check_expectation(study: Study, expectation: Expectation, at: str, experiments: Sequence[Experiment]) -> None:
    """The metric of an expectation is measured on `valid`, and the runs of the study can answer it."""
    measured = dict.fromkeys(f"valid/{name}" for experiment in experiments for name in metric_names(experiment))
    if expectation.metric not in measured:
        raise InputError(f"{at}.metric: {expectation.metric} is not measured{nearest(expectation.metric, measured)}")
    if expectation.pair is not None:
        _check_sides(study, expectation.pair, at)
    if expectation.trend is not None:
        _check_levels(expectation.trend, at, experiments)


def _check_sides(study: Study, pair: tuple[Settings, Settings], at: str) -> None:
    """Both sides can have arms; in a grid, some arms agree in all other settings and none is on both sides."""
    for path, value in [item for group in pair for item in group.items()]:
        choices = study.space[path].choices
        if choices is not None and value not in choices:
            raise InputError(f"{at}: {path} is never {json.dumps(value)}{nearest(str(value), map(str, choices))}")
    if study.search.method.name != "grid":
        return
    sets = study.grid()
    first, second = (fitting(sets, group) for group in pair)
    for group, places in zip(pair, (first, second), strict=True):
        if not places:
            raise InputError(f"{at}: no parameter set has {json.dumps(group)}")
    for place in sorted(set(first) & set(second)):
        raise InputError(f"{at}: {json.dumps(sets[place])} is on both sides")
    if not sides(*pair, sets):
        raise InputError(f"{at}: no two parameter sets of these groups share their other settings")


def _check_levels(pattern: str, at: str, experiments: Sequence[Experiment]) -> None:
    """The setting of a trend exists, is a number, and varies."""
    leaves = [dict(_leaves(experiment.plain())) for experiment in experiments]
    values = [[value for path, value in settings.items() if fits(path, pattern)] for settings in leaves]
    given = [one for one in values if one]
    if not given:
        known = {path for settings in leaves for path in settings}
        starred = {re.sub(r"\.\d+(?=\.|$)", ".*", path) for path in known}
        meant = next((one for one in starred if one.replace(".*", "") == pattern), None)
        hint = nearest(pattern, known) if meant is None else nearest(meant, starred)
        raise InputError(f"{at}: there is no setting {pattern}{hint}")
    numbers = [one for one in given if all(_is_number(value) for value in one)]
    if not numbers:
        raise InputError(f"{at}: {pattern} is not a number but {json.dumps(given[0][0])}")
    if len({sum(one) for one in numbers}) < 2:
        raise InputError(f"{at}: {pattern} is not varied: it is {sum(numbers[0])} in every parameter set")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _leaves(plain: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted paths of JSON-like values, each with its value."""
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    yield path, plain
    for key, value in items:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _check_batch_size(study: Study, experiment: Experiment, at: str) -> None:
    try:
        check_shares(experiment.training.batch_size, study.resources.min_workers)
    except InputError as fault:
        raise InputError(f"{at}{fault}") from None


def _check_values(dimension: Dimension, at: str, method: str) -> None:
    if (dimension.choices is None) == (dimension.low is None and dimension.high is None):
        raise InputError(f"{at}: give either choices or low and high")
    if dimension.choices is not None:
        if not dimension.choices:
            raise InputError(f"{at}: choices is empty")
        if any(choice in dimension.choices[:i] for i, choice in enumerate(dimension.choices)):
            raise InputError(f"{at}: choices has a value twice")
        return
    if dimension.low is None or dimension.high is None:
        raise InputError(f"{at}: a range needs both low and high")
    if dimension.low > dimension.high:
        raise InputError(f"{at}: low {dimension.low:g} is above high {dimension.high:g}")
    if dimension.log and dimension.low <= 0:
        raise InputError(f"{at}: a log range must start above 0, got low {dimension.low:g}")
    if method == "grid":
        raise InputError(
            f"{at}: a grid needs choices, not a range: give choices, or set search.method to random or tpe"
        )


def _check_conditions(study: Study, path: str, at: str) -> None:
    """Conditions name earlier dimensions with choices: no circle can arise, and their values are known in sampling."""
    earlier = list(study.space)[: list(study.space).index(path)]
    for other, value in study.space[path].when.items():
        if other not in earlier:
            raise InputError(f"{at}.when: {other} must come earlier in space{nearest(other, earlier)}")
        choices = study.space[other].choices
        wanted = value if isinstance(value, list) else [value]
        if choices is None or any(one not in choices for one in wanted):
            raise InputError(f"{at}.when: {other} is never {json.dumps(value)}")


def _contexts(study: Study, path: str) -> Iterator[dict[str, Any]]:
    """Settings of the dimensions that `path` depends on, under which it varies."""
    conditions = study.space[path].when
    lists = [value if isinstance(value, list) else [value] for value in conditions.values()]
    for values in itertools.product(*lists):
        context: dict[str, Any] = {}
        for other, value in zip(conditions, values, strict=True):
            outer = next(_contexts(study, other))
            context |= {**outer, other: value}
        yield context
