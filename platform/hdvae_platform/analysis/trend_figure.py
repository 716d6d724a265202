"""The picture of a trend: the blocks, the means of the levels and the isotonic fit."""

from __future__ import annotations

from matplotlib.figure import Figure

from hdvae_platform.analysis.trends import Trend
from hdvae_platform.display.plotting import BLUE, GREY, ORANGE, rendered

LINES = 60
"""Blocks that are drawn."""


def trend_figure(found: Trend) -> dict[str, bytes]:
    """A trend as a picture.

    Returns:
        Bytes by kind: `png` and `svg`.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    blocks = f"{len(found.blocks)} block{'s' if len(found.blocks) > 1 else ''}"
    blocks += f", {LINES} drawn" if len(found.blocks) > LINES else ""
    at = {level: place for place, level in enumerate(found.levels)}
    for number, block in enumerate(found.blocks[:LINES]):
        places = [at[level] for level in sorted(block.values)]
        values = [block.values[level] for level in sorted(block.values)]
        axes.plot(places, values, color=GREY, linewidth=0.8, alpha=0.45, label=blocks if number == 0 else None)
    axes.plot(list(at.values()), found.means, color=BLUE, marker="o", linestyle="none", label="mean of the level")
    kind = "increasing" if found.grows else "decreasing"
    axes.plot(list(at.values()), found.fitted, color=ORANGE, linewidth=2, label=f"isotonic fit, {kind}")
    axes.set_xticks(list(at.values()), [f"{level:g}" for level in found.levels])
    axes.set_xlabel(found.path)
    axes.set_ylabel(f"{found.metric}, nats per image")
    axes.set_title(found.words, loc="left", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return {form: rendered(figure, form) for form in ("png", "svg")}
