"""Schedules: pure functions step → value for the temperature, the free bits and the learning rates.

In a study file a schedule has one of three forms:

- a number: constant;
- points `[[step, value], …]`: piecewise linear, and constant before the first and after the last point;
- a ramp `{start, end, steps, shape}`: from start to end over the first `steps` steps, then constant.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, PlainValidator, ValidationError

from hdvae.config import Config, faults

Schedule = Callable[[int], float]
Points = tuple[tuple[float, float], ...]


class Ramp(Config):
    """A ramp from `start` to `end` over the first `steps` optimisation steps.

    The shapes are, with u = min(step / steps, 1): linear, `start + u (end − start)`; exponential,
    `start (end / start)^u`; cosine, `end + (start − end)(1 + cos πu)/2`.
    """

    start: float
    end: float
    steps: int
    shape: Literal["linear", "exponential", "cosine"] = "linear"


def _check(spec: Any) -> float | Points | Ramp:
    """Read a schedule. Errors are in the terms of the study file, not of pydantic's union of types.

    Raises:
        ValueError: it has none of the three forms.
    """
    if _is_number(spec):
        return float(spec)
    if isinstance(spec, Ramp):
        return spec
    if isinstance(spec, dict):
        return _ramp(spec)
    if isinstance(spec, list | tuple):
        return _points(spec)
    raise ValueError(
        f"{spec!r} is not a schedule: write a number, points [[step, value], …] or a ramp {{start, end, steps, shape}}"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ramp(spec: dict[str, Any]) -> Ramp:
    try:
        return Ramp.model_validate(spec)
    except ValidationError as fault:
        raise ValueError(faults(Ramp, fault)[0]) from None


def _points(spec: Sequence[Any]) -> Points:
    pairs = [p for p in spec if isinstance(p, list | tuple) and len(p) == 2 and all(map(_is_number, p))]
    if not spec or len(pairs) != len(spec):
        raise ValueError("a schedule of points is a list of [step, value] pairs, e.g. [[0, 0.8], [1000, 0.1]]")
    steps = [step for step, _ in pairs]
    if any(b <= a for a, b in itertools.pairwise(steps)):
        raise ValueError(f"the steps of a schedule must increase, got {steps}")
    # 1000.0 and 1000 are the same step and need the same form, since the fingerprint of an experiment depends on it.
    return tuple((int(step) if step == int(step) else step, float(value)) for step, value in pairs)


def _plain(spec: float | Points | Ramp | Literal["learned"]) -> Any:
    if isinstance(spec, Ramp):
        return spec.model_dump()
    return [list(point) for point in spec] if isinstance(spec, tuple) else spec


ScheduleSpec = Annotated[float | Points | Ramp, PlainValidator(_check), PlainSerializer(_plain)]
LEARNED: Literal["learned"] = "learned"


def _check_or_learned(spec: Any) -> float | Points | Ramp | Literal["learned"]:
    if isinstance(spec, str) and spec != LEARNED:
        raise ValueError(f"{spec!r} is not a schedule: write a number, points, a ramp, or {LEARNED}")
    return LEARNED if spec == LEARNED else _check(spec)


TemperatureSpec = Annotated[
    float | Points | Ramp | Literal["learned"], PlainValidator(_check_or_learned), PlainSerializer(_plain)
]
"""A schedule, or `learned`."""


def constant(value: float) -> Schedule:
    """The schedule with the same value at every step.

    >>> constant(0.5)(10)
    0.5
    """
    return lambda step: value


def joined_lines(points: Points) -> Schedule:
    """The piecewise linear schedule through `points` (step, value), which is constant outside of them.

    The temperature of the paper (appendix A) is an example:

    >>> tau = joined_lines(((0, 0.8), (200_000, 0.3), (400_000, 0.1)))
    >>> [round(tau(step), 3) for step in (0, 100_000, 200_000, 300_000, 400_000, 500_000)]
    [0.8, 0.55, 0.3, 0.2, 0.1, 0.1]
    """
    steps = [step for step, _ in points]

    def value(step: int) -> float:
        right = bisect.bisect_right(steps, step)
        if right == 0:
            return points[0][1]
        if right == len(points):
            return points[-1][1]
        (s0, v0), (s1, v1) = points[right - 1], points[right]
        return v0 + (v1 - v0) * (step - s0) / (s1 - s0)

    return value


def ramp(spec: Ramp) -> Schedule:
    """The schedule of a `Ramp`.

    >>> halving = ramp(Ramp(start=0.8, end=0.2, steps=100, shape="exponential"))
    >>> [round(halving(step), 3) for step in (0, 50, 100, 200)]
    [0.8, 0.4, 0.2, 0.2]
    """

    def value(step: int) -> float:
        u = min(step / spec.steps, 1.0)
        if spec.shape == "linear":
            return spec.start + u * (spec.end - spec.start)
        if spec.shape == "exponential":
            return float(spec.start * (spec.end / spec.start) ** u)
        return spec.end + (spec.start - spec.end) * (1 + math.cos(math.pi * u)) / 2

    return value


def schedule(spec: float | Points | Ramp) -> Schedule:
    """The function step → value of a schedule in any of its three forms."""
    if isinstance(spec, Ramp):
        return ramp(spec)
    if isinstance(spec, tuple):
        return joined_lines(spec)
    return constant(spec)


def values(spec: float | Points | Ramp) -> list[float]:
    """Some values of a schedule, among them its smallest and largest, to check its range."""
    if isinstance(spec, Ramp):
        return [spec.start, spec.end]
    if isinstance(spec, tuple):
        return [value for _, value in spec]
    return [spec]


def end_of(spec: float | Points | Ramp) -> float:
    """The step from which on a schedule is constant; 0 if it always is.

    >>> end_of(0.5), end_of(((0, 0.8), (300, 0.1), (500, 0.1))), end_of(Ramp(start=0.8, end=0.1, steps=400))
    (0, 300, 400)
    """
    if isinstance(spec, Ramp):
        return spec.steps if spec.start != spec.end else 0
    points = spec if isinstance(spec, tuple) else ()
    return max((step for (_, before), (step, value) in itertools.pairwise(points) if value != before), default=0)
