"""The tables of a report, as cells for the template."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hdvae.evaluation.metrics import error_name
from hdvae_platform.analysis.answers import limit_in_words, mean_in_words
from hdvae_platform.analysis.caveats import checksum, code
from hdvae_platform.analysis.comparison_text import MAX_INCONCLUSIVE
from hdvae_platform.analysis.confirmation import Confirmation, confirmed_labels
from hdvae_platform.analysis.differences import MAX_ARMS_IN_PAIRS
from hdvae_platform.analysis.inference import Interval
from hdvae_platform.analysis.metric_names import BIAS, USUAL, full_name
from hdvae_platform.analysis.plus_minus import plus_minus, plus_minus_note
from hdvae_platform.display.text import number, rounded, signed
from hdvae_platform.report.arm_report import ArmReport, arms_with
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.differences import Difference
from hdvae_platform.report.drawing import Drawn
from hdvae_platform.report.formatting import limits, mean_alone, probability
from hdvae_platform.store.layout import handle
from hdvae_platform.store.places import redacted
from hdvae_platform.store.run_state import RunState
from hdvae_platform.tracking.client import TrackedRun

COMPARED_WITH_BEST = (
    "With this many arms, each is compared only with the best one by the study's metric. The best arm was chosen for "
    "its value, so part of its lead is luck; the correction takes this into account by counting all pairs."
)

SHORT_ID = 8
"""Characters of an id or checksum that are shown; the rest is its tooltip."""
COSTS = {"images/s": "train/images_per_second", "MB": "system/memory_peak_mb"}
"""Columns of the table of runs, and the costs that they show."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: its text.
        key: the number to sort by; None to sort by the text.
        link: an address, or a place on the page.
        note: small text below.
        mark: a word that sets the cell apart, such as `best`.
        full: what the text is short for.
    """

    text: str
    key: float | None = None
    link: str | None = None
    note: str = ""
    mark: str = ""
    full: str = ""


@dataclass(frozen=True)
class Table:
    """A sortable table.

    Attributes:
        label: its title, also for screen readers.
        header: names of the columns.
        rows: the cells of each row, with the row's anchor on the page or None.
        numeric: indices of the columns with numbers.
        note: text below the table.
    """

    label: str
    header: Sequence[str]
    rows: Sequence[tuple[str | None, Sequence[Cell]]]
    numeric: frozenset[int] = frozenset()
    note: str = ""


def columns_of(contents: Contents) -> list[str]:
    """The metrics with a column: those of the search, then the usual ones that some run has; without `valid/`."""
    known = {metric for arm in contents.arms for metric in arm.arm.metrics()}
    usual = [metric for name in USUAL if (metric := f"valid/{name}") in known]
    return [metric.removeprefix("valid/") for metric in dict.fromkeys([*contents.study.search.objectives, *usual])]


def arms_table(contents: Contents) -> Table:
    """The arms with a complete run, with their means."""
    label = f"Arms: {what_plus_minus_means(contents)}"
    return _arms_table(contents, contents.complete, label)


def empty_arms_table(contents: Contents) -> Table | None:
    """The arms without a complete run; None if there are none."""
    empty = [arm for arm in contents.arms if not arm.arm.runs]
    label = f"{len(empty)} {'arm' if len(empty) == 1 else 'arms'} without a complete run"
    return _arms_table(contents, empty, label) if empty else None


def _arms_table(contents: Contents, arms: Sequence[ArmReport], label: str) -> Table:
    columns = columns_of(contents)
    counts: dict[str, Callable[[ArmReport], int]] = {
        "runs": lambda arm: len(arm.arm.runs),
        "pruned": lambda arm: arm.arm.pruned,
        "failed": lambda arm: arm.arm.failed,
    }
    shown = {name: count for name, count in counts.items() if name == "runs" or any(map(count, arms))}
    header = ["arm", *columns, *shown]
    rows = []
    for arm in arms:
        mark = mark_of_best(contents) if arm.name in contents.best else ""
        cells = [Cell(f"{arm.name}. {arm.label}", arm.place, link=f"#runs-of-{arm.name}", mark=mark)]
        cells += [_mean_cell(arm, full_name(column)) for column in columns]
        cells += [Cell(str(count(arm)), count(arm)) for count in shown.values()]
        rows.append((f"arm-{arm.name}", cells))
    return Table(label, header, rows, frozenset(range(1, len(header))))


def mark_of_best(contents: Contents) -> str:
    """The word beside the best arm, or beside those of the Pareto front."""
    return ("front" if contents.answer.is_front else "best") + (" so far" if contents.answer.so_far else "")


def best_table(contents: Contents) -> Table | None:
    """The best trial or the Pareto front: the values in the search and with fresh seeds; None without any."""
    answer = contents.answer
    search = answer.study.search
    limited = {metric: f", {limit_in_words(answer.study, metric)}" for metric in search.constraints}
    header = ["trial", *(name for m in search.measured for name in (f"{m}{limited.get(m, '')}", "confirmed")), "run"]
    rows = []
    for best in answer.best:
        number = best.trial.number
        link = f"#arm-{contents.trials[number]}" if number in contents.trials else None
        cells = [Cell(f"{number}. {best.label}", number, link=link)]
        for metric in search.measured:
            cells.append(_seeds_cell(best.search(metric), len(best.trial.search[metric])))
            confirmed = best.confirmed(metric)
            fresh = len(best.trial.fresh.get(metric, ()))
            cells.append(Cell("—", -math.inf) if confirmed is None else _seeds_cell(confirmed, fresh))
        rows.append((None, [*cells, Cell(best.handle)]))
    label = "The Pareto front" if answer.is_front else "The best trial"
    return Table(label, header, rows, frozenset(range(1, len(header) - 1))) if rows and answer.study.space else None


def _seeds_cell(value: Interval, seeds: int) -> Cell:
    return Cell(mean_in_words(value), value.mean, note=f"{seeds} seed{'' if seeds == 1 else 's'}")


def what_plus_minus_means(contents: Contents) -> str:
    """What ± means in the table of arms."""
    return plus_minus_note([arm.arm for arm in contents.arms], [full_name(column) for column in columns_of(contents)])


def _mean_cell(arm: ArmReport, metric: str) -> Cell:
    value = arm.interval(metric)
    if value is None:
        return Cell("—", -math.inf)
    notes = []
    if metric == BIAS and value.low is not None and (error := arm.standard_error(metric)) is not None:
        notes.append(f"se over images {number(error)}")
    if (count := len(arm.values(metric))) < len(arm.arm.runs):
        notes.append(f"from {count} of {len(arm.arm.runs)} runs")
    return Cell(plus_minus(arm.arm, metric), value.mean, note=", ".join(notes))


def settings_table(settings: Mapping[str, str]) -> Table:
    """All settings by their paths."""
    rows = [(None, [Cell(path), Cell(value)]) for path, value in settings.items()]
    return Table("All settings", ["setting", "value"], rows)


@dataclass(frozen=True)
class Differences:
    """The differences between arms in a metric.

    Attributes:
        label: the title of both tables.
        shown: the table that is open; None if it would be empty.
        folded: the table of further differences, which are not significant; None without any.
        summary: how many these are.
        note: text below.
    """

    label: str
    shown: Table | None
    folded: Table | None
    summary: str
    note: str


def differences_in(contents: Contents, metric: str) -> Differences | None:
    """The differences between arms in a metric; None if no two arms have it."""
    every = contents.differences(metric)
    if not every:
        return None
    few = len(every) <= MAX_INCONCLUSIVE
    shown, folded = (
        [one for one in every if few or one.significant],
        [one for one in every if not (few or one.significant)],
    )
    tested = any(one.adjusted is not None for one in every)
    label = f"Differences between arms in {metric}"
    count = f"{len(folded)} of {len(every)} differences are {'inconclusive' if tested else 'not tested'}"
    note = "" if len(arms_with(contents.arms, metric)) <= MAX_ARMS_IN_PAIRS else COMPARED_WITH_BEST
    seeds = {arm.name: len(arm.arm.by_seed(metric)) for arm in contents.arms}
    tables = (_differences_table(label, shown, seeds), _differences_table(label, folded, seeds))
    return Differences(label, *tables, count, note)


def _differences_table(label: str, some: Sequence[Difference], seeds: Mapping[str, int]) -> Table | None:
    rows = [(None, _difference_cells(one, seeds)) for one in some]
    header = ["arms", "difference", "95% interval", "p, Holm", "significant"]
    return Table(label, header, rows, frozenset({1, 2, 3})) if rows else None


def _difference_cells(one: Difference, seeds: Mapping[str, int]) -> list[Cell]:
    value, order = one.interval, 1000.0 * one.first.place + one.second.place
    return [
        Cell(f"{one.first.name} − {one.second.name}", order, link=f"#arm-{one.first.name}"),
        Cell(mean_alone(value, "+"), value.mean),
        Cell(limits(value, "+"), value.mean),
        Cell(probability(one.adjusted), math.inf if one.adjusted is None else one.adjusted),
        Cell(_significance(one), note=_pairing(one, seeds)),
    ]


def _significance(one: Difference) -> str:
    return "not tested" if one.adjusted is None else "yes" if one.significant else "no"


def _pairing(one: Difference, seeds: Mapping[str, int]) -> str:
    """How seeds were paired, if not all of both arms were; `seeds`: an arm's name → the number of its seeds."""
    total = max(seeds[one.first.name], seeds[one.second.name])
    if not one.paired:
        return "unpaired, Welch's test"
    return f"{one.seeds} of {total} seeds paired" if one.seeds < total else ""


def confirmed_table(contents: Contents) -> Table | None:
    """The confirmed trials; None without any."""
    labels = confirmed_labels(contents.confirmed)
    several = len({one.title for one in contents.confirmed}) > 1
    rows = [
        (None, _confirmed_cells(contents, one, label, one.title if several else ""))
        for label, one in zip(labels, contents.confirmed, strict=True)
    ]
    title = "The best trials with fresh seeds" + ("" if several or not rows else f": {contents.confirmed[0].title}")
    header = ["trial", "confirmed", "95% interval", "in the search", "shrinkage", "runs"]
    return Table(title, header, rows, frozenset(range(1, 6))) if rows else None


def _confirmed_cells(contents: Contents, one: Confirmation, label: str, metric: str) -> list[Cell]:
    value, shrinkage, nothing = one.confirmed, one.shrinkage, Cell("—", math.nan)
    counts = ((one.lost, "without a finite value"), (one.unfinished, "not ended"))
    link = f"#runs-of-{contents.trials[one.trial]}" if one.trial in contents.trials else None
    return [
        Cell(f"{one.trial}. {label}", one.trial, link=link, note=metric),
        nothing if value is None else Cell(number(value.mean), value.mean),
        nothing if value is None else Cell(limits(value), value.mean),
        Cell(number(one.search), one.search),
        nothing if shrinkage is None else Cell(signed(shrinkage), shrinkage),
        Cell(str(len(one.values)), len(one.values), note=", ".join(f"{n} {text}" for n, text in counts if n)),
    ]


def numbers_table(figure: Drawn) -> Table:
    """The numbers behind a figure; names of arms in a column `arm` are links."""
    at = figure.header.index("arm") if "arm" in figure.header else None
    rows = [
        (None, [Cell(text, _sort_key(text), link=f"#arm-{text}" if i == at else None) for i, text in enumerate(row)])
        for row in figure.rows
    ]
    numeric = frozenset(i for i in range(len(figure.header)) if all(cells[i].key is not None for _, cells in rows))
    return Table(f"The numbers of: {figure.title}", figure.header, rows, numeric)


def _sort_key(text: str) -> float | None:
    """The number with which a text begins."""
    match = re.match(r"-?\d+(\.\d+)?(e[+-]\d+)?", text)
    return float(match[0]) if match else -math.inf if text == "—" else None


def runs_table(contents: Contents) -> Table:
    """All runs by their handles: state, metrics, and the link to MLflow."""
    columns = columns_of(contents)
    mixed = {
        name: describe
        for name, describe in (("code", code), ("data", checksum))
        if len({describe(run) for run in contents.counted_runs}) > 1
    }
    header = ["run", "arm", "state", *columns, *COSTS, *mixed, "MLflow run"]
    arms = {arm.name: arm for arm in contents.arms}
    anchored: set[str] = set()
    rows = []
    for place, run in enumerate(contents.runs):
        arm = arms[contents.trials[run["number"]]]
        anchor = None if arm.name in anchored else f"runs-of-{arm.name}"
        anchored.add(arm.name)
        rows.append((anchor, _run_cells(contents, run, place, arm, columns, mixed)))
    note = "images/s: in training, all workers together; MB: peak of the memory of the first worker's process."
    return Table("Runs", header, rows, frozenset(range(3, 3 + len(columns) + len(COSTS))), note)


def _run_cells(
    contents: Contents,
    run: Mapping[str, Any],
    place: int,
    arm: ArmReport,
    columns: Sequence[str],
    mixed: Mapping[str, Callable[[TrackedRun], str]],
) -> list[Cell]:
    run_id = run["run_id"] or ""
    tracked = contents.tracked.get(run_id)
    metrics = {} if tracked is None else tracked.metrics
    state = run["state"].lower() + (" (confirmation)" if run["kind"] == "confirmation" else "")
    state += f" at step {run['step']}" if run["state"] == RunState.PRUNED else ""
    cells = [
        Cell(handle(contents.study.name, run["number"], run["seed"]), place),
        Cell(arm.name, arm.place, link=f"#arm-{arm.name}"),
        Cell(state, note=redacted(run["error"] or "")),
        *(_value_cell(metrics, full_name(column)) for column in columns),
    ]
    cells += [_cost_cell(metrics, cost) for cost in COSTS.values()]
    cells += [Cell(describe(tracked) if tracked else "—") for describe in mixed.values()]
    return [*cells, Cell(run_id[:SHORT_ID] or "—", link=contents.pages.get(run_id), full=run_id)]


def _cost_cell(metrics: Mapping[str, float], cost: str) -> Cell:
    """A cost of one run, a whole number."""
    return Cell(f"{metrics[cost]:.0f}", metrics[cost]) if cost in metrics else Cell("—", -math.inf)


def _value_cell(metrics: Mapping[str, float], metric: str) -> Cell:
    """A metric of one run ± its standard error over images."""
    value, error = (metrics.get(name, math.nan) for name in (metric, error_name(metric)))
    if not math.isfinite(value):
        return Cell("—", -math.inf)
    return Cell(rounded(value, error if math.isfinite(error) else None), value)
