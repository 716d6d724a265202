"""The `Study`: a claim, a base experiment, a space of variations and how to search it.

`Study.experiment_at` is the one place that merges a trial's parameters into an `Experiment`.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, JsonValue

from hdvae.config import Config, parse
from hdvae.experiment import presets
from hdvae.experiment.experiment import Experiment
from hdvae.randomness.seeds import derive
from hdvae_platform.study import space as spaces
from hdvae_platform.study.constraints import Limits
from hdvae_platform.study.expectation import Expectation
from hdvae_platform.study.resources import ResourcesConfig
from hdvae_platform.study.search_config import Direction, MethodConfig, NoSettings, PrunerConfig
from hdvae_platform.study.space import PRESET, Dimension, Params, set_at


class SearchConfig(Config):
    """How the space is searched."""

    method: MethodConfig = MethodConfig(grid=NoSettings())
    trials: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """The number of trials (parameter sets); a grid without it tries all."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Wall time since the first launch of the study after which no further trial is begun."""
    metric: str = "valid/elbo"
    direction: Direction = "maximize"
    also: dict[str, Direction] = Field(default_factory=dict)
    """Further metrics to optimise: instead of one best trial there is then a Pareto front."""
    start_with: tuple[dict[str, JsonValue], ...] = ()
    """Parameter sets that are tried first."""
    constraints: dict[str, Limits] = Field(default_factory=dict)
    """Limits that metrics of a trial must keep, by its means over the seeds."""
    pruner: PrunerConfig | None = None

    @property
    def objectives(self) -> dict[str, Direction]:
        """Every metric that the search optimises, with its direction; the first is the study's metric."""
        return {self.metric: self.direction, **self.also}

    @property
    def measured(self) -> list[str]:
        """Every metric that the search reads, each once: its objectives, and what its constraints are about."""
        return list(dict.fromkeys([*self.objectives, *self.constraints]))


class ConfirmConfig(Config):
    """Run the best trials again on fresh seeds: their values in the search are biased by the selection."""

    top: Annotated[int, Field(ge=1, le=1000)] = 3
    seeds: Annotated[int, Field(ge=1, le=1000)] = 5
    images: Literal["same", "held_out"] = "same"
    """The validation images: those of the search, or the half of the split that the search is then not evaluated on."""


def _checked_name(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name):
        return name
    fitting = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")[:80] or "study"
    raise ValueError(
        f"{json.dumps(name)} is no name: it has at most 80 letters, digits, '.', '_' and '-', and begins with a letter "
        f"or digit, e.g. {fitting}"
    )


def _checked_trial(text: str) -> str:
    if re.fullmatch(r"[^/:]+/\d+", text):
        return text
    raise ValueError(f"{json.dumps(text)} is no trial: write STUDY/TRIAL, such as first/2")


class Study(Config):
    """One study file."""

    name: Annotated[str, AfterValidator(_checked_name)]
    claim: Annotated[str, Field(min_length=1)]
    expect: tuple[Expectation, ...] = ()
    """What the claim says of the arms; the report says whether the data support it."""
    experiment: Experiment
    start_from: Annotated[str, AfterValidator(_checked_trial)] | None = None
    """A trial of another study, `STUDY/TRIAL`: each seed goes on from the checkpoint of its own run there."""
    space: dict[str, Dimension] = Field(default_factory=dict)
    search: SearchConfig = SearchConfig()
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1, max_length=1000)] = (0,)
    confirm: ConfirmConfig | None = None
    resources: ResourcesConfig = ResourcesConfig()

    @property
    def source(self) -> tuple[str, int] | None:
        """Study and trial from which the runs go on; None if they start with initial weights."""
        if self.start_from is None:
            return None
        name, _, trial = self.start_from.rpartition("/")
        return name, int(trial)

    @property
    def holds_out(self) -> bool:
        """Whether half of the validation images are held out of the search."""
        return self.confirm is not None and self.confirm.images == "held_out"

    def experiment_at(self, params: Params, kind: Literal["search", "confirmation"] = "search") -> Experiment:
        """The experiment with a parameter set merged in.

        Args:
            params: dotted path → value.
            kind: of the run. If half of the validation images are held out, it decides which half is evaluated.

        Raises:
            InputError: the parameters do not make a valid experiment.
        """
        plain = self.experiment.plain()
        if PRESET in params:
            plain = presets.merged(plain, presets.preset(str(params[PRESET])))
        for path, value in params.items():
            if path != PRESET:
                set_at(plain, path, value, where=f"space.{path}")
        if self.holds_out:
            plain["evaluation"]["part"] = "search" if kind == "search" else "held_out"
        shown = ", ".join(f"{path} = {json.dumps(value)}" for path, value in params.items())
        return parse(Experiment, plain, where=f"with {shown}" if params else "experiment")

    def definition(self) -> dict[str, Any]:
        """The part of a study that never changes under its name: another definition needs another name.

        The place of a user's own images is part of the plan: they may be elsewhere on another machine. Their checksum
        is recorded beside the definition.
        """
        experiment = self.experiment.plain()
        del experiment["data"]["path"]
        return {
            "experiment": experiment,
            "start_from": self.start_from,
            "confirm.images": "held_out" if self.holds_out else "same",
            "space": {path: dimension.model_dump(mode="json") for path, dimension in self.space.items()},
            "method": self.search.method.model_dump(mode="json"),
            "metric": self.search.metric,
            "direction": self.search.direction,
            "also": [list(pair) for pair in self.search.also.items()],
            "constraints": {
                metric: limits.model_dump(mode="json", exclude_none=True)
                for metric, limits in self.search.constraints.items()
            },
            "pruner": self.search.pruner.model_dump(mode="json") if self.search.pruner else None,
        }

    @property
    def claim_digest(self) -> str:
        """A short checksum of the claim and the expectations."""
        said = [self.claim, *(one.model_dump(mode="json", exclude_none=True) for one in self.expect)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:8]

    def plan(self) -> dict[str, Any]:
        """The part of a study that may change from one launch to the next."""
        return {
            "claim": self.claim,
            "expect": [one.model_dump(mode="json", exclude_none=True) for one in self.expect],
            "data.path": self.experiment.data.path,
            "trials": self.search.trials,
            "hours": self.search.hours,
            "start_with": self.start_sets(),
            "seeds": list(self.seeds),
            "confirm": self.confirm.model_dump(mode="json") if self.confirm else None,
            "resources": self.resources.model_dump(mode="json"),
        }

    @staticmethod
    def rebuilt(name: str, definition: Mapping[str, Any], plan: Mapping[str, Any]) -> Study:
        """The study with a recorded definition and plan; a setting that did not exist then has its default."""
        kept = ("method", "metric", "direction", "constraints", "pruner")
        search: dict[str, Any] = {key: definition[key] for key in kept if key in definition}
        search |= {"also": dict(definition.get("also", ()))}
        search |= {key: plan[key] for key in ("trials", "hours", "start_with") if key in plan}
        experiment = copy.deepcopy(definition["experiment"])
        experiment["data"]["path"] = plan["data.path"]
        parts = {"experiment": experiment, "space": definition["space"], "search": search}
        parts |= {"start_from": definition.get("start_from")}
        planned = {key: plan[key] for key in ("claim", "expect", "seeds", "confirm", "resources") if key in plan}
        return parse(Study, {"name": name, **parts, **planned}, f"study {name}")

    def confirmation_seeds(self) -> list[int]:
        """The seeds of confirmation runs: none of the search's, the same for every trial, so that trials are paired."""
        drawn = (derive(0, "confirmation", i) % 2**31 for i in itertools.count())
        fresh = (seed for seed in drawn if seed not in self.seeds)
        return list(itertools.islice(fresh, self.confirm.seeds if self.confirm else 0))

    def confirmations(self, trials: int) -> int:
        """The number of runs that confirm the best of so many trials."""
        return min(self.confirm.top, trials) * self.confirm.seeds if self.confirm else 0

    def hours_are_over(self, begun: float, now: float) -> bool:
        """Whether the hours of the search are over.

        Args:
            begun: time of the first launch, seconds since 1970.
            now: the current time, seconds since 1970.
        """
        return self.search.hours is not None and now - begun >= 3600 * self.search.hours

    def grid(self) -> list[dict[str, Any]]:
        """The product of all choices where their conditions hold, in the order of the file, each once."""
        return list(self.sets(np.random.default_rng(0)))

    def sets(self, random: np.random.Generator) -> Iterator[dict[str, Any]]:
        """The parameter sets of the space in the order of the file, each once; real numbers are drawn at random."""
        return spaces.parameter_sets(self.space, random)

    def start_sets(self) -> list[dict[str, Any]]:
        """The parameter sets that are tried first, as a sampler would suggest them: in the order of the space."""
        return [
            {
                path: float(params[path]) if dimension.choices is None and not dimension.is_integer else params[path]
                for path, dimension in self.space.items()
                if path in params
            }
            for params in self.search.model_dump(mode="json")["start_with"]
        ]

    def parameter_sets(self) -> int | None:
        """The number of parameter sets that the search tries at most; None if only its hours limit it."""
        most = min(spaces.count_sets(self.space), self.search.trials or math.inf)
        return None if math.isinf(most) else int(most)
