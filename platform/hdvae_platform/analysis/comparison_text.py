"""Comparisons as tables of text: for a terminal, and as Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hdvae_platform.analysis.arms import Arm, labels, parts_of
from hdvae_platform.analysis.caveats import as_lines
from hdvae_platform.analysis.confirmation import Confirmation
from hdvae_platform.analysis.differences import Difference
from hdvae_platform.analysis.inference import interval
from hdvae_platform.analysis.trends import Trend
from hdvae_platform.display.text import between, markdown, number, signed, table
from hdvae_platform.study.space import set_key

SHOWN = ("elbo", "iw_elbo", "surrogate_elbo", "relaxation_bias", "kl")
"""The metrics of the printed table, under `valid/`."""
DIFFERENCES = ("valid/elbo", "valid/relaxation_bias")
"""The metrics of which differences are printed when none is asked for."""
DIFFERENCE_HEADER = ("mean", "95% over seeds", "p", "p, Holm", "how", "95% of these models", "on")
CONFIRMATION_HEADER = ("confirmed on fresh seeds", "metric", "search", "confirmed", "95% interval", "runs", "shrinkage")
LEGEND = (
    "95% over seeds: of the difference between trainings, the independent unit being the seed; p of no difference, "
    "and p adjusted by Holm for all differences of its table.",
    "95% of these models: how these very models differ on images like those measured, paired by seed and image; "
    "it says nothing of other trainings.",
)
DISTANCE_LEGEND = (
    "A bias |δ| is above 0 by noise alone: its differences over seeds are |mean of a| − |mean of b| of the signed δ, "
    "and tested as such."
)


@dataclass(frozen=True)
class Shown:
    """What is shown of a comparison.

    Attributes:
        studies: names.
        arms: in the order of the studies.
        metrics: full names of those that were asked for; empty for the usual ones.
        differences: between arms.
        confirmations: winners of searches, on fresh seeds.
        trends: one for each metric, if they were asked for.
        marks: what a reader must know, a line each.
    """

    studies: Sequence[str]
    arms: Sequence[Arm]
    metrics: Sequence[str] = ()
    differences: Sequence[Difference] = ()
    confirmations: Sequence[Confirmation] = ()
    trends: Sequence[Trend] = ()
    marks: Sequence[str] = ()


def in_full(found: Shown) -> str:
    """A comparison for a terminal."""
    notes = as_lines(found.marks)
    if found.trends:
        parts = [_trend(one, table) for one in found.trends]
    else:
        parts = [_arms(found, table), *_differences(found, table)]
        parts += ["\n".join(_legend(found))]
        parts.append(confirmation_table(found.confirmations))
    return "\n\n".join(filter(None, [notes, *parts]))


def in_markdown(found: Shown, command: str) -> str:
    """A comparison as a page of Markdown, which names the command that made it."""
    parts = [f"# {', '.join(found.studies)}", f"Made by `{command}`. Nats per image."]
    parts += ["\n".join(f"- **{mark.partition(':')[0]}**:{mark.partition(':')[2]}" for mark in found.marks)]
    if found.trends:
        parts += [_trend(one, markdown) for one in found.trends]
    else:
        parts += [_arms(found, markdown), *_differences(found, markdown), *_legend(found)]
        rows = confirmation_rows(found.confirmations)
        parts += [markdown(CONFIRMATION_HEADER, rows)] if rows else []
    return "\n\n".join(filter(None, parts)) + "\n"


Form = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
"""How a table is set: `table` or `markdown`."""


def as_table(compared: Sequence[Arm], metrics: Sequence[str] = ()) -> str:
    """Arms for a terminal: mean ± standard deviation over runs; the bias also with its error over images."""
    names = list(metrics) or [f"valid/{name}" for name in SHOWN]
    header = ["arm", "runs", *(name.removeprefix("valid/") if not metrics else name for name in names)]
    told = labels([arm.arm for arm in compared])
    rows = [
        [text, _count(arm), *(_cell(arm, name) for name in names)] for text, arm in zip(told, compared, strict=True)
    ]
    notes = [
        "Nats per image"
        + (", valid split" if not metrics else "")
        + "; mean ± standard deviation over runs (seeds, unless arms are pooled).",
        "(se …) is the standard error of relaxation_bias over images, root mean square over seeds.",
    ]
    shows_bias = any("relaxation_bias" in name for name in names)
    return "\n".join([table(header, rows), "", *notes[: 2 if shows_bias else 1]])


def confirmation_table(confirmed: Sequence[Confirmation]) -> str:
    """The winners of searches: what they had in the search, and what they have on fresh seeds."""
    rows = confirmation_rows(confirmed)
    return table(CONFIRMATION_HEADER, rows) if rows else ""


def confirmation_rows(confirmed: Sequence[Confirmation]) -> list[list[str]]:
    """The same, row by row, under `CONFIRMATION_HEADER`."""
    rows = []
    for told, one in zip(labels([one.arm for one in confirmed]), confirmed, strict=True):
        found, luck = one.confirmed, one.shrinkage
        mean, apart = ("—", "—") if found is None else (number(found.mean), between(found.low, found.high))
        runs = str(len(one.runs)) + (f" + {one.lost} lost" if one.lost else "")
        name, shrinkage = f"trial {one.trial}: {told}", "—" if luck is None else signed(luck)
        rows.append([name, one.metric, number(one.search), mean, apart, runs, shrinkage])
    return rows


def _arms(found: Shown, form: Form) -> str:
    """Every arm: the mean of each metric with its 95% interval over seeds."""
    names = found.metrics or [f"valid/{name}" for name in SHOWN]
    told = labels([arm.arm for arm in found.arms])
    rows = [
        [f"({place}) {text}", _count(arm), *(_interval_cell(arm, name) for name in names)]
        for place, (text, arm) in enumerate(zip(told, found.arms, strict=True), 1)
    ]
    return form(["arm: mean [95% over seeds]", "runs", *names], rows)


def _differences(found: Shown, form: Form) -> list[str]:
    """A table for each metric of which differences are shown, its arms by their numbers."""
    numbers = {set_key(arm.arm): str(place) for place, arm in enumerate(found.arms, 1)}
    tables = []
    for metric in found.metrics or DIFFERENCES:
        rows = [_difference_row(one, numbers) for one in found.differences if one.metric == metric]
        tables += [form([f"difference in {metric}", *DIFFERENCE_HEADER], rows)] if rows else []
    return tables


def _legend(found: Shown) -> list[str]:
    """What the columns of the tables of differences mean."""
    of_distances = any(parts_of(one.metric) for one in found.differences)
    return [*(LEGEND if found.differences else ()), *([DISTANCE_LEGEND] if of_distances else ())]


def _difference_row(one: Difference, numbers: Mapping[str, str]) -> list[str]:
    found, models = one.trainings, one.models
    how = f"paired by {found.seeds} seed{'s' if found.seeds > 1 else ''}" if found.paired else "unpaired"
    on = "—" if models is None else f"{models.images} images" + (", one noise" if models.same_noise else "")
    return [
        f"({numbers[set_key(one.a)]}) − ({numbers[set_key(one.b)]})",
        signed(found.value.mean),
        between(found.value.low, found.value.high, signed),
        _p(found.p),
        _p(one.p_holm),
        how,
        "—" if models is None else between(models.value.low, models.value.high, signed),
        on,
    ]


def _trend(one: Trend, form: Form) -> str:
    """A trend: the test in words, the levels with their fit, and the change from the first to the last."""
    rows = [
        [f"{level:g}", str(runs), number(mean), number(fitted)]
        for level, runs, mean, fitted in zip(one.levels, one.runs, one.means, one.fitted, strict=True)
    ]
    kind = "increasing" if one.grows else "decreasing"
    lines = [f"trend of {one.metric} in {one.path}: {one.words}"]
    lines.append(form([one.path, "runs", "mean", f"isotonic fit, {kind}"], rows))
    if one.change is not None:
        apart = f"from {one.levels[0]:g} to {one.levels[-1]:g}: {signed(one.change.mean)}"
        lines.append(f"{apart} nats per image, 95% over seeds {between(one.change.low, one.change.high, signed)}")
    return "\n\n".join(lines)


def _p(value: float | None) -> str:
    return "—" if value is None else f"{value:.2g}"


def _interval_cell(arm: Arm, metric: str) -> str:
    by_seed = arm.by_seed(metric)
    if not by_seed:
        return "—"
    found, held = interval(list(by_seed.values())), len(arm.values(metric))
    apart = "" if found.low is None else f" {between(found.low, found.high)}"
    return f"{number(found.mean)}{apart}" + (f" of {held}" if held < len(arm.runs) else "")


def _count(arm: Arm) -> str:
    parts = [str(len(arm.runs))]
    counted = ((arm.pruned, "pruned"), (arm.failed, "failed"), (arm.unfinished, "unfinished"))
    return " + ".join([*parts, *(f"{count} {what}" for count, what in counted if count)])


def _cell(arm: Arm, metric: str) -> str:
    values = arm.values(metric)
    if not values:
        return "—"
    text = number(statistics.fmean(values))
    text += f" ± {number(statistics.stdev(values))}" if len(values) > 1 else ""
    name = metric.partition("/")[2]
    if name.partition("@")[0] == "relaxation_bias":
        errors = arm.values(metric.replace("relaxation_bias", "relaxation_bias_se"))
        error = math.sqrt(statistics.fmean([e * e for e in errors])) if errors else math.nan
        text += f" (se {error:.2f})"
    return text + (f" of {len(values)}" if len(values) < len(arm.runs) else "")
