"""Reads the contents of a report from MLflow, the study database and the study's storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hdvae.errors import InputError, nearest
from hdvae_platform.analysis.answers import answer_of
from hdvae_platform.analysis.arms import Arm, labels_of, names_of
from hdvae_platform.analysis.arms_from_mlflow import read_arms
from hdvae_platform.analysis.confirmation import confirmations
from hdvae_platform.analysis.looks import Looks
from hdvae_platform.analysis.verdicts import verdicts
from hdvae_platform.report.arm_report import MAX_PRUNED, ArmReport, Curve, PrunedRun, Samples, best_arms
from hdvae_platform.report.contents import Contents
from hdvae_platform.running.status import StudyStatus, study_status
from hdvae_platform.search.importance import MIN_IMPORTANCE_TRIALS, importances
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.layout import run_folder, samples_file
from hdvae_platform.store.per_image import read_per_image
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records
from hdvae_platform.store.run_state import RunState
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.space import set_key
from hdvae_platform.study.study import Study
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.study_run import confirmation_runs, study_run


def read_contents(places: Places, name: str, say: Callable[[str], None] = lambda line: None) -> Contents:
    """Read everything that the report of a study says.

    Args:
        places: where the study lives.
        name: of the study.
        say: called with a line for each damaged file, which is passed over.

    Raises:
        InputError: the study is unknown, or none of its runs is complete.
        Unreachable: MLflow does not answer.
    """
    records = Records(places.database)
    record = records.study(name)
    if record is None:
        hint = nearest(name, [one.name for one in records.studies()]) or "; there are none yet"
        raise InputError(f"no study {name} in {places.home}{hint}")
    study = record.as_study()
    client, storage = Client(places), Storage(places.storage, say=say)
    all_arms = read_arms(client, [name])
    arms = best_arms(_arm_reports(all_arms, study), study)
    _add_curves_and_samples(arms, client, storage, name)
    status = study_status(places, record)
    confirming = {run.run_id: run for run in confirmation_runs(client, name) if run.state == RunState.COMPLETE}
    tracked = {run.run_id: run for arm in arms for run in arm.arm.runs} | confirming
    sent = {run.run_id for arm in all_arms for run in arm.runs} | confirming.keys()
    parent = study_run(client, name)
    trials = _arm_of_trial(status, arms)
    begun = [row["run_id"] for row in status.trials if row["number"] in trials and row["run_id"]]
    run_ids = [*tracked, *begun, *([parent.run_id] if parent else [])]
    return Contents(
        study=study,
        places=places,
        status=status,
        arms=arms,
        total_arms=len(all_arms),
        not_begun=len(_not_begun(status) - {set_key(arm.settings) for arm in all_arms}),
        sent=len(sent),
        unsent=sum(row["state"] == RunState.COMPLETE and row["run_id"] not in sent for row in status.trials),
        trials=trials,
        tracked=tracked,
        pages={run_id: client.page(run_id) for run_id in run_ids},
        parent=parent.run_id if parent else None,
        confirmed=confirmations(client, [name]),
        verdicts=verdicts(study.expect, all_arms, Looks(storage, name).look),
        restated=_restated(records, name),
        importances=_importances(study, places),
        pruned=_pruned(status, storage),
        answer=answer_of(study, status.runs, finished=status.state == "finished"),
        images=_evaluated_images(arms, storage, name),
    )


def _arm_reports(arms: Sequence[Arm], study: Study) -> list[ArmReport]:
    labels = labels_of(arms)
    return [
        ArmReport(name, place, label, arm, study.experiment_at(arm.settings))
        for place, (name, label, arm) in enumerate(zip(names_of(arms), labels, arms, strict=True))
    ]


def _arm_of_trial(status: StudyStatus, arms: Sequence[ArmReport]) -> dict[int, str]:
    """The trials of these arms, each with its arm's name; trials with equal parameters belong to one arm."""
    names = {set_key(arm.arm.settings): arm.name for arm in arms}
    keys = {row["number"]: set_key(row["params"]) for row in status.trials}
    return {trial: names[key] for trial, key in keys.items() if key in names}


def _not_begun(status: StudyStatus) -> set[str]:
    """The parameter sets of which no run has begun, as their keys."""
    begun = {set_key(row["params"]) for row in status.trials if row["state"] != RunState.WAITING or row["attempts"]}
    return {set_key(row["params"]) for row in status.trials} - begun


def _add_curves_and_samples(arms: Sequence[ArmReport], client: Client, storage: Storage, name: str) -> None:
    """Add curves and samples to the highlighted arms; curves come from MLflow where the storage has none."""
    for arm in arms:
        if arm.style is None:
            continue
        for run in arm.arm.runs:
            folder = run_folder(name, run.trial, run.seed)
            journal = Journal(storage, folder)
            entries = journal.readable(journal.steps())
            arm.curves[run.run_id] = (
                {step: entry.metrics for step, entry in entries.items()} if entries else _history(client, run.run_id)
            )
            if arm.samples is None and storage.exists(samples_file(folder)):
                arm.samples = Samples(run.handle, storage.read(samples_file(folder)))


def _pruned(status: StudyStatus, storage: Storage) -> list[PrunedRun]:
    """The last pruned runs with their curves."""
    rows = [row for row in status.trials if row["state"] == RunState.PRUNED][-MAX_PRUNED:]
    journals = [Journal(storage, run_folder(status.study, row["number"], row["seed"])) for row in rows]
    entries = [journal.readable(journal.steps()) for journal in journals]
    curves = [{step: entry.metrics for step, entry in found.items()} for found in entries]
    return [PrunedRun(row["params"], curve) for row, curve in zip(rows, curves, strict=True)]


def _evaluated_images(arms: Sequence[ArmReport], storage: Storage, name: str) -> int | None:
    """The number of images with values, from the first run that stores values of each image."""
    for arm in arms:
        for run in arm.arm.runs:
            values = read_per_image(storage, run_folder(name, run.trial, run.seed), "valid")
            if values is not None:
                return int(values.num_rows)
    return None


def _history(client: Client, run_id: str) -> Curve:
    curve: dict[int, dict[str, float]] = {}
    for metric, step, value in client.history(run_id):
        curve.setdefault(step, {})[metric] = value
    return dict(sorted(curve.items()))


def _restated(records: Records, name: str) -> float | None:
    """When the expectations of a study were last changed from one launch to the next; None if never."""
    plans = [change for change in records.changes(name) if change.what == "plan"]
    return max((one.time for one in plans if one.before.get("expect") != one.after.get("expect")), default=None)


def _importances(study: Study, places: Places) -> Mapping[str, float] | str:
    if len(study.space) < 2:
        return "fewer than two settings were varied"
    shares = importances(study, places.database)
    return f"it needs at least {MIN_IMPORTANCE_TRIALS} complete trials" if shares is None else shares
