"""The paper's figures from our numbers, as PNG and SVG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

from hdvae_platform.figures import GREY, rendered

Point = tuple[int, float]
MARKERS = "osD^vP"
"""Of the depths, so that lines can be told apart without colours."""


def bias_figure(ours: Mapping[str, Mapping[int, Sequence[Point]]], paper: Any, caption: str) -> dict[str, bytes]:
    """Figure 1: ELBO and surrogate against N on the left, the relaxation bias on the right, a line for each depth.

    Args:
        ours: `elbo`, `surrogate_elbo` and `relaxation_bias` → depth → points (N, nats).
        paper: the same of the paper, drawn pale in the right panel.
        caption: below.

    Returns:
        Files by name.
    """
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    depths = sorted(ours["elbo"])
    colours = matplotlib.colormaps["viridis"]
    for i, depth in enumerate(depths):
        style = {"color": colours(0.9 * i / max(len(depths) - 1, 1)), "marker": MARKERS[i % len(MARKERS)]}
        left.plot(*_axes(ours["surrogate_elbo"][depth]), linestyle="--", fillstyle="none", **style)
        left.plot(*_axes(ours["elbo"][depth]), label=f"L = {depth}", **style)
        right.plot(*_axes(paper["relaxation_bias"][depth]), linestyle=":", alpha=0.6, fillstyle="none", **style)
        right.plot(*_axes(ours["relaxation_bias"][depth]), **style)
    left.set_ylabel("nats per image")
    left.set_title("ELBO (solid) and relaxed objective (dashed)", loc="left")
    right.set_ylabel("δ at τ = 0.1, nats per image")
    right.set_title("Relaxation bias (dotted: the paper's table 4)", loc="left")
    ticks = sorted({n for points in ours["elbo"].values() for n, _ in points})
    for axes in (left, right):
        axes.set_xlabel("N, latent variables in all layers")
        axes.set_xticks(ticks)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return _files(figure, "figure1", caption)


def samples_figure(panels: Mapping[str, Tensor | None], caption: str) -> dict[str, bytes]:
    """Figure 2: prior samples in panels, Gaussian left and discrete right.

    Args:
        panels: title → images in [0, 1], (n, H, W) with a square n; None where there are none. Two in a row.
        caption: below.

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


def _axes(points: Sequence[Point]) -> tuple[list[int], list[float]]:
    return [n for n, _ in points], [nats for _, nats in points]


def _sheet(images: Tensor) -> Any:
    """A square grid of images as one, (side · H, side · W)."""
    count, height, width = images.shape
    side = round(count**0.5)
    grid = images.cpu().reshape(side, side, height, width)
    return grid.permute(0, 2, 1, 3).reshape(side * height, side * width).numpy()


def _files(figure: Figure, name: str, caption: str) -> dict[str, bytes]:
    lines = textwrap.wrap(caption, width=int(14 * figure.get_figwidth()))
    figure.supxlabel("\n".join(lines), fontsize="x-small", color=GREY, ha="left", x=0.02)
    return {f"{name}.{kind}": rendered(figure, kind) for kind in ("png", "svg")}
