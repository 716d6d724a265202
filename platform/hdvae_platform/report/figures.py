"""The figures of a report. Each function draws one, or says why it does not apply."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from hdvae.experiment.schedules import LEARNED, schedule, values
from hdvae_platform.analysis import comparison
from hdvae_platform.analysis.comparison import Interval
from hdvae_platform.analysis.inference import bars
from hdvae_platform.display.plotting import BLUE, GREY, INTERVAL
from hdvae_platform.display.text import between, brief, number
from hdvae_platform.report.contents import BIAS, ELBO, SHOWN, ArmReport, Contents, Curve
from hdvae_platform.report.drawing import (
    INK,
    PAPER,
    SERIES,
    Drawn,
    NotDrawn,
    Sheet,
    around,
    legend_of,
    render,
    style_of,
    upright,
)
from hdvae_platform.study.space import PRESET, Dimension

SCHEDULES = {
    "temperature": "temperature τ",
    "freebits": "free bits λ, nats per layer",
    "learning_rate": "learning rate",
    "memory_learning_rate": "learning rate of the memories",
}
"""Settings under `training` that are functions of the step, and their axes."""
CORNERS = [(9.0, 8.0), (-9.0, 8.0), (9.0, -8.0), (-9.0, -8.0)]
"""Of a marker, where its label may stand, in typographic points; the first where all are as good."""
INSIDE = 7.0
"""Points between the middle of a label and the sides of its panel, at least."""
APART = 4.0
"""Points between lines at the same place of the x axis."""


def all_figures(contents: Contents) -> list[Drawn | NotDrawn]:
    """Every figure, in the order of the page."""
    return [
        learning_curves(contents),
        bias_by_temperature(contents),
        bias_by_size(contents),
        pareto_front(contents),
        parallel_coordinates(contents),
        importance(contents),
        schedules(contents),
    ]


def _caption(contents: Contents, *sentences: str) -> str:
    complete, shown = len(contents.complete), len(contents.shown)
    few = [f"Of {complete} arms with complete runs the {shown} best are told apart."] if shown < complete else []
    return " ".join([*sentences, *few])


def learning_curves(contents: Contents) -> Drawn | NotDrawn:
    """The study's metric and the bias over training."""
    name, title = "learning_curves", "Learning curves"
    metrics = [metric for metric in (_curve_metric(contents), BIAS) if _reported(contents.shown, metric)]
    if not metrics:
        return NotDrawn(name, title, "no run reported more than once.")
    arms = contents.shown

    def draw() -> Figure:
        sheet = Sheet([2.0] * len(metrics), legend_of(arms), share=True)
        for axes, metric in zip(sheet.panels, metrics, strict=True):
            for arm in arms:
                for curve in arm.curves.values():
                    axes.plot(*_line(curve, metric), color=style_of(arm).colour, linewidth=0.7, alpha=0.4)
                axes.plot(*_mean_line(arm, metric), **style_of(arm).plain)
            axes.set_ylabel(f"{metric}\nnats per image" if metric == BIAS else metric)
        _step_axis(sheet.panels[-1])
        return sheet.figure

    caption = _caption(contents, "Mean over the runs that got so far; thin lines: each run.")
    last = [[f"{arm.number}", *(_last(arm, metric) for metric in metrics)] for arm in arms]
    alt = f"{' and '.join(metrics)} against the training step, a line for each of {len(arms)} arms."
    return render(name, title, caption, alt, draw, ["arm", *(f"{metric}, last report" for metric in metrics)], last)


def _step_axis(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def _curve_metric(contents: Contents) -> str:
    """The study's metric if it is followed in training, else the ELBO."""
    return contents.metric if _reported(contents.shown, contents.metric) else ELBO


def _reported(arms: Sequence[ArmReport], metric: str) -> bool:
    return any(len(_line(curve, metric)[0]) > 1 for arm in arms for curve in arm.curves.values())


def _line(curve: Curve, metric: str) -> tuple[list[int], list[float]]:
    points = [(step, report[metric]) for step, report in curve.items() if math.isfinite(report.get(metric, math.nan))]
    return [step for step, _ in points], [value for _, value in points]


def _mean_line(arm: ArmReport, metric: str) -> tuple[list[int], list[float]]:
    found: dict[int, list[float]] = {}
    for curve in arm.curves.values():
        for step, value in zip(*_line(curve, metric), strict=True):
            found.setdefault(step, []).append(value)
    return sorted(found), [statistics.fmean(found[step]) for step in sorted(found)]


def _last(arm: ArmReport, metric: str) -> str:
    steps, means = _mean_line(arm, metric)
    return f"{number(means[-1])} at {steps[-1]}" if steps else "—"


def bias_by_temperature(contents: Contents) -> Drawn | NotDrawn:
    """The bias at each temperature of the evaluation."""
    name, title = "bias_by_temperature", "Relaxation bias against temperature"
    taus = _temperatures(contents.shown)
    if len(taus) < 2:
        return NotDrawn(name, title, "bias was measured at one temperature only (evaluation.tau).")
    arms = [arm for arm in contents.shown if any(any(arm.values(metric)) for metric in taus.values())]
    if not arms:
        return NotDrawn(name, title, "no arm has a bias: their variables are not relaxed.")

    def draw() -> Figure:
        sheet = Sheet([2.8], legend_of(arms))
        (axes,) = sheet.panels
        drawn = []
        for i, arm in enumerate(arms):
            at = [(tau, metric) for tau, metric in taus.items() if arm.values(metric)]
            found = [_uncertain(arm, metric) for _, metric in at]
            means = [one.mean for one in found]
            drawn += means
            placed: dict[str, Any] = {"transform": axes.transData + _aside(sheet.figure, i, len(arms))}
            axes.errorbar([tau for tau, _ in at], means, bars(found), capsize=3, **style_of(arm).plain, **placed)
        axes.set_xscale("log")
        axes.set_xticks(list(taus), [f"{tau:g}" for tau in taus])
        axes.set_xticks([], minor=True)
        axes.set_xlim(min(taus) / 1.15, max(taus) * 1.15)
        axes.set_ylim(*around(drawn, 0.0))
        axes.set_xlabel("evaluation temperature τ, log scale")
        axes.set_ylabel("relaxation bias, nats per image")
        return sheet.figure

    caption = _caption(
        contents,
        "Mean over seeds; bars: 95% intervals over seeds, of an arm with one seed ±1.96 standard errors over images; "
        "cut where they leave the picture.",
        *(
            ["Arms whose variables are not relaxed have no bias, and no line."]
            if len(arms) < len(contents.shown)
            else []
        ),
    )
    rows = [[str(arm.number), *(_with_error(arm, metric) for metric in taus.values())] for arm in arms]
    alt = f"Relaxation bias of {len(arms)} arms at {len(taus)} temperatures from {min(taus):g} to {max(taus):g}."
    return render(name, title, caption, alt, draw, ["arm", *(f"τ = {tau:g}" for tau in taus)], rows)


def _uncertain(arm: ArmReport, metric: str) -> Interval:
    """The mean of an arm that has the metric, with its interval over seeds; of one seed, over images."""
    found, error = _interval(arm, metric), arm.standard_error(metric)
    if found.low is not None or error is None:
        return found
    return Interval(found.mean, found.mean - INTERVAL * error, found.mean + INTERVAL * error)


def _aside(figure: Figure, place: int, count: int) -> ScaledTranslation:
    """Sets one of some lines a little apart, where their bars would cover each other."""
    return ScaledTranslation(APART * (place - (count - 1) / 2) / 72, 0, figure.dpi_scale_trans)


def _temperatures(arms: Sequence[ArmReport]) -> dict[float, str]:
    """The temperatures at which the bias is known, increasing, and the metric at each."""
    pattern = re.compile(re.escape(BIAS) + r"@tau=([\d.e+-]+)")
    found = {metric: pattern.fullmatch(metric) for arm in arms for metric in arm.arm.metrics()}
    return dict(sorted((float(match[1]), metric) for metric, match in found.items() if match))


def _with_error(arm: ArmReport, metric: str) -> str:
    found, error = arm.interval(metric), arm.standard_error(metric)
    if found is None:
        return "—"
    apart = f" {between(found.low, found.high)}" if found.low is not None else ""
    return f"{number(found.mean)}{apart}" + (f" (se {number(error)})" if error is not None else "")


def bias_by_size(contents: Contents) -> Drawn | NotDrawn:
    """The bias against the number of variables N, where that was varied."""
    name, title = "bias_by_variables", "Relaxation bias against the number of variables N"
    arms = [arm for arm in contents.arms if arm.values(BIAS)]
    if len({_size(arm) for arm in arms}) < 2:
        return NotDrawn(name, title, "the number of variables was not varied.")
    series: dict[str, list[ArmReport]] = {}
    for arm in sorted(arms, key=_size):
        if any(arm.values(BIAS)):
            series.setdefault(_beside_size(arm, arms), []).append(arm)
    lines = {text: found for text, found in series.items() if len(found) > 1}
    if not lines:
        return NotDrawn(name, title, "no two arms with a bias differ in N alone.")
    told = list(lines.items())[:SHOWN]
    dropped = f" The first {SHOWN} of {len(lines)} series are drawn." if len(lines) > SHOWN else ""
    caption = (
        "Mean over seeds, and each run as a dot; bars: 95% intervals over seeds. The picture is as high as the means "
        "need: bars and dots are cut where they leave it. Colours are of the lines here, not of arms." + dropped
    )
    rows = [
        [text, str(_size(arm)), str(arm.number), _with_error(arm, BIAS)]
        for text, found in lines.items()
        for arm in found
    ]
    alt = f"Relaxation bias against the number of variables, {len(told)} series."
    return render(
        name, title, caption, alt, lambda: _draw_by_size(told), ["series", "N", "arm", "relaxation bias"], rows
    )


def _draw_by_size(told: Sequence[tuple[str, Sequence[ArmReport]]]) -> Figure:
    """A line for each series of arms, its intervals, and every run as a dot; lines a little apart at the same N."""
    sheet = Sheet([2.8], [(style, text) for style, (text, _) in zip(SERIES, told, strict=False)])
    (axes,) = sheet.panels
    for i, (style, (_, found)) in enumerate(zip(SERIES, told, strict=False)):
        placed: dict[str, Any] = {"transform": axes.transData + _aside(sheet.figure, i, len(told))}
        sizes = [_size(arm) for arm in found]
        intervals = [_interval(arm, BIAS) for arm in found]
        means = [one.mean for one in intervals]
        axes.errorbar(sizes, means, bars(intervals), capsize=3, elinewidth=1, **style.plain, **placed)
        for size, arm in zip(sizes, found, strict=True):
            each = arm.values(BIAS)
            axes.plot([size] * len(each), each, ".", color=style.colour, alpha=0.5, markersize=4, **placed)
    axes.set_ylim(*around([_mean(arm, BIAS) for _, found in told for arm in found], 0.0))
    ticks = sorted({_size(arm) for _, found in told for arm in found})
    margin = 0.08 * (ticks[-1] - ticks[0])
    axes.set_xlim(ticks[0] - margin, ticks[-1] + margin)
    axes.set_xticks(ticks)
    axes.set_xlabel("variables N, all layers")
    axes.set_ylabel("relaxation bias, nats per image")
    return sheet.figure


def _size(arm: ArmReport) -> int:
    return sum(layer.variables for layer in arm.experiment.model.layers)


def _beside_size(arm: ArmReport, arms: Sequence[ArmReport]) -> str:
    """What an arm is beside its number of variables; its depth is, where that varies.

    A preset is a name for latent and layers.
    """
    rest = {
        path: value
        for path, value in arm.arm.arm.items()
        if path not in ("model.layers", PRESET) and not re.fullmatch(r"model\.layers\.\d+\.variables", path)
    }
    if PRESET in arm.arm.arm and len({one.experiment.model.latent for one in arms}) > 1:
        rest["model.latent"] = arm.experiment.model.latent
    depths = {len(one.experiment.model.layers) for one in arms}
    parts = [comparison.label(rest)] if rest else []
    depth = len(arm.experiment.model.layers)
    parts += [f"{depth} {'layer' if depth == 1 else 'layers'}"] if len(depths) > 1 else []
    return ", ".join(parts) or "all arms"


def pareto_front(contents: Contents) -> Drawn | NotDrawn:
    """ELBO against bias, and the arms that no other arm beats in both."""
    name, title = "pareto_front", "ELBO against relaxation bias"
    having = [arm for arm in contents.arms if arm.values(ELBO) and arm.values(BIAS)]
    if len(having) < 2:
        return NotDrawn(name, title, "fewer than two arms have both an ELBO and a bias.")
    at = {arm.number: (_mean(arm, BIAS), _mean(arm, ELBO)) for arm in having}
    front = pareto(at)
    shown = [arm for arm in having if arm.shown is not None]

    def draw() -> Figure:
        sheet = Sheet([3.0], legend_of(shown))
        (axes,) = sheet.panels
        axes.step(*zip(*(at[one] for one in front), strict=True), where="post", color=INK, linewidth=1, linestyle=":")
        for arm in having:
            if arm.shown is None:
                axes.plot(*at[arm.number], ".", color=GREY, alpha=0.6 if arm.number not in front else 1.0)
        for arm in shown:
            _cross(axes, arm)
            style = style_of(arm)
            axes.plot(*at[arm.number], marker=style.marker, color=style.colour, markersize=8)
        axes.set_xlim(*around([x for x, _ in at.values()], 0.0))
        axes.set_ylim(*around([y for _, y in at.values()]))
        axes.set_xlabel("relaxation bias, nats per image (lower is better)")
        axes.set_ylabel("ELBO, nats per image (higher is better)")
        sheet.figure.draw_without_rendering()  # lays out: where points are on paper is known after it
        to_points = 72 / sheet.figure.dpi
        named = [arm.number for arm in having if arm.shown is not None or arm.number in front]
        on_paper = axes.transData.transform([at[key] for key in named]) * to_points
        panel = [side * to_points for side in axes.bbox.extents]
        sides = corners(dict(zip(named, on_paper.tolist(), strict=True)), panel)
        for key, side in sides.items():
            axes.annotate(str(key), at[key], side, textcoords="offset points", ha="center", va="center")
        return sheet.figure

    best = ", ".join(map(str, front))
    exact = [str(arm.number) for arm in having if not any(arm.values(BIAS))]
    caption = _caption(
        contents,
        "Means; bars: 95% intervals over seeds, cut where they leave the picture.",
        f"Dotted: the front; no other arm is better than these in one and as good in the other, by the means: {best}."
        if len(front) > 1
        else f"By the means no other arm is better than arm {best} in either.",
        *(
            [f"A bias of 0 is one by definition, of variables that are not relaxed: {', '.join(exact)}."]
            if exact
            else []
        ),
    )
    rows = [
        [
            str(arm.number),
            *(_told(_interval(arm, metric)) for metric in (BIAS, ELBO)),
            "yes" if arm.number in front else "no",
        ]
        for arm in having
    ]
    alt = f"ELBO against relaxation bias of {len(having)} arms. Arms {best} are on the Pareto front."
    return render(name, title, caption, alt, draw, ["arm", "relaxation bias", "ELBO", "on the front"], rows)


def pareto(points: Mapping[int, tuple[float, float]]) -> list[int]:
    """The keys of the points (x, y) that no other beats, smaller x and larger y being better; by x.

    >>> pareto({1: (0.0, -10.0), 2: (1.0, -9.0), 3: (1.0, -11.0), 4: (2.0, -9.5)})
    [1, 2]
    """
    front: list[int] = []
    best = -math.inf
    for key, (_, y) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if y > best:
            front.append(key)
            best = y
    return front


def corners(points: Mapping[int, Sequence[float]], panel: Sequence[float]) -> dict[int, tuple[float, float]]:
    """On which side of each point its label stands clearest of the other points and labels, inside the panel.

    Args:
        points: (x, y) in typographic points.
        panel: its left, lower, right and upper side, in the same.

    Returns:
        The middles of the labels, seen from their points.

    >>> corners({1: (20.0, 20.0), 2: (29.0, 28.0)}, (0, 0, 90, 90))
    {1: (-9.0, -8.0), 2: (9.0, 8.0)}
    >>> corners({1: (2.0, 20.0), 2: (11.0, 28.0)}, (0, 0, 90, 90))
    {1: (9.0, -8.0), 2: (9.0, 8.0)}
    """
    found: dict[int, tuple[float, float]] = {}
    taken = {key: [(x, y)] for key, (x, y) in points.items()}
    for key, (x, y) in points.items():
        others = [place for other, places in taken.items() if other != key for place in places]
        places = {(dx, dy): (x + dx, y + dy) for dx, dy in CORNERS}
        clear = {
            side: (_inside(at, panel), min((math.dist(at, other) for other in others), default=0))
            for side, at in places.items()
        }
        found[key] = max(CORNERS, key=clear.__getitem__)
        taken[key].append((x + found[key][0], y + found[key][1]))
    return found


def _inside(at: Sequence[float], panel: Sequence[float]) -> bool:
    left, lower, right, upper = panel
    return left + INSIDE <= at[0] <= right - INSIDE and lower + INSIDE <= at[1] <= upper - INSIDE


def _interval(arm: ArmReport, metric: str) -> Interval:
    """Of an arm that has the metric."""
    found = arm.interval(metric)
    assert found is not None
    return found


def _told(found: Interval) -> str:
    """A mean with its interval."""
    return number(found.mean) + (f" {between(found.low, found.high)}" if found.low is not None else "")


def _mean(arm: ArmReport, metric: str) -> float:
    return _interval(arm, metric).mean


def _cross(axes: Axes, arm: ArmReport) -> None:
    """The intervals of an arm's bias and ELBO."""
    x, y = _interval(arm, BIAS), _interval(arm, ELBO)
    line: dict[str, Any] = {"color": style_of(arm).colour, "linewidth": 1, "alpha": 0.6}
    if x.low is not None and x.high is not None:
        axes.plot([x.low, x.high], [y.mean, y.mean], **line)
    if y.low is not None and y.high is not None:
        axes.plot([x.mean, x.mean], [y.low, y.high], **line)


def parallel_coordinates(contents: Contents) -> Drawn | NotDrawn:
    """Every arm as a line through its settings, down to its metric."""
    name, title = "parallel_coordinates", "Settings and result, arm by arm"
    having = [arm for arm in contents.arms if arm.values(contents.metric)]
    space = contents.study.space
    if len(space) < 2 or len(having) < 2:
        return NotDrawn(name, title, "fewer than two settings were varied.")
    results = {arm.number: _mean(arm, contents.metric) for arm in having}
    shown = [arm for arm in having if arm.shown is not None]
    rows = len(space) + 1

    def draw() -> Figure:
        sheet = Sheet([0.68 * rows], legend_of(shown))
        (axes,) = sheet.panels
        axes.axis("off")
        axes.set(xlim=(-0.05, 1.05), ylim=(rows - 0.55, -0.5))
        scales = [_scale(path, dimension, having) for path, dimension in space.items()]
        low, high = min(results.values()), max(results.values())
        for row, (path, (_, ticks)) in enumerate(zip(space, scales, strict=True)):
            _rail(axes, row, comparison.label({path: ""}).strip(), ticks)
        _rail(axes, rows - 1, contents.metric, [(0.0, number(low)), (1.0, number(high))])
        for arm in sorted(having, key=lambda arm: arm.shown is not None):
            xs = [place(arm.arm.arm.get(path, _MISSING)) for path, (place, _) in zip(space, scales, strict=True)]
            shift = 0.012 * ((arm.shown or 0) - len(shown) / 2) if arm.shown is not None else 0.0
            xs = [x + shift for x in xs] + [(results[arm.number] - low) / ((high - low) or 1)]
            line = {"color": GREY, "alpha": 0.3, "linewidth": 0.8} if arm.shown is None else style_of(arm).plain
            axes.plot(xs, range(rows), **line)
        return sheet.figure

    caption = _caption(
        contents,
        f"Each line is an arm, from its settings down to its mean {contents.metric}; lines are set a little apart "
        "where they would cover each other. “—”: not varied there.",
    )
    alt = f"{len(having)} arms as lines through {len(space)} settings and {contents.metric}."
    header = ["arm", *space, contents.metric]
    numbers = [
        [str(arm.number), *(_choice(arm.arm.arm.get(path, _MISSING)) for path in space), number(results[arm.number])]
        for arm in having
    ]
    return render(name, title, caption, alt, draw, header, numbers)


Place = Callable[[Any], float]


def _scale(path: str, dimension: Dimension, arms: Sequence[ArmReport]) -> tuple[Place, list[tuple[float, str]]]:
    """Where on [0, 1] a setting's values stand, and the marks of its rail."""
    if dimension.choices is None:
        return _range_scale(dimension, any(path not in arm.arm.arm for arm in arms))
    found: list[Any] = list(dimension.choices)
    found += [_MISSING] if any(path not in arm.arm.arm for arm in arms) else []
    step = 1 / max(len(found) - 1, 1)
    told = _short([_choice(value) for value in dimension.choices], max(54 // len(found), 3))
    ticks = [(i * step, text) for i, text in enumerate([*told, "—"][: len(found)])]
    return lambda value: found.index(value) * step, ticks


def _range_scale(dimension: Dimension, missing: bool) -> tuple[Place, list[tuple[float, str]]]:
    """A range takes all of [0, 1], or its left nine tenths where some arms have no value."""
    assert dimension.low is not None
    assert dimension.high is not None
    turn: Callable[[float], float] = math.log if dimension.log else float
    low, width = turn(dimension.low), (turn(dimension.high) - turn(dimension.low)) or 1.0
    share = 0.9 if missing else 1.0
    ticks = [(0.0, f"{dimension.low:g}"), (share, f"{dimension.high:g}"), *([(1.0, "—")] if missing else [])]
    return lambda value: 1.0 if value is _MISSING else share * (turn(value) - low) / width, ticks


_MISSING = object()
"""Stands for the setting of an arm in which it was not varied: None may be a choice."""


def _choice(value: Any) -> str:
    return "—" if value is _MISSING else "none" if value is None else brief(value)


def _short(texts: Sequence[str], width: int) -> list[str]:
    """Texts cut to a width so that they still differ: at their ends, at their beginnings, else they are numbered.

    >>> _short(["abcdefg", "xyz"], 4), _short(["width 8 a", "width 8 b"], 4), _short(["12345a6", "12345b6"], 2)
    (['abc…', 'xyz'], ['…8 a', '…8 b'], ['#1', '#2'])
    """
    right = [text if len(text) <= width else f"{text[: width - 1]}…" for text in texts]
    left = [text if len(text) <= width else f"…{text[1 - width :]}" for text in texts]
    return next((cut for cut in (right, left) if len(set(cut)) == len(texts)), [f"#{i + 1}" for i in range(len(texts))])


def _rail(axes: Axes, row: int, title: str, ticks: Sequence[tuple[float, str]]) -> None:
    axes.axhline(row, color=INK, linewidth=0.8, alpha=0.5)
    over: dict[str, Any] = {
        "va": "center",
        "zorder": 5,
        "bbox": {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},  # opaque: lines pass behind what is read
    }
    axes.text(-0.04, row - 0.31, title, fontweight="bold", fontsize=8, **over)
    for i, (x, text) in enumerate(ticks):
        side, at = ("left", x - 0.04) if i == 0 else ("right", x + 0.04) if x >= 1 else ("center", x)
        axes.plot([x], [row], "|", color=INK, markersize=6)
        axes.text(at, row + 0.25, text, fontsize=7, ha=side, **over)


def importance(contents: Contents) -> Drawn | NotDrawn:
    """How much each setting had to do with the metric, by Optuna."""
    name, title = "importance", f"Importance of the settings for {contents.metric}"
    found = contents.importances
    if isinstance(found, str):
        return NotDrawn(name, title, f"{found}.")
    paths = list(found)

    def draw() -> Figure:
        sheet = Sheet([0.4 + 0.36 * len(paths)])
        (axes,) = sheet.panels
        axes.barh(paths, [found[path] for path in paths], color=BLUE, height=0.6)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("share")
        return sheet.figure

    caption = (
        "Optuna's PED-ANOVA: the share of each setting in what tells the best trials from all. It is no test, and "
        "says nothing of the direction."
    )
    alt = "Importance: " + ", ".join(f"{path} {found[path]:.2f}" for path in paths) + "."
    return render(name, title, caption, alt, draw, ["setting", "share"], [[p, f"{found[p]:.3f}"] for p in paths])


def schedules(contents: Contents) -> Drawn | NotDrawn:
    """What training was told to do at each step, arm by arm."""
    name, title = "schedules", "Schedules"
    told = {key: _specs(contents.shown, key) for key in SCHEDULES}
    drawn = {key: specs for key, specs in told.items() if len(specs) > 1 or any(_moves(spec) for spec, _ in specs)}
    if not drawn:
        return NotDrawn(name, title, f"all are constant and the same in every arm: {_constants(told)}.")

    followers = [arm for arm in contents.shown if any(arm in arms for specs in drawn.values() for _, arms in specs)]

    def draw() -> Figure:
        sheet = Sheet([1.7] * len(drawn), legend_of(followers), share=True)
        for axes, (key, specs) in zip(sheet.panels, drawn.items(), strict=True):
            ends = []
            for spec, arms in specs:
                steps, course = _course(spec, arms[0])
                axes.plot(steps, course, **(style_of(arms[0]).plain | {"marker": ""}))
                ends += [(steps[-1], course[-1], arm.number) for arm in arms if steps]
            _mark_ends(axes, ends)
            axes.set_ylabel(upright(SCHEDULES[key]))
        _step_axis(sheet.panels[-1])
        return sheet.figure

    constant = _constants({key: specs for key, specs in told.items() if key not in drawn})
    caption = _caption(
        contents,
        "Numbers at the right ends: the arms that follow the line.",
        *([f"Constant in every arm: {constant}."] if constant else []),
    )
    rows = [
        [SCHEDULES[key], ", ".join(str(arm.number) for arm in arms), _choice(_plain(spec))]
        for key, specs in told.items()
        for spec, arms in specs
    ]
    alt = f"Schedules over training: {', '.join(SCHEDULES[key] for key in drawn)}."
    return render(name, title, caption, alt, draw, ["schedule", "arms", "step → value"], rows)


def _mark_ends(axes: Axes, ends: Sequence[tuple[int, float, int]]) -> None:
    """The numbers of arms at the right ends of their lines (step, value, number); where ends are close, together."""
    low, high = axes.get_ylim()
    groups: list[list[tuple[int, float, int]]] = []
    for end in sorted(ends, key=lambda end: end[1]):
        if groups and end[1] - groups[-1][0][1] < 0.1 * (high - low):
            groups[-1].append(end)
        else:
            groups.append([end])
    for group in groups:
        at = max(step for step, _, _ in group), statistics.fmean(value for _, value, _ in group)
        text = ", ".join(str(one) for one in sorted(number for _, _, number in group))
        axes.annotate(text, at, (4, 0), textcoords="offset points", va="center")


def _specs(arms: Sequence[ArmReport], key: str) -> list[tuple[Any, list[ArmReport]]]:
    """Each different schedule of this name, and the arms that follow it; a normal variable has no temperature."""
    found: list[tuple[Any, list[ArmReport]]] = []
    for arm in arms:
        if key == "temperature" and arm.experiment.model.latent == "normal":
            continue
        spec = getattr(arm.experiment.training, key)
        same = next((followers for known, followers in found if known == spec), None)
        if same is None or spec == LEARNED:
            found.append((spec, [arm]))
        else:
            same.append(arm)
    return found


def _moves(spec: Any) -> bool:
    return spec == LEARNED or len(set(values(spec))) > 1


def _constants(told: Mapping[str, Sequence[tuple[Any, object]]]) -> str:
    return ", ".join(
        f"{SCHEDULES[key]} {specs[0][0]:g}" for key, specs in told.items() if specs and not _moves(specs[0][0])
    )


def _course(spec: Any, arm: ArmReport) -> tuple[list[int], list[float]]:
    """Step → value; of what was learned, what was reported."""
    if spec == LEARNED:
        return _mean_line(arm, "train/tau")
    steps = arm.experiment.training.steps
    at = sorted({round(i * steps / 200) for i in range(201)} | {step for step in _knots(spec) if 0 <= step <= steps})
    return at, [schedule(spec)(step) for step in at]


def _knots(spec: Any) -> list[int]:
    return [int(step) for step, _ in spec] if isinstance(spec, tuple) else []


def _plain(spec: Any) -> Any:
    """As it is written in a study file."""
    if isinstance(spec, tuple):
        return [list(point) for point in spec]
    return spec.model_dump() if hasattr(spec, "model_dump") else spec
