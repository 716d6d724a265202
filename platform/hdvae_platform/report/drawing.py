"""The style of a report's figures, for files and for the page.

The page has a light and a dark scheme, so drawings on it take the colours of text and background from the page. The
series have Okabe and Ito's colours, which colour-blind readers can tell apart; lines and markers differ too.
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

from hdvae_platform.display.plotting import BLUE, GREEN, ORANGE
from hdvae_platform.report.arm_report import ArmReport

INK, PAPER = "#1b1f24", "#fefefe"
"""Placeholders for the colours of text and background; no series has them."""
WIDTH = 4.3
"""Width of a figure in inches: text stays readable on a phone, where a figure is as wide as the screen."""
LEGEND_LINE = 58
"""Characters in a line of a legend."""
AXIS_NAME_LINE = 20
"""Characters in a line of the name of a low panel's y axis."""


@dataclass(frozen=True)
class Style:
    """The colour, marker and line of a series."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]

    @property
    def plain(self) -> dict[str, Any]:
        """The style as arguments of `Axes.plot`."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line, "markersize": 5, "linewidth": 1.6}


STYLES = (
    Style(BLUE, "o", "-"),
    Style(ORANGE, "s", "--"),
    Style(GREEN, "^", "-."),
    Style("#CC79A7", "D", ":"),
    Style("#E69F00", "v", (0, (5, 1, 1, 1, 1, 1))),
    Style("#56B4E9", "P", (0, (7, 2))),
    Style("#8A6FDF", "X", (0, (1, 1))),
)

SERIES = tuple(
    replace(style, colour=colour)
    for style, colour in zip(
        STYLES, ("#AA4499", "#999933", "#44AA99", "#CC6677", "#117733", "#88CCEE", "#DDCC77"), strict=True
    )
)
"""Styles of lines that are not arms: Tol's muted colours, which colour-blind readers can tell apart too."""

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
    "text.parse_math": False,  # a dollar sign in a user's name is no formula
    "svg.fonttype": "path",
    "svg.hashsalt": "hdvae",
} | dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)


@dataclass(frozen=True)
class Drawn:
    """A figure of the report.

    Attributes:
        name: name of its files, without ending.
        title: its title.
        caption: what it shows, and what its bars and bands are.
        alt: a description for readers who cannot see it.
        png: the PNG file.
        svg: the SVG file.
        on_page: the drawing on the page, as SVG; without a legend of arms, which the page has once.
        header: header of the table with its numbers.
        rows: these numbers, as text.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    svg: bytes
    on_page: bytes
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    @property
    def inline(self) -> str:
        """The SVG as a part of the page: with the page's colours, and identifiers that no other figure has."""
        return inline(self.name, self.on_page)


def inline(name: str, svg: bytes) -> str:
    """An SVG file as a part of the page: with the page's colours, and identifiers that begin with this name."""
    body = svg.decode()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(url\(#|href="#)', rf"\1{name}-", body)
    body = body.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    body = re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", body, count=1)
    return body.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)


@dataclass(frozen=True)
class NotDrawn:
    """A figure that does not apply, and the reason."""

    name: str
    title: str
    reason: str


@dataclass
class Sheet:
    """A Matplotlib figure with panels one below the other and a legend at the bottom.

    Attributes:
        heights: heights of the panels in inches.
        legend: style and text of each entry; an entry without a style is text alone.
        share: whether the panels share their x axis.
        of_arms: whether the legend is that of arms, which the page has once for all figures.
    """

    heights: Sequence[float]
    legend: Sequence[tuple[Style | None, str]] = ()
    share: bool = False
    of_arms: bool = False
    figure: Figure = field(init=False)
    panels: list[Axes] = field(init=False)

    def __post_init__(self) -> None:
        lines = [
            textwrap.fill(text, LEGEND_LINE, subsequent_indent="   ", max_lines=2, placeholder=" …")
            for _, text in self.legend
        ]
        below = 0.17 * sum(line.count("\n") + 1 for line in lines) + 0.1 * bool(lines)
        self.figure = Figure(figsize=(WIDTH, sum(self.heights) + below), layout="constrained")
        grid = self.figure.subplots(
            len(self.heights), 1, sharex=self.share, height_ratios=list(self.heights), squeeze=False
        )
        self.panels = [row[0] for row in grid]
        handles = [
            mpl.lines.Line2D([], [], **(style.plain if style else {"linestyle": "none"})) for style, _ in self.legend
        ]
        if handles:
            self.figure.legend(handles, lines, loc="outside lower left", handlelength=3.5, borderaxespad=0)

    def without_legend(self) -> Figure:
        """The figure without its legend, its panels as they are."""
        for legend in list(self.figure.legends):
            legend.remove()
        self.figure.set_size_inches(WIDTH, sum(self.heights))
        return self.figure


def render(
    name: str,
    title: str,
    caption: str,
    alt: str,
    draw: Callable[[], Sheet],
    header: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
) -> Drawn:
    """Draw a figure in the style of the reports; the same data give the same bytes."""
    with mpl.rc_context(RC):
        sheet = draw()
        png = io.BytesIO()
        sheet.figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        svg = _svg(sheet.figure)
        on_page = _svg(sheet.without_legend()) if sheet.of_arms else svg
    return Drawn(name, title, caption, alt, png.getvalue(), svg, on_page, header, rows)


def _svg(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def swatch(arm: ArmReport) -> str:
    """The line and marker of a highlighted arm, as a part of the page."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=(0.5, 0.16))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.plot([0, 0.5, 1], [0, 0, 0], **(style_of(arm).plain | {"markevery": [1]}))
        axes.set(xlim=(-0.03, 1.03), ylim=(-1, 1))
        return inline(f"swatch-{arm.name}", _svg(figure))


def legend_of(arms: Sequence[ArmReport]) -> list[tuple[Style | None, str]]:
    """The entries of highlighted arms in a legend."""
    return [(style_of(arm), f"{arm.name}  {arm.label}") for arm in arms]


def style_of(arm: ArmReport) -> Style:
    """The style of a highlighted arm, the same in every figure."""
    assert arm.style is not None
    return STYLES[arm.style]


def wrapped_axis_name(text: str) -> str:
    """The name of a low panel's y axis, in lines that are no longer than the panel is high."""
    return textwrap.fill(text, AXIS_NAME_LINE)


def axis_limits(values: Sequence[float], least: float = -math.inf) -> tuple[float, float]:
    """The limits of an axis that shows these values.

    Args:
        values: one value or more: everything that is drawn.
        least: the smallest possible value.
    """
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return max(low - margin, least - 0.25 * margin), high + margin
