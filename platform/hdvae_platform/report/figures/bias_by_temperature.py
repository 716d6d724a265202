"""The bias at each temperature of the evaluation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hdvae_platform.analysis.inference import Interval, error_bars
from hdvae_platform.analysis.metric_names import BIAS
from hdvae_platform.report.arm_report import ArmReport
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import Drawn, NotDrawn, Sheet, axis_limits, legend_of, render, style_of
from hdvae_platform.report.figures.common import BARS, bar_of, caption_of, shifted, with_standard_error


def bias_by_temperature(contents: Contents) -> Drawn | NotDrawn:
    """The bias at each temperature of the evaluation."""
    name, title = "bias_by_temperature", "Relaxation bias against temperature"
    taus = _temperatures(contents.highlighted)
    if len(taus) < 2:
        return NotDrawn(name, title, "the bias was evaluated at one temperature only (evaluation.tau).")
    arms = [arm for arm in contents.highlighted if any(any(arm.values(metric)) for metric in taus.values())]
    if not arms:
        return NotDrawn(name, title, "no arm has a bias, since their variables are not relaxed.")

    def draw() -> Sheet:
        sheet = Sheet([2.8], legend_of(arms), of_arms=True)
        (axes,) = sheet.panels
        drawn = [0.0]
        for i, arm in enumerate(arms):
            at = [(tau, metric) for tau, metric in taus.items() if arm.values(metric)]
            bars = [_bar(arm, metric) for _, metric in at]
            placed = shifted(axes, sheet.figure, i, len(arms))
            line = style_of(arm).plain | placed
            axes.errorbar([tau for tau, _ in at], [bar.mean for bar in bars], error_bars(bars), capsize=3, **line)
            for tau, metric in at:
                each = arm.values(metric) if len(arm.arm.seeds) > 1 else []
                axes.plot([tau] * len(each), each, ".", color=style_of(arm).colour, alpha=0.5, markersize=4, **placed)
                drawn += each
            drawn += [limit for bar in bars for limit in (bar.mean, bar.low, bar.high) if limit is not None]
        axes.set_xscale("log")
        axes.set_xticks(list(taus), [f"{tau:g}" for tau in taus])
        axes.set_xticks([], minor=True)
        axes.set_xlim(min(taus) / 1.15, max(taus) * 1.15)
        axes.set_ylim(*axis_limits(drawn, 0.0))
        axes.set_xlabel("evaluation temperature τ, log scale")
        axes.set_ylabel("relaxation bias, nats per image")
        return sheet

    caption = caption_of(
        contents,
        f"Means over seeds. {BARS} Of one seed: ± one standard error over images.",
        *(
            ["Arms whose variables are not relaxed have no bias and no line."]
            if len(arms) < len(contents.highlighted)
            else []
        ),
    )
    rows = [[arm.name, *(with_standard_error(arm, metric) for metric in taus.values())] for arm in arms]
    alt = f"Relaxation bias of {len(arms)} arms at {len(taus)} temperatures from {min(taus):g} to {max(taus):g}."
    return render(name, title, caption, alt, draw, ["arm", *(f"τ = {tau:g}" for tau in taus)], rows)


def _bar(arm: ArmReport, metric: str) -> Interval:
    """The mean of an arm with its bar, or ± its standard error over images if it has one seed."""
    value, error = bar_of(arm, metric), arm.standard_error(metric)
    if error is None or len(arm.arm.by_seed(metric)) > 1:
        return value
    return Interval(value.mean, value.mean - error, value.mean + error)


def _temperatures(arms: Sequence[ArmReport]) -> dict[float, str]:
    """The temperatures at which the bias was evaluated, increasing → the name of the metric."""
    pattern = re.compile(re.escape(BIAS) + r"@tau=([\d.e+-]+)")
    matches = {metric: pattern.fullmatch(metric) for arm in arms for metric in arm.arm.metrics()}
    return dict(sorted((float(match[1]), metric) for metric, match in matches.items() if match))
