"""What a study file expects of its own arms, so that a program can say whether the data support the claim.

expect:
- {metric: valid/elbo, higher: {model.latent: normal}, than: {model.latent: categorical}}
- {metric: valid/elbo, equal: {training.freebits: 1.0}, to: {training.freebits: 2.0}, within: 0.5}
- {metric: valid/relaxation_bias, grows_with: model.layers.*.variables}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, JsonValue, model_validator

from hdvae.config import Config

Settings = Mapping[str, Any]
"""Dotted path → value: what the arms that are meant have."""


class Expectation(Config):
    """One expectation: of two groups of arms in a metric, or of a trend of it."""

    metric: str
    higher: dict[str, JsonValue] | None = None
    """The arms that are to have more of the metric, nats per image, than the arms of `than`."""
    lower: dict[str, JsonValue] | None = None
    """The arms that are to have less of it."""
    than: dict[str, JsonValue] | None = None
    equal: dict[str, JsonValue] | None = None
    """The arms that are to differ from the arms of `to` by less than `within`, either way."""
    to: dict[str, JsonValue] | None = None
    within: Annotated[float, Field(gt=0)] | None = None
    grows_with: str | None = None
    """The setting with which the metric is to grow; with stars, the sum over all that fit."""
    falls_with: str | None = None

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
