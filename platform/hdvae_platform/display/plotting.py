"""Colours of figures, and writing figures as files."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
"""Okabe and Ito's colours, which colour-blind readers can distinguish."""
INTERVAL = 1.96
"""Half of the width of a normal 95% interval, in standard errors."""


def rendered(figure: Figure, kind: str) -> bytes:
    """A figure as a `png` or `svg` file."""
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()
