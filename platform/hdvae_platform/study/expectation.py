"""What a study file expects of its own arms, so that a program can say whether the data support the claim.

expect:
- {metric: valid/elbo, higher: {model.latent: normal}, than: {model.latent: categorical}}
- {metric: valid/elbo, equal: {training.freebits: 1.0}, to: {training.freebits: 2.0}, within: 0.5}
- {metric: valid/relaxation_bias, grows_with: model.layers.*.variables}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, JsonValue, model_validator

from hdvae.config import Config

Settings = Mapping[str, Any]
"""Dotted path → value."""
Group = Annotated[dict[str, JsonValue], Field(min_length=1)]
"""The arms that have these settings."""
Path = Annotated[str, Field(min_length=1)]
"""A setting; with stars, the sum over all that fit."""


class Expectation(Config):
    """One expectation: of two groups of arms in a metric, or of a trend of it."""

    metric: str
    higher: Group | None = None
    """The arms that are to have more of the metric, nats per image, than the arms of `than`."""
    lower: Group | None = None
    """The arms that are to have less of it."""
    than: Group | None = None
    equal: Group | None = None
    """The arms that are to differ from the arms of `to` by less than `within`, either way."""
    to: Group | None = None
    within: Annotated[float, Field(gt=0)] | None = None
    grows_with: Path | None = None
    """The setting with which the metric is to grow."""
    falls_with: Path | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Expectation:
        given = {name for name in type(self).model_fields if getattr(self, name) is not None} - {"metric"}
        forms = ({"higher", "than"}, {"lower", "than"}, {"equal", "to", "within"}, {"grows_with"}, {"falls_with"})
        if given not in forms:
            known = "; ".join(", ".join(sorted(form)) for form in forms)
            raise ValueError(f"give the metric and one of: {known}")
        if self.pair is not None and self.pair[0] == self.pair[1]:
            raise ValueError(f"both sides are {json.dumps(self.pair[0])}")
        return self

    @property
    def pair(self) -> tuple[Settings, Settings] | None:
        """The two groups of arms; None for a trend."""
        first, second = self.higher or self.lower or self.equal, self.than or self.to
        return None if first is None or second is None else (first, second)

    @property
    def trend(self) -> str | None:
        """The setting of a trend; None for two groups."""
        return self.grows_with or self.falls_with

    @property
    def upward(self) -> bool:
        """Whether more of the metric is expected: in the first group, or with the setting."""
        return self.higher is not None or self.grows_with is not None


def fitting(arms: Sequence[Settings], group: Settings) -> list[int]:
    """The places of the arms that have the settings of a group."""
    return [place for place, arm in enumerate(arms) if all(path in arm and arm[path] == group[path] for path in group)]


def sides(first: Settings, second: Settings, arms: Sequence[Settings]) -> list[tuple[list[int], list[int]]]:
    """What is compared with what: the places of the arms of two groups, for each choice of other settings.

    Other settings are those that neither group names and that arms of both have; a choice is one that arms of both
    groups made. What only one group has at all, as the temperature of discrete models beside Gaussian ones, tells its
    arms apart no further: they stand together.

    >>> arms = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 2}, {"a": 2, "b": 3}]
    >>> sides({"a": 1}, {"a": 2}, arms), sides({"a": 1}, {"a": 2, "b": 2}, arms)
    ([([1], [2])], [([0, 1], [2])])
    """
    groups = [fitting(arms, group) for group in (first, second)]
    had = [{path for place in places for path in arms[place]} for places in groups]
    others = (had[0] & had[1]) - {*first, *second}
    chosen: tuple[dict[str, list[int]], dict[str, list[int]]] = ({}, {})
    for by_choice, places in zip(chosen, groups, strict=True):
        for place in places:
            choice = {path: value for path, value in arms[place].items() if path in others}
            by_choice.setdefault(json.dumps(choice, sort_keys=True), []).append(place)
    return [(chosen[0][choice], chosen[1][choice]) for choice in sorted(chosen[0]) if choice in chosen[1]]
