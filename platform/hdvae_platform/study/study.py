"""The `Study`: a claim, a base experiment, a space of variations and how to search it; read from a study file.

`Study.experiment_at` is the one place that merges a trial's parameters into an `Experiment`.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import Field, JsonValue, field_validator, model_validator

from hdvae.config import Config, parse
from hdvae.errors import InputError, nearest
from hdvae.evaluation.metrics import check_tunable, metric_names
from hdvae.experiment import presets
from hdvae.experiment.experiment import Experiment
from hdvae.randomness.seeds import derive
from hdvae.randomness.shares import can_share, check_shares
from hdvae_platform.study.expectation import Expectation, Settings, fitting, sides

Params = Mapping[str, Any]
"""One parameter set: dotted paths into the experiment → values."""
PRESET = "preset"
"""A path of the space that is no field of the experiment: its values are presets, put over it before all others."""


class Dimension(Config):
    """What one path of the experiment may be: listed choices, or a range."""

    choices: tuple[JsonValue, ...] | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    when: dict[str, JsonValue] = Field(default_factory=dict)
    """Other paths of the space and the value (or list of values) they must have for this one to vary."""

    def applies(self, params: Params) -> bool:
        """Whether the conditions of `when` hold in a parameter set."""
        return all(
            path in params and params[path] in (value if isinstance(value, list) else [value])
            for path, value in self.when.items()
        )

    @property
    def whole(self) -> bool:
        """Whether a range is of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def size(self) -> float:
        """How many values there are; infinitely many in a range of real numbers."""
        if self.choices is not None:
            return len(self.choices)
        assert self.low is not None
        assert self.high is not None
        return self.high - self.low + 1 if self.whole else math.inf if self.low < self.high else 1

    def values(self, random: np.random.Generator) -> Iterator[Any]:
        """All values in order; of a range of real numbers one that is drawn."""
        if self.choices is not None:
            yield from self.choices
            return
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            yield from range(int(self.low), int(self.high) + 1)
        elif self.log:
            drawn = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
            yield min(max(drawn, self.low), self.high)  # rounding may lead out of it
        else:
            yield float(random.uniform(self.low, self.high))

    def examples(self) -> list[Any]:
        """Values that together show whether every value of this dimension is valid."""
        if self.choices is not None:
            return list(self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.whole and self.high - self.low < 10_000:
            return list(range(int(self.low), int(self.high) + 1))
        return [self.low, self.high]


Direction = Literal["maximize", "minimize"]


class SearchConfig(Config):
    """How the space is searched."""

    method: Literal["grid", "random", "tpe", "gp", "nsga2"] = "grid"
    trials: Annotated[int, Field(ge=1)] | None = None
    """Parameter sets to try; a grid tries all, if it is not given."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Wall time since the study was first launched after which no further parameter set is begun."""
    metric: str = "valid/elbo"
    direction: Direction = "maximize"
    also: dict[str, Direction] = Field(default_factory=dict)
    """Further metrics that are searched for: no trial is best then, but those that no other beats in all."""
    pruner: Literal["asha", "median"] | None = None
    """Who stops a trial early, by the reports of its first seed's run."""

    @property
    def objectives(self) -> dict[str, Direction]:
        """Every metric that is searched for, with its direction; the first is that of the study."""
        return {self.metric: self.direction, **self.also}


class ConfirmConfig(Config):
    """The best trials of the search again, on fresh seeds: their search value was chosen for being high."""

    top: Annotated[int, Field(ge=1)] = 3
    seeds: Annotated[int, Field(ge=1)] = 5


class ElasticConfig(Config):
    """As many workers for a run as there is room for when it starts, or goes on."""

    least: Annotated[int, Field(ge=1)] = 1
    most: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _in_order(self) -> ElasticConfig:
        if self.most < self.least:
            raise ValueError(f"most is {self.most}, but least is {self.least}")
        return self


class ResourcesConfig(Config):
    """What one run uses, and how many run at a time."""

    workers: Annotated[int, Field(ge=1)] = 1
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    concurrent: Annotated[int, Field(ge=1)] = 2
    elastic: ElasticConfig | None = None
    """Instead of `workers`: their number then follows the room there is, and with it the noise of dropout."""

    @field_validator("workers", mode="before")
    @classmethod
    def _is_fixed(cls, workers: Any) -> Any:
        if isinstance(workers, list | dict | str):
            raise ValueError(
                f"{json.dumps(workers)} is no number: another number of workers draws other dropout noise, and a study "
                "of the bias compares on equal noise; elastic: {least: 1, most: 4} asks for that all the same"
            )
        return workers

    @model_validator(mode="after")
    def _either(self) -> ResourcesConfig:
        if self.elastic is not None and "workers" in self.model_fields_set and self.workers != 1:
            raise ValueError("give either workers or elastic")
        return self

    @property
    def together(self) -> bool:
        """Whether a run is trained by a group of workers, and not in the process that it is given."""
        return self.workers > 1 or self.elastic is not None

    @property
    def fewest(self) -> int:
        """How many workers a run has at least."""
        return self.workers if self.elastic is None else self.elastic.least

    def per_worker(self) -> dict[str, float]:
        """What each worker needs, by Ray's name of it."""
        return {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}

    def slots(self, machines: Sequence[Mapping[str, float]]) -> int:
        """How many workers machines with these resources have room for."""
        need = self._need().items()
        return sum(min(int(one.get(kind, 0) / amount + 1e-9) for kind, amount in need) for one in machines)

    def has_room(self, slots: int, live: int) -> bool:
        """Whether one more run may be started beside `live` others, with room left for so many workers."""
        return live < self.concurrent and slots >= self.fewest

    def workers_in(self, slots: int, live: int, batch_size: int) -> int:
        """How many workers a run gets for which there is room; its share of it, where that is elastic.

        Args:
            slots: room is left for so many workers.
            live: how many other runs there are.
            batch_size: of the run, which its workers share.
        """
        if self.elastic is None:
            return self.workers
        share = max(self.elastic.least, min(self.elastic.most, slots // (self.concurrent - live)))
        return next(count for count in range(share, 0, -1) if count == self.fewest or can_share(batch_size, count))

    def fitting(self, machines: Sequence[Mapping[str, float]]) -> int:
        """How many runs at most are trained at a time on machines with these resources.

        Raises:
            InputError: not even one run fits; says what it needs and what there is.
        """
        runs, need = min(self.slots(machines) // self.fewest, self.concurrent), self._need()
        if not runs:
            times = f"{self.fewest} × " if self.fewest > 1 else ""
            needed = " and ".join(f"{times}{amount:g} {kind}" for kind, amount in need.items())
            there = " and ".join(f"{sum(one.get(kind, 0) for one in machines):g} {kind}" for kind in need)
            where = f" on {len(machines)} machines" if len(machines) > 1 else ""
            raise InputError(f"resources: a run needs {needed}, but the cluster has {there}{where}")
        return runs

    def _need(self) -> dict[str, float]:
        return {kind: amount for kind, amount in self.per_worker().items() if amount}


class Study(Config):
    """One study file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
    claim: Annotated[str, Field(min_length=1)]
    expect: tuple[Expectation, ...] = ()
    """What the claim means for the arms: the report says whether the data support it."""
    experiment: Experiment
    space: dict[str, Dimension] = Field(default_factory=dict)
    search: SearchConfig = SearchConfig()
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)] = (0,)
    confirm: ConfirmConfig | None = None
    resources: ResourcesConfig = ResourcesConfig()

    def experiment_at(self, params: Params) -> Experiment:
        """The experiment with a parameter set merged in.

        Raises:
            InputError: the parameters do not make a valid experiment.
        """
        plain = self.experiment.plain()
        if PRESET in params:
            plain = presets.merged(plain, presets.preset(str(params[PRESET])))
        for path, value in params.items():
            if path != PRESET:
                set_at(plain, path, value, where=f"space.{path}")
        shown = ", ".join(f"{path} = {json.dumps(value)}" for path, value in params.items())
        return parse(Experiment, plain, where=f"experiment with {shown}" if params else "experiment")

    def definition(self) -> dict[str, Any]:
        """What a study of this name is, for ever: changing any of it needs another name."""
        return {
            "experiment": self.experiment.plain(),
            "space": {path: dimension.model_dump(mode="json") for path, dimension in self.space.items()},
            "method": self.search.method,
            "metric": self.search.metric,
            "direction": self.search.direction,
            "also": [list(pair) for pair in self.search.also.items()],
            "pruner": self.search.pruner,
        }

    @property
    def statement(self) -> str:
        """A short checksum of the claim and of what is expected."""
        said = [self.claim, *(one.model_dump(mode="json", exclude_none=True) for one in self.expect)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:8]

    def plan(self) -> dict[str, Any]:
        """What may change from one launch to the next."""
        return {
            "claim": self.claim,
            "expect": [one.model_dump(mode="json", exclude_none=True) for one in self.expect],
            "trials": self.search.trials,
            "hours": self.search.hours,
            "seeds": list(self.seeds),
            "confirm": self.confirm.model_dump(mode="json") if self.confirm else None,
            "resources": self.resources.model_dump(mode="json"),
        }

    @staticmethod
    def rebuilt(name: str, definition: Mapping[str, Any], plan: Mapping[str, Any]) -> Study:
        """The study with a recorded definition and plan; a setting that is newer than they are has its default."""
        search = {key: definition[key] for key in ("method", "metric", "direction", "pruner") if key in definition}
        search |= {"also": dict(definition.get("also", ()))}
        search |= {key: plan[key] for key in ("trials", "hours") if key in plan}
        parts = {"experiment": definition["experiment"], "space": definition["space"], "search": search}
        kept = {key: plan[key] for key in ("claim", "expect", "seeds", "confirm", "resources") if key in plan}
        return parse(Study, {"name": name, **parts, **kept}, f"study {name}")

    def confirmation_seeds(self) -> list[int]:
        """Seeds that the search has not seen; the same for every trial, so that winners can be paired."""
        drawn = (derive(0, "confirmation", i) % 2**31 for i in itertools.count())
        fresh = (seed for seed in drawn if seed not in self.seeds)
        return list(itertools.islice(fresh, self.confirm.seeds if self.confirm else 0))

    def confirmations(self, trials: int) -> int:
        """How many runs confirm the best of so many trials."""
        return min(self.confirm.top, trials) * self.confirm.seeds if self.confirm else 0

    def is_spent(self, begun: float) -> bool:
        """Whether the hours of a search that was begun then (seconds since 1970) are over."""
        return self.search.hours is not None and time.time() - begun >= 3600 * self.search.hours

    def grid(self) -> list[dict[str, Any]]:
        """The product of all choices where their conditions hold, in the order of the file, each once."""
        return list(self.sets(np.random.default_rng(0)))

    def sets(self, random: np.random.Generator) -> Iterator[dict[str, Any]]:
        """The parameter sets of the space in the order of the file, each once; those with real numbers are drawn."""
        return self._sets(list(self.space), {}, random)

    def _sets(
        self, paths: Sequence[str], begun: dict[str, Any], random: np.random.Generator
    ) -> Iterator[dict[str, Any]]:
        """Those that go on from a set of the paths before these; conditions look at earlier paths."""
        if not paths:
            yield begun
        elif not self.space[paths[0]].applies(begun):
            yield from self._sets(paths[1:], begun, random)
        else:
            for value in self.space[paths[0]].values(random):
                yield from self._sets(paths[1:], {**begun, paths[0]: value}, random)

    def different_sets(self) -> float:
        """How many different parameter sets the space has; infinitely many with a range of real numbers."""
        return self._count(list(self.space), {})

    def _count(self, paths: Sequence[str], begun: dict[str, Any]) -> float:
        if not paths:
            return 1
        path, *rest = paths
        dimension = self.space[path]
        if not dimension.applies(begun):
            return self._count(rest, begun)
        if not any(path in self.space[other].when for other in rest):
            return dimension.size * self._count(rest, begun)
        return sum(self._count(rest, {**begun, path: choice}) for choice in dimension.choices or ())

    def parameter_sets(self) -> int | None:
        """How many parameter sets the search tries at most, none of them twice; None if only its hours limit it."""
        most = min(self.different_sets(), self.search.trials or math.inf)
        return None if math.isinf(most) else int(most)


def set_key(params: Params) -> str:
    """A parameter set as a text that equal sets have in common."""
    return json.dumps(params, sort_keys=True)


def fits(path: str, pattern: str) -> bool:
    """Whether a dotted path is the one meant, in which a star stands for any part.

    >>> fits("model.layers.0.variables", "model.layers.*.variables"), fits("model.width", "model.*.variables")
    (True, False)
    """
    return re.fullmatch(re.escape(pattern).replace(r"\*", r"[^.]+"), path) is not None


def set_at(plain: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Set the field at a dotted path, e.g. `model.layers.0.classes`, in JSON-like values.

    Raises:
        InputError: there is no such field; names the nearest.
    """
    at: Any = plain
    parts = path.split(".")
    for depth, part in enumerate(parts):
        known = list(at) if isinstance(at, dict) else [str(i) for i in range(len(at))] if isinstance(at, list) else []
        if part not in known:
            inside = ".".join(parts[:depth]) or "the experiment"
            raise InputError(f"{where}: {inside} has no field {part}{nearest(part, known)}")
        key: Any = int(part) if isinstance(at, list) else part
        if depth == len(parts) - 1:
            at[key] = copy.deepcopy(value)
        else:
            at = at[key]


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, with `2e-3` a number as in JSON and YAML 1.2, and repeated fields refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise InputError(f"field {key} is given twice in the mapping that starts at line {line}")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML safely.

    Raises:
        InputError: one line with the place.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except InputError as fault:
        raise InputError(f"{where}: {fault}") from None
    except RecursionError:
        raise InputError(f"{where}: nested too deeply") from None
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        at = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(fault, "problem", None) or str(fault).splitlines()[0]
        raise InputError(f"{where}{at}: not valid YAML: {problem}") from None


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file.

    Args:
        path: the file.
        overrides: `dotted.path=value` on the study's fields, values in YAML.

    Raises:
        InputError: one line: what, where, the nearest right thing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file{_near_files(path)}") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{path}: cannot be read: {fault}") from None
    study = parse(Study, _expanded(read_yaml(text, str(path))), str(path))
    if overrides:
        study = _overridden(study, overrides)
    _check_space(study, str(path))
    return study


def _expanded(plain: Any) -> Any:
    """A study as written, with the preset that its experiment names."""
    if not isinstance(plain, dict) or "experiment" not in plain:
        return plain
    return {**plain, "experiment": presets.expanded(plain["experiment"])}


def preset_study(name: str, overrides: Sequence[str] = (), base: Study | None = None) -> Study:
    """The study of one experiment: a preset over the experiment of `base`, or over the paper's.

    Raises:
        InputError: no such preset, or the overrides do not fit.
    """
    under = presets.PAPER if base is None else base.experiment.plain()
    experiment = presets.merged(under, presets.preset(name))
    title = name if base is None else f"{base.name}-{name}"
    study = parse(Study, {"name": title, "claim": f"The preset {name}.", "experiment": experiment}, name)
    return _overridden(study, overrides) if overrides else study


def _near_files(path: Path) -> str:
    folder = path.parent
    return nearest(path.name, [f.name for f in folder.glob("*.yaml")]) if folder.is_dir() else ""


def _overridden(study: Study, overrides: Sequence[str]) -> Study:
    plain = study.model_dump(mode="json")
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"--set {override}: write --set path=value, e.g. --set experiment.training.steps=100")
        inner = plain["experiment"] if path.split(".")[0] in plain["experiment"] else plain
        set_at(inner, path, read_yaml(text, f"--set {override}"), where=f"--set {override}")
    return parse(Study, plain, "--set")


def _check_space(study: Study, where: str) -> None:
    _check_shares(study, study.experiment, where)
    if study.search.method != "grid" and study.search.trials is None and study.search.hours is None:
        raise InputError(
            f"{where}: search.trials is missing: {study.search.method} search needs a number of trials, or of hours"
        )
    if len(set(study.seeds)) != len(study.seeds):
        raise InputError(f"{where}: seeds: {list(study.seeds)} holds a seed twice")
    measured = [f"valid/{name}" for name in metric_names(study.experiment)]
    _check_objectives(study.search, where, measured)
    experiments = [study.experiment]
    for path, dimension in study.space.items():
        at = f"{where}: space.{path}"
        _check_dimension(dimension, at, study.search.method)
        _check_conditions(study, path, at)
        for value in dimension.examples():
            for context in _contexts(study, path):
                experiments.append(study.experiment_at({**context, path: value}))
                _check_shares(study, experiments[-1], where)
    if study.search.method == "grid":
        experiments = [study.experiment_at(params) for params in study.grid()]
    for place, expectation in enumerate(study.expect):
        _check_expectation(study, expectation, f"{where}: expect.{place}", experiments)


def _check_objectives(search: SearchConfig, where: str, measured: Sequence[str]) -> None:
    """That what is searched for is measured on `valid`, each metric named once, and known when a pruner asks."""
    for metric in search.objectives:
        check_tunable(metric)
        if metric.startswith("valid/") and metric not in measured:
            raise InputError(f"{where}: {metric} is not measured{nearest(metric, measured)}")
    if search.metric in search.also:
        raise InputError(f"{where}: search.also: {search.metric} is search.metric already: name each metric once")
    if search.pruner is not None and search.also:
        raise InputError(
            f"{where}: search.pruner: {search.pruner} judges by one metric, and search.also has more: give one of them"
        )
    if search.pruner is not None and search.metric.partition("@")[0] == "valid/iw_elbo":
        raise InputError(
            f"{where}: search.pruner: {search.metric} is measured at the end only; "
            "a pruner needs a metric of every report, such as valid/elbo"
        )


def _check_expectation(study: Study, expectation: Expectation, at: str, experiments: Sequence[Experiment]) -> None:
    """That an expectation is of a metric that is measured on `valid`, and can be answered by what the study has."""
    try:
        check_tunable(expectation.metric)
    except InputError as fault:
        raise InputError(f"{at}.metric: {fault}") from None
    measured = dict.fromkeys(f"valid/{name}" for experiment in experiments for name in metric_names(experiment))
    if expectation.metric not in measured:
        raise InputError(f"{at}.metric: {expectation.metric} is not measured{nearest(expectation.metric, measured)}")
    if expectation.pair is not None:
        _check_sides(study, expectation.pair, at)
    if expectation.trend is not None:
        _check_levels(expectation.trend, at, experiments)


def _check_sides(study: Study, pair: tuple[Settings, Settings], at: str) -> None:
    """That both sides can have arms; of a grid also that some are alike in all else, and that none is on both."""
    for path, value in [item for group in pair for item in group.items()]:
        if path not in study.space:
            raise InputError(f"{at}: {path} is not varied{nearest(path, study.space)}")
        choices = study.space[path].choices
        if choices is not None and value not in choices:
            raise InputError(f"{at}: {path} never is {json.dumps(value)}{nearest(str(value), map(str, choices))}")
    if study.search.method != "grid":
        return
    sets = study.grid()
    first, second = (fitting(sets, group) for group in pair)
    for group, found in zip(pair, (first, second), strict=True):
        if not found:
            raise InputError(f"{at}: no parameter set has {json.dumps(group)}")
    for place in sorted(set(first) & set(second)):
        raise InputError(f"{at}: {json.dumps(sets[place])} is on both sides")
    if not sides(*pair, sets):
        raise InputError(f"{at}: no two parameter sets of these groups share their other settings")


def _check_levels(pattern: str, at: str, experiments: Sequence[Experiment]) -> None:
    """That a setting with which something is to grow is there, is a number, and varies."""
    leaves = [dict(_leaves(experiment.plain())) for experiment in experiments]
    values = [[value for path, value in found.items() if fits(path, pattern)] for found in leaves]
    given = [found for found in values if found]
    if not given:
        known = dict.fromkeys(path for found in leaves for path in found)
        raise InputError(f"{at}: no setting {pattern}{nearest(pattern, known)}")
    numbers = [found for found in given if all(_is_number(value) for value in found)]
    if not numbers:
        raise InputError(f"{at}: {pattern} is no number, but {json.dumps(given[0][0])}")
    if len({sum(found) for found in numbers}) < 2:
        raise InputError(f"{at}: {pattern} is not varied: it is {sum(numbers[0])} in every parameter set")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _leaves(plain: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted paths of JSON-like values, and what stands there."""
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    yield path, plain
    for key, value in items:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _check_shares(study: Study, experiment: Experiment, where: str) -> None:
    try:
        check_shares(experiment.training.batch_size, study.resources.fewest)
    except InputError as fault:
        raise InputError(f"{where}: {fault}") from None


def _check_dimension(dimension: Dimension, at: str, method: str) -> None:
    if (dimension.choices is None) == (dimension.low is None and dimension.high is None):
        raise InputError(f"{at}: give either choices or low and high")
    if dimension.choices is not None:
        if not dimension.choices:
            raise InputError(f"{at}: choices is empty")
        if any(choice in dimension.choices[:i] for i, choice in enumerate(dimension.choices)):
            raise InputError(f"{at}: choices holds a value twice")
        return
    if dimension.low is None or dimension.high is None:
        raise InputError(f"{at}: a range needs both low and high")
    if dimension.low > dimension.high:
        raise InputError(f"{at}: low {dimension.low:g} is above high {dimension.high:g}")
    if dimension.log and dimension.low <= 0:
        raise InputError(f"{at}: a log range must start above 0, got low {dimension.low:g}")
    if method == "grid":
        raise InputError(f"{at}: a grid needs choices, not a range; use them, or search.method random or tpe")


def _check_conditions(study: Study, path: str, at: str) -> None:
    """Conditions name earlier dimensions with choices: so no circle can arise, and sampling knows their values."""
    earlier = list(study.space)[: list(study.space).index(path)]
    for other, value in study.space[path].when.items():
        if other not in earlier:
            raise InputError(f"{at}.when: {other} must stand earlier in space{nearest(other, earlier)}")
        choices = study.space[other].choices
        wanted = value if isinstance(value, list) else [value]
        if choices is None or any(one not in choices for one in wanted):
            raise InputError(f"{at}.when: {other} never takes {json.dumps(value)}")


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


def first_difference(before: Any, after: Any, path: str = "") -> str | None:
    """The first place at which two JSON-like values differ, in words; None if they are equal.

    >>> first_difference({"a": [1, 2]}, {"a": [1, 3]})
    'a.1 was 2, is 3'
    """
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        pairs = [(key, before.get(key), after.get(key)) for key in keys]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(str(i), b, a) for i, (b, a) in enumerate(zip(before, after, strict=True))]
    else:
        return None if before == after else f"{path} was {json.dumps(before)}, is {json.dumps(after)}"
    for key, b, a in pairs:
        found = first_difference(b, a, f"{path}.{key}" if path else str(key))
        if found is not None:
            return found
    return None
