"""The study's metric and the bias against the number of variables N, where that was varied."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from hdvae_platform.analysis.labels import label
from hdvae_platform.analysis.metric_names import BIAS
from hdvae_platform.report.arm_report import MAX_HIGHLIGHTED, ArmReport
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import SERIES, Drawn, NotDrawn, Sheet, axis_limits, render, wrapped_axis_name
from hdvae_platform.report.figures.common import BARS, draw_means, drawn_values, shifted, with_standard_error
from hdvae_platform.study.space import PRESET


def bias_by_variables(contents: Contents) -> Drawn | NotDrawn:
    """The study's metric and the bias against the number of variables N, where that was varied."""
    name, title = (
        "bias_by_variables",
        f"{contents.metric.removeprefix('valid/')} and bias against the number of variables N",
    )
    metrics = [
        metric for metric in dict.fromkeys([contents.metric, BIAS]) if any(_has(arm, metric) for arm in contents.arms)
    ]
    arms = [arm for arm in contents.arms if any(_has(arm, metric) for metric in metrics)]
    if len({_variables(arm) for arm in arms}) < 2:
        return NotDrawn(name, title, "the number of variables was not varied.")
    series: dict[str, list[ArmReport]] = {}
    for arm in sorted(arms, key=_variables):
        series.setdefault(_series_name(arm, arms), []).append(arm)
    lines = {text: group for text, group in series.items() if len(group) > 1}
    if not lines:
        return NotDrawn(name, title, "no two arms differ in N alone.")
    drawn = list(lines.items())[:MAX_HIGHLIGHTED]
    few = f" Only the first {MAX_HIGHLIGHTED} of {len(lines)} series are drawn." if len(lines) > MAX_HIGHLIGHTED else ""
    caption = (
        f"Lines: means over seeds. {BARS} A line connects arms that differ in N only; its colour is not the colour of "
        "an arm. Arms whose variables are not relaxed have no bias and no line of it." + few
    )
    rows = [
        [text, str(_variables(arm)), arm.name, *(with_standard_error(arm, metric) for metric in metrics)]
        for text, group in lines.items()
        for arm in group
    ]
    alt = f"{title}, {len(drawn)} series."
    return render(name, title, caption, alt, lambda: _draw(drawn, metrics), ["series", "N", "arm", *metrics], rows)


def _has(arm: ArmReport, metric: str) -> bool:
    """Whether an arm has values of a metric to draw; a bias that is 0 by definition has not."""
    return any(arm.values(metric)) if metric == BIAS else bool(arm.values(metric))


def _draw(drawn: Sequence[tuple[str, Sequence[ArmReport]]], metrics: Sequence[str]) -> Sheet:
    """A panel for each metric, a line for each series; lines at the same N are set apart."""
    legend = [(style, text) for style, (text, _) in zip(SERIES, drawn, strict=False)]
    sheet = Sheet([2.8 / len(metrics) + 0.8] * len(metrics), legend, share=True)
    for axes, metric in zip(sheet.panels, metrics, strict=True):
        shown = [[arm for arm in group if _has(arm, metric)] for _, group in drawn]
        for i, (style, group) in enumerate(zip(SERIES, shown, strict=False)):
            placed = shifted(axes, sheet.figure, i, len(drawn))
            draw_means(axes, [_variables(arm) for arm in group], group, metric, style, placed)
        least = 0.0 if metric == BIAS else -math.inf
        axes.set_ylim(*axis_limits([value for group in shown for value in drawn_values(group, metric)], least))
        axes.set_ylabel(wrapped_axis_name(f"{metric}, nats per image"))
    ticks = sorted({_variables(arm) for _, group in drawn for arm in group})
    margin = 0.08 * (ticks[-1] - ticks[0])
    axes = sheet.panels[-1]
    axes.set_xlim(ticks[0] - margin, ticks[-1] + margin)
    axes.set_xticks(ticks)
    axes.set_xlabel("number of variables N, all layers")
    return sheet


def _variables(arm: ArmReport) -> int:
    return sum(layer.variables for layer in arm.experiment.model.layers)


def _series_name(arm: ArmReport, arms: Sequence[ArmReport]) -> str:
    """The settings of an arm other than its number of variables, as the name of its series.

    The number of layers is part of it where that varies. A preset stands for latent and layers.
    """
    rest = {
        path: value
        for path, value in arm.arm.settings.items()
        if path not in ("model.layers", PRESET) and not re.fullmatch(r"model\.layers\.\d+\.variables", path)
    }
    if PRESET in arm.arm.settings and len({one.experiment.model.latent for one in arms}) > 1:
        rest["model.latent"] = arm.experiment.model.latent
    depths = {len(one.experiment.model.layers) for one in arms}
    parts = [label(rest)] if rest else []
    depth = len(arm.experiment.model.layers)
    parts += [f"{depth} {'layer' if depth == 1 else 'layers'}"] if len(depths) > 1 else []
    return ", ".join(parts) or "all arms"
