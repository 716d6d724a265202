"""Settings that a study varies although another setting leaves them without effect: their trials are all alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from hdvae.errors import InputError
from hdvae.experiment.experiment import Experiment
from hdvae.experiment.schedules import LEARNED
from hdvae_platform.study.annealing import MOST_SETS, conditions, corners
from hdvae_platform.study.space import PRESET, Params, fits, parameter_sets
from hdvae_platform.study.study import Study


@dataclass(frozen=True)
class Idle:
    """Settings that have no effect on a run under a condition.

    Attributes:
        settings: patterns of their paths; what is below such a path counts too.
        because: the path of the setting that makes them idle.
        when: whether they are idle in an experiment.
    """

    settings: tuple[str, ...]
    because: str
    when: Callable[[Experiment], bool]

    def concerns(self, path: str) -> bool:
        """Whether a path is one of these settings, or below one."""
        parts = path.split(".")
        starts = [".".join(parts[: end + 1]) for end in range(len(parts))]
        return any(fits(start, pattern) for start in starts for pattern in self.settings)


def _is_normal(one: Experiment) -> bool:
    return one.model.latent == "normal"


IDLE = (
    Idle(
        (
            "training.temperature",
            "training.temperature_start",
            "training.temperature_floor",
            "training.memory_learning_rate",
            "training.dead_after",
            "training.revive",
            "evaluation.kappa",
            "model.keys",
            "model.key_size",
            "model.value_size",
            "model.reads",
            "model.race",
            "model.shared_values",
            "model.layers.*.classes",
        ),
        because="model.latent",
        when=_is_normal,
    ),
    Idle(
        ("training.temperature",),
        because="training.estimator",  # ReinMax always uses τ = 1, and score-function estimators draw hard samples
        when=lambda one: one.training.estimator in ("reinmax", "rloo", "vimco"),
    ),
    Idle(
        ("training.temperature_start", "training.temperature_floor"),
        because="training.temperature",
        when=lambda one: one.training.temperature != LEARNED,
    ),
    Idle(
        ("training.estimator_samples",),
        because="training.estimator",
        when=lambda one: one.training.estimator in ("concrete", "straight_through", "reinmax"),
    ),
    Idle(
        ("training.freebits_per",),
        because="training.freebits",
        when=lambda one: one.training.freebits == 0,
    ),
    Idle(
        ("training.kappa",),
        because="training.objective",
        when=lambda one: not one.training.needs_bound,
    ),
    Idle(
        ("model.race",),
        because="model.reads",
        when=lambda one: one.model.reads == "dense" and not _is_normal(one),
    ),
    Idle(
        ("model.race.tolerance",),
        because="model.race.arrivals",
        when=lambda one: one.model.top_m_reads and one.model.race.arrivals != "auto",
    ),
    Idle(
        ("model.decoder_scale",),
        because="model.decoder",
        when=lambda one: one.model.decoder == "free",
    ),
    Idle(
        ("model.layers.*.stride", "model.layers.*.kernel"),
        because="model.blocks",
        when=lambda one: one.model.blocks == "dense",
    ),
)
"""What leaves which settings without effect."""


def idle_settings(study: Study) -> list[str]:
    """The caveats about settings that are varied where they have no effect, one line each."""
    varied = [path for path, dimension in study.space.items() if dimension.size > 1]
    return [line for path in varied for rule in IDLE if rule.concerns(path) for line in _caveats(study, path, rule)]


def _caveats(study: Study, path: str, rule: Idle) -> Iterator[str]:
    """The caveat that a rule makes a dimension of the space idle in some trials, if it does."""
    trials = list(_trials(study, path))
    idle = [(params, one) for params, one in trials if rule.when(one)]
    if not idle:
        return
    values = list(dict.fromkeys(_text(_value(one, rule.because)) for _, one in idle))
    start = f"space: {path} has no effect with {rule.because} {' or '.join(values)}"
    cause = next((one for one in (rule.because, PRESET) if one in study.space and one != path), None)
    if len(idle) == len(trials) or cause is None:
        yield f"{start}: leave it out of space"
        return
    if (choices := study.space[cause].choices) is None:
        return  # one end of a range
    stopped = [params.get(cause) for params, _ in idle]
    used = [choice for choice in choices if choice not in stopped]
    order = list(study.space)
    earlier = "" if order.index(cause) < order.index(path) else f"put {cause} before it in space, and "
    yield f"{start}: {earlier}add `when: {{{cause}: {_flow(used)}}}`" if used else start


def _trials(study: Study, path: str) -> Iterator[tuple[Params, Experiment]]:
    """Parameter sets in which a dimension varies, as far as they differ in what rules look at."""
    causes = {PRESET, *(rule.because for rule in IDLE)}
    relevant = [one for one in study.space if one == path or one in causes]
    kept = {*relevant, *(other for one in relevant for other in conditions(study.space, study.space[one]))}
    space = {one: corners(dimension) for one, dimension in study.space.items() if one in kept}
    for params in islice(parameter_sets(space, np.random.default_rng(0)), MOST_SETS):
        if path not in params:
            continue
        try:
            yield params, study.experiment_at(params)
        except InputError:  # values that are valid one by one, but not together
            continue


def _value(experiment: Experiment, path: str) -> Any:
    """The value of a setting."""
    value: Any = experiment.plain()
    for part in path.split("."):
        value = value[part]
    return value


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)


def _flow(values: list[Any]) -> str:
    """Values as the condition of a dimension is written: one, or a list."""
    texts = [_text(value) for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
