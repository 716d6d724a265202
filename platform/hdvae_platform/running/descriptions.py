"""The texts on MLflow's page of a study: names and descriptions of its runs; and which run is the best."""

from __future__ import annotations

import html
import statistics
import textwrap
from collections.abc import Sequence

from hdvae_platform.analysis.arms import labels
from hdvae_platform.analysis.comparison import SHOWN, Arm, arms, interval, label
from hdvae_platform.analysis.comparison_text import CONFIRMATION_HEADER, confirmation_rows
from hdvae_platform.analysis.confirmation import Confirmation, confirmations
from hdvae_platform.analysis.verdicts import verdicts
from hdvae_platform.display.text import between, markdown, number
from hdvae_platform.search.search import Assignment
from hdvae_platform.store.layout import handle
from hdvae_platform.store.records import Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.study import Study
from hdvae_platform.tracking.client import Client

MAX_DESCRIPTION = 5000
"""Characters of a description: the smallest limit of any version of MLflow."""
MAX_SETTINGS = 200
"""Characters of the settings in a run's name."""
MAX_ARMS = 20
"""Arms in the description of a study."""


def plain_text(text: str) -> str:
    """A text of the user's for MLflow's page, which would interpret HTML in it and load its pictures.

    >>> plain_text("x < y & <img src=z>")
    'x &lt; y &amp; &lt;img src=z&gt;'
    """
    return html.escape(text, quote=False)


def run_title(study: str, assignment: Assignment) -> str:
    """The handle of a run, and whether it is a confirmation.

    >>> run_title("first", Assignment(3, 7, {}, attempt=1, kind="confirmation"))
    'first/3/7 (confirmation)'
    """
    again = " (confirmation)" if assignment.kind == "confirmation" else ""
    return f"{handle(study, assignment.trial, assignment.seed)}{again}"


def run_name(study: str, assignment: Assignment) -> str:
    """The name of a run in MLflow: its handle and its settings.

    >>> run_name("first", Assignment(3, 0, {"model.latent": "normal"}, attempt=1))
    'first/3/0: latent normal'
    """
    settings = textwrap.shorten(label(assignment.params), MAX_SETTINGS, placeholder=" …")
    return f"{run_title(study, assignment)}: {settings}"


def run_description(study: Study, assignment: Assignment) -> str:
    """The description of a run: the study and its claim, and a line for each varied setting."""
    again = assignment.kind == "confirmation"
    what = "Confirmation, with a fresh seed, of one of the best trials" if again else "Run"
    lines = [f"- {plain_text(label({path: value}))}" for path, value in assignment.params.items()]
    head = f"{what} of study {study.name}, trial {assignment.trial}, seed {assignment.seed}: {plain_text(study.claim)}"
    return "\n".join([head, "", *lines])[:MAX_DESCRIPTION]


def study_description(client: Client, study: Study) -> str:
    """The description of a study: its claim, verdicts on what was expected, confirmed trials if any, and its arms.

    The best arms come first; all have 95% intervals over seeds.
    """
    sign = 1 if study.search.direction == "maximize" else -1
    found = [arm for arm in arms(client, [study.name]) if arm.values(study.search.metric)]
    answers = verdicts(study.expect, found)
    said = [f"- expected: {plain_text(one.expected)}: **{one.answer}** ({plain_text(one.numbers)})" for one in answers]
    claim = "\n\n".join([plain_text(study.claim), *(["\n".join(said)] if said else [])])
    found.sort(key=lambda arm: -sign * statistics.fmean(arm.values(study.search.metric)))
    metrics = list(dict.fromkeys([*study.search.objectives, *(f"valid/{name}" for name in SHOWN)]))
    confirmed = confirmations(client, [study.name])
    for shown in range(min(MAX_ARMS, len(found)), 0, -1):
        text = "\n\n".join([claim, *_tables(study, found, confirmed, shown, metrics)])
        if len(text) <= MAX_DESCRIPTION:
            return text
    return claim[:MAX_DESCRIPTION]


def _tables(
    study: Study, found: Sequence[Arm], confirmed: Sequence[Confirmation], shown: int, metrics: Sequence[str]
) -> list[str]:
    rows = [
        [plain_text(told), str(len(arm.runs)), *(_cell(arm, metric) for metric in metrics)]
        for told, arm in zip(labels([arm.arm for arm in found[:shown]]), found[:shown], strict=True)
    ]
    rest = f"; the best {shown} of {len(found)} arms" if shown < len(found) else ""
    note = f"Nats per image, mean [95% interval] over seeds{rest}. Everything: `hdvae compare {study.name}`."
    return [*_confirmed(confirmed[:shown]), markdown(["arm", "runs", *metrics], rows), note]


def _confirmed(confirmed: Sequence[Confirmation]) -> list[str]:
    """The table of confirmed trials. It stands first, because the values of the search were chosen for being high."""
    rows = [[plain_text(name), *numbers] for name, *numbers in confirmation_rows(confirmed)]
    return [markdown(CONFIRMATION_HEADER, rows), "In the search:"] if rows else []


def _cell(arm: Arm, metric: str) -> str:
    by_seed = arm.by_seed(metric)
    if not by_seed:
        return "—"
    found = interval(list(by_seed.values()))
    apart = "" if found.low is None else f" {between(found.low, found.high)}"
    return f"{number(found.mean)}{apart}"


def best_run(runs: Sequence[Run], direction: str) -> Run | None:
    """The best run of the best trial, by the means over seeds; of confirmations, if there are any.

    Trials of which a run did not complete are left out. None if no trial is left.
    """
    sign = 1 if direction == "maximize" else -1

    def worth(run: Run) -> float:
        assert run.value is not None
        return sign * run.value

    for kind in ("confirmation", "search"):
        trials: dict[int, list[Run]] = {}
        for run in runs:
            if run.kind == kind:
                trials.setdefault(run.trial, []).append(run)
        whole = [kept for kept in trials.values() if all(run.state == RunState.COMPLETE for run in kept)]
        if whole:
            best = max(whole, key=lambda kept: statistics.fmean(map(worth, kept)))
            return max(best, key=worth)
    return None
