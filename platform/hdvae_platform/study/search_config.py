"""How a space is searched: the method, the pruner and their settings."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from hdvae.config import Config
from hdvae.errors import nearest

Direction = Literal["maximize", "minimize"]


class OneOf(Config):
    """One of several things, each with its settings: `NAME`, or `{NAME: {SETTING: value}}`. Each field is a thing."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        names = list(cls.model_fields)
        if isinstance(given, str):
            if given not in names:
                raise ValueError(f"there is no {json.dumps(given)}{nearest(given, names)}")
            return {given: {}}
        if isinstance(given, dict) and set(given) <= set(names):
            if len(given) != 1:
                raise ValueError(f"give one of {', '.join(names)}, got {', '.join(given) or 'none'}")
            return {name: settings or {} for name, settings in given.items()}
        return given

    @model_serializer
    def _plain(self) -> Any:
        settings = self.settings.model_dump(mode="json", exclude_none=True)
        return {self.name: settings} if settings else self.name

    @property
    def name(self) -> str:
        """The thing that was chosen."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def settings(self) -> Config:
        """Its settings."""
        settings: Config = getattr(self, self.name)
        return settings

    def __str__(self) -> str:
        """The thing with its settings in words, e.g. `asha (grace 400, reduction 4)`."""
        settings = self.settings.model_dump(mode="json", exclude_none=True)
        shown = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items())
        return f"{self.name} ({shown})" if shown else self.name


class NoSettings(Config):
    """Of a method that has none."""


class RandomStart(Config):
    """A sampler that learns from the trials before, once there are enough."""

    startup_trials: Annotated[int, Field(ge=1)] | None = None
    """Trials that are drawn at random before that; by default as many as suit the number of trials."""

    def suiting(self, trials: int | None) -> RandomStart:
        """With the default for a number of trials: a quarter of them, from 3 to 10; 10 if there is no number."""
        start = 10 if trials is None else min(max(trials // 4, 3), 10)
        return RandomStart(startup_trials=self.startup_trials or start)


class Generations(Config):
    """A sampler that draws each generation of trials from the best of those before; the first is of chance."""

    population: Annotated[int, Field(ge=2)] | None = None
    """The trials of a generation; by default as many as suit the number of trials."""

    def suiting(self, trials: int | None) -> Generations:
        """With the default for a number of trials: a fifth of them, from 4 to 20; 20 if there is no number."""
        population = 20 if trials is None else min(max(trials // 5, 4), 20)
        return Generations(population=self.population or population)


class MethodConfig(OneOf):
    """What a search tries: Optuna's samplers, or a grid."""

    grid: NoSettings | None = None
    random: NoSettings | None = None
    tpe: RandomStart | None = None
    gp: RandomStart | None = None
    nsga2: Generations | None = None

    def suiting(self, trials: int | None) -> MethodConfig:
        """The method with the defaults for a number of trials filled in."""
        settings = self.settings
        if isinstance(settings, RandomStart | Generations):
            return self.model_copy(update={self.name: settings.suiting(trials)})
        return self

    @property
    def start(self) -> int:
        """The trials that are drawn at random before the search begins, once defaults are filled in."""
        settings = self.settings
        if isinstance(settings, RandomStart):
            return settings.startup_trials or 0
        return settings.population or 0 if isinstance(settings, Generations) else 0


class MedianConfig(Config):
    """Optuna's median pruner."""

    grace: Annotated[int, Field(ge=1)] | None = None
    """The training step before which no run is judged; by default the end of the schedules
    (`hdvae_platform.study.annealing`)."""


class AshaConfig(MedianConfig):
    """Asynchronous successive halving: its rungs are at `grace`, and at `reduction`, `reduction`², … times that."""

    reduction: Annotated[int, Field(ge=2)] = 4
    """About one in so many trials continues past a rung."""


class PrunerConfig(OneOf):
    """Optuna's rule by which a trial is stopped early, from the reports of its first seed's run."""

    asha: AshaConfig | None = None
    median: MedianConfig | None = None

    @property
    def grace(self) -> int | None:
        """The training step before which no run is judged."""
        return (self.asha or self.median or MedianConfig()).grace
