"""Every arm as a line through its settings, down to its metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes

from hdvae_platform.analysis.labels import label
from hdvae_platform.display.plotting import GREY
from hdvae_platform.display.text import number
from hdvae_platform.report.arm_report import ArmReport
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import INK, PAPER, Drawn, NotDrawn, Sheet, legend_of, render, style_of
from hdvae_platform.report.figures.common import NOT_VARIED, caption_of, mean_of, value_in_words
from hdvae_platform.study.space import Dimension

Place = Callable[[Any], float]


def parallel_coordinates(contents: Contents) -> Drawn | NotDrawn:
    """Draw every arm as a line through its settings, down to its metric."""
    name, title = "parallel_coordinates", "Settings and result of each arm"
    compared = [arm for arm in contents.arms if arm.values(contents.metric)]
    space = contents.study.space
    if len(space) < 2 or len(compared) < 2:
        return NotDrawn(name, title, "fewer than two settings were varied.")
    results = {arm.name: mean_of(arm, contents.metric) for arm in compared}
    shown = [arm for arm in compared if arm.style is not None]
    rows = len(space) + 1

    def draw() -> Sheet:
        sheet = Sheet([0.68 * rows], legend_of(shown), of_arms=True)
        (axes,) = sheet.panels
        axes.axis("off")
        axes.set(xlim=(-0.05, 1.05), ylim=(rows - 0.55, -0.5))
        scales = [_scale(path, dimension, compared) for path, dimension in space.items()]
        low, high = min(results.values()), max(results.values())
        for row, (path, (_, ticks)) in enumerate(zip(space, scales, strict=True)):
            _draw_axis(axes, row, label({path: ""}).strip(), ticks)
        _draw_axis(axes, rows - 1, contents.metric, [(0.0, number(low)), (1.0, number(high))])
        for arm in sorted(compared, key=lambda arm: arm.style is not None):
            xs = [place_of(_setting(arm, path)) for path, (place_of, _) in zip(space, scales, strict=True)]
            shift = 0.012 * ((arm.style or 0) - len(shown) / 2) if arm.style is not None else 0.0
            xs = [x + shift for x in xs] + [(results[arm.name] - low) / ((high - low) or 1)]
            line = {"color": GREY, "alpha": 0.3, "linewidth": 0.8} if arm.style is None else style_of(arm).plain
            axes.plot(xs, range(rows), **line)
        return sheet

    caption = caption_of(
        contents,
        f"Each line is an arm: it passes through its settings down to its mean {contents.metric}. Lines are set "
        "slightly apart so that none is hidden. —: the setting does not apply to the arm.",
    )
    alt = f"{len(compared)} arms as lines through {len(space)} settings and {contents.metric}."
    header = ["arm", *space, contents.metric]
    numbers = [
        [
            arm.name,
            *(value_in_words(_setting(arm, path)) for path in space),
            number(results[arm.name]),
        ]
        for arm in compared
    ]
    return render(name, title, caption, alt, draw, header, numbers)


def _scale(path: str, dimension: Dimension, arms: Sequence[ArmReport]) -> tuple[Place, list[tuple[float, str]]]:
    """The place of a setting's values on [0, 1], and the ticks of its axis."""
    if dimension.choices is None:
        return _range_scale(dimension, any(path not in arm.arm.settings for arm in arms))
    places: list[Any] = list(dimension.choices)
    places += [NOT_VARIED] if any(path not in arm.arm.settings for arm in arms) else []
    step = 1 / max(len(places) - 1, 1)
    short = _shortened([value_in_words(value) for value in dimension.choices], max(54 // len(places), 3))
    ticks = [(i * step, text) for i, text in enumerate([*short, "—"][: len(places)])]
    return lambda value: places.index(value) * step, ticks


def _range_scale(dimension: Dimension, missing: bool) -> tuple[Place, list[tuple[float, str]]]:
    """A range takes all of [0, 1], or the left nine tenths if some arms have no value."""
    assert dimension.low is not None
    assert dimension.high is not None
    turn: Callable[[float], float] = math.log if dimension.log else float
    low, width = turn(dimension.low), (turn(dimension.high) - turn(dimension.low)) or 1.0
    share = 0.9 if missing else 1.0
    ticks = [(0.0, f"{dimension.low:g}"), (share, f"{dimension.high:g}"), *([(1.0, "—")] if missing else [])]
    return lambda value: 1.0 if value is NOT_VARIED else share * (turn(value) - low) / width, ticks


def _shortened(texts: Sequence[str], width: int) -> list[str]:
    """Texts cut to a width at their ends or beginnings so that they still differ; numbers if neither is possible.

    >>> _shortened(["abcdefg", "xyz"], 4), _shortened(["width 8 a", "width 8 b"], 4), _shortened(["1a2", "1b2"], 2)
    (['abc…', 'xyz'], ['…8 a', '…8 b'], ['#1', '#2'])
    """
    right = [text if len(text) <= width else f"{text[: width - 1]}…" for text in texts]
    left = [text if len(text) <= width else f"…{text[1 - width :]}" for text in texts]
    return next((cut for cut in (right, left) if len(set(cut)) == len(texts)), [f"#{i + 1}" for i in range(len(texts))])


def _setting(arm: ArmReport, path: str) -> Any:
    return arm.arm.settings.get(path, NOT_VARIED)


def _draw_axis(axes: Axes, row: int, title: str, ticks: Sequence[tuple[float, str]]) -> None:
    axes.axhline(row, color=INK, linewidth=0.8, alpha=0.5)
    over: dict[str, Any] = {
        "va": "center",
        "zorder": 5,
        "bbox": {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},  # opaque, so that lines pass behind the text
    }
    axes.text(-0.04, row - 0.31, title, fontweight="bold", fontsize=8, **over)
    for i, (x, text) in enumerate(ticks):
        side, at = ("left", x - 0.04) if i == 0 else ("right", x + 0.04) if x >= 1 else ("center", x)
        axes.plot([x], [row], "|", color=INK, markersize=6)
        axes.text(at, row + 0.25, text, fontsize=7, ha=side, **over)
