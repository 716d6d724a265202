"""The importance of each setting for the metric, by Optuna."""

from __future__ import annotations

from hdvae_platform.display.plotting import BLUE
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import Drawn, NotDrawn, Sheet, render


def importance(contents: Contents) -> Drawn | NotDrawn:
    """Draw the importance of each setting."""
    name, title = "importance", f"Importance of the settings for {contents.metric}"
    shares = contents.importances
    if isinstance(shares, str):
        return NotDrawn(name, title, f"{shares}.")
    paths = list(shares)

    def draw() -> Sheet:
        sheet = Sheet([0.4 + 0.36 * len(paths)])
        (axes,) = sheet.panels
        axes.barh(paths, [shares[path] for path in paths], color=BLUE, height=0.6)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("share")
        return sheet

    caption = (
        "Optuna's PED-ANOVA: the share of each setting in the difference between the best trials and all trials. It is "
        "not a test, and does not tell which values are better."
    )
    alt = "Importance: " + ", ".join(f"{path} {shares[path]:.2f}" for path in paths) + "."
    return render(name, title, caption, alt, draw, ["setting", "share"], [[p, f"{shares[p]:.3f}"] for p in paths])
