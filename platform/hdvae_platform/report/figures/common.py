"""What several figures use: captions, curves, intervals, and lines set apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from hdvae_platform.analysis.inference import Interval, error_bars
from hdvae_platform.display.text import brief, number
from hdvae_platform.report.arm_report import ArmReport, Curve
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import Style
from hdvae_platform.report.formatting import mean_and_limits

LINE_SPACING = 4.0
"""Points between lines at the same place of the x axis."""
FEWEST_IN_BARS = 4
"""The fewest seeds whose interval is drawn as a bar; of fewer, the runs are drawn as dots."""
BARS = "Dots: each run. Bars: 95% intervals over seeds, of four seeds or more."
"""What a caption says about `draw_means`."""
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


def fill_of(arm: ArmReport) -> Literal["full", "none"]:
    """How the markers of an arm are filled: those of an infeasible trial are hollow."""
    return "full" if arm.is_allowed else "none"


def fill_note(contents: Contents) -> list[str]:
    """What a caption says about `fill_of`; nothing if all trials are feasible."""
    return ["Hollow: infeasible trials."] if any(not arm.is_allowed for arm in contents.complete) else []


def interval_of(arm: ArmReport, metric: str) -> Interval:
    """The mean and interval of an arm that has the metric."""
    value = arm.interval(metric)
    assert value is not None
    return value


def mean_of(arm: ArmReport, metric: str) -> float:
    """The mean of an arm that has the metric."""
    return interval_of(arm, metric).mean


def bar_of(arm: ArmReport, metric: str) -> Interval:
    """The mean of an arm with the interval that a figure draws: none of fewer than `FEWEST_IN_BARS` seeds.

    The interval of two or three seeds is so long that it shows their number rather than their spread.
    """
    value = interval_of(arm, metric)
    few = len(arm.arm.by_seed(metric)) < FEWEST_IN_BARS
    return Interval(value.mean, None, None) if few else value


def drawn_values(arms: Sequence[ArmReport], metric: str) -> list[float]:
    """All values that `draw_means` draws, for the limits of the axis."""
    bars = [bar_of(arm, metric) for arm in arms]
    limits = [limit for bar in bars for limit in (bar.mean, bar.low, bar.high) if limit is not None]
    return [*limits, *(value for arm in arms for value in arm.values(metric))]


def draw_means(
    axes: Axes, places: Sequence[float], arms: Sequence[ArmReport], metric: str, style: Style, placed: Mapping[str, Any]
) -> None:
    """Draw the means of arms as a line, with their bars, and a dot for each run.

    Args:
        axes: the panel.
        places: of the arms on the x axis.
        arms: arms that have the metric.
        metric: full name.
        style: of the line.
        placed: more arguments for all that is drawn (`shifted`).
    """
    bars = [bar_of(arm, metric) for arm in arms]
    means = [bar.mean for bar in bars]
    axes.errorbar(places, means, error_bars(bars), capsize=3, elinewidth=1, **style.plain, **placed)
    for place, arm in zip(places, arms, strict=True):
        each = arm.values(metric)
        if len(each) > 1:
            axes.plot([place] * len(each), each, ".", color=style.colour, alpha=0.5, markersize=4, **placed)


def with_standard_error(arm: ArmReport, metric: str) -> str:
    """A metric with its interval over seeds and its standard error over images."""
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
