"""The figure of a trend: the blocks, the means of the levels and the isotonic fit."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from hdvae_platform.analysis.trends import Trend
from hdvae_platform.display.plotting import BLUE, GREY, ORANGE, rendered

TITLE_LINE = 95
"""Characters in a line of the title."""
MAX_LINES = 60
"""The most blocks that are drawn."""


def trend_figure(trend: Trend) -> dict[str, bytes]:
    """Draw a trend.

    Returns:
        The files by kind, `png` and `svg`.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    blocks = f"{len(trend.blocks)} block{'s' if len(trend.blocks) > 1 else ''}"
    blocks += f", {MAX_LINES} drawn" if len(trend.blocks) > MAX_LINES else ""
    at = {level: place for place, level in enumerate(trend.levels)}
    for number, block in enumerate(trend.blocks[:MAX_LINES]):
        places = [at[level] for level in sorted(block.values)]
        values = [block.values[level] for level in sorted(block.values)]
        axes.plot(places, values, color=GREY, linewidth=0.8, alpha=0.45, label=blocks if number == 0 else None)
    axes.plot(list(at.values()), trend.means, color=BLUE, marker="o", linestyle="none", label="mean at the value")
    kind = "increasing" if trend.grows else "decreasing"
    axes.plot(list(at.values()), trend.fitted, color=ORANGE, linewidth=2, label=f"isotonic fit, {kind}")
    axes.set_xticks(list(at.values()), [f"{level:g}" for level in trend.levels])
    axes.set_xlabel(trend.path)
    axes.set_ylabel(f"{trend.metric}, nats per image")
    axes.set_title(textwrap.fill(trend.words, TITLE_LINE), loc="left", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return {form: rendered(figure, form) for form in ("png", "svg")}
