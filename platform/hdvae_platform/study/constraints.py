"""Constraints of a search: limits that metrics of a trial must keep for the trial to be feasible."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from hdvae.config import Config


class Limits(Config):
    """The limits of one metric."""

    at_most: float | None = None
    at_least: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _are_named(cls, given: Any) -> Any:
        if isinstance(given, int | float) and not isinstance(given, bool):
            raise ValueError(f"write {{at_most: {given:g}}} or {{at_least: {given:g}}}, not {given:g}")
        return given

    @model_validator(mode="after")
    def _has_room(self) -> Limits:
        if self.at_most is None and self.at_least is None:
            raise ValueError("give at_most, at_least, or both")
        if self.at_most is not None and self.at_least is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least:g} is above at_most {self.at_most:g}")
        return self

    def excesses(self, value: float) -> dict[str, float]:
        """By how much a value is beyond each limit, in words, such as `at most 0.5`; 0 or less where it keeps it."""
        upper = {} if self.at_most is None else {f"at most {self.at_most:g}": value - self.at_most}
        lower = {} if self.at_least is None else {f"at least {self.at_least:g}": self.at_least - value}
        return {limit: excess if math.isfinite(excess) else math.inf for limit, excess in (upper | lower).items()}

    @property
    def words(self) -> str:
        """The limits as a reader has them, such as `at most 9 and at least 1`."""
        return " and ".join(self.excesses(0.0))


Constraints = Mapping[str, Limits]
"""Full name of a metric → its limits."""


def excesses(constraints: Constraints, values: Mapping[str, float]) -> dict[str, float]:
    """By how much the values of a trial are beyond each limit; 0 or less where they keep it.

    >>> excesses({"valid/relaxation_bias": Limits(at_most=0.5)}, {"valid/relaxation_bias": 0.75})
    {'valid/relaxation_bias at most 0.5': 0.25}

    Args:
        constraints: of the search.
        values: metric → its mean over the seeds of the trial. One that is missing or not finite is beyond every limit.
    """
    return {
        f"{metric} {limit}": excess
        for metric, limits in constraints.items()
        for limit, excess in limits.excesses(values.get(metric, math.nan)).items()
    }


def is_feasible(constraints: Constraints, values: Mapping[str, float]) -> bool:
    """Whether a trial keeps all limits.

    Args:
        constraints: of the search.
        values: metric → its mean over the seeds of the trial.
    """
    return all(excess <= 0 for excess in excesses(constraints, values).values())


def in_words(constraints: Constraints) -> str:
    """The constraints as a reader has them.

    >>> in_words({"valid/relaxation_bias": Limits(at_most=0.5), "valid/kl": Limits(at_least=1, at_most=9)})
    'valid/relaxation_bias at most 0.5, valid/kl at most 9 and at least 1'
    """
    return ", ".join(f"{metric} {limits.words}" for metric, limits in constraints.items())
