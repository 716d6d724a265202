"""The expectations of a study file: what its claim says of its arms, in a form that a program can test.

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
"""Settings that select a group of arms."""
Path = Annotated[str, Field(min_length=1)]
"""The dotted path of a setting; with stars, the sum over all settings that match."""


class Expectation(Config):
    """One expectation: two groups of arms compared in a metric, or a trend of a metric with a setting."""

    metric: str
    higher: Group | None = None
    """The arms whose metric is expected to be higher than that of the arms of `than`."""
    lower: Group | None = None
    """The arms whose metric is expected to be lower than that of the arms of `than`."""
    than: Group | None = None
    equal: Group | None = None
    """The arms whose metric is expected to differ from that of the arms of `to` by less than `within`, either way."""
    to: Group | None = None
    within: Annotated[float, Field(gt=0)] | None = None
    """The margin of `equal`, in units of the metric (nats per image for an ELBO)."""
    grows_with: Path | None = None
    """The setting with which the metric is expected to grow."""
    falls_with: Path | None = None
    """The setting with which the metric is expected to fall."""

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

    @property
    def compared(self) -> str:
        """What is compared, whatever is expected of it: by this, the looks at an expectation are counted.

        >>> first = Expectation(metric="valid/elbo", higher={"a": 1}, than={"a": 2})
        >>> first.compared == Expectation(metric="valid/elbo", higher={"a": 2}, than={"a": 1}).compared
        True
        """
        groups = [] if self.pair is None else sorted(json.dumps(dict(group), sort_keys=True) for group in self.pair)
        return json.dumps([self.metric, self.trend, *groups])


def fitting(arms: Sequence[Settings], group: Settings) -> list[int]:
    """The indices of the arms that have the settings of a group."""
    return [place for place, arm in enumerate(arms) if all(path in arm and arm[path] == group[path] for path in group)]


def sides(first: Settings, second: Settings, arms: Sequence[Settings]) -> list[tuple[list[int], list[int]]]:
    """The comparisons between two groups of arms: for each choice of the other settings, the indices of both sides.

    The other settings are those that neither group names and that arms of both groups have. Only choices that occur
    in both groups are compared. A setting that only one group has, such as the temperature of discrete models beside
    Gaussian ones, does not divide its arms: they stand on the same side.

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
