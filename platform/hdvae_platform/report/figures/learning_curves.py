"""The study's metric and the bias over training."""

from __future__ import annotations

from collections.abc import Sequence

from hdvae_platform.analysis.metric_names import BIAS, ELBO
from hdvae_platform.display.plotting import GREY
from hdvae_platform.display.text import number
from hdvae_platform.report.arm_report import ArmReport
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import Drawn, NotDrawn, Sheet, legend_of, render, style_of
from hdvae_platform.report.figures.common import caption_of, line_of, mean_line, step_axis


def learning_curves(contents: Contents) -> Drawn | NotDrawn:
    """The study's metric and the bias over training."""
    name, title = "learning_curves", "Learning curves"
    metrics = [metric for metric in (_curve_metric(contents), BIAS) if _has_curve(contents.highlighted, metric)]
    if not metrics:
        return NotDrawn(name, title, "no run was evaluated more than once.")
    arms = contents.highlighted

    def draw() -> Sheet:
        sheet = Sheet([2.0] * len(metrics), legend_of(arms), share=True, of_arms=True)
        for axes, metric in zip(sheet.panels, metrics, strict=True):
            for run in contents.pruned:
                steps, values = line_of(run.curve, metric)
                axes.plot(steps, values, color=GREY, linewidth=0.6, alpha=0.5)
                axes.plot(steps[-1:], values[-1:], "x", color=GREY, markersize=3, alpha=0.7)
            for arm in arms:
                for curve in arm.curves.values():
                    axes.plot(*line_of(curve, metric), color=style_of(arm).colour, linewidth=0.7, alpha=0.4)
                axes.plot(*mean_line(arm, metric), **style_of(arm).plain)
            axes.set_ylabel(f"{metric}\nnats per image" if metric == BIAS else metric)
        step_axis(sheet.panels[-1])
        return sheet

    thin = "Thin lines: each run" + (
        "; grey, with a cross: pruned runs, up to where they came." if contents.pruned else "."
    )
    caption = caption_of(contents, "Thick lines: mean over the runs that reached the step.", thin)
    last = [[arm.name, *(_last(arm, metric) for metric in metrics)] for arm in arms]
    alt = f"{' and '.join(metrics)} against the training step; {len(arms)} arms."
    return render(name, title, caption, alt, draw, ["arm", *(f"{metric} at the last step" for metric in metrics)], last)


def _curve_metric(contents: Contents) -> str:
    """The study's metric if it has a curve, else the ELBO."""
    return contents.metric if _has_curve(contents.highlighted, contents.metric) else ELBO


def _has_curve(arms: Sequence[ArmReport], metric: str) -> bool:
    return any(len(line_of(curve, metric)[0]) > 1 for arm in arms for curve in arm.curves.values())


def _last(arm: ArmReport, metric: str) -> str:
    steps, means = mean_line(arm, metric)
    return f"{number(means[-1])} at {steps[-1]}" if steps else "—"
