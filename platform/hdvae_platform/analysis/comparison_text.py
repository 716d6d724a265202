"""Comparisons as tables of text: for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hdvae_platform.analysis.answers import answer_in_words
from hdvae_platform.analysis.arms import Arm, labels_of, names_of
from hdvae_platform.analysis.caveats import as_lines
from hdvae_platform.analysis.comparison import USUAL_DIFFERENCES, Comparison
from hdvae_platform.analysis.confirmation import Confirmation, confirmed_labels, images_of
from hdvae_platform.analysis.differences import Difference
from hdvae_platform.analysis.labels import arm_names_note, trial_names
from hdvae_platform.analysis.metric_names import USUAL, parts_of
from hdvae_platform.analysis.plus_minus import error_over_images, plus_minus, plus_minus_note
from hdvae_platform.analysis.trends import Trend
from hdvae_platform.display.text import between, markdown, number, signed, table
from hdvae_platform.study.space import set_key

DIFFERENCE_HEADER = ("mean", "95% over seeds", "p", "p, Holm", "seeds", "95% over images", "images")
CONFIRMATION_HEADER = (
    "best trials with fresh seeds",
    "metric",
    "in the search",
    "confirmed",
    "95% interval",
    "runs",
    "shrinkage",
)
DIFFERENCE_LEGEND = (
    "95% over seeds: interval of the difference between trainings; the seed is the independent unit. p: two-sided, of "
    "no difference. p, Holm: adjusted for all differences in the table.",
    "95% over images: interval of the difference between these trained models, paired by seed and image. It says "
    "nothing about other trainings.",
)
BIAS_LEGEND = (
    "Noise alone keeps a bias |δ| above 0, so its differences over seeds are |mean of a| − |mean of b| of the signed "
    "δ; p tests the same."
)

MAX_INCONCLUSIVE = 10
"""The most differences of a metric of which those that are not significant are shown without being asked for."""
TableFormat = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
"""Makes a text of a header and rows: `table` or `markdown`."""


def as_text(comparison: Comparison, everything: bool = False) -> str:
    """A comparison for a terminal.

    Args:
        comparison: the comparison.
        everything: whether to show differences that are not significant where there are many.
    """
    caveats = as_lines(comparison.caveats)
    if comparison.trends:
        parts = [_trend(trend, table) for trend in comparison.trends]
    else:
        parts = [_arms(comparison, table), *_differences(comparison, table, everything)]
        parts += ["\n".join(_legend(comparison, everything))]
        parts.append(confirmation_table(comparison.confirmations))
        parts += _answers(comparison)
    return "\n\n".join(filter(None, [caveats, *parts]))


def as_markdown(comparison: Comparison, command: str, everything: bool = False) -> str:
    """A comparison as a page of Markdown, which names the command that made it."""
    parts = [f"# {', '.join(comparison.studies)}", f"Made by `{command}`."]
    caveats = [caveat.partition(":") for caveat in comparison.caveats]
    parts += ["\n".join(f"- **{kind}**:{text}" for kind, _, text in caveats)]
    if comparison.trends:
        parts += [_trend(trend, markdown) for trend in comparison.trends]
    else:
        parts += [
            _arms(comparison, markdown),
            *_differences(comparison, markdown, everything),
            *_legend(comparison, everything),
        ]
        rows = confirmation_rows(comparison.confirmations)
        parts += [markdown(CONFIRMATION_HEADER, rows), images_of(comparison.confirmations)] if rows else []
        parts += [f"```text\n{text}\n```" for text in _answers(comparison)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _answers(comparison: Comparison) -> list[str]:
    """What each study answers, after its name if there are several; nothing of one that answers nothing."""
    texts = {answer.study.name: answer_in_words(answer) for answer in comparison.answers}
    several = len(comparison.studies) > 1
    return [f"study {name}\n{text}" if several else text for name, text in texts.items() if text]


def arm_table(arms: Sequence[Arm], metrics: Sequence[str] = ()) -> str:
    """Arms for a terminal: means ± half of their 95% intervals; for the bias also its standard error over images."""
    columns = list(metrics) or [f"valid/{name}" for name in USUAL]
    header = ["arm", "runs", *(name.removeprefix("valid/") if not metrics else name for name in columns)]
    rows = [
        [name, _run_count(arm), *(_mean(arm, column) for column in columns)]
        for name, arm in zip(names_and_labels(arms), arms, strict=True)
    ]
    split = ", validation split" if not metrics else ""
    notes = [
        names_note(arms),
        f"Nats per image{split}; {plus_minus_note(arms, columns)}{_error_note(columns)}.",
    ]
    return "\n".join([table(header, rows), "", *filter(None, notes)])


def names_and_labels(arms: Sequence[Arm]) -> list[str]:
    """Each arm by its name and its settings in words, such as `(2) latent normal`."""
    return [f"({name}) {label}" for name, label in zip(names_of(arms), labels_of(arms), strict=True)]


def names_note(arms: Sequence[Arm]) -> str:
    """One line that says what the names of the arms mean."""
    return arm_names_note(names_of(arms), [arm.trials for arm in arms])


def confirmation_table(confirmed: Sequence[Confirmation]) -> str:
    """The best trials of searches: their values in the search, and with fresh seeds."""
    rows = confirmation_rows(confirmed)
    return f"{table(CONFIRMATION_HEADER, rows)}\n\n{images_of(confirmed)}" if rows else ""


def confirmation_rows(confirmed: Sequence[Confirmation]) -> list[list[str]]:
    """The rows of that table, under `CONFIRMATION_HEADER`."""
    names = trial_names([(one.study, one.trial) for one in confirmed])
    labels = confirmed_labels(confirmed)
    return [_confirmation_row(*row) for row in zip(names, labels, confirmed, strict=True)]


def _confirmation_row(name: str, label: str, one: Confirmation) -> list[str]:
    value, shrinkage = one.confirmed, one.shrinkage
    mean, limits = ("—", "—") if value is None else (number(value.mean), between(value.low, value.high))
    runs = str(len(one.runs)) + (f" + {one.lost} without a value" if one.lost else "")
    shown = "—" if shrinkage is None else signed(shrinkage)
    return [f"trial {name}: {label}", one.title, number(one.search), mean, limits, runs, shown]


def _arms(comparison: Comparison, form: TableFormat) -> str:
    """Every arm: the mean of each metric with half of its 95% interval over seeds."""
    metrics = comparison.metrics or [f"valid/{name}" for name in USUAL]
    rows = [
        [name, _run_count(arm), *(_mean(arm, metric) for metric in metrics)]
        for name, arm in zip(names_and_labels(comparison.arms), comparison.arms, strict=True)
    ]
    note = plus_minus_note(comparison.arms, metrics) + _error_note(metrics)
    shown = form(["arm", "runs", *metrics], rows)
    return f"{shown}\n\nNats per image; {note}. {names_note(comparison.arms)}".rstrip()


def _differences(comparison: Comparison, form: TableFormat, everything: bool) -> list[str]:
    """A table for each metric with differences; arms stand there by their names.

    Of many differences only the significant ones are shown, unless `everything` is.
    """
    names, tables = comparison.names, []
    for metric, found in _by_metric(comparison).items():
        shown = found if everything else worth_showing(found)
        rows = [_difference_row(one, names) for one in shown]
        tables += [form([f"difference in {metric}", *DIFFERENCE_HEADER], rows)] if rows else []
        if len(shown) < len(found):
            tables.append(f"{_folded(found, len(found) - len(shown), metric)} (show them with --all)")
    return tables


def _folded(found: Sequence[Difference], folded: int, metric: str) -> str:
    """How many differences are not shown, and why."""
    if all(one.over_seeds.p is None for one in found):
        return f"{folded} differences in {metric} are not tested: a test needs two seeds in each arm"
    return f"{folded} of {len(found)} differences in {metric} are inconclusive"


def worth_showing(found: Sequence[Difference]) -> Sequence[Difference]:
    """The differences of one metric; of more than `MAX_INCONCLUSIVE` only the significant ones."""
    return found if len(found) <= MAX_INCONCLUSIVE else [one for one in found if one.is_significant]


def _legend(comparison: Comparison, everything: bool) -> list[str]:
    """What the columns of the tables of differences mean."""
    shown = [one for same in _by_metric(comparison).values() for one in (same if everything else worth_showing(same))]
    has_bias = any(parts_of(one.metric) for one in shown)
    return [*(DIFFERENCE_LEGEND if shown else ()), *([BIAS_LEGEND] if has_bias else ())]


def _by_metric(comparison: Comparison) -> dict[str, list[Difference]]:
    """The differences in each metric that has some."""
    metrics = comparison.metrics or USUAL_DIFFERENCES
    found = {metric: [one for one in comparison.differences if one.metric == metric] for metric in metrics}
    return {metric: same for metric, same in found.items() if same}


def _difference_row(one: Difference, names: Mapping[str, str]) -> list[str]:
    trainings, models = one.over_seeds, one.models
    seeds = f"{trainings.seeds} {'pair' if trainings.seeds == 1 else 'pairs'}" if trainings.paired else "unpaired"
    images = "—" if models is None else f"{models.images}" + (", same noise" if models.same_noise else "")
    return [
        f"({names[set_key(one.a.settings)]}) − ({names[set_key(one.b.settings)]})",
        signed(trainings.value.mean),
        between(trainings.value.low, trainings.value.high, signed),
        _probability(trainings.p),
        _probability(one.p_holm),
        seeds,
        "—" if models is None else between(models.value.low, models.value.high, signed),
        images,
    ]


def _trend(trend: Trend, form: TableFormat) -> str:
    """A trend: the result of the test, the levels with their fit, and the change from the first to the last level."""
    rows = [
        [f"{level:g}", str(runs), number(mean), number(fitted)]
        for level, runs, mean, fitted in zip(trend.levels, trend.runs, trend.means, trend.fitted, strict=True)
    ]
    kind = "increasing" if trend.grows else "decreasing"
    lines = [f"trend of {trend.metric} in {trend.path}: {trend.words}"]
    lines.append(form([trend.path, "runs", "mean", f"isotonic fit, {kind}"], rows))
    if trend.change is not None:
        change = f"change from {trend.levels[0]:g} to {trend.levels[-1]:g}: {signed(trend.change.mean)} nats per image"
        lines.append(f"{change}, 95% over seeds {between(trend.change.low, trend.change.high, signed)}")
    return "\n\n".join(lines)


def _probability(value: float | None) -> str:
    return "—" if value is None else f"{value:.2g}"


def _run_count(arm: Arm) -> str:
    counts = ((arm.pruned, "pruned"), (arm.failed, "failed"), (arm.unfinished, "unfinished"))
    return " + ".join([str(len(arm.runs)), *(f"{count} {state}" for count, state in counts if count)])


def _error_note(metrics: Sequence[str]) -> str:
    has_bias = any("relaxation_bias" in name for name in metrics)
    return "; (se …): standard error of relaxation_bias over images, root mean square over seeds" if has_bias else ""


def _mean(arm: Arm, metric: str) -> str:
    text, values = plus_minus(arm, metric), arm.values(metric)
    if metric.partition("@")[0].endswith("/relaxation_bias") and len(set(arm.seeds)) > 1:
        error = error_over_images(arm, metric)
        text += "" if error is None else f" (se {number(error)})"
    return text + (f" of {len(values)}" if 0 < len(values) < len(arm.runs) else "")
