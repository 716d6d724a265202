"""Metrics against a setting that was varied: a dot for each run, medians, and where pruned runs came to."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from hdvae_platform.analysis.labels import label
from hdvae_platform.analysis.run_settings import is_number
from hdvae_platform.report.arm_report import MAX_HIGHLIGHTED, ArmReport
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import (
    INK,
    SERIES,
    Drawn,
    NotDrawn,
    Sheet,
    Style,
    axis_limits,
    legend_of,
    render,
    style_of,
    wrapped_axis_name,
)
from hdvae_platform.report.figures.common import (
    NOT_VARIED,
    caption_of,
    fill_note,
    fill_of,
    value_in_words,
    with_standard_error,
)
from hdvae_platform.study.space import Dimension

FEWEST_IN_QUARTILES = 4
"""The fewest runs at one value whose middle half is drawn as a bar."""
RUNS_IN_BIN = 4
"""The fewest runs of which a median is drawn where a setting was drawn from a range."""
MAX_BINS = 6
GREY_DOT = Style("#8a8f98", "o", "-")
"""Runs of arms without a colour of their own."""


@dataclass(frozen=True)
class Setting:
    """What stands on the x axis.

    Attributes:
        path: of the space.
        dimension: its values, as the study file has them.
        symbol: of the quantity, with its unit; empty for none.
    """

    path: str
    dimension: Dimension
    symbol: str = ""

    @property
    def title(self) -> str:
        """The title of the axis."""
        return f"{self.path} ({self.symbol})" if self.symbol else self.path


@dataclass(frozen=True)
class _Point:
    """The runs of an arm at a value of the setting."""

    arm: ArmReport
    at: Any


def metric_by_setting(contents: Contents, metrics: Sequence[str], setting: Setting) -> Drawn | NotDrawn:
    """Draw metrics against a setting, a panel for each metric."""
    name = re.sub(r"\W+", "_", "_".join([*(metric.removeprefix("valid/") for metric in metrics), "by", setting.path]))
    title = f"{' and '.join(metric.removeprefix('valid/') for metric in metrics)} against {setting.title}"
    points = [
        _Point(arm, at)
        for arm in contents.complete
        if (at := arm.arm.settings.get(setting.path, NOT_VARIED)) is not NOT_VARIED and any(map(arm.values, metrics))
    ]
    scale = _Scale.of(setting.dimension, [point.at for point in points])
    if len(scale.places) < 2:
        return NotDrawn(name, title, "fewer than two of its values have complete runs.")
    series = _series(points, setting.path)
    pruned = [(at, run.last) for run in contents.pruned if scale.has(at := run.settings.get(setting.path, NOT_VARIED))]
    lined = setting.dimension.choices is not None

    def draw() -> Sheet:
        styles = dict(zip(series, SERIES, strict=False))
        legend = list(zip(styles.values(), styles, strict=True)) if len(series) > 1 else legend_of(contents.highlighted)
        sheet = Sheet([2.2 if len(metrics) > 1 else 2.8] * len(metrics), legend, share=True, of_arms=len(series) < 2)
        for axes, metric in zip(sheet.panels, metrics, strict=True):
            values = [value for point in points for value in point.arm.values(metric)]
            ends = [(scale.place(at), last[metric]) for at, last in pruned if metric in last]
            least = 0.0 if "relaxation_bias" in metric else -math.inf
            low, high = _limits(values or [0.0], [end for _, end in ends], least)
            for x, end in ends:
                cross: dict[str, Any] = {"color": INK, "alpha": 0.35, "markersize": 4, "clip_on": False}
                axes.plot(x, min(max(end, low), high), "x", **cross)
            for text, group in series.items():
                _draw_series(axes, scale, group, metric, styles[text] if len(series) > 1 else None, lined)
            axes.set_ylim(low, high)
            axes.set_ylabel(wrapped_axis_name(metric.removeprefix("valid/")))
        scale.label(sheet.panels[-1], setting.title)
        return sheet

    rows = [
        [value_in_words(point.at), point.arm.name, *(with_standard_error(point.arm, metric) for metric in metrics)]
        for point in sorted(points, key=lambda point: scale.place(point.at))
    ]
    alt = f"{title}; {len(points)} arms."
    return render(
        name, title, _caption(contents, series, bool(pruned), lined), alt, draw, [setting.title, "arm", *metrics], rows
    )


def _limits(values: Sequence[float], ends: Sequence[float], least: float) -> tuple[float, float]:
    """The limits of an axis that shows all values, and the ends of pruned runs unless they are far away.

    Args:
        values: of complete runs.
        ends: the last values of pruned runs.
        least: the smallest possible value.
    """
    reach = (max(values) - min(values)) or abs(max(values)) or 1.0
    near = [end for end in ends if min(values) - reach <= end <= max(values) + reach]
    return axis_limits([*values, *near], least)


def _caption(contents: Contents, series: Mapping[str, Sequence[_Point]], pruned: bool, lined: bool) -> str:
    sentences = ["Dots: each run."]
    if lined:
        agree = ", between arms that agree in all other settings" if len(series) > 1 else ""
        sentences.append(f"Lines: medians{agree}. Bars: the middle half of the runs, where there are four or more.")
    elif any(sum(len(point.arm.arm.runs) for point in group) >= 2 * RUNS_IN_BIN for group in series.values()):
        sentences.append(f"Lines: medians of at least {RUNS_IN_BIN} neighbouring runs.")
    if pruned:
        sentences.append("Crosses: pruned runs, at their last value; at the edge if it lies beyond.")
    sentences += fill_note(contents)
    return caption_of(contents, *sentences) if len(series) < 2 else " ".join(sentences)


def _series(points: Sequence[_Point], path: str) -> dict[str, list[_Point]]:
    """The points by their other settings, if that makes a few lines of two values or more; else all together."""
    groups: dict[str, list[_Point]] = {}
    for point in points:
        rest = {setting: value for setting, value in point.arm.arm.settings.items() if path != setting}
        groups.setdefault(label(rest) if rest else "all arms", []).append(point)
    lines = all(len({value_in_words(point.at) for point in group}) > 1 for group in groups.values())
    return groups if lines and len(groups) <= MAX_HIGHLIGHTED else {"all arms": list(points)}


def _draw_series(
    axes: Axes, scale: _Scale, points: Sequence[_Point], metric: str, style: Style | None, lined: bool
) -> None:
    """A dot for each run, and the medians.

    Args:
        axes: the panel.
        scale: of the x axis.
        points: of the series.
        metric: full name.
        style: of the series; None if it is the only one: dots then have the colours of their arms.
        lined: whether medians are those at each value, and not those of neighbouring runs.
    """
    at_place: dict[float, list[float]] = {}
    for point in sorted(points, key=lambda point: scale.place(point.at)):
        x, own = scale.place(point.at), style or (GREY_DOT if point.arm.style is None else style_of(point.arm))
        values = point.arm.values(metric)
        dots: dict[str, Any] = {"color": own.colour, "alpha": 0.7, "markersize": 4, "fillstyle": fill_of(point.arm)}
        axes.plot([x] * len(values), values, own.marker, **dots)
        at_place.setdefault(x, []).extend(values)
    found = {x: values for x, values in at_place.items() if values}
    colour, dashes = (style.colour, style.line) if style else (INK, "-")
    if not lined:
        found = _neighbours(found, scale.log)
    axes.plot(list(found), list(map(statistics.median, found.values())), color=colour, linestyle=dashes, linewidth=1.4)
    for x, values in found.items() if lined else ():
        if len(values) >= FEWEST_IN_QUARTILES:
            axes.plot([x, x], np.quantile(values, [0.25, 0.75]), color=colour, linewidth=4, alpha=0.25)


def _neighbours(found: Mapping[float, Sequence[float]], log: bool) -> dict[float, list[float]]:
    """The runs in bins of about equal number, at the middle of their places; none if there are too few."""
    pairs = [(x, value) for x in sorted(found) for value in found[x]]
    bins = min(MAX_BINS, len(pairs) // RUNS_IN_BIN)
    if bins < 2:
        return {}
    chunks = [[pairs[i] for i in part] for part in np.array_split(np.arange(len(pairs)), bins)]
    turn, back = (math.log, math.exp) if log else (float, float)
    return {back(statistics.fmean(turn(x) for x, _ in chunk)): [value for _, value in chunk] for chunk in chunks}


@dataclass(frozen=True)
class _Scale:
    """An x axis: of numbers, linear or logarithmic, or of values in words.

    Attributes:
        places: value in words → place on the axis, in order.
        log: whether it is logarithmic.
        words: whether the values are no numbers.
        listed: whether every value has a tick.
    """

    places: Mapping[str, float]
    log: bool
    words: bool
    listed: bool

    @staticmethod
    def of(dimension: Dimension, values: Sequence[Any]) -> _Scale:
        """The axis of a setting with these values."""
        choices = dimension.choices
        words = not all(map(is_number, values))
        if words:
            order = dict.fromkeys(map(value_in_words, [*(choices or ()), *values]))
            known = set(map(value_in_words, values))
            return _Scale(
                {text: float(i) for i, text in enumerate(one for one in order if one in known)}, False, True, True
            )
        numbers = sorted(set(values))
        log = dimension.log if choices is None else is_geometric(numbers)
        listed = choices is not None and len(numbers) <= 8
        return _Scale({value_in_words(value): float(value) for value in numbers}, log, False, listed)

    def has(self, value: Any) -> bool:
        """Whether a value has a place."""
        return value_in_words(value) in self.places or (not self.words and is_number(value))

    def place(self, value: Any) -> float:
        """The place of a value."""
        return self.places[value_in_words(value)] if self.words else float(value)

    def label(self, axes: Axes, title: str) -> None:
        """Give the axis its scale, ticks and title."""
        if self.log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        if self.listed:
            texts = list(self.places)
            crowded = self.words and sum(map(len, texts)) > 45
            axes.set_xticks(
                list(self.places.values()), texts, rotation=25 if crowded else 0, ha="right" if crowded else "center"
            )
        axes.set_xlabel(title + (", log scale" if self.log else ""))


def is_geometric(numbers: Sequence[float]) -> bool:
    """Whether increasing numbers are spaced more evenly by their ratios than by their differences.

    >>> is_geometric([16, 64, 256]), is_geometric([1, 2, 3]), is_geometric([0.0, 1.0, 10.0]), is_geometric([1, 100])
    (True, False, False, True)
    """
    if numbers[0] <= 0 or len(numbers) < 2:
        return False
    if len(numbers) == 2:
        return numbers[1] / numbers[0] >= 8
    plain = [b - a for a, b in itertools.pairwise(numbers)]
    ratios = [math.log(b / a) for a, b in itertools.pairwise(numbers)]
    return bool(np.std(ratios) / np.mean(ratios) < np.std(plain) / np.mean(plain))
