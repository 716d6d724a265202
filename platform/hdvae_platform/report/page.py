"""The report as one HTML page that loads nothing from a network.

The template escapes everything that a user wrote. Besides, the page's content security policy allows only the script
whose hash it states, and no request to any address.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup, escape

from hdvae.evaluation.metrics import DESCRIPTIONS
from hdvae_platform.analysis.caveats import code
from hdvae_platform.analysis.confirmation import images_of
from hdvae_platform.analysis.inference import LEVEL, Interval
from hdvae_platform.analysis.metric_names import BIAS, full_name
from hdvae_platform.analysis.verdicts import overall
from hdvae_platform.display.text import duration
from hdvae_platform.report.arm_report import MAX_HIGHLIGHTED, ArmReport
from hdvae_platform.report.caveats import report_caveats
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.differences import ALPHA, Difference
from hdvae_platform.report.drawing import Drawn, NotDrawn, swatch
from hdvae_platform.report.formatting import mean_and_limits
from hdvae_platform.report.settings import all_settings, first_temperature, in_short
from hdvae_platform.report.tables import (
    SHORT_ID,
    arms_table,
    best_table,
    columns_of,
    confirmed_table,
    differences_in,
    empty_arms_table,
    mark_of_best,
    numbers_table,
    runs_table,
    settings_table,
    what_plus_minus_means,
)
from hdvae_platform.store.places import redacted
from hdvae_platform.store.run_state import RunState
from hdvae_platform.tracking.names import Tag

MAX_IN_WORDS = 6
"""The most significant differences that are written as sentences; the table has all."""
MAX_VALUES = 8
"""The most different values of a tag that the provenance lists."""


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
    drawn = [one for one in figures if isinstance(one, Drawn)]
    columns = columns_of(contents)
    return environment.get_template("page.html").render(
        study=contents.study,
        state=_state(contents),
        caveats=[caveat.partition(": ") for caveat in report_caveats(contents, _shown_metrics(contents))],
        claim=contents.study.claim,
        verdict=_verdict_on_claim(contents),
        all_valid=contents.metric.startswith("valid/"),
        findings=[_findings(contents, metric) for metric in contents.metrics],
        settings=in_short(contents.study, settings, contents.images),
        all_settings=settings_table(settings),
        names_note=contents.names_note,
        plus_minus=what_plus_minus_means(contents),
        tau=first_temperature(settings["evaluation.tau"]),
        has_bias=BIAS in map(full_name, columns),
        arms=arms_table(contents),
        empty_arms=empty_arms_table(contents),
        differences=[differences_in(contents, metric) for metric in contents.metrics],
        best=best_table(contents),
        no_best=contents.answer.none if contents.study.search.constraints else "",
        legend=[
            # our own drawing
            {"arm": arm, "swatch": Markup(swatch(arm)), "mark": arm.name in contents.best}  # noqa: S704
            for arm in contents.highlighted
        ],
        mark=mark_of_best(contents),
        confirmed=confirmed_table(contents),
        confirmed_on=_with_code(images_of(contents.confirmed)),
        drawn=drawn,
        numbers={one.name: numbers_table(one) for one in drawn if one.rows},
        not_drawn=[one for one in figures if isinstance(one, NotDrawn)],
        inline={one.name: Markup(one.inline) for one in drawn},  # noqa: S704 - our own drawing
        samples=_samples(contents),
        runs=runs_table(contents),
        parent=contents.pages.get(contents.parent or ""),
        on_a_server=contents.places.tracking.startswith("http"),
        provenance=_provenance(contents),
        meanings={name: DESCRIPTIONS[name] for name in columns if name in DESCRIPTIONS},
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(style),  # noqa: S704 - our own file
    )


def _with_code(text: str) -> Markup:
    """A text whose parts between backticks are code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def _source(name: str) -> str:
    return resources.files("hdvae_platform.report").joinpath("templates", name).read_text(encoding="utf-8")


def _state(contents: Contents) -> str:
    """How many runs are in each state, as in `hdvae study status`."""
    status = contents.status
    counts = {
        "complete": status.complete,
        "pruned": status.pruned,
        "failed": status.failed,
        "running": status.count(RunState.RUNNING),
        "waiting": contents.to_do - status.count(RunState.RUNNING),
    }
    parts = [f"{count} {word}" for word, count in counts.items() if count]
    arms = contents.total_arms + contents.not_begun
    return f"{arms} {'arm' if arms == 1 else 'arms'}, {status.total} runs: {', '.join(parts)}"


def _findings(contents: Contents, metric: str) -> dict[str, Any]:
    """The significant differences in a metric in words; they say nothing about the claim."""
    differences = contents.differences(metric)
    tested = [one for one in differences if one.adjusted is not None]
    significant = sorted((one for one in tested if one.significant), key=lambda one: -abs(one.interval.mean))
    return {
        "metric": metric,
        "differences": len(differences),
        "tested": len(tested),
        "significant": len(significant),
        "sentences": [_in_words(contents, one) for one in significant[:MAX_IN_WORDS]],
        "more": max(len(significant) - MAX_IN_WORDS, 0),
        "alpha": f"{ALPHA:g}",
    }


def _in_words(contents: Contents, one: Difference) -> dict[str, str]:
    """A difference in words; if there are many arms, only their names are used, without labels."""
    higher, lower, mean, low, high = one.upward
    few = len(contents.arms) <= MAX_HIGHLIGHTED

    def name(arm: ArmReport) -> str:
        return f"{arm.name} ({arm.label})" if few else arm.name

    return {"higher": name(higher), "lower": name(lower), "by": mean_and_limits(Interval(mean, low, high))}


def _verdict_on_claim(contents: Contents) -> dict[str, Any] | None:
    """The verdict of the data on the claim; None if the study file states no expectation."""
    if not contents.verdicts:
        return None
    changed = contents.restated
    return {
        "answer": overall(contents.verdicts),
        "expected": contents.verdicts,
        "restated": None if changed is None else datetime.fromtimestamp(changed, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "alpha": f"{LEVEL:g}",
    }


def _shown_metrics(contents: Contents) -> list[str]:
    """The full names of the metrics on the page."""
    return list(dict.fromkeys([*map(full_name, columns_of(contents)), *contents.metrics]))


def _samples(contents: Contents) -> list[dict[str, Any]]:
    return [
        {
            "arm": arm.name,
            "label": arm.label,
            "run": arm.samples.handle,
            "data": base64.b64encode(arm.samples.png).decode(),
        }
        for arm in contents.highlighted
        if arm.samples is not None
    ]


def _provenance(contents: Contents) -> Mapping[str, tuple[str, str]]:
    """Code, data, machines and time of the runs: for each, what is shown, and what it is short for if it is short."""
    runs = contents.counted_runs
    data = contents.study.experiment.data
    tags = {"Python": Tag.PYTHON, "torch": Tag.TORCH, "system": Tag.SYSTEM, "CPU": Tag.CPU, "GPU": Tag.GPU}
    checksums = {"data checksum": Tag.DATA_CHECKSUM, "checksums of settings": Tag.FINGERPRINT}
    seconds = sum(run.seconds for run in runs if run.seconds is not None)
    lines = {
        "code": _different(code(run) for run in runs),
        "commit": _different(run.tags.get(Tag.COMMIT, "not from a git checkout") for run in runs),
        "data": redacted(data.name or data.path or ""),
        **{name: _different(run.tags.get(tag, "unknown") for run in runs) for name, tag in tags.items()},
        "time of complete runs": f"{duration(seconds)} in total, {seconds / 3600:.2f} hours "
        "(from the start to the end of each run, interruptions included)",
        "MLflow": redacted(contents.places.tracking),
        "storage": redacted(contents.places.storage),
    }
    full = {name: [run.tags.get(tag, "unknown") for run in runs] for name, tag in checksums.items()}
    short = {name: _different(value[:SHORT_ID] for value in values) for name, values in full.items()}
    return {name: (value, "") for name, value in lines.items() if value} | {
        name: (short[name], _different(values)) for name, values in full.items() if values
    }


def _different(values: Iterable[str]) -> str:
    """The different values, the most frequent first, with their counts if there are several."""
    counts = Counter(values).most_common()
    if len(counts) == 1:
        return counts[0][0]
    listed = [f"{value} ({count} runs)" for value, count in itertools.islice(counts, MAX_VALUES)]
    return "; ".join(listed) + (f"; {len(counts) - MAX_VALUES} more" if len(counts) > MAX_VALUES else "")
