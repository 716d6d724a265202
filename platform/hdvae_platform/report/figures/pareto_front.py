"""Two metrics against each other, and the arms that no other arm dominates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes

from hdvae_platform.analysis.metric_names import BIAS, ELBO
from hdvae_platform.display.plotting import GREY
from hdvae_platform.report.arm_report import ArmReport
from hdvae_platform.report.arm_report import pareto_front as undominated
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import INK, Drawn, NotDrawn, Sheet, axis_limits, legend_of, render, style_of
from hdvae_platform.report.figures.common import bar_of, caption_of, fill_note, fill_of, interval_of, mean_of
from hdvae_platform.report.formatting import mean_and_limits
from hdvae_platform.study.search_config import Direction

CORNERS = [(9.0, 8.0), (-9.0, 8.0), (9.0, -8.0), (-9.0, -8.0)]
"""Where the label of a marker may stand, relative to the marker, in typographic points."""
LABEL_MARGIN = 7.0
"""The least distance between the middle of a label and the sides of its panel, in points."""


def pareto_front(contents: Contents) -> Drawn | NotDrawn:
    """Draw the metrics of the search against each other, or ELBO against bias, and the arms that none dominates."""
    ways: Mapping[str, Direction] = contents.study.search.objectives
    if len(ways) < 2:
        ways = {ELBO: "maximize", BIAS: "minimize"}
    name, (vertical, across) = "pareto_front", list(ways)[:2]
    title = f"{vertical.removeprefix('valid/')} against {across.removeprefix('valid/')}"
    compared = [arm for arm in contents.arms if all(map(arm.values, ways))]
    if len(compared) < 2:
        return NotDrawn(name, title, f"fewer than two arms have both {vertical} and {across}.")
    at = {arm.name: (mean_of(arm, across), mean_of(arm, vertical)) for arm in compared}
    front = sorted((arm.name for arm in undominated(compared, ways)), key=at.__getitem__)
    shown = [arm for arm in compared if arm.style is not None]

    def draw() -> Sheet:
        sheet = Sheet([3.0], legend_of(shown), of_arms=True)
        (axes,) = sheet.panels
        if len(ways) == 2:
            corner: Literal["post", "pre"] = "post" if ways[across] == "minimize" else "pre"
            axes.step(
                *zip(*(at[one] for one in front), strict=True), where=corner, color=INK, linewidth=1, linestyle=":"
            )
        for arm in compared:
            if arm.style is None:
                colour = INK if arm.name in front else GREY
                size = 5 if arm.name in front else 3
                axes.plot(*at[arm.name], "o", color=colour, alpha=0.6, markersize=size, fillstyle=fill_of(arm))
        for arm in shown:
            _cross(axes, arm, across, vertical)
            style = style_of(arm)
            axes.plot(*at[arm.name], marker=style.marker, color=style.colour, markersize=8, fillstyle=fill_of(arm))
        axes.set_xlim(*axis_limits(_drawn(compared, across), 0.0 if across == BIAS else -math.inf))
        axes.set_ylim(*axis_limits(_drawn(compared, vertical)))
        axes.set_xlabel(_axis(across, ways[across]))
        axes.set_ylabel(_axis(vertical, ways[vertical]))
        sheet.figure.draw_without_rendering()  # computes the layout, and with it the places of points
        to_points = 72 / sheet.figure.dpi
        named = [arm.name for arm in compared if arm.style is not None or arm.name in front]
        on_paper = axes.transData.transform([at[key] for key in named]) * to_points
        panel = [side * to_points for side in axes.bbox.extents]
        sides = label_offsets(dict(zip(named, on_paper.tolist(), strict=True)), panel)
        for key, side in sides.items():
            weight = "bold" if key in front else "normal"
            axes.annotate(key, at[key], side, textcoords="offset points", ha="center", va="center", fontweight=weight)
        return sheet

    best = ", ".join(front)
    exact = [arm.name for arm in compared if BIAS in ways and not any(arm.values(BIAS))]
    line = "Dotted line: the Pareto" if len(ways) == 2 else "Bold: the Pareto"
    caption = caption_of(
        contents,
        "Means. Bars: 95% intervals over seeds, of four seeds or more. Numbers: trials.",
        f"{line} front of the means, arms {best}: no other arm is better in one metric and as good in "
        f"{'the other' if len(ways) == 2 else 'all others'}."
        if len(front) > 1
        else f"Arm {best} has the best mean in {'both' if len(ways) == 2 else 'all'}.",
        *fill_note(contents),
        *([f"The bias is 0 by definition where variables are not relaxed: {_arms_named(exact)}."] if exact else []),
    )
    rows = [
        [
            arm.name,
            *(mean_and_limits(interval_of(arm, metric)) for metric in ways),
            "yes" if arm.name in front else "no",
        ]
        for arm in compared
    ]
    alt = f"{title} of {len(compared)} arms. On the Pareto front: {best}."
    return render(name, title, caption, alt, draw, ["arm", *ways, "on the front"], rows)


def _axis(metric: str, direction: str) -> str:
    return f"{metric} ({'higher' if direction == 'maximize' else 'lower'} is better)"


def _drawn(arms: Sequence[ArmReport], metric: str) -> list[float]:
    """The means, and the limits of the bars of arms that have them."""
    bars = [bar_of(arm, metric) for arm in arms]
    limits = [(bar.low, bar.high) for arm, bar in zip(arms, bars, strict=True) if arm.style is not None]
    return [*(bar.mean for bar in bars), *(limit for both in limits for limit in both if limit is not None)]


def label_offsets(points: Mapping[str, Sequence[float]], panel: Sequence[float]) -> dict[str, tuple[float, float]]:
    """For each point the corner where its label is farthest from other points and labels, inside the panel.

    Args:
        points: (x, y) in typographic points.
        panel: left, lower, right and upper side of the panel, in points.

    Returns:
        The middle of each label relative to its point.

    >>> label_offsets({"1": (20.0, 20.0), "2": (29.0, 28.0)}, (0, 0, 90, 90))
    {'1': (-9.0, -8.0), '2': (9.0, 8.0)}
    >>> label_offsets({"1": (2.0, 20.0), "2": (11.0, 28.0)}, (0, 0, 90, 90))
    {'1': (9.0, -8.0), '2': (9.0, 8.0)}
    """
    chosen: dict[str, tuple[float, float]] = {}
    taken = {key: [(x, y)] for key, (x, y) in points.items()}
    for key, (x, y) in points.items():
        others = [place for other, places in taken.items() if other != key for place in places]
        places = {(dx, dy): (x + dx, y + dy) for dx, dy in CORNERS}
        clear = {
            side: (_inside(at, panel), min((math.dist(at, other) for other in others), default=0))
            for side, at in places.items()
        }
        chosen[key] = max(CORNERS, key=clear.__getitem__)
        taken[key].append((x + chosen[key][0], y + chosen[key][1]))
    return chosen


def _arms_named(names: Sequence[str]) -> str:
    return f"arm{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _inside(at: Sequence[float], panel: Sequence[float]) -> bool:
    left, lower, right, upper = panel
    return (
        left + LABEL_MARGIN <= at[0] <= right - LABEL_MARGIN and lower + LABEL_MARGIN <= at[1] <= upper - LABEL_MARGIN
    )


def _cross(axes: Axes, arm: ArmReport, across: str, vertical: str) -> None:
    """Draw the intervals of an arm's metrics as a cross, if it has enough seeds."""
    x, y = bar_of(arm, across), bar_of(arm, vertical)
    line: dict[str, Any] = {"color": style_of(arm).colour, "linewidth": 1, "alpha": 0.6}
    if x.low is not None and x.high is not None:
        axes.plot([x.low, x.high], [y.mean, y.mean], **line)
    if y.low is not None and y.high is not None:
        axes.plot([x.mean, x.mean], [y.low, y.high], **line)
