"""ELBO, bias and coverage against the number of slots K of a memory, where that was varied."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.markers import CARETUPBASE

from hdvae.network.wiring import WIRINGS
from hdvae_platform.analysis.inference import error_bars
from hdvae_platform.analysis.labels import label
from hdvae_platform.analysis.metric_names import BIAS, ELBO
from hdvae_platform.display.text import number
from hdvae_platform.report.arm_report import MAX_HIGHLIGHTED, ArmReport, arms_with
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import (
    SERIES,
    Drawn,
    NotDrawn,
    Sheet,
    Style,
    axis_limits,
    render,
    wrapped_axis_name,
)
from hdvae_platform.report.figures.common import (
    BARS,
    bar_of,
    draw_means,
    drawn_values,
    interval_of,
    shifted,
    with_standard_error,
)
from hdvae_platform.report.formatting import mean_and_limits
from hdvae_platform.study.space import PRESET

PANELS = ((ELBO, "ELBO, nats per image"), (BIAS, "relaxation bias, nats per image"))
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
Series = Sequence[tuple[str, Sequence[ArmReport]]]


def memory_size(contents: Contents) -> Drawn | NotDrawn:
    """ELBO, bias and coverage against the number of slots K of a memory, where that was varied."""
    name, title = "memory_size", "ELBO, bias and coverage against the number of slots K"
    arms = [arm for arm in arms_with(contents.arms, ELBO) if arm.experiment.model.latent == "categorical"]
    level = _varied_level(arms)
    if level is None:
        return NotDrawn(name, title, "the number of slots was not varied.")
    lines = _series(arms, level)
    if not lines:
        return NotDrawn(name, title, "no two arms differ in their number of slots alone.")
    drawn = lines[:MAX_HIGHLIGHTED]
    few = f" Only the first {MAX_HIGHLIGHTED} of {len(lines)} series are drawn." if len(lines) > MAX_HIGHLIGHTED else ""
    caption = (
        f"Markers: means over seeds. {BARS} Wide bars: the 95% "
        "intervals of the coverage over images, means over seeds. Where they end at 1, the images show a lower bound "
        f"only, and a triangle marks it. A line connects arms that differ only in the slots of layer {level + 1}." + few
    )
    coverage = _coverage_metric(arms[0], level)
    rows = [
        [
            text,
            str(_slots(arm, level)),
            arm.name,
            mean_and_limits(interval_of(arm, ELBO)),
            with_standard_error(arm, BIAS),
            coverage_in_words(arm, coverage),
        ]
        for text, group in lines
        for arm in group
    ]
    alt = f"ELBO, relaxation bias and coverage against the number of slots, {len(drawn)} series."
    header = ["series", "K", "arm", "ELBO", "relaxation bias", "coverage"]
    return render(name, title, caption, alt, lambda: _draw(drawn, level, coverage), header, rows)


def coverage_in_words(arm: ArmReport, metric: str) -> str:
    """The coverage with its 95% interval over images; only 'at least' where its upper limit is 1."""
    if not arm.values(metric):
        return "—"
    value, low, high = _coverage(arm, metric)
    return f"at least {number(low)}" if high >= 1 else f"{number(value)} [{number(low)}, {number(high)}]"


def _coverage(arm: ArmReport, metric: str) -> tuple[float, float, float]:
    """The coverage of an arm and the limits of its interval over images, means over seeds."""
    split, _, layer = metric.rpartition("/")
    value, low, high = (statistics.fmean(arm.values(f"{split}{limit}/{layer}")) for limit in ("", "_low", "_high"))
    return value, low, high


def _draw(drawn: Series, level: int, coverage: str) -> Sheet:
    sheet = Sheet([2.2, 2.2, 2.2], [(style, text) for style, (text, _) in zip(SERIES, drawn, strict=False)], share=True)
    everyone = [arm for _, group in drawn for arm in group]
    _size_axis(sheet.panels[-1], sorted({_slots(arm, level) for arm in everyone}), level)
    for i, (style, (_, group)) in enumerate(zip(SERIES, drawn, strict=False)):
        for axes, (metric, _) in zip(sheet.panels, PANELS, strict=False):
            have = arms_with(group, metric)
            placed = shifted(axes, sheet.figure, i, len(drawn))
            draw_means(axes, [_slots(arm, level) for arm in have], have, metric, style, placed)
        placed = shifted(sheet.panels[2], sheet.figure, i, len(drawn))
        _draw_coverage(sheet.panels[2], style, arms_with(group, coverage), level, coverage, placed)
    for axes, (metric, text) in zip(sheet.panels, PANELS, strict=False):
        axes.set_ylabel(wrapped_axis_name(text))
        least = 0.0 if metric == BIAS else -math.inf
        axes.set_ylim(*axis_limits(drawn_values(arms_with(everyone, metric), metric) or [0.0], least))
    _share_axis(
        sheet.panels[2], [low for arm in arms_with(everyone, coverage) for _, low, _ in [_coverage(arm, coverage)]]
    )
    return sheet


def _share_axis(axes: Axes, limits: Sequence[float]) -> None:
    """Make the y axis one of shares, down to the smallest of the lower limits above 0."""
    axes.set_ylabel(wrapped_axis_name("coverage, share of slots, log scale"))
    axes.set_yscale("log")
    axes.set_ylim(min((low for low in limits if low > 0), default=0.1) / 1.5, 1.2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _draw_coverage(
    axes: Axes, style: Style, arms: Sequence[ArmReport], level: int, metric: str, placed: dict[str, Any]
) -> None:
    """The coverage with its intervals over images, or its lower limits where the images show no more."""
    sizes, found = [_slots(arm, level) for arm in arms], [_coverage(arm, metric) for arm in arms]
    shown = [low if high >= 1 else value for value, low, high in found]
    axes.plot(sizes, shown, color=style.colour, linestyle=style.line, linewidth=1.6, **placed)
    for size, y, arm, (_, low, high) in zip(sizes, shown, arms, found, strict=True):
        axes.plot([size, size], [low, high], color=style.colour, alpha=0.25, linewidth=5, **placed)
        marker = CARETUPBASE if high >= 1 else style.marker
        bars = [[0.0], [0.0]] if high >= 1 else error_bars([bar_of(arm, metric)])
        axes.errorbar([size], [y], bars, capsize=3, color=style.colour, marker=marker, markersize=5, **placed)


def _size_axis(axes: Axes, sizes: Sequence[int], level: int) -> None:
    """Make the x axis one of numbers of slots."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0] / 1.6, sizes[-1] * 1.6)
    axes.set_xticks(sizes, [size_in_words(size) for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(f"slots K of each variable of layer {level + 1}, log scale")


def size_in_words(slots: int) -> str:
    """A number of slots, as a power of two if it is one.

    >>> size_in_words(65536), size_in_words(900)
    ('2¹⁶', '900')
    """
    exponent = slots.bit_length() - 1
    return "2" + str(exponent).translate(SUPERSCRIPTS) if slots == 1 << exponent else str(slots)


def _slots(arm: ArmReport, level: int) -> int:
    return arm.experiment.model.layers[level].classes


def _varied_level(arms: Sequence[ArmReport]) -> int | None:
    """The index of the first layer whose number of slots differs between arms."""
    depth = min((len(arm.experiment.model.layers) for arm in arms), default=0)
    return next((i for i in range(depth) if len({_slots(arm, i) for arm in arms}) > 1), None)


def _coverage_metric(arm: ArmReport, level: int) -> str:
    """The coverage of a layer; of the variables that are sampled top down, if it has two groups."""
    model = arm.experiment.model
    wiring, levels = WIRINGS[model.wiring], len(model.layers)
    nodes = [node for node in wiring.nodes(levels) if node.level == level + 1]
    return f"valid/coverage/{wiring.name(max(nodes, key=lambda node: node.direction == 'down'), levels)}"


def _series(arms: Sequence[ArmReport], level: int) -> list[tuple[str, list[ArmReport]]]:
    """Groups of two or more arms that differ only in the number of slots of a layer, with the rest of their settings.

    Each is in the order of that number.
    """
    groups: dict[str, list[ArmReport]] = {}
    for arm in sorted(arms, key=lambda arm: _slots(arm, level)):
        plain = arm.experiment.plain()
        plain["model"]["layers"][level]["classes"] = None
        groups.setdefault(json.dumps(plain, sort_keys=True), []).append(arm)
    return [(_name(group[0], level), group) for group in groups.values() if len({_slots(a, level) for a in group}) > 1]


def _name(arm: ArmReport, level: int) -> str:
    sizes = ("model.layers", PRESET, f"model.layers.{level}.classes")
    rest = {path: value for path, value in arm.arm.settings.items() if path not in sizes}
    return label(rest) if rest else "all arms"
