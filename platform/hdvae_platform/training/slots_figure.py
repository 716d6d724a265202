"""The use of the memories over training, as a picture."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from hdvae_platform.display.plotting import rendered


def slot_use(history: Mapping[int, Mapping[str, float]]) -> bytes:
    """A PNG: slots ever used, dead slots and perplexity of each memory over training.

    Args:
        history: step → the metrics reported there, named with their splits (`valid/perplexity/layer_1`).
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
