"""The report as one HTML page that asks nothing of any network.

Everything that a user wrote is escaped by the template; and if it were not, the page's own policy lets no script run
but the one whose hash it states, and no address be asked.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from hdvae.evaluation.metrics import DESCRIPTIONS
from hdvae_platform.analysis import comparison
from hdvae_platform.analysis.arms import labels
from hdvae_platform.analysis.caveats import checksum, code
from hdvae_platform.analysis.confirmation import Confirmation
from hdvae_platform.analysis.differences import ARMS
from hdvae_platform.analysis.verdicts import ALPHA as EXPECTED_ALPHA
from hdvae_platform.analysis.verdicts import overall
from hdvae_platform.display.text import between, duration, number, signed
from hdvae_platform.report.caveats import marks
from hdvae_platform.report.contents import ALPHA, BIAS, SHOWN, ArmReport, Contents, Difference, having
from hdvae_platform.report.drawing import Drawn, NotDrawn
from hdvae_platform.report.formatting import mean_and_half, probability
from hdvae_platform.report.settings import all_settings, in_short, temperatures
from hdvae_platform.store.places import redacted
from hdvae_platform.store.run_state import RunState
from hdvae_platform.tracking.client import TrackedRun
from hdvae_platform.tracking.names import Tag

TOLD = 6
"""Differences that are told in words; the table has all."""
MANY = (
    "The arms are many, so each is compared with the one of them that is best by the study's metric. That one was "
    "chosen for its value: part of its lead is luck, which the correction pays for by counting all pairs."
)


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: as it is read.
        key: by which a column of numbers is sorted; None in a column of words.
        link: an address, or a place on the page.
        note: smaller, below.
    """

    text: str
    key: float | None = None
    link: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted.

    Attributes:
        label: what it holds, for those who do not see it.
        header: names of the columns.
        rows: of cells, each with the name under which links find it, or None.
        numeric: columns of numbers.
        note: what is special about it.
    """

    label: str
    header: Sequence[str]
    rows: Sequence[tuple[str | None, Sequence[Cell]]]
    numeric: frozenset[int] = frozenset()
    note: str = ""


def html(contents: Contents, figures: Sequence[Drawn | NotDrawn]) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hdvae_platform.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = _source("page.js"), _source("page.css")
    settings = all_settings(contents.study, [arm.experiment for arm in contents.arms])
    return environment.get_template("page.html").render(
        study=contents.study,
        state=_state(contents),
        marks=[mark.partition(": ") for mark in marks(contents, _shown(contents))],
        claim=contents.study.claim,
        verdict=_verdict_of_claim(contents),
        all_valid=contents.metric.startswith("valid/"),
        readings=[_reading(contents, metric) for metric in contents.metrics],
        settings=in_short(contents.study, settings, contents.images),
        all_settings=_settings_table(settings),
        taus=temperatures(settings["evaluation.tau"]),
        biased=BIAS in map(_full, _columns(contents)),
        arms=_arms_table(contents),
        differences=[_differences_table(contents, metric) for metric in contents.metrics],
        confirmed=_confirmed_table(contents),
        drawn=[one for one in figures if isinstance(one, Drawn)],
        numbers={one.name: _numbers_table(one) for one in figures if isinstance(one, Drawn) and one.rows},
        not_drawn=[one for one in figures if isinstance(one, NotDrawn)],
        inline={one.name: Markup(one.inline) for one in figures if isinstance(one, Drawn)},  # noqa: S704 - our own drawing
        samples=_samples(contents),
        runs=_runs_table(contents),
        parent=contents.pages.get(contents.parent or ""),
        on_a_server=contents.places.tracking.startswith("http"),
        provenance=_provenance(contents),
        meanings={name: DESCRIPTIONS[name] for name in _columns(contents) if name in DESCRIPTIONS},
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(style),  # noqa: S704 - our own file
    )


def _source(name: str) -> str:
    return resources.files("hdvae_platform.report").joinpath("templates", name).read_text(encoding="utf-8")


def _state(contents: Contents) -> str:
    """Counts as `hdvae study status` has them."""
    status = contents.status
    counts = {
        "complete": status.complete,
        "pruned": status.pruned,
        "failed": status.failed,
        "running": status.count(RunState.RUNNING),
        "yet to be run": contents.to_do - status.count(RunState.RUNNING),
    }
    parts = [f"{count} {word}" for word, count in counts.items() if count]
    arms = contents.arms_in_all + contents.not_begun
    return f"{arms} {'arm' if arms == 1 else 'arms'}, {status.total} runs: {', '.join(parts)}"


def _reading(contents: Contents, metric: str) -> dict[str, Any]:
    """What the differences in a metric say, in words: which stand, and nothing of the claim."""
    found = contents.differences(metric)
    tested = [one for one in found if one.adjusted is not None]
    beyond = sorted((one for one in tested if one.beyond_chance), key=lambda one: -abs(one.interval.mean))
    return {
        "metric": metric,
        "meaning": DESCRIPTIONS.get(_bare(metric), ""),
        "found": len(found),
        "tested": len(tested),
        "beyond": len(beyond),
        "told": [_told(contents, one) for one in beyond[:TOLD]],
        "more": max(len(beyond) - TOLD, 0),
        "alpha": f"{ALPHA:g}",
    }


def _told(contents: Contents, one: Difference) -> dict[str, str]:
    """A difference in words; many arms are called by their numbers alone, which the table explains."""
    higher, lower, mean, low, high = one.upward
    few = len(contents.arms) <= SHOWN
    names = {arm.number: f"{arm.number} ({arm.label})" if few else str(arm.number) for arm in contents.arms}
    return {"higher": names[higher], "lower": names[lower], "by": f"{number(mean)} {between(low, high)}"}


def _verdict_of_claim(contents: Contents) -> dict[str, Any] | None:
    """What the data say of the claim; None where the study file states nothing that could be tested."""
    if not contents.verdicts:
        return None
    changed = contents.restated
    return {
        "answer": overall(contents.verdicts),
        "expected": contents.verdicts,
        "restated": None if changed is None else datetime.fromtimestamp(changed, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "alpha": f"{EXPECTED_ALPHA:g}",
    }


def _bare(metric: str) -> str:
    return metric.partition("/")[2].partition("@")[0]


def _columns(contents: Contents) -> list[str]:
    """The metrics of the table of arms: those of the search, then the usual ones of `valid/` that some run has."""
    having = {metric for arm in contents.arms for metric in arm.arm.metrics()}
    usual = [metric for name in comparison.SHOWN if (metric := f"valid/{name}") in having]
    full = dict.fromkeys([*contents.study.search.objectives, *usual])
    return [metric.removeprefix("valid/") for metric in full]


def _shown(contents: Contents) -> list[str]:
    """The full names of the metrics of which the page has numbers."""
    return list(dict.fromkeys([*map(_full, _columns(contents)), *contents.metrics]))


def _full(column: str) -> str:
    return column if re.match("(train|valid|test)/", column) else f"valid/{column}"


def _arms_table(contents: Contents) -> Table:
    columns = _columns(contents)
    header = ["arm", *columns, "runs", "pruned", "failed"]
    rows = []
    for arm in contents.arms:
        cells = [Cell(f"{arm.number}. {arm.label}", arm.number, link=f"#runs-of-{arm.number}")]
        cells += [_mean_cell(arm, _full(column)) for column in columns]
        cells += [Cell(str(n), n) for n in (len(arm.arm.runs), arm.arm.pruned, arm.arm.failed)]
        rows.append((f"arm-{arm.number}", cells))
    return Table("Arms: means over seeds with 95% intervals over seeds", header, rows, frozenset(range(1, len(header))))


def _settings_table(settings: Mapping[str, str]) -> Table:
    rows = [(None, [Cell(path), Cell(value)]) for path, value in settings.items()]
    return Table("All settings", ["setting", "value"], rows)


def _mean_cell(arm: ArmReport, metric: str) -> Cell:
    found = arm.interval(metric)
    if found is None:
        return Cell("—", -math.inf)
    notes = []
    if metric == BIAS and (error := arm.standard_error(metric)) is not None:
        notes.append(f"se over images {number(error)}")
    if (having := len(arm.values(metric))) < len(arm.arm.runs):
        notes.append(f"{having} of {len(arm.arm.runs)} runs have it")
    return Cell(mean_and_half(found), found.mean, note=", ".join(notes))


def _differences_table(contents: Contents, metric: str) -> Table | None:
    found = contents.differences(metric)
    held = {arm.number: len(arm.arm.by_seed(metric)) for arm in contents.arms}
    rows = [
        (
            None,
            [
                Cell(f"{one.first} − {one.second}", 1000.0 * one.first + one.second, link=f"#arm-{one.first}"),
                Cell(signed(one.interval.mean), one.interval.mean),
                Cell(between(one.interval.low, one.interval.high), one.interval.mean),
                Cell(probability(one.adjusted), math.inf if one.adjusted is None else one.adjusted),
                Cell(_verdict(one), note=_how(one, held)),
            ],
        )
        for one in found
    ]
    header = ["arms", "difference", "95% interval", "p, Holm", "beyond chance"]
    label = f"Differences between arms in {metric}"
    note = "" if len(having(contents.arms, metric)) <= ARMS else MANY
    return Table(label, header, rows, frozenset({1, 2, 3}), note) if rows else None


def _verdict(one: Difference) -> str:
    return "not tested" if one.adjusted is None else "yes" if one.beyond_chance else "not shown"


def _how(one: Difference, held: Mapping[int, int]) -> str:
    """What was not done as usual, which is to pair all seeds of both arms; `held`: an arm's number → its seeds."""
    seeds = max(held[one.first], held[one.second])
    if not one.paired:
        return "by Welch's test"
    return f"paired by {one.seeds} of {seeds} seeds" if one.seeds < seeds else ""


def _confirmed_table(contents: Contents) -> Table | None:
    told = labels([one.arm for one in contents.confirmed])
    rows = [(None, _confirmed_cells(contents, one, label)) for label, one in zip(told, contents.confirmed, strict=True)]
    header = ["winner", "in the search", "confirmed", "95% interval", "runs", "shrinkage"]
    label = f"Winners of the search on fresh seeds: {contents.metric}"
    return Table(label, header, rows, frozenset(range(1, 6))) if rows else None


def _confirmed_cells(contents: Contents, one: Confirmation, told: str) -> list[Cell]:
    found, luck, nothing = one.confirmed, one.shrinkage, Cell("—", math.nan)
    left = [f"{count} {what}" for count, what in ((one.lost, "lost"), (one.unfinished, "not ended")) if count]
    return [
        Cell(f"trial {one.trial}: {told}", one.trial, link=_arm_link(contents, one.trial)),
        Cell(number(one.search), one.search),
        nothing if found is None else Cell(number(found.mean), found.mean),
        nothing if found is None else Cell(between(found.low, found.high), found.mean),
        Cell(str(len(one.values)), len(one.values), note=", ".join(left)),
        nothing if luck is None else Cell(signed(luck), luck),
    ]


def _arm_link(contents: Contents, trial: int) -> str | None:
    return f"#runs-of-{contents.trials[trial]}" if trial in contents.trials else None


def _numbers_table(figure: Drawn) -> Table:
    """The numbers behind a figure; the first column that holds an arm's number leads to it."""
    at = figure.header.index("arm") if "arm" in figure.header else None
    rows = [
        (None, [Cell(text, _key(text), link=f"#arm-{text}" if i == at else None) for i, text in enumerate(row)])
        for row in figure.rows
    ]
    numeric = frozenset(i for i in range(len(figure.header)) if all(cells[i].key is not None for _, cells in rows))
    return Table(f"The numbers of: {figure.title}", figure.header, rows, numeric)


def _key(text: str) -> float | None:
    """The number with which a text begins."""
    found = re.match(r"-?\d+(\.\d+)?(e[+-]\d+)?", text)
    return float(found[0]) if found else -math.inf if text == "—" else None


def _samples(contents: Contents) -> list[dict[str, Any]]:
    return [
        {
            "number": arm.number,
            "label": arm.label,
            "seed": arm.samples[0],
            "data": base64.b64encode(arm.samples[1]).decode(),
        }
        for arm in contents.shown
        if arm.samples is not None
    ]


def _runs_table(contents: Contents) -> Table:
    """Every run: its state, its numbers and where MLflow shows it."""
    columns = _columns(contents)
    mixed = {
        name: of
        for name, of in (("code", code), ("data", checksum))
        if len({of(run) for run in contents.counted_runs}) > 1
    }
    header = ["trial", "seed", "arm", "state", *columns, *mixed, "MLflow run"]
    begun: set[int] = set()
    rows = []
    for run in contents.runs:
        arm = contents.trials[run["number"]]
        name = None if arm in begun else f"runs-of-{arm}"
        begun.add(arm)
        rows.append((name, _run_cells(contents, run, arm, columns, mixed)))
    return Table("Runs", header, rows, frozenset({0, 1, 2, *range(4, 4 + len(columns))}))


def _run_cells(
    contents: Contents,
    run: Mapping[str, Any],
    arm: int,
    columns: Sequence[str],
    mixed: Mapping[str, Callable[[TrackedRun], str]],
) -> list[Cell]:
    run_id = run["run_id"] or ""
    tracked = contents.tracked.get(run_id)
    values = [math.nan if tracked is None else tracked.metrics.get(_full(column), math.nan) for column in columns]
    state = run["state"].lower() + (" (confirmation)" if run["kind"] == "confirmation" else "")
    cells = [
        Cell(str(run["number"]), run["number"]),
        Cell(str(run["seed"]), run["seed"]),
        Cell(str(arm), arm, link=f"#arm-{arm}"),
        Cell(state, note=redacted(run["error"] or "")),
        *(Cell(number(value), value) if math.isfinite(value) else Cell("—", -math.inf) for value in values),
    ]
    cells += [Cell(of(tracked) if tracked else "—") for of in mixed.values()]
    return [*cells, Cell(run_id or "—", link=contents.pages.get(run_id))]


def _provenance(contents: Contents) -> Mapping[str, str]:
    """Where the runs come from: code, data, machine, time."""
    runs = contents.counted_runs
    data = contents.study.experiment.data
    tags = {
        "Python": Tag.PYTHON,
        "torch": Tag.TORCH,
        "system": Tag.SYSTEM,
        "CPU": Tag.CPU,
        "GPU": Tag.GPU,
        "data checksum": Tag.DATA_CHECKSUM,
    }
    spent = [run.seconds for run in runs if run.seconds is not None]
    found = {
        "code": _list(code(run) for run in runs),
        "commit": _list(run.tags.get(Tag.COMMIT, "not from a git checkout") for run in runs),
        "data": redacted(data.name or data.path or ""),
        **{name: _list(run.tags.get(tag, "unknown") for run in runs) for name, tag in tags.items()},
        "fingerprints of settings": _list(run.tags.get(Tag.FINGERPRINT, "unknown") for run in runs),
        "time of the complete runs": f"{duration(sum(spent))} in all, {sum(spent) / 3600:.2f} hours "
        "(from each run's start to its end, interruptions counted)",
        "tracking": redacted(contents.places.tracking),
        "storage": redacted(contents.places.storage),
    }
    return {name: value for name, value in found.items() if value}


def _list(values: Iterable[str]) -> str:
    """Different values, the most frequent first; with their counts if there are several."""
    counts = Counter(values).most_common()
    if len(counts) == 1:
        return counts[0][0]
    told = [f"{value} ({count} runs)" for value, count in itertools.islice(counts, 8)]
    return "; ".join(told) + (f"; {len(counts) - 8} more" if len(counts) > 8 else "")
