"""ELBO against bias, and the arms that no other arm dominates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hdvae_platform.analysis.metric_names import BIAS, ELBO
from hdvae_platform.display.plotting import GREY
from hdvae_platform.report.arm_report import ArmReport
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import INK, Drawn, NotDrawn, Sheet, axis_limits, legend_of, render, style_of
from hdvae_platform.report.figures.common import caption_of, interval_of, mean_of
from hdvae_platform.report.formatting import mean_and_limits

CORNERS = [(9.0, 8.0), (-9.0, 8.0), (9.0, -8.0), (-9.0, -8.0)]
"""Where the label of a marker may stand, relative to the marker, in typographic points."""
LABEL_MARGIN = 7.0
"""The least distance between the middle of a label and the sides of its panel, in points."""


def pareto_front(contents: Contents) -> Drawn | NotDrawn:
    """Draw ELBO against bias, and the arms that no other arm dominates."""
    name, title = "pareto_front", "ELBO against relaxation bias"
    compared = [arm for arm in contents.arms if arm.values(ELBO) and arm.values(BIAS)]
    if len(compared) < 2:
        return NotDrawn(name, title, "fewer than two arms have both an ELBO and a bias.")
    at = {arm.name: (mean_of(arm, BIAS), mean_of(arm, ELBO)) for arm in compared}
    front = pareto(at)
    shown = [arm for arm in compared if arm.style is not None]

    def draw() -> Figure:
        sheet = Sheet([3.0], legend_of(shown))
        (axes,) = sheet.panels
        axes.step(*zip(*(at[one] for one in front), strict=True), where="post", color=INK, linewidth=1, linestyle=":")
        for arm in compared:
            if arm.style is None:
                axes.plot(*at[arm.name], ".", color=GREY, alpha=0.6 if arm.name not in front else 1.0)
        for arm in shown:
            _cross(axes, arm)
            style = style_of(arm)
            axes.plot(*at[arm.name], marker=style.marker, color=style.colour, markersize=8)
        axes.set_xlim(*axis_limits([x for x, _ in at.values()], 0.0))
        axes.set_ylim(*axis_limits([y for _, y in at.values()]))
        axes.set_xlabel("relaxation bias, nats per image (lower is better)")
        axes.set_ylabel("ELBO, nats per image (higher is better)")
        sheet.figure.draw_without_rendering()  # computes the layout, and with it the places of points
        to_points = 72 / sheet.figure.dpi
        named = [arm.name for arm in compared if arm.style is not None or arm.name in front]
        on_paper = axes.transData.transform([at[key] for key in named]) * to_points
        panel = [side * to_points for side in axes.bbox.extents]
        sides = label_offsets(dict(zip(named, on_paper.tolist(), strict=True)), panel)
        for key, side in sides.items():
            axes.annotate(key, at[key], side, textcoords="offset points", ha="center", va="center")
        return sheet.figure

    best = ", ".join(front)
    exact = [arm.name for arm in compared if not any(arm.values(BIAS))]
    caption = caption_of(
        contents,
        "Means. Bars: 95% intervals over seeds; long bars are cut.",
        f"Dotted line: Pareto front of the means, arms {best}: no other arm has both more ELBO and less bias."
        if len(front) > 1
        else f"Arm {best} has the best mean in both.",
        *([f"The bias is 0 by definition where variables are not relaxed: {_arms_named(exact)}."] if exact else []),
    )
    rows = [
        [
            arm.name,
            *(mean_and_limits(interval_of(arm, metric)) for metric in (BIAS, ELBO)),
            "yes" if arm.name in front else "no",
        ]
        for arm in compared
    ]
    alt = f"ELBO against relaxation bias of {len(compared)} arms. On the Pareto front: {best}."
    return render(name, title, caption, alt, draw, ["arm", "relaxation bias", "ELBO", "on the front"], rows)


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names of the points (x, y) that no other point dominates, by x. Smaller x and larger y are better.

    >>> pareto({"1": (0.0, -10.0), "2": (1.0, -9.0), "3": (1.0, -11.0), "4": (2.0, -9.5)})
    ['1', '2']
    """
    front: list[str] = []
    best = -math.inf
    for key, (_, y) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if y > best:
            front.append(key)
            best = y
    return front


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


def _cross(axes: Axes, arm: ArmReport) -> None:
    """Draw the intervals of an arm's bias and ELBO as a cross."""
    x, y = interval_of(arm, BIAS), interval_of(arm, ELBO)
    line: dict[str, Any] = {"color": style_of(arm).colour, "linewidth": 1, "alpha": 0.6}
    if x.low is not None and x.high is not None:
        axes.plot([x.low, x.high], [y.mean, y.mean], **line)
    if y.low is not None and y.high is not None:
        axes.plot([x.mean, x.mean], [y.low, y.high], **line)
