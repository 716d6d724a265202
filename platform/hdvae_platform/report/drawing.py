"""How the figures of a report look: one style, drawn once, for files and for the page.

A page is read in light and in dark, so its drawings take the colours of ink and paper from the page. The series'
colours are Okabe and Ito's, which the colour-blind can tell apart; lines and markers differ too.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hdvae_platform.display.plotting import BLUE, GREEN, GREY, ORANGE
from hdvae_platform.report.contents import ArmReport

INK, PAPER = "#1b1f24", "#fefefe"
"""Stand for the colours of text and background; no series has them."""
WIDTH = 4.3
"""Inches: so that text is read on a phone, where a figure is as wide as the screen."""
LEGEND = 58
"""Characters in a line of a legend."""
UPRIGHT = 20
"""Characters in a line beside a low panel."""


@dataclass(frozen=True)
class Style:
    """How a series is told from the others."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]

    @property
    def plain(self) -> dict[str, Any]:
        """For `Axes.plot`."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line, "markersize": 5, "linewidth": 1.6}


STYLES = (
    Style(BLUE, "o", "-"),
    Style(ORANGE, "s", "--"),
    Style(GREEN, "^", "-."),
    Style("#CC79A7", "D", ":"),
    Style("#E69F00", "v", (0, (5, 1, 1, 1, 1, 1))),
    Style("#56B4E9", "P", (0, (7, 2))),
    Style(GREY, "X", (0, (1, 1))),
)

SERIES = tuple(
    replace(style, colour=colour)
    for style, colour in zip(
        STYLES, ("#AA4499", "#999933", "#44AA99", "#CC6677", "#117733", "#88CCEE", "#DDCC77"), strict=True
    )
)
"""Of lines that are no arms: the muted colours of Tol, which the colour-blind can tell apart too."""

RC = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": PAPER,
    "text.parse_math": False,  # names are a user's: a dollar is a dollar
    "svg.fonttype": "path",
    "svg.hashsalt": "hdvae",
} | dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)


@dataclass(frozen=True)
class Drawn:
    """A figure of the report.

    Attributes:
        name: of its files.
        title: above it.
        caption: what it shows, and what its bars and bands are.
        alt: the same for those who do not see it.
        png: the picture.
        svg: the drawing.
        header: of the numbers behind it.
        rows: these numbers, as shown.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    svg: bytes
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    @property
    def inline(self) -> str:
        """The drawing as a part of the page: in its ink, on its paper, its names told from those of other figures."""
        body = self.svg.decode()
        body = body[body.index("<svg") :]
        body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
        body = re.sub(r'\bid="', f'id="{self.name}-', body)
        body = re.sub(r'(url\(#|href="#)', rf"\1{self.name}-", body)
        body = body.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
        body = re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', r"\1", body, count=1)
        body = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", body, count=1)
        return body.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)


@dataclass(frozen=True)
class NotDrawn:
    """A figure that does not apply, and why."""

    name: str
    title: str
    reason: str


@dataclass
class Sheet:
    """A figure in the making.

    Attributes:
        heights: of its panels, inches.
        legend: whether the arms that are told apart are listed below.
        share: whether the panels have one x axis.
    """

    heights: Sequence[float]
    legend: Sequence[tuple[Style, str]] = ()
    share: bool = False
    figure: Figure = field(init=False)
    panels: list[Axes] = field(init=False)

    def __post_init__(self) -> None:
        lines = [
            textwrap.fill(text, LEGEND, subsequent_indent="   ", max_lines=2, placeholder=" …")
            for _, text in self.legend
        ]
        below = 0.17 * sum(line.count("\n") + 1 for line in lines) + 0.1 * bool(lines)
        self.figure = Figure(figsize=(WIDTH, sum(self.heights) + below), layout="constrained")
        grid = self.figure.subplots(
            len(self.heights), 1, sharex=self.share, height_ratios=list(self.heights), squeeze=False
        )
        self.panels = [row[0] for row in grid]
        handles = [mpl.lines.Line2D([], [], **style.plain) for style, _ in self.legend]
        if handles:
            self.figure.legend(handles, lines, loc="outside lower left", handlelength=3.5, borderaxespad=0)


def render(
    name: str,
    title: str,
    caption: str,
    alt: str,
    draw: Callable[[], Figure],
    header: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
) -> Drawn:
    """Draw in the style of the reports, to the same bytes for the same data."""
    with mpl.rc_context(RC):
        figure = draw()
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return Drawn(name, title, caption, alt, png.getvalue(), svg.getvalue(), header, rows)


def legend_of(arms: Sequence[ArmReport]) -> list[tuple[Style, str]]:
    """The arms that are told apart, for a legend."""
    return [(style_of(arm), f"{arm.number}  {arm.label}") for arm in arms]


def style_of(arm: ArmReport) -> Style:
    """The style of an arm that is told apart: the same in every figure."""
    assert arm.shown is not None
    return STYLES[arm.shown]


def upright(text: str) -> str:
    """The name of the y axis of a low panel, in lines that are no longer than the panel is high."""
    return textwrap.fill(text, UPRIGHT)


def around(values: Sequence[float], least: float = -math.inf) -> tuple[float, float]:
    """Limits of an axis that shows these values: bars and bands that are far longer are cut, or nothing else were seen.

    Args:
        values: one or more.
        least: below which there can be none.
    """
    low, high = min(values), max(values)
    margin = 0.35 * (high - low) or 0.05 * abs(high) or 1.0
    return max(low - margin, least - 0.15 * margin), high + margin
