"""Colours of figures, and how a figure becomes a file."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
"""Okabe and Ito's colours, which the colour-blind can tell apart."""
INTERVAL = 1.96


def rendered(figure: Figure, kind: str) -> bytes:
    """A figure as a file of a kind: `png` or `svg`."""
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()
