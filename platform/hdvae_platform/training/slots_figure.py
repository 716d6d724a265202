"""The use of the memories over training, as a picture."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hdvae_platform.display.plotting import rendered

History = Mapping[int, Mapping[str, float]]
PANELS = (
    ("train/slots_used", "slots read so far"),
    ("train/dead_slots", "dead slots"),
    ("valid/perplexity", "perplexity"),
    ("valid/coverage", "coverage"),
)


def slot_use(history: History) -> bytes:
    """A PNG: slots read so far, dead slots, perplexity and coverage of each memory over training.

    Shaded are the 95% intervals of perplexity and coverage over images.

    Args:
        history: step → the metrics reported there, named with their splits (`valid/perplexity/layer_1`).
    """
    return rendered(draw(history), "png")


def draw(history: History) -> Figure:
    """The figure of `slot_use`."""
    figure = Figure(figsize=(7, 8), layout="constrained")
    axes = figure.subplots(len(PANELS), 1, sharex=True)
    memories = sorted(name.removeprefix("train/slots_used/") for name in history[max(history)] if "slots_used/" in name)
    for panel, (metric, text) in zip(axes, PANELS, strict=True):
        for i, memory in enumerate(memories):
            _line(panel, history, metric, memory, f"C{i}")
        panel.set_ylabel(text)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.2)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_title("Slots in use, mean over the variables of each memory", loc="left")
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("training step")
    axes[-1].xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return figure


def _line(panel: Axes, history: History, metric: str, memory: str, colour: str) -> None:
    """A line at the steps at which the metric was reported: whether slots are dead is known only after some time."""
    steps = [step for step in sorted(history) if f"{metric}/{memory}" in history[step]]
    panel.plot(steps, [history[s][f"{metric}/{memory}"] for s in steps], marker=".", color=colour, label=memory)
    if steps and f"{metric}_low/{memory}" in history[steps[-1]]:
        low, high = ([history[s][f"{metric}{limit}/{memory}"] for s in steps] for limit in ("_low", "_high"))
        panel.fill_between(steps, low, high, color=colour, alpha=0.15)
