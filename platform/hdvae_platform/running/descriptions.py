"""Names and descriptions of a study's runs on MLflow's pages, and which run is the best."""

from __future__ import annotations

import html
import statistics
import textwrap
from collections.abc import Sequence

from hdvae_platform.analysis.answers import Answer, answer_of, best_values
from hdvae_platform.analysis.arms import Arm
from hdvae_platform.analysis.arms_from_mlflow import read_arms
from hdvae_platform.analysis.comparison_text import (
    CONFIRMATION_HEADER,
    confirmation_rows,
    names_and_labels,
    names_note,
)
from hdvae_platform.analysis.confirmation import Confirmation, confirmations, images_of
from hdvae_platform.analysis.labels import label
from hdvae_platform.analysis.looks import Looks
from hdvae_platform.analysis.metric_names import USUAL
from hdvae_platform.analysis.plus_minus import plus_minus, plus_minus_note
from hdvae_platform.analysis.verdicts import verdicts
from hdvae_platform.display.text import markdown
from hdvae_platform.search.search import Assignment
from hdvae_platform.store.feasibility import feasible_trials
from hdvae_platform.store.layout import handle
from hdvae_platform.store.records import Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.study import Study
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.names import Tag

MAX_DESCRIPTION = 5000
"""Characters of a description: the smallest limit of any version of MLflow."""
MAX_NAME = 200
"""Characters of the settings in the name of a run."""
MAX_ARMS = 20
"""The most arms in the description of a study."""


def escaped(text: str) -> str:
    """A user's text for MLflow's page, which would otherwise read it as HTML and load its images.

    >>> escaped("x < y & <img src=z>")
    'x &lt; y &amp; &lt;img src=z&gt;'
    """
    return html.escape(text, quote=False)


def run_title(study: str, assignment: Assignment) -> str:
    """The handle of a run, and whether it is a confirmation.

    >>> run_title("first", Assignment(3, 7, {}, attempt=1, kind="confirmation"))
    'first/3/7 (confirmation)'
    """
    kind = " (confirmation)" if assignment.kind == "confirmation" else ""
    return f"{handle(study, assignment.trial, assignment.seed)}{kind}"


def run_name(study: str, assignment: Assignment) -> str:
    """The name of a run in MLflow: its handle, and its settings in words.

    >>> run_name("first", Assignment(2, 0, {"model.latent": "normal"}, attempt=1))
    'first/2/0: latent normal'
    """
    settings = textwrap.shorten(label(assignment.params), MAX_NAME, placeholder=" …")
    return f"{run_title(study, assignment)}: {settings}"


def run_description(study: Study, assignment: Assignment) -> str:
    """The description of a run: its study, trial and seed, the study's claim, and a line for each varied setting."""
    lines = [f"- {escaped(label({path: value}))}" for path, value in assignment.params.items()]
    kind = ", a confirmation with a fresh seed" if assignment.kind == "confirmation" else ""
    place = f"study {study.name}, trial {assignment.trial}, seed {assignment.seed}{kind}"
    name = handle(study.name, assignment.trial, assignment.seed)
    return "\n".join([f"Run {name}: {place}. {escaped(study.claim)}", "", *lines])[:MAX_DESCRIPTION]


def study_summary(client: Client, study: Study, storage: Storage, runs: Sequence[Run]) -> dict[str, str]:
    """The tags of a finished study's run: its description, and the handles of its best trials.

    The description has the claim with the verdicts on it, the best trial or the Pareto front, the confirmed trials if
    any, and the arms, the best first. Means have ± as in every table.

    Args:
        client: MLflow.
        study: the study.
        storage: the study's storage.
        runs: of the study, as the study database has them.
    """
    every = read_arms(client, [study.name])
    settings = {trial: arm.settings for arm in every for _, trial in arm.trials}
    known = [(run, settings[run.trial]) for run in runs if run.trial in settings]
    answer = answer_of(study, known, finished=True)
    handles = ", ".join(one.handle for one in answer.best)
    description = _description(client, storage, answer, [arm for arm in every if arm.values(study.search.metric)])
    return {Tag.DESCRIPTION: description, **({Tag.BEST: handles[:MAX_DESCRIPTION]} if handles else {})}


def _description(client: Client, storage: Storage, answer: Answer, arms: list[Arm]) -> str:
    study = answer.study
    sign = 1 if study.search.direction == "maximize" else -1
    lines = [
        f"- expected: {escaped(one.expected)}: **{one.answer}** ({escaped(one.numbers)})"
        for one in verdicts(study.expect, arms, Looks(storage, study.name).look)
    ]
    claim = "\n\n".join([escaped(study.claim), *(["\n".join(lines)] if lines else []), *_best(answer)])
    arms.sort(key=lambda arm: -sign * statistics.fmean(arm.values(study.search.metric)))
    metrics = list(dict.fromkeys([*study.search.objectives, *(f"valid/{name}" for name in USUAL)]))
    confirmed = confirmations(client, [study.name])
    for shown in range(min(MAX_ARMS, len(arms)), 0, -1):
        text = "\n\n".join([claim, *_tables(study, arms, confirmed, shown, metrics)])
        if len(text) <= MAX_DESCRIPTION:
            return text
    return claim[:MAX_DESCRIPTION]


def _best(answer: Answer) -> list[str]:
    """The best trial with its values, or the trials of the Pareto front."""
    if not answer.best or not answer.study.space:
        return []
    listed = [f"{escaped(one.label)} (`{one.handle}`)" for one in answer.best[:MAX_ARMS]]
    if answer.is_front:
        items = "\n".join(f"- {one}" for one in listed)
        return [f"**Pareto front** of {', '.join(answer.study.search.objectives)}:\n\n{items}"]
    return [f"**Best**: {listed[0]}. {'; '.join(best_values(answer, answer.best[0]))}."]


def _tables(
    study: Study, arms: Sequence[Arm], confirmed: Sequence[Confirmation], shown: int, metrics: Sequence[str]
) -> list[str]:
    best = arms[:shown]
    rows = [
        [escaped(name), str(len(arm.runs)), *(plus_minus(arm, metric) for metric in metrics)]
        for name, arm in zip(names_and_labels(best), best, strict=True)
    ]
    note = f"Nats per image; {plus_minus_note(best, metrics)}. {names_note(best)}"
    note += f" These are the best {shown} of {len(arms)} arms." if shown < len(arms) else ""
    note += f" `hdvae compare {study.name}` shows all arms and their differences."
    return [*_confirmed(confirmed[:shown]), markdown(["arm", "runs", *metrics], rows), note]


def _confirmed(confirmed: Sequence[Confirmation]) -> list[str]:
    """The table of confirmed trials. It comes first: values of the search were chosen for being good."""
    rows = [[escaped(name), *numbers] for name, *numbers in confirmation_rows(confirmed)]
    return [markdown(CONFIRMATION_HEADER, rows), images_of(confirmed), "In the search:"] if rows else []


def best_run(study: Study, runs: Sequence[Run]) -> Run | None:
    """The run with the best value of the best trial, by confirmation runs if there are any.

    `STUDY/best` means the run with the lowest seed instead (`hdvae_platform.store.handles.resolve`).

    Only feasible trials of which all runs are complete count. None if there is no such trial.
    """
    sign = 1 if study.search.direction == "maximize" else -1
    feasible = feasible_trials(study, runs)

    def quality(run: Run) -> float:
        assert run.value is not None
        return sign * run.value

    for kind in ("confirmation", "search"):
        trials: dict[int, list[Run]] = {}
        for run in runs:
            if run.kind == kind:
                trials.setdefault(run.trial, []).append(run)
        complete = [same for same in trials.values() if all(run.state == RunState.COMPLETE for run in same)]
        allowed = [same for same in complete if feasible[same[0].trial]]
        if complete:
            if not allowed:
                return None
            best = max(allowed, key=lambda same: statistics.fmean(map(quality, same)))
            return max(best, key=quality)
    return None
