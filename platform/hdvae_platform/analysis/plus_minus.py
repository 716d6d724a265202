"""Means with what stands after ± in every table: half of the 95% interval over seeds.

An arm with one seed has no such interval. Its ± is the standard error over the images of its evaluation, which says
nothing about other trainings; a star marks it, and `plus_minus_note` explains it below the table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from hdvae.evaluation.metrics import error_name
from hdvae_platform.analysis.arms import Arm
from hdvae_platform.analysis.inference import Interval, interval
from hdvae_platform.display.text import number

OVER_IMAGES = "*"
"""Marks a standard error over images."""
OVER_SEEDS = "mean ± half of the 95% interval over seeds (Student's t)"


def mean_over_seeds(arm: Arm, metric: str) -> Interval | None:
    """The mean over the seeds that have the metric, with its 95% interval; None without a value.

    The seed is the independent unit: several runs of one seed count once.
    """
    by_seed = arm.by_seed(metric)
    return interval(list(by_seed.values())) if by_seed else None


def error_over_images(arm: Arm, metric: str) -> float | None:
    """The standard error of a metric over images: the root mean square over runs; None where it is not measured."""
    errors = arm.values(error_name(metric))
    return math.sqrt(statistics.fmean(error**2 for error in errors)) if errors else None


def plus_minus(arm: Arm, metric: str) -> str:
    """A metric of an arm: `-114.28 ± 0.18` over seeds, `-114.28 ± 1.30*` over images; `—` without a value."""
    value = mean_over_seeds(arm, metric)
    if value is None:
        return "—"
    if value.high is not None:
        return f"{number(value.mean)} ± {number(value.high - value.mean)}"
    error = error_over_images(arm, metric) if len(arm.by_seed(metric)) == 1 else None
    return number(value.mean) + ("" if error is None else f" ± {number(error)}{OVER_IMAGES}")


def plus_minus_note(arms: Sequence[Arm], metrics: Sequence[str]) -> str:
    """What ± means in a table of these arms and metrics."""
    one_seed = any(len(arm.by_seed(metric)) == 1 for arm in arms for metric in metrics)
    return OVER_SEEDS + (f"; {OVER_IMAGES} one seed: ± one standard error over images" if one_seed else "")
