"""The bias at each temperature of the evaluation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from matplotlib.figure import Figure

from hdvae_platform.analysis.inference import Interval, error_bars
from hdvae_platform.analysis.metric_names import BIAS
from hdvae_platform.report.arm_report import ArmReport
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import Drawn, NotDrawn, Sheet, axis_limits, legend_of, render, style_of
from hdvae_platform.report.figures.common import caption_of, interval_of, shifted, with_standard_error


def bias_by_temperature(contents: Contents) -> Drawn | NotDrawn:
    """The bias at each temperature of the evaluation."""
    name, title = "bias_by_temperature", "Relaxation bias against temperature"
    taus = _temperatures(contents.highlighted)
    if len(taus) < 2:
        return NotDrawn(name, title, "the bias was evaluated at one temperature only (evaluation.tau).")
    arms = [arm for arm in contents.highlighted if any(any(arm.values(metric)) for metric in taus.values())]
    if not arms:
        return NotDrawn(name, title, "no arm has a bias, since their variables are not relaxed.")

    def draw() -> Figure:
        sheet = Sheet([2.8], legend_of(arms))
        (axes,) = sheet.panels
        drawn = []
        for i, arm in enumerate(arms):
            at = [(tau, metric) for tau, metric in taus.items() if arm.values(metric)]
            intervals = [_interval_or_images(arm, metric) for _, metric in at]
            means = [one.mean for one in intervals]
            drawn += means
            style = style_of(arm).plain | shifted(axes, sheet.figure, i, len(arms))
            axes.errorbar([tau for tau, _ in at], means, error_bars(intervals), capsize=3, **style)
        axes.set_xscale("log")
        axes.set_xticks(list(taus), [f"{tau:g}" for tau in taus])
        axes.set_xticks([], minor=True)
        axes.set_xlim(min(taus) / 1.15, max(taus) * 1.15)
        axes.set_ylim(*axis_limits(drawn, 0.0))
        axes.set_xlabel("evaluation temperature τ, log scale")
        axes.set_ylabel("relaxation bias, nats per image")
        return sheet.figure

    caption = caption_of(
        contents,
        "Means over seeds. Bars: 95% intervals over seeds, or ± one standard error over images for an arm with one "
        "seed; long bars are cut.",
        *(
            ["Arms whose variables are not relaxed have no bias and no line."]
            if len(arms) < len(contents.highlighted)
            else []
        ),
    )
    rows = [[arm.name, *(with_standard_error(arm, metric) for metric in taus.values())] for arm in arms]
    alt = f"Relaxation bias of {len(arms)} arms at {len(taus)} temperatures from {min(taus):g} to {max(taus):g}."
    return render(name, title, caption, alt, draw, ["arm", *(f"τ = {tau:g}" for tau in taus)], rows)


def _interval_or_images(arm: ArmReport, metric: str) -> Interval:
    """The mean of an arm with its interval over seeds, or ± its standard error over images if it has one seed."""
    value, error = interval_of(arm, metric), arm.standard_error(metric)
    if value.low is not None or error is None:
        return value
    return Interval(value.mean, value.mean - error, value.mean + error)


def _temperatures(arms: Sequence[ArmReport]) -> dict[float, str]:
    """The temperatures at which the bias was evaluated, increasing → the name of the metric."""
    pattern = re.compile(re.escape(BIAS) + r"@tau=([\d.e+-]+)")
    matches = {metric: pattern.fullmatch(metric) for arm in arms for metric in arm.arm.metrics()}
    return dict(sorted((float(match[1]), metric) for metric, match in matches.items() if match))
