"""The use of the memories over training, as a picture."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hdvae_platform.display.plotting import BLUE, rendered

History = Mapping[int, Mapping[str, float]]
PANELS = (
    ("train/slots_used", "slots used so far"),
    ("train/dead_slots", "dead slots"),
    ("valid/perplexity", "perplexity"),
    ("valid/coverage", "coverage"),
)


def slot_use(history: History) -> bytes:
    """A PNG: slots used so far, dead slots, perplexity and coverage of each memory over training.

    Shaded are the 95% intervals of perplexity and coverage over images.

    Args:
        history: step → the metrics reported there, named with their splits (`valid/perplexity/layer_1`).
    """
    return rendered(draw(history), "png")


def draw(history: History) -> Figure:
    """The figure of `slot_use`: a column for each memory, since their sizes may differ by thousands."""
    memories = sorted(name.removeprefix("train/slots_used/") for name in history[max(history)] if "slots_used/" in name)
    figure = Figure(figsize=(1 + 3 * len(memories), 8), layout="constrained")
    grid = figure.subplots(len(PANELS), len(memories), sharex=True, squeeze=False)
    for column, memory in zip(grid.T, memories, strict=True):
        column[0].set_title(memory, loc="left")
        column[-1].set_xlabel("training step")
        column[-1].xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        for panel, (metric, text) in zip(column, PANELS, strict=True):
            _line(panel, history, f"{metric}{{}}/{memory}")
            panel.set_ylabel(text)
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.2)
            panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Slots in use, mean over the variables of each memory")
    return figure


def _line(panel: Axes, history: History, metric: str) -> None:
    """A line at the steps at which the metric was reported: whether slots are dead is known only after some time."""
    steps = [step for step in sorted(history) if metric.format("") in history[step]]
    panel.plot(steps, [history[step][metric.format("")] for step in steps], marker=".", color=BLUE)
    if not steps:
        panel.set_ylim(top=1)
        panel.text(0.5, 0.5, "not known yet", transform=panel.transAxes, ha="center", va="center")
    elif metric.format("_low") in history[steps[-1]]:
        low, high = ([history[step][metric.format(limit)] for step in steps] for limit in ("_low", "_high"))
        panel.fill_between(steps, low, high, color=BLUE, alpha=0.15)
