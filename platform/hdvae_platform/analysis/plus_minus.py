"""Means with what stands after ± in every table: half of the 95% interval over seeds.

An arm with one seed has no such interval. Its ± is the standard error over the images of its evaluation, which says
nothing about other trainings; a star marks it, and `plus_minus_note` explains it below the table.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence

from hdvae.evaluation.metrics import error_name
from hdvae_platform.analysis.arms import Arm
from hdvae_platform.analysis.inference import Interval, interval
from hdvae_platform.analysis.metric_names import limits_of
from hdvae_platform.analysis.run_settings import setting
from hdvae_platform.display.text import number, rounded

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


def lower_limit_only(arm: Arm, metric: str) -> float | None:
    """The lower limit of a perplexity or coverage, mean over runs, where its images show no more than that.

    They do not where the upper limit is all slots in every run (`hdvae.evaluation.slot_use`). None where they show
    more, and for other metrics.
    """
    limits, layer = limits_of(metric), re.search(r"/layer_(\d+)", metric)
    if limits is None or layer is None:
        return None
    lows, highs = map(arm.values, limits)
    classes = f"model.layers.{int(layer[1]) - 1}.classes"
    most = [1 if "/coverage/" in metric else setting(run, classes) for run in arm.runs]
    if not lows or len(highs) < len(most) or None in most:
        return None
    shows_more = any(high < all_slots for high, all_slots in zip(highs, most, strict=True))
    return None if shows_more else statistics.fmean(lows)


def plus_minus(arm: Arm, metric: str) -> str:
    """A metric of an arm: `-114.28 ± 0.18` over seeds, `-114.3 ± 1.3*` over images; `—` without a value."""
    value, least = mean_over_seeds(arm, metric), lower_limit_only(arm, metric)
    if value is None:
        return "—"
    if least is not None:
        return f"at least {number(least)}"
    if value.high is not None:
        return rounded(value.mean, value.high - value.mean)
    error = error_over_images(arm, metric) if len(arm.by_seed(metric)) == 1 else None
    return rounded(value.mean, error) + ("" if error is None else OVER_IMAGES)


def plus_minus_note(arms: Sequence[Arm], metrics: Sequence[str]) -> str:
    """What ± means in a table of these arms and metrics."""
    one_seed = any(len(arm.by_seed(metric)) == 1 for arm in arms for metric in metrics)
    return OVER_SEEDS + (f"; {OVER_IMAGES} one seed: ± one standard error over images" if one_seed else "")
