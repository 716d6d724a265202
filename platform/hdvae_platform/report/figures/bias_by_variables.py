"""The bias against the number of variables N, where that was varied."""

from __future__ import annotations

import re
from collections.abc import Sequence

from matplotlib.figure import Figure

from hdvae_platform.analysis.inference import error_bars
from hdvae_platform.analysis.labels import label
from hdvae_platform.analysis.metric_names import BIAS
from hdvae_platform.report.arm_report import MAX_HIGHLIGHTED, ArmReport
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import SERIES, Drawn, NotDrawn, Sheet, axis_limits, render
from hdvae_platform.report.figures.common import interval_of, mean_of, shifted, with_standard_error
from hdvae_platform.study.space import PRESET


def bias_by_variables(contents: Contents) -> Drawn | NotDrawn:
    """The bias against the number of variables N, where that was varied."""
    name, title = "bias_by_variables", "Relaxation bias against the number of variables N"
    arms = [arm for arm in contents.arms if arm.values(BIAS)]
    if len({_variables(arm) for arm in arms}) < 2:
        return NotDrawn(name, title, "the number of variables was not varied.")
    series: dict[str, list[ArmReport]] = {}
    for arm in sorted(arms, key=_variables):
        if any(arm.values(BIAS)):
            series.setdefault(_series_name(arm, arms), []).append(arm)
    lines = {text: group for text, group in series.items() if len(group) > 1}
    if not lines:
        return NotDrawn(name, title, "no two arms with a bias differ in N alone.")
    drawn = list(lines.items())[:MAX_HIGHLIGHTED]
    few = f" Only the first {MAX_HIGHLIGHTED} of {len(lines)} series are drawn." if len(lines) > MAX_HIGHLIGHTED else ""
    caption = (
        "Lines: means over seeds. Bars: 95% intervals over seeds. Dots: each run. Bars and dots far from the means are "
        "cut. A line connects arms that differ in N only; its colour is not the colour of an arm." + few
    )
    rows = [
        [text, str(_variables(arm)), arm.name, with_standard_error(arm, BIAS)]
        for text, group in lines.items()
        for arm in group
    ]
    alt = f"Relaxation bias against the number of variables, {len(drawn)} series."
    return render(name, title, caption, alt, lambda: _draw(drawn), ["series", "N", "arm", "relaxation bias"], rows)


def _draw(drawn: Sequence[tuple[str, Sequence[ArmReport]]]) -> Figure:
    """Draw a line with error bars for each series, and a dot for every run; lines at the same N are set apart."""
    sheet = Sheet([2.8], [(style, text) for style, (text, _) in zip(SERIES, drawn, strict=False)])
    (axes,) = sheet.panels
    for i, (style, (_, group)) in enumerate(zip(SERIES, drawn, strict=False)):
        placed = shifted(axes, sheet.figure, i, len(drawn))
        sizes = [_variables(arm) for arm in group]
        intervals = [interval_of(arm, BIAS) for arm in group]
        means = [one.mean for one in intervals]
        axes.errorbar(sizes, means, error_bars(intervals), capsize=3, elinewidth=1, **style.plain, **placed)
        for size, arm in zip(sizes, group, strict=True):
            each = arm.values(BIAS)
            axes.plot([size] * len(each), each, ".", color=style.colour, alpha=0.5, markersize=4, **placed)
    axes.set_ylim(*axis_limits([mean_of(arm, BIAS) for _, group in drawn for arm in group], 0.0))
    ticks = sorted({_variables(arm) for _, group in drawn for arm in group})
    margin = 0.08 * (ticks[-1] - ticks[0])
    axes.set_xlim(ticks[0] - margin, ticks[-1] + margin)
    axes.set_xticks(ticks)
    axes.set_xlabel("number of variables N, all layers")
    axes.set_ylabel("relaxation bias, nats per image")
    return sheet.figure


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
