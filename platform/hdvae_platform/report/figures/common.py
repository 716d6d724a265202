"""What several figures use: captions, curves, intervals, and lines set apart."""

from __future__ import annotations

import math
import statistics
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from hdvae_platform.analysis.inference import Interval
from hdvae_platform.display.text import brief, number
from hdvae_platform.report.arm_report import ArmReport, Curve
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.formatting import mean_and_limits

LINE_SPACING = 4.0
"""Points between lines at the same place of the x axis."""
NOT_VARIED = object()
"""Stands for a setting that was not varied in an arm; None may be one of the choices."""


def caption_of(contents: Contents, *sentences: str) -> str:
    """A caption; it says how many arms are highlighted, if not all are."""
    complete, highlighted = len(contents.complete), len(contents.highlighted)
    few = [f"Only the {highlighted} best of {complete} arms have a colour."] if highlighted < complete else []
    return " ".join([*sentences, *few])


def step_axis(axes: Axes) -> None:
    """Make the x axis one of training steps."""
    axes.set_xlabel("training step")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def line_of(curve: Curve, metric: str) -> tuple[list[int], list[float]]:
    """The steps and the finite values of a metric in a run's curve."""
    points = [(step, report[metric]) for step, report in curve.items() if math.isfinite(report.get(metric, math.nan))]
    return [step for step, _ in points], [value for _, value in points]


def mean_line(arm: ArmReport, metric: str) -> tuple[list[int], list[float]]:
    """The steps, and at each the mean of a metric over the runs that reported it."""
    by_step: dict[int, list[float]] = {}
    for curve in arm.curves.values():
        for step, value in zip(*line_of(curve, metric), strict=True):
            by_step.setdefault(step, []).append(value)
    return sorted(by_step), [statistics.fmean(by_step[step]) for step in sorted(by_step)]


def interval_of(arm: ArmReport, metric: str) -> Interval:
    """The mean and interval of an arm that has the metric."""
    value = arm.interval(metric)
    assert value is not None
    return value


def mean_of(arm: ArmReport, metric: str) -> float:
    """The mean of an arm that has the metric."""
    return interval_of(arm, metric).mean


def with_standard_error(arm: ArmReport, metric: str) -> str:
    """A bias with its interval over seeds and its standard error over images."""
    value, error = arm.interval(metric), arm.standard_error(metric)
    if value is None:
        return "—"
    return mean_and_limits(value) + (f" (se {number(error)})" if error is not None else "")


def shifted(axes: Axes, figure: Figure, index: int, count: int) -> dict[str, Any]:
    """Plot arguments that shift one of several lines sideways, so that their error bars do not cover each other."""
    points = LINE_SPACING * (index - (count - 1) / 2)
    return {"transform": axes.transData + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)}


def value_in_words(value: Any) -> str:
    """A setting's value as text."""
    return "—" if value is NOT_VARIED else "none" if value is None else brief(value)
