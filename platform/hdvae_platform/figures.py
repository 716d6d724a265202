"""Figures for people, as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from hdvae.metrics import at, tau_label

if TYPE_CHECKING:  # runs draw too, and would wait for SciPy's statistics
    from hdvae_platform.inference import Interval

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
"""Okabe and Ito's colours, which the colour-blind can tell apart."""
INTERVAL = 1.96


def bias_curve(metrics: Mapping[str, float], taus: Sequence[float], title: str, grade: str) -> dict[str, bytes]:
    """The relaxation bias against the temperature, above its bounds.

    Args:
        metrics: of an evaluation.
        taus: its temperatures.
        title: of what.
        grade: of the Lipschitz bounds.

    Returns:
        Files by name: `bias.png` and `bias.svg`.
    """
    order = sorted(taus)

    def series(name: str) -> list[float]:
        return [metrics.get(at(name, tau_label(tau)), 0.0) for tau in order]

    figure = Figure(figsize=(7, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    errors = [INTERVAL * error for error in series("relaxation_bias_se")]
    top.axhline(0, color=GREY, linewidth=0.8)
    top.errorbar(
        order, series("relaxation_bias_signed"), errors, color=BLUE, marker="o", capsize=3, label="bias, signed"
    )
    coupled = [a - b for a, b in zip(series("surrogate_elbo"), series("coupled_elbo"), strict=True)]
    top.plot(order, coupled, color=ORANGE, marker="s", linestyle="--", label="surrogate − coupled")
    top.set_ylabel("nats per image")
    top.set_title(f"Relaxation bias ({title})", loc="left")
    top.legend(frameon=False)
    for name, colour, marker, text in (
        ("coupled_bias", ORANGE, "s", "coupled bias"),
        ("jensen_bound", GREEN, "^", "Jensen bound"),
        ("lipschitz_bound_reads", GREY, "v", f"Lipschitz bound behind the reads ({grade})"),
        ("lipschitz_bound", "black", "x", f"Lipschitz bound ({grade})"),
    ):
        bottom.plot(order, series(name), color=colour, marker=marker, label=text)
    bottom.set_yscale("log")
    bottom.set_ylabel("nats per image, log scale")
    bottom.set_xlabel("temperature τ" + (", log scale" if len(order) > 1 else ""))
    if len(order) > 1:
        bottom.set_xscale("log")
        bottom.set_xticks(order, [f"{tau:g}" for tau in order])
        bottom.set_xticks([], minor=True)
    bottom.legend(frameon=False)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    return {f"bias.{kind}": rendered(figure, kind) for kind in ("png", "svg")}


def slot_use(history: Mapping[int, Mapping[str, float]]) -> bytes:
    """How the use of each memory's slots went over training, a PNG.

    Args:
        history: the metrics of each report, by step, with the prefixes of their splits.
    """
    steps = sorted(history)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    panels = (
        ("train/slots_used/", "slots ever used"),
        ("train/dead_slots/", "dead slots"),
        ("valid/perplexity/", "perplexity"),
    )
    for panel, (prefix, text) in zip(axes, panels, strict=True):
        for name in sorted(name for name in history[steps[-1]] if name.startswith(prefix)):
            panel.plot(steps, [history[step][name] for step in steps], marker=".", label=name.removeprefix(prefix))
        panel.set_ylabel(text)
        panel.set_yscale("symlog", linthresh=1)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_title("The use of the memories' slots", loc="left")
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("step")
    return rendered(figure, "png")


def bars(found: Sequence[Interval]) -> tuple[list[float], list[float]]:
    """How far intervals reach below and above their means; 0 where there is but a mean."""
    below = [0.0 if one.low is None else one.mean - one.low for one in found]
    return below, [0.0 if one.high is None else one.high - one.mean for one in found]


def rendered(figure: Figure, kind: str) -> bytes:
    """A figure as a file of a kind: `png` or `svg`."""
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()
