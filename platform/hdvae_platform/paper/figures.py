"""The paper's figures from our numbers, as PNG and SVG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from hdvae_platform.analysis.inference import Interval, error_bars
from hdvae_platform.display.plotting import GREY, rendered

Lines = Mapping[str, Mapping[int, Sequence[tuple[int, Interval]]]]
"""Metric → depth → points (N, nats per image with their interval)."""
MARKERS = "osD^vP"
"""Markers of the depths, so that lines differ without colours."""
LIGHTEST = 0.7
"""The lightest colour of viridis that is used: lighter ones are hard to see on paper."""


def bias_figure(ours: Lines, paper: Lines, caption: str) -> dict[str, bytes]:
    """Figure 1: ELBO and surrogate against N on the left, the relaxation bias on the right, a line for each depth.

    Args:
        ours: `elbo`, `surrogate_elbo` and `relaxation_bias` → depth → points.
        paper: the same of the paper; its bias is dotted in the right panel.
        caption: text below the figure.

    Returns:
        Files by name.
    """
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    depths = sorted({depth for by_depth in ours.values() for depth in by_depth})
    colours = matplotlib.colormaps["viridis"]
    for i, depth in enumerate(depths):
        style = {"color": colours(LIGHTEST * i / max(len(depths) - 1, 1)), "marker": MARKERS[i % len(MARKERS)]}
        _line(left, _points(ours, "surrogate_elbo", depth), linestyle="--", fillstyle="none", **style)
        _line(left, _points(ours, "elbo", depth), label=f"L = {depth}", **style)
        _line(right, _points(paper, "relaxation_bias", depth), linestyle=":", fillstyle="none", **style)
        _line(right, _points(ours, "relaxation_bias", depth), **style)
    left.set_ylabel("nats per image")
    left.set_title("ELBO (solid) and relaxed objective (dashed)", loc="left")
    right.set_ylabel("δ at τ = 0.1, nats per image")
    right.set_title("Relaxation bias (dotted: the paper's table 4)", loc="left")
    ticks = sorted({n for by_depth in ours.values() for points in by_depth.values() for n, _ in points})
    for axes in (left, right):
        if not ticks:
            axes.text(0.5, 0.5, "not run", ha="center", va="center", color=GREY, transform=axes.transAxes)
        axes.set_xlabel("N, latent variables in all layers; bars: 95% intervals")
        axes.set_xticks(ticks)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return _files(figure, "figure1", caption)


def _points(lines: Lines, metric: str, depth: int) -> Sequence[tuple[int, Interval]]:
    return lines.get(metric, {}).get(depth, ())


def samples_figure(panels: Mapping[str, Tensor | None], caption: str) -> dict[str, bytes]:
    """Figure 2: prior samples in panels, Gaussian left and discrete right.

    Args:
        panels: title → images in [0, 1], (n, H, W) with a square n; None where there are none. Two panels in a row.
        caption: text below the figure.

    Returns:
        Files by name.
    """
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(8, 4.3 * rows + 0.4), layout="constrained")
    for axes, (title, images) in zip(figure.subplots(rows, 2, squeeze=False).flat, panels.items(), strict=True):
        axes.set_title(title, loc="left")
        axes.set_axis_off()
        if images is None:
            axes.text(0.5, 0.5, "not run", ha="center", va="center", color=GREY)
        else:
            axes.imshow(_sheet(images), cmap="gray_r", vmin=0, vmax=1)
    return _files(figure, "figure2", caption)


def _line(axes: Axes, points: Sequence[tuple[int, Interval]], **style: Any) -> None:
    """Draw means with error bars, where they have intervals."""
    if not points:
        return
    values = [value for _, value in points]
    bars = None if all(one.low is None for one in values) else error_bars(values)
    axes.errorbar([n for n, _ in points], [one.mean for one in values], bars, capsize=3, elinewidth=1, **style)


def _sheet(images: Tensor) -> Any:
    """A square grid of images as one image, (side · H, side · W)."""
    count, height, width = images.shape
    side = round(count**0.5)
    grid = images.cpu().reshape(side, side, height, width)
    return grid.permute(0, 2, 1, 3).reshape(side * height, side * width).numpy()


def _files(figure: Figure, name: str, caption: str) -> dict[str, bytes]:
    lines = textwrap.wrap(caption, width=int(14 * figure.get_figwidth()))
    figure.supxlabel("\n".join(lines), fontsize="x-small", color=GREY, ha="left", x=0.02)
    return {f"{name}.{kind}": rendered(figure, kind) for kind in ("png", "svg")}
